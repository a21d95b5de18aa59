"""What label noise adds to a step of torch.optim.SGD: `python scripts/benchmark_optimizer.py`.

Steps with and without it alternate in one run; a figure is the median of the differences, with its standard error.
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


def stepper(net: nn.Module, x: Tensor, y: Tensor, criterion: Loss, noise: Any, way: str) -> Callable[[], None]:
    """One training step: "plain" SGD, or label noise through a "wrapped" criterion or by "perturb" alone."""
    if way == "plain":
        optimizer: torch.optim.SGD = torch.optim.SGD(net.parameters(), lr=1e-4)
    else:
        optimizer = ours = LabelNoiseSGD(net.parameters(), lr=1e-4, noise=noise)
        clean = criterion
        criterion = ours.wrap(clean) if way == "wrapped" else lambda output, y: clean(output, ours.perturb(y))

    def step() -> None:
        optimizer.zero_grad()
        criterion(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def compare(make: Callable[[], nn.Module], x: Tensor, y: Tensor, criterion: Loss, noise: Any, rounds: int) -> Any:
    """Microseconds of a plain step, and what the noise adds to it: median and its standard error."""
    ways = ("plain", "wrapped", "perturb")
    steps = [stepper(make(), x, y, criterion, noise, way) for way in ways]
    seen = np.empty((rounds, len(ways)))
    for k in range(-rounds // 10, rounds):
        for i in np.roll(range(len(ways)), k):  # none always comes first
            start = time.perf_counter()
            steps[i]()
            if k >= 0:
                seen[k, i] = 1e6 * (time.perf_counter() - start)
    result = {"step_us": float(np.median(seen[:, 0]))}
    for way, column in zip(ways[1:], seen.T[1:], strict=True):
        added = column - seen[:, 0]
        spread = np.subtract(*np.quantile(added, [0.75, 0.25])) / 1.349
        result[f"{way}_added_us"] = float(np.median(added))
        result[f"{way}_stderr_us"] = float(1.253 * spread / np.sqrt(rounds))
    return result


def main() -> None:
    from lntrain.models.networks import resnet18

    torch.set_num_threads(1)
    small = lambda: nn.Linear(99, 1)  # noqa: E731  100 parameters
    images, classes = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    result = {
        "100 parameters, Gaussian noise": compare(
            small, torch.randn(20, 99), torch.randn(20, 1), F.mse_loss, GaussianNoise(0.1), 4000
        ),
        "ResNet-18 on 32x32, flips": compare(
            lambda: resnet18((3, 32, 32), 10), images, classes, F.cross_entropy, LabelFlips(0.2, 10), 60
        ),
    }
    for name, row in result.items():
        print(f"{name}: {row['step_us']:.0f} us a step")
        for way in ("wrapped", "perturb"):
            added, error = row[f"{way}_added_us"], row[f"{way}_stderr_us"]
            share, of_error = (100 * each / row["step_us"] for each in (added, error))
            print(f"  label noise, {way}: {added:+.1f} +/- {error:.1f} us ({share:+.1f} +/- {of_error:.1f} %)")
    out = Path("outputs/benchmark")
    out.mkdir(parents=True, exist_ok=True)
    (out / "optimizer.json").write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
