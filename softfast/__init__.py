"""Softmax regression (multinomial logistic regression) on CPUs, as fast as the hardware allows.

The array functions and ``loss_gradient`` need NumPy alone; the estimator loads scikit-learn when it is first used.
"""

from typing import TYPE_CHECKING, Any

from softfast import _core
from softfast.functions import (
    cross_entropy,
    cross_entropy_gradient,
    log_softmax,
    logsumexp,
    loss_gradient,
    softmax,
)

if TYPE_CHECKING:
    from softfast.config import show_config
    from softfast.estimator import SoftmaxRegression
    from softfast.plotting import ConvergenceDisplay
    from softfast.streams import from_batches, from_npy, from_parquet

__version__ = _core.VERSION

__all__ = [
    "ConvergenceDisplay",
    "SoftmaxRegression",
    "__version__",
    "cross_entropy",
    "cross_entropy_gradient",
    "from_batches",
    "from_npy",
    "from_parquet",
    "log_softmax",
    "logsumexp",
    "loss_gradient",
    "show_config",
    "softmax",
]

_LAZY = {
    "ConvergenceDisplay": "softfast.plotting",
    "SoftmaxRegression": "softfast.estimator",
    "from_batches": "softfast.streams",
    "from_npy": "softfast.streams",
    "from_parquet": "softfast.streams",
    "show_config": "softfast.config",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'softfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
