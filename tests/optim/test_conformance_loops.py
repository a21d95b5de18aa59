"""conformance: loops that nobody here wrote end at the weights of the three-line loop, and count its steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lntrain import LabelNoiseSGD, NoisyTargets

EPOCHS, BATCH = 3, 4
MISSING = "is NOT installed, its loop is NOT tested: pip install 'lntrain[loops]'"
CASES = pytest.mark.parametrize("case", ["gaussian", "antithetic", "flips", "minibatch", "parameters"], indirect=True)


def _batches(case):
    return DataLoader(TensorDataset(case.X, case.y), batch_size=BATCH)


def _plain_loop(case, accumulate=1):
    """(weights, steps) of the loop that users write themselves."""
    net = case.net()
    optimizer = case.optimizer(net)
    criterion = optimizer.wrap(case.loss)
    for _ in range(EPOCHS):
        for i, (x, y) in enumerate(_batches(case)):
            (criterion(net(x), y) / accumulate).backward()
            if (i + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
    return list(net.parameters()), optimizer.param_groups[0]["noise_step"]


@CASES
@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
# Lightning's advice on workers and on its own use of torch, not on this package
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_lightning_trainer(case, automatic, tmp_path, equal):
    lightning = pytest.importorskip("lightning", reason=f"lightning {MISSING}")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.automatic_optimization, self.validation = case.net(), automatic, []

        def configure_optimizers(self):
            optimizer = case.optimizer(self.net)
            self.criterion = optimizer.wrap(case.loss)
            return optimizer

        def training_step(self, batch):
            loss = self.criterion(self.net(batch[0]), batch[1])
            self.log("clean", self.criterion.clean)
            if automatic:
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return None

        def validation_step(self, batch):
            loss = self.criterion(self.net(batch[0]), batch[1])
            self.validation.append(torch.equal(loss, case.loss(self.net(batch[0]), batch[1])))

    module = Module()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(module, _batches(case), _batches(case))
    weights, steps = _plain_loop(case)
    assert equal(module.net.parameters(), weights)
    assert trainer.optimizers[0].param_groups[0]["noise_step"] == steps == trainer.global_step == 12
    assert all(module.validation)
    saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    assert saved["optimizer_states"][0]["param_groups"][0]["noise_step"] == 12


@CASES
@pytest.mark.parametrize("accumulate", [1, 2], ids=["each-batch", "accumulating"])
def test_accelerate(case, accumulate, equal):
    accelerate = pytest.importorskip("accelerate", reason=f"accelerate {MISSING}")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    net = case.net()
    optimizer = case.optimizer(net)
    criterion = optimizer.wrap(case.loss)
    net, prepared, batches = accelerator.prepare(net, optimizer, _batches(case))
    for _ in range(EPOCHS):
        for x, y in batches:
            with accelerator.accumulate(net):
                accelerator.backward(criterion(net(x), y))
                prepared.step()
                prepared.zero_grad()
    weights, steps = _plain_loop(case, accumulate)
    assert equal(net.parameters(), weights)
    assert prepared.param_groups[0]["noise_step"] == steps == 12 // accumulate


def test_accelerate_with_another_optimiser(gaussian, equal):
    """NoisyTargets finds the optimiser that Accelerate has wrapped."""
    accelerate = pytest.importorskip("accelerate", reason=f"accelerate {MISSING}")
    accelerator = accelerate.Accelerator(cpu=True)
    net = gaussian.net()
    net, prepared = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.05))
    criterion = NoisyTargets(gaussian.loss, gaussian.noise, optimizer=prepared, seed=1)
    for _ in range(EPOCHS):
        for x, y in _batches(gaussian):
            prepared.zero_grad()
            accelerator.backward(criterion(net(x), y))
            prepared.step()
    assert equal(net.parameters(), _plain_loop(gaussian)[0])
    assert prepared.param_groups[0]["noise_step"] == 12


class _Given(nn.Module):
    """skorch builds the module itself: this one takes the net as it comes."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def _skorch(case, skorch, cls, **options):
    options = {
        "module": _Given, "module__net": case.net(), "max_epochs": EPOCHS, "batch_size": BATCH,
        "train_split": None, "verbose": 0, "callbacks__print_log": None, **options,
    }  # fmt: skip
    net = cls(**options)
    net.fit(case.X, case.y)
    return net


@CASES
def test_skorch(case, equal):
    """One override: the loss of training goes through the optimiser's wrapped criterion."""
    skorch = pytest.importorskip("skorch", reason=f"skorch {MISSING}")

    class Net(skorch.NeuralNet):
        def get_loss(self, y_pred, y_true, X=None, training=False):
            return (self.optimizer_.wrap(self.criterion_) if training else self.criterion_)(y_pred, y_true)

    loss = nn.MSELoss if case.kind == "numbers" else nn.CrossEntropyLoss
    noise = {"optimizer__noise": case.noise, "optimizer__seed": 1, "lr": 0.05}
    net = _skorch(case, skorch, Net, criterion=loss, optimizer=LabelNoiseSGD, **noise)
    weights, steps = _plain_loop(case)
    assert equal(net.module_.net.parameters(), weights)
    assert net.optimizer_.param_groups[0]["noise_step"] == steps


def test_skorch_without_override(gaussian, equal):
    """NoisyTargets as skorch's criterion, under a plain optimiser: each training call is a step."""
    skorch = pytest.importorskip("skorch", reason=f"skorch {MISSING}")
    criterion = {"criterion__criterion": nn.MSELoss(), "criterion__noise": gaussian.noise, "criterion__seed": 1}
    net = _skorch(
        gaussian, skorch, skorch.NeuralNet, criterion=NoisyTargets, optimizer=torch.optim.SGD, lr=0.05, **criterion
    )
    weights, steps = _plain_loop(gaussian)
    assert equal(net.module_.net.parameters(), weights)
    assert int(net.criterion_.calls) == steps
