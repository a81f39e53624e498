"""Truncated Newton for smooth convex functions: each step by preconditioned conjugate gradients, then a line search.

(Nocedal and Wright 2006, algorithm 7.1.)  The Newton system is solved only as closely as the gradient's fall deserves
(Eisenstat and Walker 1996, choice 2), so that few products with the Hessian are spent far from the minimum and
convergence is quadratic near it.
"""

from collections.abc import Callable

import numpy as np

from softfast.solvers.iteration import E, Patience, Status, Vector, line_search

# The forcing term, the residual of the Newton system in units of the gradient: at most _LOOSEST, and
# _FORCING (|g| / |g before|)^2, which an iteration lowers to no less than _FORCING times its own square while that is
# above _SAFEGUARD.
_LOOSEST, _FORCING, _SAFEGUARD = 0.5, 0.9, 0.1
# Products for one step at most.
_MOST_PRODUCTS = 200
# Products for one step beyond which the metric is taken anew.
_WORN = 10


def newton_cg(
    objective: Callable[[Vector], E],
    start: E,
    *,
    hessian_vector: Callable[[E, Vector], Vector],
    max_iter: int,
    stop: Callable[[E], bool],
    metric: Callable[[E], Callable[[Vector], Vector] | None] = lambda point: None,
) -> tuple[E, int, Status]:
    """Minimise from `start` until `stop(point)` is true, asked once an iteration and at the start.

    `hessian_vector(point, vector)` is the Hessian at the point times a vector. `metric(point)` may give multiplication
    by an approximate inverse Hessian at the point, the preconditioner. It is asked for anew after a step that took
    many products.

    Returns the last point, the number of iterations and why they ended: "stopped", "max_iter", or "stalled", with the
    best point, where rounding ends all progress: no step along the direction improves on the point, or neither the
    value nor the gradient has become smaller for a while.
    """
    point = start
    inverse: Callable[[Vector], Vector] | None = None
    worn = True
    forcing, size_before = _LOOSEST, float("inf")
    patience = Patience(start)
    for iteration in range(max_iter):
        if stop(point):
            return point, iteration, "stopped"
        if patience.ends(point, float(np.abs(point.gradient).max(initial=0.0))):
            return patience.give_up(iteration, stop)
        if worn:
            inverse = metric(point)
        size = float(np.linalg.norm(point.gradient))
        least = _FORCING * forcing**2
        forcing = _FORCING * (size / size_before) ** 2
        forcing = min(_LOOSEST, max(forcing, least) if least > _SAFEGUARD else forcing)
        size_before = size
        direction, n_products = _newton_direction(point, hessian_vector, inverse, forcing)
        worn = n_products > _WORN
        slope = float(direction @ point.gradient)
        found = line_search(objective, point, direction, slope, 1.0) if slope < 0 else None
        if found is None:
            return patience.give_up(iteration, stop)
        point, _ = found
    return point, max_iter, "stopped" if stop(point) else "max_iter"


def _newton_direction(
    point: E,
    hessian_vector: Callable[[E, Vector], Vector],
    inverse: Callable[[Vector], Vector] | None,
    forcing: float,
) -> tuple[Vector, int]:
    """The direction d with |H d + gradient| <= forcing |gradient|, and the products with H that it took.

    The norm is that of the preconditioner. It ends early where the Hessian is as good as zero along a conjugate
    direction: without penalty the function may be flat there.
    """
    direction = np.zeros_like(point.gradient)
    residual = point.gradient.copy()
    solved = residual if inverse is None else inverse(residual)
    square = float(residual @ solved)
    goal = forcing**2 * square
    conjugate = -solved
    for n_products in range(_MOST_PRODUCTS):
        if not square > goal:
            return direction, n_products
        product = hessian_vector(point, conjugate)
        curvature = float(conjugate @ product)
        if not curvature > np.finfo(float).eps * float(conjugate @ conjugate):
            return direction if n_products else conjugate, n_products + 1
        length = square / curvature
        direction += length * conjugate
        residual += length * product
        solved = residual if inverse is None else inverse(residual)
        square, before = float(residual @ solved), square
        conjugate = square / before * conjugate - solved
    return direction, _MOST_PRODUCTS
