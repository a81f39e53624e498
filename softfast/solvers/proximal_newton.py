"""Proximal Newton for a smooth convex function plus weighted norms of groups of coordinates.

Minimises f(x) + N(x), N(x) = sum_g weight_g ||x_g||, the groups a partition of the coordinates; a group of one has its
absolute value.  (Tseng and Yun 2009; Lee, Sun and Saunders 2014.)

An iteration models f by its gradient and by the Hessian, or an estimate of it, of the *working set*: the groups that
are not zero, and of those that are zero the ones that most violate their condition of optimality, ||df/dx_g|| <=
weight_g.  At most twice as many as are not zero enter at once, so that the Hessian stays as small as the solution
asks for.  An evaluation gives the whole gradient, so the conditions of every group are looked at in every iteration,
and nothing ever needs to be screened for good.  The model plus N is minimised by coordinate descent (in compiled
code), and, where the Hessian is one dense block, by Newton steps on the coordinates that are not zero, which is what
copes with collinear ones.  The step there is shortened until f + N falls enough.

Where the Hessian is an estimate, BFGS updates correct it by what the last steps have seen of the gradient: also a
diagonal one, which then is limited-memory BFGS (Scheinberg and Tang 2016).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from softfast._descent import descend
from softfast.solvers.iteration import DECREASE, VALUE_NOISE, E, Evaluation, Patience, Status, Vector

Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]


class Groups(Protocol):
    """The groups of N: the members of group g are members[starts[g]:starts[g + 1]]."""

    @property
    def members(self) -> Indices:
        """Each coordinate once."""
        ...

    @property
    def starts(self) -> Indices:
        """One more than there are groups."""
        ...

    @property
    def weight(self) -> Vector:
        """Of each group, >= 0."""
        ...


class Curvature(Protocol):
    """A positive semidefinite block-diagonal estimate of the Hessian of f over some coordinates."""

    @property
    def coordinates(self) -> Indices:
        """In the order of the blocks."""
        ...

    @property
    def values(self) -> Vector:
        """The blocks one after the other, each whole."""
        ...

    @property
    def sizes(self) -> Indices:
        """The sizes of the blocks."""
        ...

    @property
    def exact(self) -> bool:
        """Whether it is the Hessian itself."""
        ...


_MEMORY = 20
# When an estimate of the Hessian is taken anew, besides when the working set grows: often at first.
_CURVATURE_ITERATIONS = (0, 4, 12, 30)
# After a step had to be shortened the model gets this multiple of the identity, times the violation of the conditions
# of optimality, then four times as much, or after a whole step a quarter. (In the manner of Doikov 2023: for functions
# like softmax's the damping that makes whole steps safe is proportional to the gradient.) 1,797 images of 64 pixels,
# L1, C = 100: 36 passes instead of 146.
_DAMPING = 1.0
# Groups that may always enter the working set.
_FIRST = 100
# The subproblem: rounds of coordinate descent and Newton, and sweeps in a round at least.
_ROUNDS, _SWEEPS = 30, 20


def proximal_newton(
    objective: Callable[[Vector], E],
    start: E,
    *,
    groups: Groups,
    curvature: Callable[[E, Indices], Curvature],
    largest: int,
    max_iter: int,
    stop: Callable[[E], bool],
) -> tuple[E, int, Status]:
    """Minimise from `start` until `stop(point)` is true, asked once an iteration and at the start.

    `curvature(point, coordinates)` estimates the Hessian of f there, in an order of the coordinates of its choice; it
    is asked for `largest` coordinates at most as long as that does not hold up the search.

    Returns the last point, the number of iterations and why they ended: "stopped", "max_iter", or "stalled", with the
    best point, where rounding ends all progress: no step lowers the value or the violation of the conditions of
    optimality any more, or neither has become smaller for a while.
    """
    partition = _Partition(groups)
    point = start
    pairs: deque[tuple[Vector, Vector]] = deque(maxlen=_MEMORY)
    model: Curvature | None = None
    fresh, damping = False, 0.0
    patience = Patience(start)
    for iteration in range(max_iter):
        if stop(point):
            return point, iteration, "stopped"
        violation = partition.violation(point)
        worst = float(violation.max(initial=0.0))
        # At the minimum itself the working set may be empty.
        if patience.ends(point, worst) or worst == 0:
            return patience.give_up(iteration, stop)
        wanted = partition.working_set(point, violation, largest)
        due = iteration in _CURVATURE_ITERATIONS or iteration % _CURVATURE_ITERATIONS[-1] == 0
        if model is None or due or model.exact or not np.isin(wanted, model.coordinates).all():
            if pairs:
                # A pair knows nothing of the curvature if what has moved is left out.
                wanted = np.union1d(wanted, partition.whole(np.any([moved != 0 for moved, _ in pairs], axis=0)))
            model, fresh = curvature(point, wanted), True
        if model.exact:
            pairs.clear()
        quadratic = _quadratic(model, pairs, damping * worst)
        precision = min(0.1, max(1e-3, worst)) if model.exact else 0.1
        target = _minimise_model(partition, model.coordinates, quadratic, point, precision * worst)
        following, step = _line_search(objective, partition, point, target)
        damping = max(_DAMPING, damping * 4) if step < 1 else damping / 4
        if following is None:
            if fresh and not pairs:
                return patience.give_up(iteration, stop)
            pairs.clear()
            model = None
            continue
        fresh = False
        moved, turned = following.x - point.x, following.gradient - point.gradient
        if not model.exact and float(moved @ turned) > 1e-16 * float(turned @ turned):
            pairs.append((moved, turned))
        point = following
    return point, max_iter, "stopped" if stop(point) else "max_iter"


class _Partition:
    """The groups, with what is asked of them."""

    def __init__(self, groups: Groups) -> None:
        self._members, self._starts, self.weight = groups.members, groups.starts, groups.weight
        self._sizes = np.diff(self._starts)
        self.of = np.empty(len(self._members), dtype=np.int64)
        self.of[self._members] = np.repeat(np.arange(len(self.weight)), self._sizes)

    def norms(self, x: Vector) -> Vector:
        """Of the groups of a whole vector."""
        return np.sqrt(np.bincount(self.of, weights=x * x, minlength=len(self.weight)))

    def violation(self, point: Evaluation) -> Vector:
        """Of each group's condition of optimality: the norm of the smallest subgradient of f + N."""
        norms = self.norms(point.x)
        pull = np.divide(self.weight, norms, out=np.zeros_like(norms), where=norms > 0)
        sloped = self.norms(point.gradient + pull[self.of] * point.x)
        return np.where(norms > 0, sloped, np.maximum(sloped - self.weight, 0))

    def working_set(self, point: Evaluation, violation: Vector, largest: int) -> Indices:
        """Coordinates, in order, of the groups that are free or not zero, and of those most in violation.

        At most `largest` coordinates, if few groups are to enter otherwise.
        """
        chosen = (self.norms(point.x) > 0) | (self.weight == 0)
        entering = np.flatnonzero(~chosen & (violation > 0))
        room = (largest - int(self._sizes[chosen].sum())) // int(self._sizes.max())
        most = max(_FIRST, min(int(chosen.sum()), room))
        if len(entering) > most:
            entering = entering[np.argpartition(violation[entering], -most)[-most:]]
        chosen[entering] = True
        return np.flatnonzero(chosen[self.of])

    def whole(self, some: NDArray[np.bool_]) -> Indices:
        """All coordinates of the groups of some."""
        return np.flatnonzero(np.bincount(self.of, weights=some)[self.of] > 0)

    def restricted(self, coordinates: Indices) -> tuple[Indices, Indices, Vector]:
        """members, starts and weight over a vector of some coordinates, of whole groups alone."""
        by_group = np.argsort(self.of[coordinates], kind="stable")
        present, starts = np.unique(self.of[coordinates][by_group], return_index=True)
        return by_group, np.append(starts, len(coordinates)), self.weight[present]


