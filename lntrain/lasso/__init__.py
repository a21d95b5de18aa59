"""Weighted Lassos with a certificate, and the other limits that label noise has."""

from lntrain._checks import as_float64
from lntrain._moved import former
from lntrain.lasso.certificate import GAP, duality_gap, lasso_objective
from lntrain.lasso.concave import Power, StationaryPoint, stationary_point
from lntrain.lasso.dual import Reference
from lntrain.lasso.groups import GroupLassoSolution, group_duality_gap, group_lasso
from lntrain.lasso.references import (
    SelfConsistent,
    basis_pursuit,
    bridge,
    entropy_interpolator,
    oracle_least_squares,
    self_consistent_lasso,
)
from lntrain.lasso.solve import (
    LassoSolution,
    closed_form_lasso,
    equicorrelation_set,
    relabelled_lasso,
    weighted_lasso,
    weighted_lasso_path,
)

__all__ = [
    "GAP",
    "GroupLassoSolution",
    "LassoSolution",
    "Power",
    "Reference",
    "SelfConsistent",
    "StationaryPoint",
    "as_float64",
    "basis_pursuit",
    "bridge",
    "closed_form_lasso",
    "duality_gap",
    "entropy_interpolator",
    "equicorrelation_set",
    "group_duality_gap",
    "group_lasso",
    "lasso_objective",
    "oracle_least_squares",
    "relabelled_lasso",
    "self_consistent_lasso",
    "stationary_point",
    "weighted_lasso",
    "weighted_lasso_path",
]

__getattr__ = former(__name__, {"moved_lasso": "relabelled_lasso"})
