"""Which keys of the configuration a task reads: what it would pass over in silence is refused."""

from __future__ import annotations

from collections.abc import Sequence

from lntrain.runs.config import Config

ALWAYS = {
    *("task", "experiment", "steps", "loss_constant", "seed", "checkpoint_every", "points_per_octave", "figures"),
    *("overwrite", "trust", "run_dir", "sweep", "device", "hydra"),
}
NETWORKS = {"noise", "optimizer", "lr_schedule", "study", "batch_size", "sampling"}
DIAGONAL = {"problem", "model", "optimizer", "lr_schedule", "engine"}
PLANNED = DIAGONAL | {"noise", "penalty", "target_distance", "average", "batch_size", "sampling"}
READ = {
    "train": PLANNED | {"budget"},
    "figure1": DIAGONAL | {"figure1", "gallery"},
    "path": PLANNED | {"path", "gallery"},
    "gallery": {"gallery"},
    "classification": NETWORKS | {"data", "network", "classification", "gallery"},
    "selectivity": NETWORKS | {"selectivity"},
    "matrix_sensing": NETWORKS | {"matrix_sensing", "gallery"},
}
CHOSEN = {"path": ("penalty.alpha", "penalty.alpha_ratio", "noise.std", "model.replicas")}  # by the task itself


def check(task: str, overrides: Sequence[str]) -> None:
    """Refuse overrides of keys that the task does not read.

    Raises:
        ValueError: the key, and the experiment that would ignore it.

    >>> check("train", ["seed=3", "noise/schedule=cosine", "+problem.rho=0.5"])
    >>> check("path", ["penalty.alpha=0.1"])
    Traceback (most recent call last):
    ValueError: penalty.alpha=0.1: experiment=path does not read penalty.alpha: leave it out
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~").partition("@")[0]
        top = key.replace("/", ".").partition(".")[0]
        if top not in Config.__dataclass_fields__ and top not in ALWAYS:
            raise ValueError(f"{override}: there is no key {key}: lntrain --help shows all")
        if key == "hydra.run.dir":
            raise ValueError(f"{override}: give run_dir=FOLDER, lntrain makes the folder of a run itself")
        if task in READ and (top not in ALWAYS | READ[task] or key in CHOSEN.get(task, ())):
            raise ValueError(f"{override}: experiment={task} does not read {key}: leave it out")
