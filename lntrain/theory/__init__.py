"""What theory says before the first step: plan, prediction, flows, laws, and where the theorems hold."""

from lntrain.theory.plan import Plan, make_plan
from lntrain.theory.prediction import Prediction, predict

__all__ = [
    "Plan",
    "Prediction",
    "make_plan",
    "predict",
]
