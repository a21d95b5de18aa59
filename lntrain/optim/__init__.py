"""SGD that perturbs labels, and the criterion that does it inside any loop."""

from lntrain.optim.sgd import LabelNoiseSGD, NoisyTargets, noise_of, noise_std

__all__ = [
    "LabelNoiseSGD",
    "NoisyTargets",
    "noise_of",
    "noise_std",
]
