"""What label noise adds to a step of torch.optim.SGD: `python scripts/benchmark_optimizer.py`.

Steps with and without it alternate in one run; a figure is the median of the differences.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lntrain import GaussianNoise, LabelFlips, LabelNoiseSGD

Loss = Callable[[Tensor, Tensor], Tensor]


def stepper(net: nn.Module, x: Tensor, y: Tensor, criterion: Loss, noise: Any) -> Callable[[], None]:
    """One training step, with label noise or, for noise None, of plain SGD."""
    if noise is None:
        optimizer: torch.optim.SGD = torch.optim.SGD(net.parameters(), lr=1e-4)
    else:
        optimizer = LabelNoiseSGD(net.parameters(), lr=1e-4, noise=noise)
        criterion = optimizer.wrap(criterion)

    def step() -> None:
        optimizer.zero_grad()
        criterion(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def compare(make: Callable[[], nn.Module], x: Tensor, y: Tensor, criterion: Loss, noise: Any, pairs: int) -> Any:
    """Microseconds of a plain step, and what the noise adds to it."""
    steps = [stepper(make(), x, y, criterion, each) for each in (None, noise)]
    seen = np.empty((pairs, 2))
    for k in range(-pairs // 10, pairs):
        for i in (0, 1) if k % 2 else (1, 0):  # neither always comes first
            start = time.perf_counter()
            steps[i]()
            if k >= 0:
                seen[k, i] = 1e6 * (time.perf_counter() - start)
    plain, added = float(np.median(seen[:, 0])), float(np.median(seen[:, 1] - seen[:, 0]))
    return {"step_us": plain, "added_us": added, "added_percent": 100 * added / plain}


def main() -> None:
    from lntrain.networks import resnet18

    torch.set_num_threads(1)
    small = lambda: nn.Linear(99, 1)  # noqa: E731  100 parameters
    images, classes = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    result = {
        "100 parameters, Gaussian noise": compare(
            small, torch.randn(20, 99), torch.randn(20, 1), F.mse_loss, GaussianNoise(0.1), 4000
        ),
        "ResNet-18 on 32x32, flips": compare(
            lambda: resnet18((3, 32, 32), 10), images, classes, F.cross_entropy, LabelFlips(0.2, 10), 20
        ),
    }
    for name, row in result.items():
        print(
            f"{name}: {row['step_us']:.0f} us a step, label noise adds {row['added_us']:.1f} us ({row['added_percent']:.1f} %)"
        )
    out = Path("outputs/benchmark")
    out.mkdir(parents=True, exist_ok=True)
    (out / "optimizer.json").write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
