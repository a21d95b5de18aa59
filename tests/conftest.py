"""Fixtures that several test files share, and the table of noises on which the conformance tests run."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the problems are tiny: threads only add noise to the timing

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from lntrain import (
    Antithetic,
    ColumnSpaceNoise,
    GaussianNoise,
    LabelFlips,
    LabelNoiseSGD,
    Problem,
    RademacherNoise,
    sparse_regression,
)
from lntrain.noise.controls import MinibatchNoise, ParameterNoise
from lntrain.noise.labels import Draw
from lntrain.noise.philox import normals
from lntrain.noise.schedules import PowerDecay


@pytest.fixture(autouse=True)
def _same_threads():
    """Each test begins with as many threads as OMP_NUM_THREADS says, whatever the one before left."""
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def _own_compilations(tmp_path_factory):
    """torch.compile keeps what it built for one processor where another, or another version, would find it."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        yield


@pytest.fixture
def problem() -> Problem:
    """n=12, d=8, two true coefficients of either sign, unequal columns and noisy data."""
    return sparse_regression(12, 8, 2, signs="random", noise=0.1, column_scales=(0.5, 2.0), seed=3)


@dataclass(frozen=True)
class Case:
    """A small net that learns numbers, classes or one-hot rows under a noise; and the same run by hand."""

    noise: Any
    kind: str = "numbers"
    X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))

    @property
    def y(self):
        classes = self.X.argmax(-1)
        rows = {"classes": classes, "rows": one_hot(classes, 3).float(), "numbers": self.X.sum(1, keepdim=True)}
        return rows[self.kind]

    @property
    def loss(self):
        return mse_loss if self.kind == "numbers" else cross_entropy

    def net(self, seed=0):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1 if self.kind == "numbers" else 3))

    def optimizer(self, net, **options):
        return LabelNoiseSGD(net.parameters(), **{"lr": 0.05, "noise": self.noise, "seed": 1, **options})

    def train(self, net, optimizer, steps, *, after=lambda loss: None):
        """The three-line loop that users write; `after` gets the clean loss of each step."""
        criterion = optimizer.wrap(self.loss)
        for _ in range(steps):
            optimizer.zero_grad()
            criterion(net(self.X), self.y).backward()
            optimizer.step()
            after(criterion.clean)
        return weights(net)

    def by_hand(self, net, plain, steps, *, after=lambda loss: None):
        """The same under any plain torch optimiser, the noise of (seed 1, rank 0) put in by hand."""
        for step in range(steps):
            plain.zero_grad()
            output = net(self.X)
            self._noisy_loss(output, Draw(((1, 0),), step)).backward()
            plain.step()
            if isinstance(self.noise, ParameterNoise):
                self._move(plain, step)
            after(self.loss(output.detach(), self.y))
        return weights(net)

    def _noisy_loss(self, output, at):
        if isinstance(self.noise, ParameterNoise):
            return self.loss(output, self.y)
        if not isinstance(self.noise, MinibatchNoise):
            return self.loss(output, self.noise.perturb(self.y, at))
        first, second = (self.loss(output[rows], self.y[rows]) for rows in self.noise.rows(at, 16))
        return self.loss(output, self.y) + self.noise.std * (first - second)

    @torch.no_grad()
    def _move(self, plain, step):
        place = 0
        for group in plain.param_groups:
            for p in group["params"]:
                xi = torch.from_numpy(normals(1, 0, step, step + 1, p.numel(), place)).reshape(p.shape)
                p += xi * (self.noise.std * float(group["lr"]) ** 0.5)
                place += 1


CASES = {
    "gaussian": Case(GaussianNoise(0.3)),
    "rademacher": Case(RademacherNoise(0.3)),
    "antithetic": Case(Antithetic(GaussianNoise(0.3))),
    "annealed": Case(GaussianNoise(0.3, PowerDecay())),
    "column-space": Case(ColumnSpaceNoise(0.3, X=Case.X)),
    "flips": Case(LabelFlips(0.3, 3), "classes"),
    "flipped-rows": Case(LabelFlips(0.3, 3), "rows"),
    "noisy-rows": Case(GaussianNoise(0.1), "rows"),
    "minibatch": Case(MinibatchNoise(0.5, batch_size=4)),
    "parameters": Case(ParameterNoise(0.1)),
}


@pytest.fixture(params=list(CASES))
def case(request) -> Case:
    """Every noise in turn: a new one inherits each test by its row in CASES."""
    return CASES[request.param]


@pytest.fixture
def gaussian() -> Case:
    """The plainest case, where the noise does not matter."""
    return CASES["gaussian"]


def weights(net):
    """Copies of the parameters, on which `equal` is asked."""
    return [p.detach().clone() for p in net.parameters()]


def _equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def equal():
    """Whether two lists of tensors are the same bit for bit."""
    return _equal


@pytest.fixture
def lntrain(tmp_path, monkeypatch, capfd):
    """Run the command in this process, in an empty folder: (exit code, stdout, stderr)."""
    from hydra.core.global_hydra import GlobalHydra

    from lntrain import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lntrain", *map(str, arguments)])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capfd.readouterr()

    monkeypatch.chdir(tmp_path)
    return run
