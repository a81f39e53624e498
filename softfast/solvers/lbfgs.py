"""Limited-memory BFGS for smooth convex functions (Nocedal and Wright 2006, algorithms 7.4 and 7.5)."""

from collections.abc import Callable

import numpy as np
from scipy.linalg.lapack import dtrtrs

from softfast.solvers.iteration import E, Evaluation, Patience, Status, Vector, line_search

# Pairs kept at most; fewer where they take more bytes than this, but no fewer than the least.
_MEMORY, _MEMORY_BYTES, _LEAST_MEMORY = 20, 2**28, 5
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
    pairs = _Pairs(start.x.size)
    inverse: Callable[[Vector], Vector] | None = None
    patience = Patience()
    for iteration in range(max_iter):
        if stop(point):
            return point, iteration, "stopped"
        if patience.ends(point.value, float(np.abs(point.gradient).max(initial=0.0))):
            return point, iteration, "stalled"
        if iteration in _METRIC_ITERATIONS or iteration % _METRIC_ITERATIONS[-1] == 0:
            inverse = metric(point)
        direction = pairs.multiply(inverse, point.gradient)
        np.negative(direction, out=direction)
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
        pairs.add(point, following)
        point = following
    return point, max_iter, "stopped" if stop(point) else "max_iter"


class _Pairs:
    """The last moves of the point s and turns of the gradient y, and the inverse Hessian that they stand for.

    Its product is that of the two-loop recursion, taken of all pairs at a time (Byrd, Nocedal and Schnabel 1994): with
    millions of variables each operation is a walk through memory, and these are fewer.
    """

    def __init__(self, size: int) -> None:
        capacity = max(_LEAST_MEMORY, min(_MEMORY, _MEMORY_BYTES // (16 * max(1, size))))
        # Rows that have not been written take no memory.
        self._moved, self._turned = np.empty((capacity, size)), np.empty((capacity, size))
        self._products = np.zeros((capacity, capacity))
        self._newest_scale = 1.0
        self._order: list[int] = []
        self._n_written = 0

    def __len__(self) -> int:
        return len(self._order)

    def clear(self) -> None:
        """Forget all."""
        self._order.clear()

    def add(self, before: Evaluation, after: Evaluation) -> None:
        """A pair, for which the oldest makes room; left out where its curvature is rounding."""
        if len(self._order) == len(self._moved):
            slot = self._order.pop(0)
        else:
            slot = next(i for i in range(len(self._moved)) if i not in self._order)
        self._n_written = max(self._n_written, slot + 1)
        moved, turned = self._moved[slot], self._turned[slot]
        np.subtract(after.x, before.x, out=moved)
        np.subtract(after.gradient, before.gradient, out=turned)
        curvature, square = float(moved @ turned), float(turned @ turned)
        if not curvature > 1e-16 * square:
            moved[:] = turned[:] = 0
            return
        self._order.append(slot)
        self._newest_scale = curvature / square
        self._products[: self._n_written, slot] = self._moved[: self._n_written] @ turned

    def multiply(self, inverse: Callable[[Vector], Vector] | None, gradient: Vector) -> Vector:
        """The inverse Hessian times the gradient; it begins from `inverse`, or from a multiple of the identity."""
        if not self._order:
            return gradient.copy() if inverse is None else inverse(gradient)
        order, moved, turned = self._order, self._moved[: self._n_written], self._turned[: self._n_written]
        # s_i y_j of the pairs i not newer than j, oldest first.
        upper = np.triu(self._products[np.ix_(order, order)])
        factors, weights = dtrtrs(upper, (moved @ gradient)[order])[0], np.zeros(self._n_written)
        weights[order] = factors
        product = gradient - weights @ turned
        product = product * self._newest_scale if inverse is None else inverse(product)
        weights[order] = dtrtrs(upper, np.diag(upper) * factors - (turned @ product)[order], trans=1)[0]
        product += weights @ moved
        return product
