"""The expected objective of training on noisy labels."""

from __future__ import annotations

from torch import Tensor

from lntrain.noise.labels import LabelFlips, Noise
from lntrain.sharpness.measures import label_smoothing


def expected_targets(one_hot: Tensor, noise: Noise) -> Tensor:
    """The mean of the noisy one-hot rows: label-smoothed for flips, the rows themselves for noise of mean 0.

    In the target, both losses are linear, up to a square that does not depend on the parameters: with these
    rows they equal the expected loss of the noisy ones, up to a constant.

    >>> import torch
    >>> expected_targets(torch.tensor([[1.0, 0.0, 0.0]]), LabelFlips(0.5, 3)).tolist()
    [[0.5, 0.25, 0.25]]

    Source: theory.md section 6.
    """
    if not isinstance(noise, LabelFlips):
        return one_hot
    K = one_hot.shape[-1]
    eps = label_smoothing(noise.p, K, include_true=noise.include_true)
    return (1 - eps) * one_hot + eps / K
