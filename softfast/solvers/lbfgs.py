"""Limited-memory BFGS for smooth convex functions (Nocedal and Wright 2006, algorithms 7.4 and 7.5)."""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from softfast._vectors import add_and_dot, differences, scale_and_dot
from softfast.solvers.iteration import E, Patience, Status, Vector, line_search

# Pairs kept at most, and of long vectors: those come from memory, twice an iteration. With 3.4 million numbers three,
# five and twelve pairs needed 42, 39 and 38 iterations, with 1.1 million 28, 26 and 25. Long pairs are float32, which
# left all these numbers as they are: the recursion works in float64, and rounding changes a pair by 1e-7 of itself.
_MEMORY = 20
_LONG, _LONG_MEMORY = 2**19, 5
# When the metric is taken: often while the point moves far, then every 30 iterations.
_METRIC_ITERATIONS = (0, 4, 12, 30)


class _Pair(NamedTuple):
    """What a step moved, and how the gradient turned."""

    moved: NDArray[Any]
    turned: NDArray[Any]
    curvature: float
    """<moved, turned>"""
    square: float
    """<turned, turned>"""


Pairs: TypeAlias = deque[_Pair]


def lbfgs(
    objective: Callable[[Vector], E],
    start: E,
    *,
    max_iter: int,
    stop: Callable[[E], bool],
    metric: Callable[[E], Callable[[Vector], Vector] | None] = lambda point: None,
    refine: Callable[[E], E] = lambda point: point,
    n_threads: int = 1,
) -> tuple[E, int, Status]:
    """Minimise from `start` until `stop(point)` is true, asked once an iteration and at the start.

    `metric(point)` may give multiplication by an approximate inverse Hessian at the point: what the updates begin
    from, in place of a multiple of the identity. It is asked for anew at growing intervals. `refine(point)` is asked in
    each iteration for the point itself, evaluated anew where `objective` has become more precise.

    Returns the last point, the number of iterations and why they ended: "stopped", "max_iter", or "stalled", with the
    best point, where rounding ends all progress: no step along the gradient itself improves on the point, or neither
    the value nor the gradient has become smaller for a while.
    """
    point = start
    size, long = start.x.size, start.x.size >= _LONG
    pairs: Pairs = deque(maxlen=_LONG_MEMORY if long else _MEMORY)
    inverse: Callable[[Vector], Vector] | None = None
    spare = None
    patience = Patience(start)
    for iteration in range(max_iter):
        point = refine(point)
        if stop(point):
            return point, iteration, "stopped"
        if patience.ends(point, max(point.gradient.max(initial=0.0), -point.gradient.min(initial=0.0))):
            return patience.give_up(iteration, stop)
        if iteration in _METRIC_ITERATIONS or iteration % _METRIC_ITERATIONS[-1] == 0:
            inverse = metric(point)
        direction = _direction(pairs, inverse, point.gradient, n_threads)
        slope = float(direction @ point.gradient)
        # Before curvature is known, a first step of length 1 at most.
        length = 1.0 if pairs or inverse else 1 / max(1.0, float(np.linalg.norm(direction)))
        following = line_search(objective, point, direction, slope, length) if slope < 0 else None
        if following is None:
            if not pairs and inverse is None:
                return patience.give_up(iteration, stop)
            pairs.clear()
            inverse = None
            continue
        moved, turned = spare or [np.empty(size, np.float32 if long else np.float64) for _ in range(2)]
        curvature, square = differences(
            moved, turned, following.x, point.x, following.gradient, point.gradient, n_threads=n_threads
        )
        spare = None
        if curvature > 1e-16 * square:
            # The memory of the pair that goes is warm.
            spare = pairs[0][:2] if len(pairs) == pairs.maxlen else None
            pairs.append(_Pair(moved, turned, curvature, square))
        point = following
    return point, max_iter, "stopped" if stop(point) else "max_iter"


def _shrinkage(last: _Pair, inverse: Callable[[Vector], Vector]) -> float:
    """The factor, from 0.1 to 1, by which the metric agrees with the last step.

    A Hessian from few rows has next to no curvature in directions in which all rows do, and its steps are too long: on
    60,000 images of 784 pixels, a sample of 8,000, steps of 0.2 to 0.5 took two evaluations an iteration, 110 passes in
    all, and 67 with the factor. Above 1 it would undo what the metric knows of directions other than the last; and how
    the gradient turned in the last steps of all, which would be shrunk to nothing, is rounding.
    """
    turned = np.asarray(last.turned, dtype=np.float64)
    return 1 / min(max(1.0, float(turned @ inverse(turned)) / last.curvature), 10.0)


def _direction(
    pairs: Pairs,
    inverse: Callable[[Vector], Vector] | None,
    gradient: Vector,
    n_threads: int,
) -> Vector:
    """The two-loop recursion: the inverse Hessian that the metric and the pairs stand for, times minus the gradient.

    Each step along a vector is one with the product that the next step begins with: long vectors come from memory.
    """
    product = gradient.copy()
    if not pairs:
        np.negative(product, out=product)
        return product if inverse is None else inverse(product)
    factors = []
    dot = scale_and_dot(product, -1.0, pairs[-1].moved, n_threads=n_threads)
    for i in reversed(range(len(pairs))):
        factors.append(dot / pairs[i].curvature)
        following = pairs[max(i - 1, 0)].moved
        dot = add_and_dot(product, -factors[-1], pairs[i].turned, following, n_threads=n_threads)
    if inverse is None:
        scale = pairs[-1].curvature / pairs[-1].square
    else:
        product = np.ascontiguousarray(inverse(product))
        scale = _shrinkage(pairs[-1], inverse)
    dot = scale_and_dot(product, scale, pairs[0].turned, n_threads=n_threads)
    for i, factor in enumerate(reversed(factors)):
        following = pairs[min(i + 1, len(pairs) - 1)].turned
        dot = add_and_dot(product, factor - dot / pairs[i].curvature, pairs[i].moved, following, n_threads=n_threads)
    return product
