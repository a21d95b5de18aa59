"""The loop that yields snapshots, replicas of any network side by side, and the evaluation of a snapshot."""

from lntrain.training.divergence import DivergenceError
from lntrain.training.evaluation import evaluate
from lntrain.training.loop import Snapshot, train

__all__ = [
    "DivergenceError",
    "Snapshot",
    "evaluate",
    "train",
]
