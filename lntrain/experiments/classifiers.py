"""What is measured of networks that classify images: loss, accuracy and the trace of the Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from lntrain.data.images import Images
from lntrain.models.replicas import Criterion, Replicas
from lntrain.sharpness.measures import hessian_trace


def measure(
    networks: Replicas,
    images: Images,
    targets: Tensor,
    criterion: Criterion,
    *,
    draws: int,
    seed: int = 0,
    chunk: int = 2048,
) -> dict[str, list[float]]:
    """Loss and trace of its Hessian on the training images' targets, accuracy on the test images; one per network.

    Args:
        draws, seed: of the trace's sign vectors. chunk: images in memory at once.
    """
    found: dict[str, list[float]] = {"trace": [], "accuracy": [], "loss": []}
    for r in range(len(networks)):
        net = networks.replica(r).eval()
        with torch.no_grad():
            outputs = torch.cat([net(part) for part in torch.split(images.X, chunk)])
            guesses = torch.cat([net(part).argmax(-1) for part in torch.split(images.X_test, chunk)])
        found["loss"].append(float(criterion(outputs, targets)))
        found["accuracy"].append(float((guesses == images.y_test).double().mean()))
        trace = hessian_trace(net, criterion, images.X, targets, draws=draws, seed=seed, chunk=chunk)
        found["trace"].append(trace.value)
    return found