@dataclass
class _Quadratic:
    """Of the model: its Hessian, the blocks plus low_rank diag(sign) low_rank^T, over m coordinates."""

    values: Vector
    sizes: Indices
    low_rank: Matrix
    sign: Vector

    @property
    def dense(self) -> Matrix | None:
        """The Hessian where it is one block."""
        return self.values.reshape(self.sizes[0], -1) if len(self.sizes) == 1 and not len(self.sign) else None

    def diagonal_places(self) -> Indices:
        """Where the diagonal lies in `values`."""
        offsets = np.concatenate([[0], np.cumsum(self.sizes**2)])
        begins = np.concatenate([[0], np.cumsum(self.sizes)])[:-1]
        within = np.arange(len(self.low_rank)) - np.repeat(begins, self.sizes)
        return np.asarray(np.repeat(offsets[:-1], self.sizes) + within * (np.repeat(self.sizes, self.sizes) + 1))

    def product(self, vector: Vector) -> Vector:
        """The blocks times a vector."""
        if self.sizes.max(initial=0) == 1:
            return self.values * vector
        result, begin, offset = np.empty_like(vector), 0, 0
        for size in self.sizes:
            block = self.values[offset : offset + size**2].reshape(size, size)
            result[begin : begin + size] = block @ vector[begin : begin + size]
            begin, offset = begin + size, offset + size**2
        return result


