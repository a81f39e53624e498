"""Whether the likelihood of softmax regression has a maximum: complete and quasi-complete separation.

Without penalty there is none exactly if some direction D (K, p), d (K,), with logits z_i = D x_i + d, has margins

    z_i,label(i) - z_ik >= 0   for every row i with a weight and every class k, and > 0 for some of them:

along it no row's loss rises, and some fall forever.  The separation is complete if there is a D for which all are > 0
(k other than the label), else quasi-complete (Albert and Anderson 1984).

A fit of completely separated classes mostly is such a D itself.  The commonest quasi-complete separation is by one
feature, such as a dummy that some class never has: the greatest value of each class on one side is at most the least of
each on the other; comparisons alone tell that, at any size.  Otherwise D is looked for by linear programmes (Konis
2007), where these are small: the sum of all margins, linear in D, is maximised over the box abs(D) <= 1 with the
margins of *some* rows >= 0.  If the maximum is 0, no D has the sum of all rows > 0, and there is no separation.  If it
is not, the margins of all rows are taken, and the most negative ones enter the programme, until none is negative
(cutting planes).  So the memory does not grow with the number of rows, and whatever is found has been checked on all
of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from softfast.sources import Matrix, Source, Vector

# Margins nearer to zero than this are ties, in units of the sum of the absolute values of their terms.
_TIE = 1e-9
# Unknowns of the linear programmes, elements of their matrix, and how often rows enter.
_MOST_UNKNOWNS, _MOST_ELEMENTS, _ROUNDS = 200, 2_000_000, 20
# Names in a message.
_MOST_NAMES = 4


@dataclass(frozen=True)
class Separation:
    """A direction along which the likelihood rises forever."""

    complete: bool | None
    """None: not known."""
    apart: list[tuple[int, int]]
    """The pairs of classes that it tells apart."""
    features: NDArray[np.int64]
    """Those that matter most in it, most first; none, if it is one of the intercepts alone."""

    def describe(self, classes: NDArray[Any], feature_names: NDArray[Any] | None) -> str:
        """What is separated by what, in words."""
        names = [f"feature {j}" if feature_names is None else str(feature_names[j]) for j in self.features]
        pairs = [f"{classes[a]} and {classes[b]}" for a, b in self.apart]
        kind = "" if self.complete is None else "completely " if self.complete else "quasi-completely "
        return (
            f"The classes are {kind}separated: {_listed(pairs)}, by {_listed(names) or 'the intercept'}. So without "
            "penalty the likelihood has no maximum and the coefficients grow without limit. Set a finite C."
        )


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def describe_absent(absent: NDArray[Any]) -> str:
    """Why nothing is least where some classes, `absent`, have no row with a weight, but intercepts."""
    return (
        f"No row with a weight above 0 is of class {_listed([str(label) for label in absent])}: its intercept falls "
        "without limit, and the objective has no minimum. Leave the rows without a weight out, or set "
        "fit_intercept=False."
    )


def find_separation(source: Source, coef: Matrix, intercept: Vector, *, fit_intercept: bool) -> Separation | None:
    """A separation of the rows, if there is one; coef (M, p) and intercept (M,) are where an unpenalised fit ended.

    None too where it takes more than the fit itself or one feature, and the linear programmes would be too large.
    """
    search = _Search(source, fit_intercept=fit_intercept)
    fitted = np.zeros((source.n_classes, search.width))
    first = source.n_classes - len(coef)
    fitted[first:, : source.n_features] = coef * search.spread
    if fit_intercept:
        fitted[first:, -1] = intercept + coef @ search.center
    if search.check(fitted):
        return search.separation(fitted, complete=True)
    direction = search.by_one_feature()
    if search.n_unknowns > _MOST_UNKNOWNS:
        return None if direction is None else search.separation(direction, complete=None)
    if direction is None:
        direction, _ = search.maximise(of_least=False)
    if direction is None:
        return None
    everywhere, proved = search.maximise(of_least=True)
    if everywhere is not None:
        return search.separation(everywhere, complete=True)
    return search.separation(direction, complete=False if proved else None)


class _Search:
    """Directions (K, width) over centred features in units of their spread, and, with an intercept, a one."""

    def __init__(self, source: Source, *, fit_intercept: bool) -> None:
        self._source = source
        self._n_classes = source.n_classes
        self._fit_intercept = fit_intercept
        self.width = source.n_features + fit_intercept
        self.n_unknowns = (self._n_classes - 1) * self.width
        few = self.n_unknowns <= _MOST_UNKNOWNS
        self._n_entering = _MOST_ELEMENTS // (4 * self.n_unknowns) if few else 0
        moments = source.moments()
        self.center = moments.feature_mean if fit_intercept else np.zeros(source.n_features)
        spread = np.sqrt(moments.feature_variance + (0 if fit_intercept else moments.feature_mean**2))
        # What is left of a constant column after centring is rounding, not spread.
        self._used = spread > 1e-14 * np.abs(moments.feature_mean)
        self.spread = np.where(self._used, spread, 1.0)
        self._constraints = np.empty((0, self.n_unknowns))
        self._lowest = self._highest = np.zeros((self._n_classes, self._n_classes))
        # At equal probabilities the negative gradient is the sum of all margins over K, as a function of D; with
        # weights of mean 1, so that the programme does not depend on their unit.
        shape = (self._n_classes, source.n_features)
        _, product, residual = source.loss_gradient(np.zeros(shape), np.zeros(self._n_classes), with_offset=False)
        total = -(product - np.outer(residual, self.center)) / self.spread
        total = np.column_stack([total, -residual]) if fit_intercept else total
        self._total = total[1:].ravel() * (source.n_rows / source.total_weight)

    def check(self, direction: Matrix) -> bool:
        """Whether all margins are > 0; takes those of all rows, and the least of them into the programmes."""
        p = self._source.n_features
        intercept = direction[:, -1] if self._fit_intercept else np.zeros(self._n_classes)
        coef = np.where(self._used, direction[:, :p] / self.spread, 0.0)
        margins = self._source.margins(coef, intercept, self.center, self._n_entering)
        self._lowest, self._highest = margins.lowest, margins.highest
        rows = np.where(self._used, (margins.X - self.center) / self.spread, 0.0)
        if self._fit_intercept:
            rows = np.column_stack([rows, np.ones(len(rows))])
        entering = np.zeros((len(rows), self._n_classes, self.width))
        entering[np.arange(len(rows)), margins.labels] = rows
        entering[np.arange(len(rows)), margins.others] = -rows
        # Class 0 is the reference: adding one vector to all classes changes no margin.
        self._entering = entering[:, 1:].reshape(len(rows), self.n_unknowns)[margins.least <= _TIE]
        return bool((self._lowest > _TIE).all())

    def by_one_feature(self) -> Matrix | None:
        """A D of at most one feature, and the intercept, with no negative margin and some > 0."""
        least, greatest = self._source.extremes()
        present = np.isfinite(least).all(axis=1)
        if self._fit_intercept and not present.all():
            # A class without a row with a weight: its intercept falls forever.
            direction = np.zeros((self._n_classes, self.width))
            direction[~present, -1] = -1.0
            self.check(direction)
            return direction
        low, high = least[present], greatest[present]
        for thresholds in high if self._fit_intercept else np.zeros((1, self._source.n_features)):
            above, below = (low >= thresholds) & (high > thresholds), (high <= thresholds) & (low < thresholds)
            on = (low == thresholds) & (high == thresholds)
            # The classes that stay on the threshold go with the others of one side.
            above = np.where(above.any(axis=0), above, on)
            apart = (above | below | on).all(axis=0) & above.any(axis=0) & ~above.all(axis=0)
            for j in np.flatnonzero(apart & self._used):
                direction = np.zeros((self._n_classes, self.width))
                rising = np.flatnonzero(present)[above[:, j]]
                direction[rising, j] = 1.0
                if self._fit_intercept:
                    direction[rising, -1] = (self.center[j] - thresholds[j]) / self.spread[j]
                self.check(direction)
                # Else it is a matter of rounding.
                if (self._lowest >= -_TIE).all() and (self._highest > _TIE).any():
                    return direction
        return None

    def maximise(self, *, of_least: bool) -> tuple[Matrix | None, bool]:
        """A D with no negative margin, and with the sum of all, or the least, > 0; or None, and if it is proved so.

        `check` has looked at some direction before.
        """
        cost = np.append(np.zeros(self.n_unknowns), -1.0) if of_least else -self._total
        for _ in range(_ROUNDS):
            self._constraints = np.unique(np.vstack([self._constraints, self._entering]), axis=0)
            if self._constraints.size > _MOST_ELEMENTS:
                break
            matrix, n_constraints = self._constraints, len(self._constraints)
            if of_least:
                matrix = np.column_stack([matrix, -np.ones(n_constraints)])
            result = linprog(
                cost,
                A_ub=-matrix if n_constraints else None,
                b_ub=np.zeros(n_constraints) if n_constraints else None,
                bounds=(-1, 1),
                method="highs",
                options={"primal_feasibility_tolerance": 1e-10},
            )
            if result.x is None:
                break
            direction = np.zeros((self._n_classes, self.width))
            direction[1:] = result.x[: self.n_unknowns].reshape(-1, self.width)
            everywhere = self.check(direction)
            if everywhere or (not of_least and (self._lowest >= -_TIE).all()):
                return (direction, True) if (self._highest > _TIE).any() else (None, True)
            if of_least and result.x[-1] <= _TIE:
                return None, True
            known = {row.tobytes() for row in self._constraints}
            if all(row.tobytes() in known for row in self._entering):
                break
        return None, False

    def separation(self, direction: Matrix, *, complete: bool | None) -> Separation:
        """What a direction that has been found means."""
        self.check(direction)
        apart = (self._highest > _TIE) & np.isfinite(self._highest)
        apart |= apart.T
        involved = np.where(self._used, np.ptp(direction[:, : self._source.n_features], axis=0), 0.0)
        order = np.argsort(-involved, kind="stable")
        features = order[involved[order] > max(1e-6, 0.1 * involved.max(initial=0.0))]
        pairs = [(int(a), int(b)) for a, b in np.argwhere(np.triu(apart))]
        return Separation(complete, pairs, features)
