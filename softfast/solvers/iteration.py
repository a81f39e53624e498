"""What solvers share: an evaluation, when to give up, and the line search for smooth functions."""

from collections.abc import Callable
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from softfast import _vectors

Vector = NDArray[np.float64]
Status = Literal["stopped", "max_iter", "stalled"]


class Evaluation(Protocol):
    """A point with the function's value and gradient there."""

    @property
    def x(self) -> Vector:
        """Where."""
        ...

    @property
    def value(self) -> float:
        """The function at x."""
        ...

    @property
    def gradient(self) -> Vector:
        """Its gradient at x."""
        ...

    @property
    def rounding(self) -> float:
        """What the value may be wrong by at worst, through rounding."""
        ...


E = TypeVar("E", bound=Evaluation)

# Armijo and curvature constants of the Wolfe conditions.
DECREASE, _CURVATURE = 1e-4, 0.9
# Values closer than this, relative, can't be told apart; the slopes decide then.
VALUE_NOISE = 1e-14
# The same in units of the worst case of rounding. Large terms that cancel in a value of 0.004 left 1e-15, a thousandth;
# without this share, searches of forty steps ended a fit where the slope still told the way to a gap 4,000 times less.
_USUAL_ROUNDING = 1e-2
# Iterations without progress after which there will be none.
_PATIENCE = 20


class Patience(Generic[E]):
    """Counts the iterations since the value or what should vanish was last smaller than ever before.

    best : the iterate at which it was. Those after it wander where rounding leads them, farther away again: with the
    gradient at 2e-16, twenty more steps of L-BFGS had it at 1e-12, and coefficients off by 1e-9.
    """

    def __init__(self, start: E) -> None:
        self.best = start
        self._lowest_value = self._smallest = float("inf")
        self._idle = 0

    def ends(self, point: E, vanishing: float) -> bool:
        """Whether it ends with this iterate: rounding has ended all progress."""
        value = point.value
        if value < self._lowest_value - VALUE_NOISE * abs(value) or vanishing < self._smallest:
            self.best, self._idle = point, 0
        else:
            self._idle += 1
        self._lowest_value = min(self._lowest_value, value)
        self._smallest = min(self._smallest, vanishing)
        return self._idle == _PATIENCE

    def give_up(self, iteration: int, stop: Callable[[E], bool]) -> tuple[E, int, Status]:
        """What a solver returns then; `stop` hears of the best iterate once more, as of the last one."""
        return self.best, iteration, "stopped" if stop(self.best) else "stalled"


def line_search(
    objective: Callable[[Vector], E],
    point: E,
    direction: NDArray[Any],
    slope: float,
    step: float,
    *,
    n_threads: int = 1,
) -> tuple[E, float] | None:
    """A point that satisfies the Wolfe conditions and the step to it; None if there is none.

    By bracketing and cubic interpolation.

    Near the minimum the decrease drowns in rounding; then the slope decides alone, as in the approximate Wolfe
    conditions of Hager and Zhang (2005).
    """
    noise = max(VALUE_NOISE * abs(point.value), _USUAL_ROUNDING * point.rounding)
    low, low_value, low_slope = 0.0, point.value, slope
    high = high_value = high_slope = float("nan")
    for _ in range(40):
        trial = objective(_vectors.default.step(point.x, step, direction, n_threads=n_threads))
        trial_slope = _vectors.default.dot(direction, trial.gradient, n_threads=n_threads)
        fine = np.isfinite(trial.value) and np.isfinite(trial_slope)
        decreased = fine and trial.value <= point.value + DECREASE * step * slope
        flat = fine and trial.value <= point.value + noise and trial_slope <= (2 * DECREASE - 1) * slope
        if not (decreased or flat):
            high, high_value, high_slope = step, trial.value, trial_slope
        elif trial_slope < _CURVATURE * slope:
            low, low_value, low_slope = step, trial.value, trial_slope
        else:
            return trial, step
        if np.isnan(high):
            step = 4 * low
            continue
        if high - low <= 1e-15 * high:
            return None
        step = _cubic_minimum(low, low_value, low_slope, high, high_value, high_slope)
        # Keep away from the ends, so that the bracket shrinks.
        margin = 0.1 * (high - low)
        step = min(max(step, low + margin), high - margin) if np.isfinite(step) else low + 0.5 * (high - low)
    return None


def _cubic_minimum(a: float, f_a: float, d_a: float, b: float, f_b: float, d_b: float) -> float:
    """The minimum of the cubic through values and slopes at a and b (Nocedal and Wright 2006, equation 3.59)."""
    with np.errstate(all="ignore"):
        first = d_a + d_b - 3 * (f_a - f_b) / (a - b)
        root = np.sqrt(first * first - d_a * d_b)
        return float(b - (b - a) * (d_b + root - first) / (d_b - d_a + 2 * root))
