"""Limited-memory BFGS for smooth convex functions (Nocedal and Wright 2006, algorithms 7.4 and 7.5)."""

from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

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


E = TypeVar("E", bound=Evaluation)

# Armijo and curvature constants of the Wolfe conditions.
_DECREASE, _CURVATURE = 1e-4, 0.9
# Values closer than this, relative, can't be told apart; the slopes decide then.
_VALUE_NOISE = 1e-14
_MEMORY = 20
# Iterations without progress after which there will be none.
_PATIENCE = 20
# When the metric is taken: often while the point moves far, then every 30 iterations.
_METRIC_ITERATIONS = (0, 4, 12, 30)


def lbfgs(
    objective: Callable[[Vector], E],
    start: E,
    *,
    max_iter: int,
    stop: Callable[[E], bool],
    metric: Callable[[E], Callable[[Vector], Vector] | None] = lambda point: None,
) -> tuple[E, int, Status]:
    """Minimise from `start` until `stop(point)` is true, asked once an iteration and at the start.

    `metric(point)` may give multiplication by an approximate inverse Hessian at the point: what the updates begin
    from, in place of a multiple of the identity. It is asked for anew at growing intervals.

    Returns the last point, the number of iterations and why they ended: "stopped", "max_iter", or "stalled" where
    rounding ends all progress: no step along the gradient itself improves on the point, or neither the value nor the
    gradient has become smaller for a while.
    """
    point = start
    pairs: deque[tuple[Vector, Vector, float]] = deque(maxlen=_MEMORY)
    inverse: Callable[[Vector], Vector] | None = None
    lowest_value, smallest_gradient, idle = float("inf"), float("inf"), 0
    for iteration in range(max_iter):
        if stop(point):
            return point, iteration, "stopped"
        size = float(np.abs(point.gradient).max(initial=0.0))
        improved = point.value < lowest_value - _VALUE_NOISE * abs(point.value) or size < smallest_gradient
        idle = 0 if improved else idle + 1
        if idle == _PATIENCE:
            return point, iteration, "stalled"
        lowest_value, smallest_gradient = min(lowest_value, point.value), min(smallest_gradient, size)
        if iteration in _METRIC_ITERATIONS or (iteration and iteration % _METRIC_ITERATIONS[-1] == 0):
            inverse = metric(point)
        direction = -_inverse_hessian_product(pairs, inverse, point.gradient)
        slope = float(direction @ point.gradient)
        # Before curvature is known, a first step of length 1 at most.
        length = 1.0 if pairs or inverse else 1 / max(1.0, float(np.linalg.norm(direction)))
        following = _line_search(objective, point, direction, slope, length) if slope < 0 else None
        if following is None:
            if not pairs and inverse is None:
                return point, iteration, "stalled"
            pairs.clear()
            inverse = None
            continue
        moved, turned = following.x - point.x, following.gradient - point.gradient
        curvature = float(moved @ turned)
        if curvature > 1e-16 * float(turned @ turned):
            pairs.append((moved, turned, 1 / curvature))
        point = following
    return point, max_iter, "stopped" if stop(point) else "max_iter"


def _inverse_hessian_product(
    pairs: deque[tuple[Vector, Vector, float]], inverse: Callable[[Vector], Vector] | None, gradient: Vector
) -> Vector:
    """The two-loop recursion: the inverse Hessian that the metric and the pairs stand for, times the gradient."""
    product = gradient.copy()
    factors = []
    for moved, turned, rho in reversed(pairs):
        factor = rho * float(moved @ product)
        factors.append(factor)
        product -= factor * turned
    if inverse is not None:
        product = inverse(product)
    elif pairs:
        _, turned, rho = pairs[-1]
        product /= rho * float(turned @ turned)
    for (moved, turned, rho), factor in zip(pairs, reversed(factors), strict=True):
        product += (factor - rho * float(turned @ product)) * moved
    return product


def _line_search(objective: Callable[[Vector], E], point: E, direction: Vector, slope: float, step: float) -> E | None:
    """A point that satisfies the Wolfe conditions, by bracketing and cubic interpolation; None if there is none.

    Near the minimum the decrease drowns in rounding; then the slope decides alone, as in the approximate Wolfe
    conditions of Hager and Zhang (2005).
    """
    noise = _VALUE_NOISE * abs(point.value)
    low, low_value, low_slope = 0.0, point.value, slope
    high = high_value = high_slope = float("nan")
    for _ in range(40):
        trial = objective(point.x + step * direction)
        trial_slope = float(direction @ trial.gradient)
        fine = np.isfinite(trial.value) and np.isfinite(trial_slope)
        decreased = fine and trial.value <= point.value + _DECREASE * step * slope
        flat = fine and trial.value <= point.value + noise and trial_slope <= (2 * _DECREASE - 1) * slope
        if not (decreased or flat):
            high, high_value, high_slope = step, trial.value, trial_slope
        elif trial_slope < _CURVATURE * slope:
            low, low_value, low_slope = step, trial.value, trial_slope
        else:
            return trial
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
