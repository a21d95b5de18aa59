"""conformance: two gloo ranks under DDP and FSDP2. The file is the tests and, run as a script, one rank's worker."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.functional import mse_loss

from lntrain import GaussianNoise, LabelNoiseSGD
from lntrain.noise.controls import ParameterNoise
from lntrain.noise.philox import normals

STEPS, LR, STD, N, D = 400, 0.01, 0.5, 20, 30
X = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 4, dtype=torch.float64), nn.Tanh(), nn.Linear(4, 1, dtype=torch.float64))


def _optimizer(net, noise=STD, **options):
    return LabelNoiseSGD(net.parameters(), **{"lr": LR, "noise": noise, "seed": 1, **options})


def _train(net, optimizer, steps, rows=slice(None)):
    criterion = optimizer.wrap(mse_loss)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(net(X[rows]), X[rows, :1]).backward()
        optimizer.step()


def _weights(net):
    whole = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters())
    return [w.detach().flatten().tolist() for w in whole]


# what one rank does; each returns something json can hold


def _ddp_noise(rank):
    """The averaged gradient of a linear model at its optimum: noise alone; and the labels' noise of this rank."""
    net = nn.Linear(D, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    optimizer = _optimizer(net, lr=0.0)
    parallel, total = nn.parallel.DistributedDataParallel(net), torch.zeros(D, dtype=torch.float64)
    criterion, zero = optimizer.wrap(mse_loss), torch.zeros(N, 1, dtype=torch.float64)
    for _ in range(STEPS):
        optimizer.zero_grad()
        criterion(parallel(X), zero).backward()
        total += net.weight.grad[0].square()
        optimizer.step()
    own = optimizer.perturb(zero)
    shared = _optimizer(net, rank=3).perturb(zero)
    return {"power": (total / STEPS).tolist(), "own": own[:, 0].tolist(), "shared": shared[:, 0].tolist()}


def _ddp_train(rank, noise):
    net = nn.parallel.DistributedDataParallel(_net())
    optimizer = _optimizer(net, noise)
    _train(net, optimizer, 5, slice(rank, None, 2))
    return {"weights": _weights(net), "step": optimizer.param_groups[0]["noise_step"]}


def _fsdp(rank, noise, folder):
    """Five steps; saved by torch.distributed.checkpoint, read into another optimiser; two more steps on both."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint import state_dict as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net, other = (fully_shard(_net(), mesh=init_device_mesh("cpu", (2,))) for _ in range(2))
    optimizer, twin = _optimizer(net, noise, rank=0), _optimizer(other, noise, rank=0, seed=7)
    dcp.get_optimizer_state_dict(net, optimizer)  # calls step() where there is no gradient
    before = optimizer.param_groups[0]["noise_step"]
    _train(net, optimizer, 5)
    out = {"before": before, "step": optimizer.param_groups[0]["noise_step"], "weights": _weights(net)}
    for flat in (False, True):
        options = dcp.StateDictOptions(flatten_optimizer_state_dict=flat)
        saved = dict(
            zip(("net", "optimizer"), copy.deepcopy(dcp.get_state_dict(net, optimizer, options=options)), strict=True)
        )
        checkpoint.save(saved, checkpoint_id=f"{folder}/{flat}")
        state = dict(zip(("net", "optimizer"), dcp.get_state_dict(other, twin, options=options), strict=True))
        checkpoint.load(state, checkpoint_id=f"{folder}/{flat}")
        parts = {"model_state_dict": state["net"], "optim_state_dict": state["optimizer"]}
        dcp.set_state_dict(other, twin, **parts, options=options)
        out[f"loaded {flat}"] = {k: twin.param_groups[0][k] for k in ("seed", "noise_step", "noise_std")}
        for pair in ((net, optimizer), (other, twin)):
            _train(*pair, 2)
        out[f"same {flat}"] = _weights(net) == _weights(other)
    return out


def _worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    out = {
        "ddp noise": _ddp_noise(rank),
        "ddp": _ddp_train(rank, GaussianNoise(STD)),
        "ddp parameters": _ddp_train(rank, ParameterNoise(STD)),
        "fsdp": _fsdp(rank, GaussianNoise(STD), f"{folder}/gaussian"),
        "fsdp parameters": _fsdp(rank, ParameterNoise(STD), f"{folder}/parameters"),
    }
    Path(f"{folder}/{rank}.json").write_text(json.dumps(out))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks found; both are killed when one fails or after two minutes, so that nothing hangs."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo: DDP and FSDP2 are NOT tested")
    folder = tmp_path_factory.mktemp("ranks")
    logs = [(folder / f"{rank}.log").open("w+b") for rank in range(2)]
    command = [sys.executable, "-W", "error", __file__]
    workers = [subprocess.Popen([*command, str(rank), str(folder)], stderr=log) for rank, log in enumerate(logs)]
    deadline = time.monotonic() + 120
    try:
        while any(w.poll() is None for w in workers) and not any(w.poll() for w in workers):
            assert time.monotonic() < deadline, "the ranks hang"
            time.sleep(0.05)
    finally:
        for worker, log in zip(workers, logs, strict=True):
            worker.kill()
            worker.wait()
            log.close()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(Path(log.name).read_text() for log in logs)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_ddp_noise_power_of_the_averaged_gradient_is_theorys(ranks):
    """Var of (1/2) sum over ranks of -(2/N) X^T eps: std^2 (2/N)^2 sum x_ij^2 / 2; the same on each rank twice that."""
    theory = STD**2 * (2 / N) ** 2 * X.square().sum(0).numpy() / 2
    for rank in ranks:
        ratio = np.mean(np.array(rank["ddp noise"]["power"]) / theory)
        assert abs(ratio - 1) < 0.05  # its standard deviation is about .02


def test_ddp_ranks_draw_their_own_streams(ranks):
    for rank, found in enumerate(ranks):
        np.testing.assert_array_equal(
            found["ddp noise"]["own"], STD * normals(1, rank, STEPS, STEPS + 1, N)[0].astype(float)
        )


def test_ddp_rank_override_is_one_noise_for_ranks_that_share_labels(ranks):
    for found in ranks:
        np.testing.assert_array_equal(found["ddp noise"]["shared"], STD * normals(1, 3, 0, 1, N)[0].astype(float))


@pytest.mark.parametrize("name", ["ddp", "ddp parameters"])
def test_ddp_is_the_run_by_hand_on_both_halves(ranks, name):
    """Ranks stay together; ParameterNoise moves every copy alike."""
    net = _net()
    plain = torch.optim.SGD(net.parameters(), lr=LR)
    for step in range(5):
        plain.zero_grad()
        for rank in range(2):
            x, y = X[rank::2], X[rank::2, :1]
            if name == "ddp":
                y = y + STD * torch.from_numpy(normals(1, rank, step, step + 1, N // 2)).double().T
            (mse_loss(net(x), y) / 2).backward()
        plain.step()
        if name == "ddp parameters":
            for place, p in enumerate(net.parameters()):
                xi = torch.from_numpy(normals(1, 0, step, step + 1, p.numel(), place)).reshape(p.shape)
                p.data += STD * LR**0.5 * xi.double()
    for found in ranks:
        assert found[name]["step"] == 5
        for ours, theirs in zip(found[name]["weights"], _weights(net), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "noise"), [("fsdp", STD), ("fsdp parameters", ParameterNoise(STD))])
def test_fsdp2_is_the_run_of_one_process(ranks, name, noise):
    net = _net()
    _train(net, _optimizer(net, noise), 5)
    for found in ranks:
        assert (found[name]["before"], found[name]["step"]) == (0, 5)
        for ours, theirs in zip(found[name]["weights"], _weights(net), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("flat", [False, True], ids=["groups", "flat"])
@pytest.mark.parametrize("name", ["fsdp", "fsdp parameters"])
def test_fsdp2_distributed_checkpoint_goes_on_bit_for_bit(ranks, name, flat):
    for found in ranks:
        assert found[name][f"loaded {flat}"] == {"seed": 1, "noise_step": 7 if flat else 5, "noise_std": STD}
        assert found[name][f"same {flat}"]


if __name__ == "__main__":
    _worker(int(sys.argv[1]), sys.argv[2])
