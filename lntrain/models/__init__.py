"""What is trained: the diagonal linear network, any layer made quadratic, deep networks, replicas of any module."""

from lntrain.models.diagonal import DiagonalLinear, LogNormalInit
from lntrain.models.quadratic import quadratic, unquadratic

__all__ = [
    "DiagonalLinear",
    "LogNormalInit",
    "quadratic",
    "unquadratic",
]
