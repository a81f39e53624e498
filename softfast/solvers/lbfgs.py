"""Limited-memory BFGS for smooth convex functions (Nocedal and Wright 2006, algorithms 7.4 and 7.5)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtrs

from softfast import _vectors
from softfast.solvers.iteration import E, Patience, Status, Vector, line_search

# Pairs kept at most, and of long vectors: those come from memory, twice an iteration. With 3.4 million numbers three,
# five and twelve pairs needed 42, 39 and 38 iterations, with 1.1 million 28, 26 and 25. Long pairs are float32, which
# left all these numbers as they are: the products are float64, and rounding changes a pair by 1e-7 of itself.
_MEMORY = 20
_LONG, _LONG_MEMORY = 2**19, 5
# When the metric is taken: often while the point moves far, then every 30 iterations.
_METRIC_ITERATIONS = (0, 4, 12, 30)


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
    memory = _Memory(size, _LONG_MEMORY if long else _MEMORY, np.float32 if long else np.float64, n_threads)
    inverse: Callable[[Vector], Vector] | None = None
    patience = Patience(start)
    for iteration in range(max_iter):
        refined = refine(point)
        if refined is not point:
            point = refined
            memory.look_at(point.gradient)
        if stop(point):
            return point, iteration, "stopped"
        if patience.ends(point, _vectors.default.largest(point.gradient, n_threads=n_threads)):
            return patience.give_up(iteration, stop)
        if iteration in _METRIC_ITERATIONS or iteration % _METRIC_ITERATIONS[-1] == 0:
            inverse = metric(point)
        direction, slope = memory.direction(point.gradient, inverse)
        # Before curvature is known, a first step of length 1 at most.
        length = 1.0 if memory.n_pairs or inverse else 1 / max(1.0, float(np.linalg.norm(direction)))
        found = line_search(objective, point, direction, slope, length, n_threads=n_threads) if slope < 0 else None
        if found is None:
            if not memory.n_pairs and inverse is None:
                return patience.give_up(iteration, stop)
            memory.clear()
            inverse = None
            continue
        following, step = found
        memory.add(following.gradient, point.gradient, step)
        point = following
    return point, max_iter, "stopped" if stop(point) else "max_iter"


class _Memory:
    """The last steps s, how the gradient turned along each, y, and the inverse Hessian H that they stand for.

    A step t d along a direction d is kept as d and y / t: H does not change when both are divided by a number.  With
    columns s of S and y of Y, oldest first, R the upper triangle of S^T Y, D its diagonal, and the multiple of the
    identity, or the metric, H_0 (Byrd, Nocedal and Schnabel 1994):

        H g = r + S R^-T (D a - Y^T r),     a = R^-1 S^T g,     r = H_0 (g - Y a).

    Products of all these vectors with the gradient need one reading of them; with y they are differences of those; the
    direction needs a second one.  The recursion in two loops reads them twice, and changes the direction each time.
    """

    def __init__(self, size: int, n_pairs: int, dtype: type[np.floating[Any]], n_threads: int) -> None:
        # A slot more than pairs: for the direction, and how the gradient turns along it.
        self._slots = n_pairs + 1
        self._vectors = np.empty((2 * self._slots, size), dtype)
        self._of_gradient = np.zeros(2 * self._slots)
        self._of_turns = np.zeros((2 * self._slots, self._slots))
        self._order: list[int] = []
        self._n_threads = n_threads

    @property
    def n_pairs(self) -> int:
        """How many there are."""
        return len(self._order)

    def clear(self) -> None:
        """Forget all pairs."""
        self._order = []

    def look_at(self, gradient: Vector) -> None:
        """Products with a gradient other than that of the last pair."""
        rows = self._rows(self._order)
        self._of_gradient[rows] = _vectors.default.products(self._vectors, rows, gradient, n_threads=self._n_threads)

    def direction(self, gradient: Vector, inverse: Callable[[Vector], Vector] | None) -> tuple[NDArray[Any], float]:
        """-H gradient, valid until the next one is asked for, and its product with the gradient."""
        slot = self._free
        out = self._vectors[slot]
        if self._order:
            self._recall(gradient, inverse, out)
        else:
            self._combine(self._rows([]), np.empty(0), gradient if inverse is None else inverse(gradient), -1.0, out)
        self._of_gradient[slot] = _vectors.default.dot(out, gradient, n_threads=self._n_threads)
        return out, float(self._of_gradient[slot])

    def _recall(self, gradient: Vector, inverse: Callable[[Vector], Vector] | None, out: NDArray[Any]) -> None:
        """The direction where there are pairs."""
        m, rows = self.n_pairs, self._rows(self._order)
        steps, turns = rows[:m], rows[m:]
        # R and, below the diagonal, what LAPACK's function for triangles does not look at.
        triangle = np.asfortranarray(self._of_turns[steps][:, steps])
        a, _ = dtrtrs(triangle, self._of_gradient[steps])
        if inverse is None:
            square = self._of_turns[turns][:, steps]
            scale = triangle[-1, -1] / square[-1, -1]
            rest, of_rest = gradient, scale * (self._of_gradient[turns] - square @ a)
        else:
            rest = np.empty(len(gradient))
            self._combine(turns, -a, gradient, 1.0, rest)
            rest, scale = inverse(rest), self._shrinkage(inverse)
            of_rest = scale * _vectors.default.products(self._vectors, turns, rest, n_threads=self._n_threads)
        factors = -dtrtrs(triangle, triangle.diagonal() * a - of_rest, trans=1)[0]
        if inverse is None:
            steps, factors = rows, np.concatenate([factors, scale * a])
        self._combine(steps, factors, rest, -scale, out)

    def _shrinkage(self, inverse: Callable[[Vector], Vector]) -> float:
        """The factor, from 0.1 to 1, by which the metric agrees with the last step.

        A Hessian from few rows has next to no curvature in directions in which all rows do, and its steps are too long:
        on 60,000 images of 784 pixels, a sample of 8,000, steps of 0.2 to 0.5 took two evaluations an iteration, 110
        passes in all, and 67 with the factor. Above 1 it would undo what the metric knows of directions other than the
        last; and how the gradient turned in the last steps of all, which would be shrunk to nothing, is rounding.
        """
        last = self._order[-1]
        turned = np.asarray(self._vectors[last + self._slots], dtype=np.float64)
        return 1 / min(max(1.0, float(turned @ inverse(turned)) / float(self._of_turns[last, last])), 10.0)

    def add(self, after: Vector, before: Vector, step: float) -> None:
        """The pair of the last direction and the gradients at the ends of a step along it; the oldest one goes."""
        slot = self._free
        order = [*self._order[self.n_pairs == self._slots - 1 :], slot]
        rows = self._rows(order)
        of_after, square = _vectors.default.turn(
            self._vectors, rows, slot + self._slots, after, before, step, n_threads=self._n_threads
        )
        of_turned = (of_after - self._of_gradient[rows]) / step
        of_turned[-1] = square
        self._of_gradient[rows] = of_after
        if of_turned[len(order) - 1] > 1e-16 * square:
            self._of_turns[rows, slot] = of_turned
            # Of the turns with each other, both halves.
            self._of_turns[slot + self._slots, order] = of_turned[len(order) :]
        else:
            # The oldest one goes all the same: its products with the gradient were not taken.
            order.pop()
        self._order = order

    @property
    def _free(self) -> int:
        """A slot without a pair."""
        return next(slot for slot in range(self._slots) if slot not in self._order)

    def _rows(self, order: list[int]) -> NDArray[np.intp]:
        """Where the steps of some pairs are, and then how the gradient turned."""
        return np.array([*order, *(slot + self._slots for slot in order)], dtype=np.intp)

    def _combine(
        self, rows: NDArray[np.intp], factors: Vector, other: Vector, factor: float, out: NDArray[Any]
    ) -> None:
        """To `out`: factors @ vectors[rows] + factor other."""
        _vectors.default.combine(self._vectors, rows, factors, other, factor, out, n_threads=self._n_threads)