def _quadratic(model: Curvature, pairs: deque[tuple[Vector, Vector]], damping: float) -> _Quadratic:
    """The model plus a multiple of the identity, with the BFGS updates of the pairs.

    (Nocedal and Wright 2006, equation 6.19.)
    """
    active, size = model.coordinates, len(model.coordinates)
    blocks = _Quadratic(model.values.copy(), model.sizes, np.empty((size, 0)), np.empty(0))
    blocks.values[blocks.diagonal_places()] += damping
    vectors: list[Vector] = []
    signs: list[float] = []
    for whole_moved, whole_turned in pairs:
        moved, turned = whole_moved[active], whole_turned[active]
        if np.count_nonzero(moved) < np.count_nonzero(whole_moved):
            continue
        seen = blocks.product(moved) + sum(
            (sign * float(u @ moved) * u for u, sign in zip(vectors, signs, strict=True)), np.zeros(size)
        )
        curvature, expected = float(moved @ turned), float(moved @ seen)
        if curvature > 1e-12 * float(turned @ turned) and expected > 0:
            vectors += [turned / np.sqrt(curvature), seen / np.sqrt(expected)]
            signs += [1.0, -1.0]
    low_rank, sign = np.ascontiguousarray(np.array(vectors).reshape(-1, size).T), np.array(signs)
    if len(model.sizes) == 1 and len(sign):
        dense = blocks.values.reshape(size, size) + (low_rank * sign) @ low_rank.T
        return _Quadratic(dense.ravel(), model.sizes, np.empty((size, 0)), np.empty(0))
    return _Quadratic(blocks.values, model.sizes, low_rank, sign)


