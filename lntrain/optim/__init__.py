"""SGD that perturbs labels, and the criterion that does it inside any loop."""

from lntrain.optim.criterion import NoisyTargets
from lntrain.optim.sgd import LabelNoiseSGD, noise_of, noise_std

__all__ = [
    "LabelNoiseSGD",
    "NoisyTargets",
    "noise_of",
    "noise_std",
]
