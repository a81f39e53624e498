"""Proximal Newton for a smooth convex function plus weighted norms of groups of coordinates.

Minimises f(x) + N(x), N(x) = sum_g weight_g ||x_g||, the groups a partition of the coordinates; a group of one has its
absolute value.  (Tseng and Yun 2009; Lee, Sun and Saunders 2014.)

An iteration models f by its gradient and by the Hessian, or an estimate of it, of the *working set*: the groups that
are not zero, and of those that are zero the ones that most violate their condition of optimality, ||df/dx_g|| <=
weight_g.  At most twice as many as are not zero enter at once, so that the Hessian stays as small as the solution
asks for.  An evaluation gives the whole gradient, so the conditions of every group are looked at in every iteration,
and nothing ever needs to be screened for good.  How the model plus N is minimised is the model's affair.  The step
there is shortened until f + N falls enough.

Where the Hessian is an estimate, BFGS updates correct it by what the last steps have seen of the gradient: also a
diagonal one, which then is limited-memory BFGS (Scheinberg and Tang 2016).
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
    """What is known of f over some coordinates around a point: its Hessian there, an estimate of it, or f itself."""

    @property
    def coordinates(self) -> Indices:
        """In an order of its choice."""
        ...

    @property
    def exact(self) -> bool:
        """Whether it is no estimate. An estimate is quadratic."""
        ...

    def product(self, vector: Vector) -> Vector:
        """The Hessian times a vector."""
        ...

    def minimise(
        self,
        x: Vector,
        gradient: Vector,
        groups: tuple[Indices, Indices, Vector],
        tolerance: float,
        *,
        damping: float,
        low_rank: Matrix,
        sign: Vector,
    ) -> tuple[Vector, float]:
        """Where the model plus N is least, to a tolerance of the conditions of optimality, and how far it falls there.

        Or on the way, where another working set or point will say more than what is left of the way.

        x and gradient (m,) are the point's and f's there, `groups` are members, starts and weight over these
        coordinates. To the Hessian are added damping I and low_rank diag(sign) low_rank^T, (m, R); R is 0 where it is
        exact.
        """
        ...


_MEMORY = 20
# When an estimate of the Hessian is taken anew, besides when the working set grows: often at first.
_CURVATURE_ITERATIONS = (0, 4, 12, 30)
# After a step had to be shortened the model gets this multiple of the identity, times the violation of the conditions
# of optimality, then four times as much, or after a whole step a quarter. (In the manner of Doikov 2023: for functions
# like softmax's the damping that makes whole steps safe is proportional to the gradient.) 1,797 images of 64 pixels,
# L1, C = 100: 36 passes instead of 146.
_DAMPING = 1.0


def proximal_newton(
    objective: Callable[[Vector], E],
    start: E,
    *,
    groups: Groups,
    curvature: Callable[[E, Indices], Curvature],
    limits: tuple[int, int],
    max_iter: int,
    stop: Callable[[E], bool],
) -> tuple[E, int, Status]:
    """Minimise from `start` until `stop(point)` is true, asked once an iteration and at the start.

    `curvature(point, coordinates)` estimates the Hessian of f there, in an order of the coordinates of its choice; it
    is asked for limits[1] coordinates at most as long as that does not hold up the search. limits[0] groups may always
    enter the working set.

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
        wanted = partition.working_set(point, violation, *limits)
        due = iteration in _CURVATURE_ITERATIONS or iteration % _CURVATURE_ITERATIONS[-1] == 0
        if model is None or due or model.exact or not np.isin(wanted, model.coordinates).all():
            if pairs:
                # A pair knows nothing of the curvature if what has moved is left out.
                wanted = np.union1d(wanted, partition.whole(np.any([moved != 0 for moved, _ in pairs], axis=0)))
            model, fresh = curvature(point, wanted), True
        if model.exact:
            pairs.clear()
        active = model.coordinates
        low_rank, sign = _updates(model, pairs, damping * worst)
        precision = min(0.1, max(1e-3, worst)) if model.exact else 0.1
        x, fall = model.minimise(
            point.x[active],
            point.gradient[active],
            partition.restricted(active),
            precision * worst,
            damping=damping * worst,
            low_rank=low_rank,
            sign=sign,
        )
        target = point.x.copy()
        target[active] = x
        following, step = _line_search(objective, partition, point, target, fall)
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

    def working_set(self, point: Evaluation, violation: Vector, first: int, largest: int) -> Indices:
        """Coordinates, in order, of the groups that are free or not zero, and of those most in violation.

        At most `largest` coordinates, if few groups are to enter otherwise.
        """
        chosen = (self.norms(point.x) > 0) | (self.weight == 0)
        entering = np.flatnonzero(~chosen & (violation > 0))
        room = (largest - int(self._sizes[chosen].sum())) // int(self._sizes.max())
        most = max(first, min(int(chosen.sum()), room))
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


def _updates(model: Curvature, pairs: deque[tuple[Vector, Vector]], damping: float) -> tuple[Matrix, Vector]:
    """low_rank (m, R) and sign (R,) of the BFGS updates of the model plus a multiple of the identity.

    (Nocedal and Wright 2006, equation 6.19.)
    """
    active, size = model.coordinates, len(model.coordinates)
    vectors: list[Vector] = []
    signs: list[float] = []
    for whole_moved, whole_turned in pairs:
        moved, turned = whole_moved[active], whole_turned[active]
        if np.count_nonzero(moved) < np.count_nonzero(whole_moved):
            continue
        seen = sum(
            (sign * float(u @ moved) * u for u, sign in zip(vectors, signs, strict=True)),
            model.product(moved) + damping * moved,
        )
        curvature, expected = float(moved @ turned), float(moved @ seen)
        if curvature > 1e-12 * float(turned @ turned) and expected > 0:
            vectors += [turned / np.sqrt(curvature), seen / np.sqrt(expected)]
            signs += [1.0, -1.0]
    return np.ascontiguousarray(np.array(vectors).reshape(-1, size).T), np.array(signs)


def _line_search(
    objective: Callable[[Vector], E], partition: _Partition, point: E, target: Vector, fall: float
) -> tuple[E | None, float]:
    """A point on the way to the target at which f + N has fallen enough, or None, and how far along it is.

    `fall` is the model's on that way. Near the minimum the decrease drowns in rounding; then the violation of the
    conditions of optimality decides.
    """
    direction = target - point.x
    fall = max(fall, 0.0)
    worst = float(partition.violation(point).max(initial=0.0))
    noise = VALUE_NOISE * abs(point.value)
    step = 1.0
    for _ in range(40):
        trial = objective(target if step == 1 else point.x + step * direction)
        fine = np.isfinite(trial.value) and np.isfinite(trial.gradient).all()
        if fine and fall > 0 and trial.value <= point.value - DECREASE * step * fall:
            return trial, step
        flat = fine and trial.value <= point.value + noise
        if flat and float(partition.violation(trial).max(initial=0.0)) < worst:
            return trial, step
        if step * fall <= noise:
            return None, step
        step /= 2
    return None, step
