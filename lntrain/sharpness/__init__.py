"""How flat a minimum is: traces, the largest eigenvalue, the regulariser of label noise, for any network."""

from lntrain.sharpness.curvature import Curvature, Estimate
from lntrain.sharpness.measures import (
    gauss_newton_trace,
    gradient_covariance_trace,
    hessian_trace,
    jacobian_norm,
    label_smoothing,
    regulariser,
    top_eigenvalue,
)

__all__ = [
    "Curvature",
    "Estimate",
    "gauss_newton_trace",
    "gradient_covariance_trace",
    "hessian_trace",
    "jacobian_norm",
    "label_smoothing",
    "regulariser",
    "top_eigenvalue",
]
