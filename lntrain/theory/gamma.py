"""The invariant law of label noise: independent Gammas on the support, to sample and to test against."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from lntrain._checks import as_float64
from lntrain.lasso.solve import LassoSolution
from lntrain.penalty.formula import mean_squares

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GammaLaw:
    """|beta_j| ~ independent Gamma(shape |beta*_j| / scale_j, scale_j), scale_j = 2 lambda_j / c_j; 0 off the support.

    coef: (d,) the Lasso beta*. scale: (d,).

    >>> law = GammaLaw(torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.25]))
    >>> law.sd.tolist()
    [0.5, 0.0]
    """

    coef: Tensor
    scale: Tensor

    @property
    def support(self) -> Tensor:
        """(d,) bool."""
        return self.coef != 0

    @property
    def sd(self) -> Tensor:
        """(d,) sqrt(|beta*| scale)."""
        return (self.coef.abs() * self.scale).sqrt()

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """(count, d) independent draws."""
        rng = np.random.Generator(np.random.Philox(seed))
        on, scale = self.support.numpy(), self.scale.double().numpy()
        drawn = np.zeros((count, len(on)))
        beta = self.coef.double().numpy()[on]
        drawn[:, on] = np.sign(beta) * rng.gamma(np.abs(beta) / scale[on], scale[on], (count, int(on.sum())))
        return torch.from_numpy(drawn)

    def cdf(self, j: int, values: Any) -> Array:
        """P(|beta_j| <= values) for j on the support."""
        shape, scale = float(self.coef[j].abs() / self.scale[j]), float(self.scale[j])
        return np.asarray(stats.gamma.cdf(np.abs(as_float64(values)), shape, scale=scale))

    def falls(self, fall: float) -> Tensor:
        """(d,) P(log |beta_j| falls by more than `fall` between two independent looks); nan off the support.

        I_x(s, s), x = 1 / (1 + e^fall), s the shape; about exp(-fall s) / 2 for small s.

        >>> GammaLaw(torch.tensor([0.2, 2.0]), torch.tensor([2.0, 2.0])).falls(8.0).round(decimals=4).tolist()
        [0.2279, 0.0003]

        Source: theory.md section 4.
        """
        shape = (self.coef.abs() / self.scale).double().numpy()
        odds = special.betainc(shape, shape, special.expit(-fall))
        return torch.from_numpy(np.where(self.support.numpy(), odds, np.nan))


def gamma_law(X: Any, lasso: LassoSolution) -> GammaLaw:
    """The invariant law of the label-noise SDE about its Lasso, whatever the correlation of the design.

    Args:
        X: (n, d). lasso: with lambda_j = lambda_0 c_j, as label noise makes it.

    Raises:
        ValueError: a penalty that is not proportional to c_j: its law is not known.

    >>> from lntrain.lasso.solve import weighted_lasso
    >>> gamma_law([[1.0], [1.0]], weighted_lasso([[1.0], [1.0]], [1.0, 1.0], 0.25)).scale.tolist()
    [0.5]

    Source: theory.md section 5 (by detailed balance).
    """
    ratio = lasso.penalty / mean_squares(X)
    if float(ratio.max() / ratio.min()) > 1 + 1e-6:
        raise ValueError("penalty is not proportional to the mean square of each column: its law is not known")
    return GammaLaw(lasso.coef, 2 * ratio)


def effective_size(samples: Any) -> tuple[Tensor, Tensor]:
    """(effective number of samples, autocorrelation time in records) of each coordinate.

    tau = 1 + 2 sum rho_k over Geyer's initial monotone sequence, rho averaged over replicas; R K / tau.

    Args:
        samples: (K, R, d): K records of R independent chains.

    Returns:
        (d,), (d,).

    Source: Geyer, Statist. Sci. 1992 (doi:10.1214/ss/1177011137).
    """
    x = np.asarray(as_float64(samples))
    if x.ndim != 3 or len(x) < 4:
        raise ValueError(f"samples has shape {x.shape}: give (K, R, d) with at least 4 records")
    K, R, d = x.shape
    x = x - x.mean((0, 1))
    spectrum = np.abs(np.fft.rfft(x, 2 * K, axis=0)) ** 2
    autocovariance = np.fft.irfft(spectrum.mean(1), axis=0)[:K] / np.arange(K, 0, -1)[:, None]
    tau = np.ones(d)
    for j in range(d):
        if autocovariance[0, j] > 0:
            rho = autocovariance[: K // 2 * 2, j] / autocovariance[0, j]
            pairs = np.minimum.accumulate(rho.reshape(-1, 2).sum(1))
            positive = int(np.argmax(pairs <= 0)) if (pairs <= 0).any() else len(pairs)
            tau[j] = max(1.0, 2 * pairs[:positive].sum() - 1)
    return torch.from_numpy(R * K / tau), torch.from_numpy(tau)


@dataclass(frozen=True)
class GammaTest:
    """Both tests at each support coordinate (s,): p-values, variance over the law's, independent samples kept."""

    coordinates: Tensor
    p_ks: Tensor
    p_variance: Tensor
    variance_ratio: Tensor
    kept: Tensor

    def rejected(self, level: float = 1e-3) -> bool:
        """Whether any of the 2 s tests rejects at the family-wise level (Bonferroni)."""
        return float(torch.cat((self.p_ks, self.p_variance)).min()) < level / (2 * len(self.p_ks))


def gamma_test(samples: Any, law: GammaLaw, *, blocks: int = 32) -> GammaTest:
    """Kolmogorov-Smirnov and variance tests of stationary samples against the Gamma law.

    KS on records thinned to two autocorrelation times apart, which count as independent; the variance
    test is a t-test of the mean of (|beta| - |beta*|)^2 / variance over at least `blocks` stretches
    (whole chains where there are so many), against 1. KS alone has little power for a wrong scale.

    Args:
        samples: (K, R, d) stationary beta: K records of R independent chains.
        law: `gamma_law`.

    Raises:
        ValueError: too few records for the variance test, or an empty support.

    >>> law = GammaLaw(torch.tensor([1.0]), torch.tensor([0.01]))
    >>> gamma_test(law.sample(4000).reshape(500, 8, 1), law).rejected()
    False

    Source: theory.md section 5; Massey, JASA 1951 for KS.
    """
    x = np.abs(np.asarray(as_float64(samples)))
    on = law.support.nonzero()[:, 0]
    if not len(on):
        raise ValueError("the law's support is empty: nothing to test")
    _, tau = effective_size(x)
    K, R, _ = x.shape
    parts = max(1, -(-blocks // R))
    if parts > K:
        raise ValueError(f"{K} records of {R} chains are too few for {blocks} blocks")
    rows = []
    for j in on.tolist():
        stride = math.ceil(2 * float(tau[j])) if float(tau[j]) > 1.05 else 1
        kept = x[::stride, :, j].ravel()
        p_ks = stats.kstest(kept, lambda v, j=j: law.cdf(j, v)).pvalue
        squares = ((x[:, :, j] - float(law.coef[j].abs())) / float(law.sd[j])) ** 2
        length = K // parts
        chunks = squares[: length * parts].reshape(parts, length, R).mean(1).ravel()
        rows.append((p_ks, stats.ttest_1samp(chunks, 1.0).pvalue, chunks.mean(), float(len(kept))))
    return GammaTest(on, *(torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)))
