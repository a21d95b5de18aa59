"""Kill, starve and damage runs of every task, and look whether anything is lost: prints what was done and what was not.

    python scripts/soak.py --kills 1000
    python scripts/soak.py --minutes 20 --seed 3

Runs are children of one warm process, so that a life takes a fraction of a second. Kills: SIGKILL at random moments, a
resume after each; at the end arrays, metrics, summary and TensorBoard's points are compared with those of an
uninterrupted run. Minutes: kills, disks that fill up at a random write, flipped bits and cuts in a random file, and
two owners at once.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra.core.global_hydra import GlobalHydra
from soak_lives import Life, close, of_sweep, results

from lntrain import cli
from lntrain.runs import files

SMALL = ("problem.n=12", "problem.d=8", "problem.k=2", "optimizer.lr=0.002", "penalty.alpha_ratio=0.2", "figures=false")
STUDY = ("steps=48", "study.replicas=2", "study.anneal=0.25", "batch_size=4", "optimizer.lr=0.01", "figures=false")
RUNS = {
    "fused": (*SMALL, "steps=300000", "model.replicas=null"),
    "replicas": (*SMALL, "steps=60000", "model.replicas=3", "batch_size=4"),
    "torch": (*SMALL, "steps=400", "model.replicas=2", "engine=torch"),
    "antithetic": (*SMALL, "steps=100000", "noise=antithetic", "average=tail", "optimizer.momentum=0.5"),
    "figure1": ("experiment=figure1", *SMALL[:4], "steps=20000", "figures=false", "figure1.stds=[0.4]"),
    "path": ("experiment=path", *SMALL[:4], "steps=50000", "figures=false", "path.points=4"),
    "digits": ("experiment=digits", "data.test=0.95", "network.widths=[6]", "classification.trace_draws=2", *STUDY),
    "selectivity": ("experiment=selectivity", "selectivity.n=20", "selectivity.d=12", "selectivity.useful=3", *STUDY),
    "sensing": ("experiment=matrix_sensing", "matrix_sensing.d=4", "matrix_sensing.rank=1",
                "matrix_sensing.measurements=[5]", *STUDY),
}  # fmt: skip
SWEEP = ("-m", *SMALL, "steps=20000", "model.replicas=null", "seed=0,1,2", "noise.std=null", "hydra/launcher=basic")
SWEEPS = {"sweep": SWEEP, "batched sweep": (*SWEEP, "sweep.batched=true")}


@dataclass
class Tally:
    """What was done, and what went wrong."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)


