"""A quadratic model of a function over some coordinates, by the blocks of its Hessian; where it plus norms is least.

By coordinate descent (in compiled code), and, where the Hessian is one dense block, by Newton steps on the coordinates
that are not zero, which is what copes with collinear ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from softfast._descent import descend

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]

# Rounds of coordinate descent and Newton, and sweeps in a round at least.
_ROUNDS, _SWEEPS = 30, 20


@dataclass(frozen=True)
class Blocks:
    """A block-diagonal matrix over some coordinates of a flat vector."""

    coordinates: Indices
    """In the order of the blocks."""
    values: Vector
    """The blocks one after the other, each whole."""
    sizes: Indices
    exact: bool
    """Whether it is the Hessian itself, and not an estimate."""

    def product(self, vector: Vector) -> Vector:
        """It times a vector."""
        if self.sizes.max(initial=0) == 1:
            return self.values * vector
        result, begin, offset = np.empty_like(vector), 0, 0
        for size in self.sizes:
            block = self.values[offset : offset + size**2].reshape(size, size)
            result[begin : begin + size] = block @ vector[begin : begin + size]
            begin, offset = begin + size, offset + size**2
        return result

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
        """As the solver's `Curvature` has it."""
        values, size = self.values.copy(), len(x)
        values[_diagonal_places(self.sizes)] += damping
        if len(self.sizes) == 1 and len(sign):
            values += ((low_rank * sign) @ low_rank.T).ravel()
            low_rank, sign = np.empty((size, 0)), np.empty(0)
        return _Quadratic(values, self.sizes, low_rank, sign).minimise(x, gradient, *groups, tolerance)


@dataclass(frozen=True)
class _Quadratic:
    """The blocks plus low_rank diag(sign) low_rank^T, over m coordinates."""

    values: Vector
    sizes: Indices
    low_rank: Matrix
    sign: Vector

    @property
    def dense(self) -> Matrix | None:
        """The Hessian where it is one block."""
        return self.values.reshape(self.sizes[0], -1) if len(self.sizes) == 1 and not len(self.sign) else None

    def minimise(
        self, start: Vector, slope: Vector, members: Indices, starts: Indices, weight: Vector, tolerance: float
    ) -> tuple[Vector, float]:
        """The point at which the quadratic plus the norms is least, and its fall from the start."""
        bound = _largest_eigenvalues(self, members, starts)
        x, gradient, product = start.copy(), slope.copy(), np.zeros(len(self.sign))
        dense = self.dense
        # A Newton step on m coordinates costs as much as some m / 6 sweeps.
        sweeps = max(_SWEEPS, len(x) // 10)
        for _ in range(_ROUNDS):
            _, longest = descend(
                self.values,
                self.sizes,
                self.low_rank,
                self.sign,
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
            # Coordinate descent would soon bring back what has gone to zero; without it the others first find their
            # place.
            for _ in range(_ROUNDS):
                if dense is None or _newton(dense, members, starts, weight, x, gradient):
                    break
        change = 0.5 * (x - start) @ (slope + gradient + self.low_rank @ product)
        group = np.repeat(np.arange(len(weight)), np.diff(starts))
        norms = [np.sqrt(np.bincount(group, weights=v[members] ** 2, minlength=len(weight))) for v in (start, x)]
        return x, -float(change + weight @ (norms[1] - norms[0]))


def _diagonal_places(sizes: Indices) -> Indices:
    """Where the diagonals of blocks lie in their values."""
    offsets, begins = np.cumsum(sizes**2) - sizes**2, np.cumsum(sizes) - sizes
    within = np.arange(int(sizes.sum())) - np.repeat(begins, sizes)
    return np.asarray(np.repeat(offsets, sizes) + within * (np.repeat(sizes, sizes) + 1))


def _largest_eigenvalues(quadratic: _Quadratic, members: Indices, starts: Indices) -> Vector:
    """At least those of the Hessian among each group's members; the diagonal's elements for groups of one."""
    diagonal, sizes = quadratic.values[_diagonal_places(quadratic.sizes)], np.diff(starts)
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
