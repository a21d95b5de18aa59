"""lntrain: train a diagonal linear network with label noise, and meet the Lasso it predicted."""

from lntrain.controls import MinibatchNoise, ParameterNoise
from lntrain.corrections import plan_steps
from lntrain.diagnostics import evaluate
from lntrain.lasso import LassoSolution, weighted_lasso, weighted_lasso_path
from lntrain.model import DiagonalLinear
from lntrain.noise import Antithetic, GaussianNoise, LabelFlips, NoNoise, RademacherNoise
from lntrain.optim import LabelNoiseSGD, NoisyTargets
from lntrain.penalty import effective_penalty, noise_for_penalty
from lntrain.prediction import Prediction, predict
from lntrain.problem import Problem, sparse_regression
from lntrain.quadratic import quadratic, unquadratic
from lntrain.readers import diabetes, from_file
from lntrain.train import DivergenceError, Snapshot, train

__version__ = "0.1.0"

__all__ = [
    "Antithetic",
    "DiagonalLinear",
    "DivergenceError",
    "GaussianNoise",
    "LabelFlips",
    "LabelNoiseSGD",
    "LassoSolution",
    "MinibatchNoise",
    "NoNoise",
    "NoisyTargets",
    "ParameterNoise",
    "Prediction",
    "Problem",
    "RademacherNoise",
    "Snapshot",
    "diabetes",
    "effective_penalty",
    "evaluate",
    "from_file",
    "noise_for_penalty",
    "plan_steps",
    "predict",
    "quadratic",
    "sparse_regression",
    "train",
    "unquadratic",
    "weighted_lasso",
    "weighted_lasso_path",
]
