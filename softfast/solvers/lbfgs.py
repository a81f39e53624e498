"""Limited-memory BFGS for smooth convex functions (Nocedal and Wright 2006, algorithms 7.4 and 7.5)."""

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from softfast.solvers.iteration import E, Patience, Status, Vector, line_search

# Pairs kept at most; fewer where they take more bytes than this, but no fewer than the least: with 2.6 million numbers
# 24 iterations with twenty pairs took 6 s in the recursion alone, and with six pairs two iterations more were needed.
_MEMORY, _MEMORY_BYTES, _LEAST_MEMORY = 20, 2**28, 5
# When the metric is taken: often while the point moves far, then every 30 iterations.
_METRIC_ITERATIONS = (0, 4, 12, 30)

Pairs: TypeAlias = deque[tuple[Vector, Vector, float]]


def lbfgs(
    objective: Callable[[Vector], E],
    start: E,
    *,
    max_iter: int,
    stop: Callable[[E], bool],
    metric: Callable[[E], Callable[[Vector], Vector] | None] = lambda point: None,
    refine: Callable[[E], E] = lambda point: point,
) -> tuple[E, int, Status]:
    """Minimise from `start` until `stop(point)` is true, asked once an iteration and at the start.

    `metric(point)` may give multiplication by an approximate inverse Hessian at the point: what the updates begin
    from, in place of a multiple of the identity. It is asked for anew at growing intervals. `refine(point)` is asked in
    each iteration for the point itself, evaluated anew where `objective` has become more precise.

    Returns the last point, the number of iterations and why they ended: "stopped", "max_iter", or "stalled" where
    rounding ends all progress: no step along the gradient itself improves on the point, or neither the value nor the
    gradient has become smaller for a while.
    """
    point = start
    pairs: Pairs = deque(maxlen=max(_LEAST_MEMORY, min(_MEMORY, _MEMORY_BYTES // (16 * max(1, start.x.size)))))
    inverse: Callable[[Vector], Vector] | None = None
    shrinkage = 1.0
    patience = Patience()
    for iteration in range(max_iter):
        point = refine(point)
        if stop(point):
            return point, iteration, "stopped"
        if patience.ends(point.value, float(np.abs(point.gradient).max(initial=0.0))):
            return point, iteration, "stalled"
        if iteration in _METRIC_ITERATIONS or iteration % _METRIC_ITERATIONS[-1] == 0:
            inverse = metric(point)
            shrinkage = _shrinkage(pairs, inverse)
        direction = -_inverse_hessian_product(pairs, inverse, shrinkage, point.gradient)
        slope = float(direction @ point.gradient)
        # Before curvature is known, a first step of length 1 at most.
        length = 1.0 if pairs or inverse else 1 / max(1.0, float(np.linalg.norm(direction)))
        following = line_search(objective, point, direction, slope, length) if slope < 0 else None
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
            shrinkage = _shrinkage(pairs, inverse)
        point = following
    return point, max_iter, "stopped" if stop(point) else "max_iter"


def _shrinkage(pairs: Pairs, inverse: Callable[[Vector], Vector] | None) -> float:
    """The factor, at most 1, by which the metric agrees with the last step.

    A Hessian from few rows has next to no curvature in directions in which all rows do, and its steps are too long: on
    60,000 images of 784 pixels, a sample of 8,000, steps of 0.2 to 0.5 took two evaluations an iteration, 110 passes in
    all, and 67 with the factor. Above 1 it would undo what the metric knows of directions other than the last.
    """
    if inverse is None or not pairs:
        return 1.0
    _, turned, rho = pairs[-1]
    return 1 / max(1.0, rho * float(turned @ inverse(turned)))


def _inverse_hessian_product(
    pairs: Pairs, inverse: Callable[[Vector], Vector] | None, shrinkage: float, gradient: Vector
) -> Vector:
    """The two-loop recursion: the inverse Hessian that the metric and the pairs stand for, times the gradient."""
    product, term = gradient.copy(), np.empty_like(gradient)
    factors = []
    for moved, turned, rho in reversed(pairs):
        factor = rho * float(moved @ product)
        factors.append(factor)
        product -= np.multiply(turned, factor, out=term)
    if inverse is not None:
        product = inverse(product)
        product *= shrinkage
    elif pairs:
        _, turned, rho = pairs[-1]
        product /= rho * float(turned @ turned)
    for (moved, turned, rho), factor in zip(pairs, reversed(factors), strict=True):
        product += np.multiply(moved, factor - rho * float(turned @ product), out=term)
    return product
