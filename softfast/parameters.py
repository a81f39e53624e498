"""What the parameters of the estimator may be."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Protocol

from softfast.threads import resolve_threads


class Parameters(Protocol):
    """Those with a range, as they should be."""

    C: float
    l1_ratio: float
    sparsity: str
    solver: str
    tol: float
    max_iter: int
    n_threads: int | None
    callback: Callable[..., Any] | None


def check_parameters(model: Parameters) -> None:
    """Raise ValueError for a parameter out of range; the message names it."""

    def require(name: str, accepted: str, fine: bool) -> None:
        if not fine:
            raise ValueError(f"{name} must be {accepted}, got {getattr(model, name)!r}")

    require("C", "a number > 0 (np.inf for no penalty)", isinstance(model.C, Real) and model.C > 0)
    require("tol", "a finite number >= 0", isinstance(model.tol, Real) and 0 <= model.tol < math.inf)
    require("max_iter", "an integer >= 1", isinstance(model.max_iter, Integral) and model.max_iter >= 1)
    require("l1_ratio", "a number from 0 to 1", isinstance(model.l1_ratio, Real) and 0 <= model.l1_ratio <= 1)
    require("sparsity", "'coefficient' or 'feature'", model.sparsity in ("coefficient", "feature"))
    with_l1, without_l1 = ("auto", "proximal-newton"), ("auto", "lbfgs", "newton-cg")
    known = model.solver in with_l1 or model.solver in without_l1
    require("solver", "'auto', 'lbfgs', 'newton-cg' or 'proximal-newton'", known)
    fine = has_l1(model) or model.solver in without_l1
    require("solver", "'auto', 'lbfgs' or 'newton-cg' without L1", fine)
    require("solver", "'auto' or 'proximal-newton' with L1", not has_l1(model) or model.solver in with_l1)
    require("callback", "None or callable", model.callback is None or callable(model.callback))
    resolve_threads(model.n_threads, 0.0)


def has_l1(model: Parameters) -> bool:
    """Whether the penalty has absolute values."""
    return bool(model.l1_ratio > 0 and math.inf != model.C)