class Soak:
    """One worker: its own folder, random numbers and tally."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random, self.tally = folder, random.Random(seed), Tally()
        self.whole: dict[str, tuple[Any, float]] = {}

    def place(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def uninterrupted(self, name: str) -> tuple[Any, float]:
        """The results of a case without faults, and its seconds."""
        if name not in self.whole:
            place = self.place()
            end = Life(self.first(name), place).end()
            self.tally.expect(end.code == 0, f"{name} without faults: exit {end.code}: {end.err[-400:]}")
            self.whole[name] = self.found(name, place), end.seconds
            shutil.rmtree(place)
        return self.whole[name]

    @staticmethod
    def first(name: str) -> list[str]:
        return [*RUNS[name], "run_dir=run"] if name in RUNS else [*SWEEPS[name], "sweep.name=s"]

    @staticmethod
    def found(name: str, place: Path) -> dict[str, Any]:
        return results(place / "run") if name in RUNS else of_sweep(place / "outputs" / "sweeps" / "s")

    def same(self, name: str, place: Path) -> bool:
        """Whether a case ended as it does without faults: bit for bit, but for what a batch measures."""
        ends = self.found(name, place), self.whole[name][0]
        return close(*ends) if name == "batched sweep" else ends[0] == ends[1]

    def next(self, name: str, place: Path, extra: Sequence[str] = ()) -> list[str]:
        """The command that goes on from what is there."""
        if name in SWEEPS:
            return [*self.first(name), *extra]
        if files.has_checkpoint(place / "run"):
            return ["resume=run"]
        return [*self.first(name), *extra, *(["overwrite=true"] if (place / "run").exists() else [])]

    def finish(self, name: str, place: Path, extra: Sequence[str], what: str) -> None:
        """Go on to the end, and compare."""
        end = Life(self.next(name, place, extra), place).end()
        self.tally.expect(end.code == 0, f"{name} after {what}: exit {end.code}: {end.err[-400:]}")
        if end.code == 0:
            self.tally.expect(
                self.same(name, place), f"{name} after {what}: another end than the uninterrupted run's, see {place}"
            )
        left = [str(path) for path in place.rglob(".*.tmp")]
        self.tally.expect(not left, f"{name} after {what}: left {left}")
        if not self.tally.wrong:
            shutil.rmtree(place)

    def kills(self, most: int) -> None:
        """A run or sweep, killed up to `most` times at random moments, then ended."""
        name = self.random.choice([*RUNS, *SWEEPS])
        _, seconds = self.uninterrupted(name)
        place, extra = self.place(), [f"checkpoint_every={self.random.choice([0, 0, 0.05])}"]
        for _ in range(self.random.randint(1, most)):
            end = Life(self.next(name, place, extra), place).end(self.random.uniform(0.02, seconds))
            if end.code != -signal.SIGKILL:
                self.tally.expect(end.code == 0, f"{name}: exit {end.code}: {end.err[-400:]}")
                break
            self.tally.done["kills"] += 1
        self.tally.done["ends compared after kills"] += 1
        self.finish(name, place, extra, "kills")

    def full_disk(self) -> None:
        """A disk that is full from a random write on; the next life has room again."""
        name = self.random.choice([*RUNS, *SWEEPS])
        self.uninterrupted(name)
        place, extra, number, put = self.place(), ["checkpoint_every=0"], self.random.randint(1, 60), files._put
        count = 0

        def broken(path: Path, content: bytes, **options: Any) -> int:
            nonlocal count
            count += 1
            if count < number:
                return put(path, content, **options)
            put(path, content[: len(content) // 2], **options)
            raise OSError(errno.ENOSPC, "No space left on device")

        def fill() -> None:
            files._put = broken

        end = Life(self.next(name, place, extra), place, fill).end()
        told = "No space left" in end.err + "".join(p.read_text() for p in place.rglob("output.txt"))
        self.tally.expect(end.code in (0, 1, 2), f"{name}, full disk: exit {end.code}: {end.err[-400:]}")
        self.tally.expect(end.code == 0 or told or name in SWEEPS, f"{name}, full disk: not told: {end.err[-400:]}")
        self.tally.expect("Traceback" not in end.err, f"{name}, full disk: {end.err[-400:]}")
        self.tally.done["full disks"] += 1
        self.finish(name, place, extra, "a full disk")

    def damage(self) -> None:
        """A flipped bit or a cut in any file of an interrupted run or sweep, then on: told, or of no effect."""
        name = self.random.choice([*RUNS, *SWEEPS])
        _, seconds = self.uninterrupted(name)
        place, extra = self.place(), ["checkpoint_every=0"]
        Life(self.next(name, place, extra), place).end(self.random.uniform(0.3, 1.2) * seconds)
        held = [p for p in place.rglob("*") if p.is_file() and p.stat().st_size and p.name not in (".lock", ".owner")]
        if not held:
            return
        path = self.random.choice(held)
        content, at = path.read_bytes(), self.random.randrange(path.stat().st_size)
        flipped = content[:at] + bytes([content[at] ^ 1 << self.random.randrange(8)]) + content[at + 1 :]
        path.write_bytes(content[:at] if self.random.random() < 0.5 else flipped)
        end = Life(self.next(name, place, extra), place).end()
        what = f"{name}, damage at byte {at} of {path.relative_to(place)}"
        self.tally.expect(end.code in (0, 1, 2), f"{what}: exit {end.code}: {end.err[-400:]}")
        self.tally.expect("Traceback" not in end.err, f"{what}: {end.err[-600:]}")
        if end.code == 0 and re.search(r"result|checkpoint|metrics", path.name):
            same = name in SWEEPS or self.found(name, place)["arrays"] == self.whole[name][0]["arrays"]
            self.tally.expect(same, f"{what}: another end, and exit 0")
        if name in SWEEPS and (place / "outputs" / "sweeps" / "s").is_dir():
            end = Life(["report", "outputs/sweeps/s"], place).end()
            self.tally.expect(end.code in (0, 2), f"{what}, report: exit {end.code}: {end.err[-400:]}")
        self.tally.done["damaged files"] += 1
        if not self.tally.wrong:
            shutil.rmtree(place)

    def two_owners(self) -> None:
        """The same command twice at once: a folder has one writer, a sweep is shared."""
        name = self.random.choice([*RUNS, *SWEEPS])
        self.uninterrupted(name)
        place = self.place()
        lives = [Life(self.first(name), place) for _ in range(2)]
        ends = [life.end() for life in lives]
        codes = sorted(end.code for end in ends)
        wanted = [0, 0] if name in SWEEPS else [0, 2]
        self.tally.expect(codes == wanted, f"{name}, two owners: exits {codes}: {[end.err[-300:] for end in ends]}")
        self.tally.expect(self.same(name, place), f"{name}, two owners: another end, see {place}")
        self.tally.done["two owners"] += 1
        if not self.tally.wrong:
            shutil.rmtree(place)


def work(folder: Path, seed: int, kills: int, number: int, minutes: float) -> Tally:
    """One worker's share: so many kills, so many faults of all kinds, and faults for so long."""
    soak = Soak(folder, seed)
    while soak.tally.done["kills"] < kills and len(soak.tally.wrong) < 5:
        soak.kills(6)
    faults = (lambda: soak.kills(3), soak.full_disk, soak.damage, soak.two_owners)
    until = time.monotonic() + 60 * minutes
    while (number > 0 or time.monotonic() < until) and len(soak.tally.wrong) < 5:
        soak.random.choice(faults)()
        number -= 1
    return soak.tally


