"""Random label noise: its stream, its laws, its schedules, and the controls that are no label noise."""

from lntrain.noise.column_space import ColumnSpaceNoise
from lntrain.noise.controls import MinibatchNoise, ParameterNoise
from lntrain.noise.labels import (
    Additive,
    Antithetic,
    GaussianNoise,
    LabelFlips,
    Noise,
    NoNoise,
    RademacherNoise,
    as_noise,
    check_std,
)
from lntrain.noise.schedules import Cosine, OffAt, PowerDecay, Schedule, StepDecay

__all__ = [
    "Additive",
    "Antithetic",
    "ColumnSpaceNoise",
    "Cosine",
    "GaussianNoise",
    "LabelFlips",
    "MinibatchNoise",
    "NoNoise",
    "Noise",
    "OffAt",
    "ParameterNoise",
    "PowerDecay",
    "RademacherNoise",
    "Schedule",
    "StepDecay",
    "as_noise",
    "check_std",
]
