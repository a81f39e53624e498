"""Intercepts at which the residuals add up to zero, for the certificate.

Only then are a point's own probabilities a dual point (certificate.py). What moves them there is linear in the
residuals' sums, and large: on 18,000 rows of text, 150 classes, with F within 3e-6 of its minimum the gap was 7e-3, and
would have been 3e-6 without them. L-BFGS makes them small last, Newton's method at once: the Hessian by the intercepts
alone is no larger than (K, K).  Passes to a gap of 1e-6, before and with it: these rows 40 and 23.5, 60,000 images of
784 pixels 131 and 102.5, 20,000 rows of 16 features and 26 classes 23 and 22.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from softfast.objective import Point, SoftmaxObjective
from softfast.sources import Vector

# It begins where the gap would be less than this, in units of what is asked for, and where it is more than this: what
# is nearer L-BFGS reaches as soon.
_ALMOST, _FAR = 0.8, 4.0
# Steps of Newton's method at most, and what one must leave of the residuals at most for its Hessian to serve again.
_STEPS, _LEFT = 3, 0.25


class Balance:
    """Of an iterate, the point with such intercepts, once that certifies it.

    tol : the duality gap that is asked for, in units of max(1, F)
    single : whether the objective may begin in float32, as its `refine` has it
    """

    def __init__(self, objective: SoftmaxObjective, tol: float, *, single: bool = False) -> None:
        self._objective, self._tol, self._single = objective, tol, single
        self._almost = _ALMOST
        self._solve: Callable[[Vector], Vector] | None = None

    def __call__(self, point: Point) -> Point:
        """The point itself, or a better one."""
        if self._single:
            point = self._objective.refine(point)
        goal = self._tol * max(1.0, point.value)
        if not (point.gap > _FAR * goal and point.balanced_gap <= self._almost * goal):
            return point
        if not self._objective.can_balance:
            return point
        with suppress(np.linalg.LinAlgError):
            point = self._balanced(point, goal)
        if point.gap > goal:
            # Not again at once.
            self._almost /= 2
        return point

    def _balanced(self, point: Point, goal: float) -> Point:
        objective, own = self._objective, self._objective.intercepts
        evaluate = objective.__call__
        for _ in range(_STEPS):
            if self._solve is None:
                factor = cho_factor(objective.intercept_hessian(point), overwrite_a=True)
                self._solve = partial(cho_solve, factor)
            x = point.x.copy()
            x[own] -= self._solve(point.gradient[own])
            # Only the first step does without the float64 that the certificate needs: it is short of it in any case.
            found, evaluate = evaluate(x), objective.precisely
            before, after = (float(np.abs(p.gradient[own]).max()) for p in (point, found))
            better = after < before or found.gap < point.gap
            if not (better and found.value <= point.value + point.rounding + found.rounding):
                self._solve = None
                return point
            if after > _LEFT * before:
                # Not by the same Hessian.
                self._solve = None
            point = found
            if point.gap <= goal or point.balanced_gap > goal:
                return point
        return point