def main() -> None:
    """Soak with some workers at once; exit 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=0, help="SIGKILLs, over all tasks")
    parser.add_argument("--minutes", type=float, default=0.0, help="of kills, full disks, damage and two owners")
    parser.add_argument("--faults", type=int, default=0, help="of these kinds, a number in place of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    folder, began = Path(tempfile.mkdtemp(prefix="lntrain-soak-")), time.monotonic()
    warm = Soak(folder, options.seed)
    for name in (*RUNS, *SWEEPS):  # once in this process: what it compiles, its children have
        _within(warm, name)
    kills, faults = (-(-wished // options.workers) for wished in (options.kills, options.faults))
    children = []
    for worker in range(options.workers):
        pid = os.fork()
        if pid == 0:
            own = folder / f"worker{worker}"
            own.mkdir()
            tally = work(own, options.seed * 1000 + worker, kills, faults, options.minutes)
            (folder / f"{worker}.json").write_text(json.dumps({"done": tally.done, "wrong": tally.wrong}))
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    told_by = [files.read_json(folder / f"{worker}.json") for worker in range(options.workers)]
    done: Counter[str] = Counter()
    for own_tally in told_by:
        done.update(own_tally["done"] if own_tally else {"workers lost": 1})
    wrong = [line for own_tally in told_by if own_tally for line in own_tally["wrong"]]
    told = ", ".join(f"{number} {what}" for what, number in done.items())
    print(f"seed {options.seed}: {told} in {time.monotonic() - began:.0f} s; {len(wrong)} went wrong")
    print("\n".join(wrong))
    if wrong or done["workers lost"]:
        print(f"the folders: {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


def _within(soak: Soak, name: str) -> None:
    """A case in this very process."""
    place, before, argv = soak.place(), Path.cwd(), sys.argv
    os.chdir(place)
    try:
        GlobalHydra.instance().clear()
        sys.argv = ["lntrain", *soak.first(name)]
        with open(os.devnull, "w") as quiet, redirect_stdout(quiet), redirect_stderr(quiet):
            cli.main()
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{name} fails without any fault: exit {stop.code}") from None
    finally:
        os.chdir(before)
        sys.argv = argv
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
