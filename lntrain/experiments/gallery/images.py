"""Entries on classes of images: networks on scikit-learn's digits, each arm with an optimiser of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch.nn.functional import cross_entropy, one_hot

from lntrain.data.images import Images, digits
from lntrain.experiments.classifiers import measure
from lntrain.experiments.gallery import rules
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.models.networks import mlp
from lntrain.models.replicas import Replicas, Rows
from lntrain.noise.labels import LabelFlips, Noise, NoNoise
from lntrain.noise.schedules import StepDecay
from lntrain.optim.sgd import LabelNoiseSGD
from lntrain.sharpness.expected import expected_targets
from lntrain.training.ensemble import Anneal, descend

Array = NDArray[np.float64]
DRAWS = 32  # sign vectors of a trace


def networks(images: Images, widths: Sequence[int], seeds: Sequence[int]) -> Replicas:
    """One network a seed."""
    return Replicas([mlp(images.in_shape, images.num_classes, widths=widths, seed=seed) for seed in seeds])


def measured(nets: Replicas, images: Images, targets: torch.Tensor) -> dict[str, Array]:
    """Loss and trace of its Hessian on targets, error on the test images; a number a network."""
    found = {key: np.array(v) for key, v in measure(nets, images, targets, cross_entropy, draws=DRAWS).items()}
    return {"loss": found["loss"], "trace": found["trace"], "error": 1 - found["accuracy"]}


@dataclass(frozen=True)
class Flatness:
    """From a poor start label noise finds flat minima, and the flatter the better they classify."""

    widths: list[int]
    p: float  # of flips
    poor: int  # steps on wrong labels, which make the start
    poor_lr: float
    lrs: list[float]
    batches: list[int]
    base: list[float]  # lr and batch size that are set beside a control of the same expected loss
    steps: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A setting an arm, and the control."""
        pairs = [(lr, batch) for lr, batch in itertools.product(self.lrs, self.batches)]
        start = cache(partial(self._start, at))  # one for all arms
        own = {self._name(lr, batch): partial(self._one, at, start, lr, batch, True) for lr, batch in pairs}
        return own | {"control": partial(self._one, at, start, self.base[0], int(self.base[1]), False)}

    @staticmethod
    def _name(lr: float, batch: float) -> str:
        return f"lr {lr:g}, batch {batch:g}"

    def _start(self, at: At) -> dict[str, torch.Tensor]:
        """The networks after training on wrong labels."""
        images, seeds = digits(seed=at.data), at.seeds(self.seeds, "data")
        nets = networks(images, self.widths, seeds)
        wrong = images.y[torch.from_numpy(np.random.default_rng(seeds[0]).permutation(images.n))]
        self._train(nets, Rows(images.X, wrong), NoNoise(), self.poor_lr, 64, self.poor, seeds)
        return nets.state_dict()

    def _one(
        self, at: At, start: Callable[[], dict[str, torch.Tensor]], lr: float, batch: int, noisy: bool
    ) -> dict[str, Array]:
        images, seeds = digits(seed=at.data), at.seeds(self.seeds, "data")
        nets, noise = networks(images, self.widths, seeds), LabelFlips(self.p, images.num_classes)
        nets.load_state_dict(start())
        expected = expected_targets(one_hot(images.y, images.num_classes).float(), noise)
        rows = Rows(images.X, images.y if noisy else expected)
        self._train(nets, rows, noise if noisy else NoNoise(), lr, batch, self.steps, seeds)
        return measured(nets, images, expected)

    @staticmethod
    def _train(nets: Replicas, rows: Rows, noise: Noise, lr: float, batch: int, steps: int, seeds: list[int]) -> None:
        optimizer, anneal = LabelNoiseSGD(nets.parameters(), lr=lr, noise=noise, seed=seeds), Anneal(steps // 5, "lr")
        for _ in descend(nets, optimizer, rows, cross_entropy, steps, batch_size=batch, anneal=anneal):
            pass

    def _settings(self, arms: Any, key: str) -> Array:
        return np.stack([values[key] for name, values in arms.items() if name != "control"])

    def checks(self, arms: Any) -> list[Check]:
        """The flatter, the better; flatter than the control."""
        traces, errors = self._settings(arms, "trace"), self._settings(arms, "error")
        ranks = [spearmanr(1 - e, t).statistic for e, t in zip(errors.T, traces.T, strict=True)]
        return [
            rules.at_most("rank correlation of accuracy and trace over the settings", ranks, -0.7),
            rules.ratio("trace, label noise over control", arms[self._name(*self.base)]["trace"],
                        arms["control"]["trace"], 0.6),
        ]  # fmt: skip

    def panels(self, arms: Any) -> list[Panel]:
        """Trace and error over lr, a curve a batch size."""
        made = []
        for key, title in (("trace", "trace of the Hessian"), ("error", "test error")):
            curves = {f"batch {batch}": (self.lrs, np.stack([arms[self._name(lr, batch)][key] for lr in self.lrs]))
                      for batch in self.batches}  # fmt: skip
            curves["control"] = ([self.base[0]] * 2, np.stack([arms["control"][key]] * 2))
            made.append(Panel(title, curves, log=True, xlabel="lr"))
        return made


@dataclass(frozen=True)
class WeightDecay:
    """With weight decay a large step keeps the loss high, and once it falls ends flattest."""

    widths: list[int]
    lrs: list[float]  # low, high
    decays: list[float]  # none, some
    batch: int
    steps: int
    drop: int  # where the step falls to `last`
    last: float
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """Two steps, without and with decay."""
        pairs = itertools.product(self.lrs, self.decays)
        return {self._name(lr, decay): partial(self._one, at, lr, decay) for lr, decay in pairs}

    @staticmethod
    def _name(lr: float, decay: float) -> str:
        return f"lr {lr:g}, decay {decay:g}"

    def _one(self, at: At, lr: float, decay: float) -> dict[str, Array]:
        images, seeds = digits(seed=at.data), at.seeds(self.seeds, "data")
        nets = networks(images, self.widths, seeds)
        optimizer = LabelNoiseSGD(nets.parameters(), lr=lr, noise=NoNoise(), seed=seeds, weight_decay=decay)
        schedule, before = StepDecay((self.drop,), self.last / lr), dict[str, Array]()
        for progress in descend(nets, optimizer, Rows(images.X, images.y), cross_entropy, self.steps,
                                batch_size=self.batch, lr_schedule=schedule, scheduled=[self.drop]):  # fmt: skip
            if progress.step == self.drop and not before:
                before = measured(nets, images, images.y)
        after = measured(nets, images, images.y)
        return {"before": before["loss"], "trace": after["trace"], "error": after["error"]}

    def checks(self, arms: Any) -> list[Check]:
        """Loss before the fall, trace after it."""
        (low, high), (none, some) = self.lrs, self.decays
        best = arms[self._name(high, some)]
        made = [rules.ratio("loss before the step falls, high over low", best["before"],
                            arms[self._name(low, some)]["before"], 10.0, ">=")]  # fmt: skip
        for name in (self._name(low, some), self._name(high, none), self._name(low, none)):
            made.append(rules.ratio(f"trace at the end, over that of {name}", best["trace"], arms[name]["trace"], 1.0))
        return made

    def panels(self, arms: Any) -> list[Panel]:
        """All three over the step size."""
        made = []
        for key, title in (("before", "loss before the step falls"), ("trace", "trace at the end"),
                           ("error", "test error at the end")):  # fmt: skip
            curves = {f"decay {decay:g}": (self.lrs, np.stack([arms[self._name(lr, decay)][key] for lr in self.lrs]))
                      for decay in self.decays}  # fmt: skip
            made.append(Panel(title, curves, log=True, xlabel="step size before it falls"))
        return made


@dataclass(frozen=True)
class Digits:
    """Label noise ends flatter than training on its expected loss alone, and as accurate."""

    flatter: float  # most of the trace, label noise over control
    loss: float  # most of the accuracy that it costs

    def checks(self, arms: Any) -> list[Check]:
        """Trace and accuracy at the end."""
        noise, control = (arms[name] for name in ("label noise", "control, the same expected loss"))
        lost = control["accuracy"] - noise["accuracy"]
        return [
            rules.ratio("trace, label noise over control", noise["trace"], control["trace"], self.flatter),
            rules.at_most("accuracy lost to the control", [float(lost.mean())], self.loss),
        ]