def _minimise_model(
    partition: _Partition, active: Indices, quadratic: _Quadratic, point: Evaluation, tolerance: float
) -> Vector:
    """The point at which the quadratic model of f around `point`, over the active coordinates, plus N, is least."""
    members, starts, weight = partition.restricted(active)
    bound = _largest_eigenvalues(quadratic, members, starts)
    x, gradient, product = point.x[active], point.gradient[active], np.zeros(len(quadratic.sign))
    dense = quadratic.dense
    # A Newton step on m coordinates costs as much as some m / 6 sweeps.
    sweeps = max(_SWEEPS, len(active) // 10)
    for _ in range(_ROUNDS):
        _, longest = descend(
            quadratic.values,
            quadratic.sizes,
            quadratic.low_rank,
            quadratic.sign,
            members,
            starts,
            weight,
            bound,
            x,
            gradient,
            product,
            sweeps,
            tolerance,
        )
        if longest <= tolerance:
            break
        # Coordinate descent would soon bring back what has gone to zero; without it the others first find their place.
        for _ in range(_ROUNDS):
            if dense is None or _newton(dense, members, starts, weight, x, gradient):
                break
    target = point.x.copy()
    target[active] = x
    return target


def _largest_eigenvalues(quadratic: _Quadratic, members: Indices, starts: Indices) -> Vector:
    """At least those of the Hessian among each group's members; the diagonal's elements for groups of one."""
    diagonal, sizes = quadratic.values[quadratic.diagonal_places()], np.diff(starts)
    raised = diagonal + np.square(quadratic.low_rank) @ np.maximum(quadratic.sign, 0)
    bound = diagonal + np.square(quadratic.low_rank) @ quadratic.sign
    bound = np.maximum(bound, 1e-10 * raised)[members[starts[:-1]]]
    dense = quadratic.dense
    for size in np.unique(sizes[sizes > 1]):
        own = np.flatnonzero(sizes == size)
        group = members[starts[own][:, None] + np.arange(size)]
        if dense is not None:
            bound[own] = np.linalg.eigvalsh(dense[group[:, :, None], group[:, None, :]])[:, -1] * (1 + 1e-12)
        else:
            bound[own] = diagonal[group].max(axis=1) + (raised - diagonal)[group].sum(axis=1)
    return np.asarray(bound)


def _newton(hessian: Matrix, members: Indices, starts: Indices, weight: Vector, x: Vector, gradient: Vector) -> bool:
    """A Newton step of the quadratic plus N on the groups that are not zero, in place, as far as it lowers them.

    Whether another one will not help: it was a whole one, or none at all.
    """
    sizes = np.diff(starts)
    of = np.empty(len(x), dtype=np.int64)
    of[members] = np.repeat(np.arange(len(sizes)), sizes)
    norms = np.sqrt(np.bincount(of, weights=x * x, minlength=len(sizes)))
    free = np.flatnonzero(((norms > 0) | (weight == 0))[of])
    pull = np.divide(weight, norms, out=np.zeros_like(norms), where=norms > 0)
    slope = gradient[free] + pull[of[free]] * x[free]
    reduced = hessian[np.ix_(free, free)]
    for g in np.flatnonzero((sizes > 1) & (norms > 0)):
        own = np.searchsorted(free, np.sort(members[starts[g] : starts[g + 1]]))
        unit = x[free[own]] / norms[g]
        reduced[np.ix_(own, own)] += pull[g] * (np.eye(len(own)) - np.outer(unit, unit))
    try:
        step = -cho_solve(cho_factor(reduced, overwrite_a=True), slope)
    except np.linalg.LinAlgError:
        return True
    # Where along the step each group is nearest to zero: there a group of one is zero, and a larger one may be meant to
    # be; beyond, its norm has another slope.
    whole = np.zeros_like(x)
    whole[free] = step
    inward = -np.bincount(of, weights=x * whole, minlength=len(sizes))
    square = np.bincount(of, weights=whole * whole, minlength=len(sizes))
    nearest = np.divide(inward, square, out=np.full(len(sizes), np.inf), where=(inward > 0) & (weight > 0))
    shortest = min(1.0, float(nearest.min(initial=np.inf)))
    length, cut = 1.0, nearest <= 1.0
    while length >= 1e-3 * shortest:
        following = np.where(cut[of], 0.0, x + length * whole)
        change = hessian @ (following - x)
        new_norms = np.sqrt(np.bincount(of, weights=following * following, minlength=len(sizes)))
        if (following - x) @ (gradient + 0.5 * change) + weight @ (new_norms - norms) <= 0:
            x[:] = following
            gradient += change
            return length == 1 and not cut.any()
        # As far as the first of these points the step goes down, if no larger group is cut.
        length = shortest if 0.5 * length < shortest < length else 0.5 * length
        cut = (nearest <= length) & ((sizes == 1) | (length > shortest))
    return True


def _line_search(
    objective: Callable[[Vector], E], partition: _Partition, point: E, target: Vector
) -> tuple[E | None, float]:
    """A point on the way to the target at which f + N has fallen enough, or None, and how far along it is.

    Near the minimum the decrease drowns in rounding; then the violation of the conditions of optimality decides.
    """
    direction = target - point.x
    change = partition.weight @ (partition.norms(target) - partition.norms(point.x))
    expected = float(point.gradient @ direction + change)
    if not expected < 0:
        expected = 0.0
    worst = float(partition.violation(point).max(initial=0.0))
    noise = VALUE_NOISE * abs(point.value)
    step = 1.0
    for _ in range(40):
        trial = objective(target if step == 1 else point.x + step * direction)
        fine = np.isfinite(trial.value) and np.isfinite(trial.gradient).all()
        if fine and expected < 0 and trial.value <= point.value + DECREASE * step * expected:
            return trial, step
        flat = fine and trial.value <= point.value + noise
        if flat and float(partition.violation(trial).max(initial=0.0)) < worst:
            return trial, step
        if step * abs(expected) <= noise:
            return None, step
        step /= 2
    return None, step
