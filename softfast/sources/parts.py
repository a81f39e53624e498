"""Rows in parts: each part is a small source of its own, and what all rows have is made of what each part has.

This is the algebra alone.  Where the parts lie and who works on them is the business of a `Parts`.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from softfast.sources import Hard, Margins, Matrix, Moments, RowSample, Source, Vector

T = TypeVar("T")


class Part(Source, Protocol):
    """Some of the rows, with the classes of all."""

    def sample(self, n_rows: int, moments: Moments, hard: Hard | None = None, *, first: int = 0) -> RowSample:
        """Its rows in a sample of all rows, given the moments of all and how many rows are before its own."""
        ...


class Parts(Protocol):
    """All rows, in parts whose order never changes."""

    n_rows: int
    n_features: int
    n_classes: int
    total_weight: float
    has_offset: bool
    dtype: np.dtype[Any]

    def reduce(self, operation: Callable[[Part, int], T], combine: Callable[[T, T], T]) -> T:
        """The results operation(part, first) of one pass, combined in the order of the parts; `first` rows are before.

        How they are bracketed depends on the parts alone. Both functions can be pickled, and results are no larger than
        a sample or the coefficients; `combine` may change its first argument and return it.
        """
        ...


class PartedSource:
    """The rows of all parts as one source."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.n_rows, self.n_features, self.n_classes = parts.n_rows, parts.n_features, parts.n_classes
        self.total_weight, self.has_offset, self.dtype = parts.total_weight, parts.has_offset, parts.dtype

    def merged(self) -> None:
        """None: no part knows how many entries a column has in all."""

    def sparse_rows(self) -> None:
        """None: they are not all at hand."""

    def moments(self) -> Moments:
        """Weighted means over the rows."""
        (moments,) = self._parts.reduce(_moments, _merge_moments)
        # Parts without weight have no means.
        return replace(moments, n_rows=self.n_rows)

    def sample(self, n_rows: int, moments: Moments, hard: Hard | None = None) -> RowSample:
        """A random sample of about n_rows rows, the same one whatever the parts."""
        samples = self._parts.reduce(partial(_sample, n_rows, moments, hard), _join)
        offsets = [s.offset for s in samples if s.offset is not None]
        return RowSample(
            np.concatenate([s.X for s in samples]),
            np.concatenate([s.targets for s in samples]),
            np.concatenate([s.weight for s in samples]),
            np.concatenate(offsets) if offsets else None,
        )

    def loss_gradient(
        self, coef: Matrix, intercept: Vector, *, with_offset: bool = True, single: bool = False
    ) -> tuple[float, Matrix, Vector]:
        """Weighted sums of loss, residual^T X and residual^T 1."""
        operation = partial(_loss_gradient, coef, intercept, with_offset, single)
        losses, product, residual = self._parts.reduce(operation, _add_losses)
        return math.fsum(losses), product, residual

    def hessian_vector(
        self, coef: Matrix, intercept: Vector, direction: Matrix, direction_intercept: Vector
    ) -> tuple[Matrix, Vector]:
        """The loss's Hessian at coef and intercept, summed over the rows, times a direction."""
        operation = partial(_hessian_vector, coef, intercept, direction, direction_intercept)
        return self._parts.reduce(operation, _add)

    def overlaps(self, coef: Matrix, intercept: Vector) -> Matrix:
        """The weighted sum over the rows of p p^T, (K, K)."""
        return self._parts.reduce(partial(_overlaps, coef, intercept), np.add)

    def extremes(self) -> tuple[Matrix, Matrix]:
        """Least and greatest value of each feature in each class, (K, p)."""
        return self._parts.reduce(_extremes, _merge_extremes)

    def margins(self, coef: Matrix, intercept: Vector, center: Vector, n_least: int) -> Margins:
        """Margins of the logits coef (x - center) + intercept, and the n_least lowest."""
        merge: Callable[[Margins, Margins], Margins] = partial(_merge_margins, n_least)
        return self._parts.reduce(partial(_margins, coef, intercept, center, n_least), merge)


def _moments(part: Part, first: int) -> list[Moments]:
    return [part.moments()] if part.total_weight > 0 else []


def _sample(n_rows: int, moments: Moments, hard: Hard | None, part: Part, first: int) -> list[RowSample]:
    return [part.sample(n_rows, moments, hard, first=first)]


def _loss_gradient(
    coef: Matrix, intercept: Vector, with_offset: bool, single: bool, part: Part, number: int
) -> tuple[list[float], Matrix, Vector]:
    loss, product, residual = part.loss_gradient(coef, intercept, with_offset=with_offset, single=single)
    return [loss], product, residual


def _hessian_vector(
    coef: Matrix, intercept: Vector, direction: Matrix, direction_intercept: Vector, part: Part, number: int
) -> tuple[Matrix, Vector]:
    return part.hessian_vector(coef, intercept, direction, direction_intercept)


def _overlaps(coef: Matrix, intercept: Vector, part: Part, first: int) -> Matrix:
    return part.overlaps(coef, intercept)


def _extremes(part: Part, first: int) -> tuple[Matrix, Matrix]:
    return part.extremes()


def _margins(coef: Matrix, intercept: Vector, center: Vector, n_least: int, part: Part, first: int) -> Margins:
    return part.margins(coef, intercept, center, n_least)


def _join(all_samples: list[RowSample], following: list[RowSample]) -> list[RowSample]:
    all_samples.extend(following)
    return all_samples


def _add(total: tuple[Matrix, Vector], following: tuple[Matrix, Vector]) -> tuple[Matrix, Vector]:
    """The sums, in place in the first, which a part has made for us."""
    total[0][...] += following[0]
    total[1][...] += following[1]
    return total


def _add_losses(
    total: tuple[list[float], Matrix, Vector], following: tuple[list[float], Matrix, Vector]
) -> tuple[list[float], Matrix, Vector]:
    """The sums, and all the losses, whose exact sum does not depend on their order."""
    total[0].extend(following[0])
    _add(total[1:], following[1:])
    return total


def _merge_extremes(a: tuple[Matrix, Matrix], b: tuple[Matrix, Matrix]) -> tuple[Matrix, Matrix]:
    return np.minimum(a[0], b[0]), np.maximum(a[1], b[1])


def _merge_moments(of_a: list[Moments], of_b: list[Moments]) -> list[Moments]:
    """Of the rows of both; of parts without weight there are none."""
    if not (of_a and of_b):
        return of_a or of_b
    return [_merge_two(*of_a, *of_b)]


def _merge_two(a: Moments, b: Moments) -> Moments:
    """Of the rows of both: means by their weights, variances by that of the means too (Chan, Golub and LeVeque 1983).

    Nothing cancels: the difference of the means is small where they are close.
    """
    total = a.total_weight + b.total_weight
    share = b.total_weight / total

    def mean(of_a: Any, of_b: Any) -> Any:
        return of_a + share * (of_b - of_a)

    apart = b.feature_mean - a.feature_mean
    return replace(
        a,
        n_rows=a.n_rows + b.n_rows,
        total_weight=total,
        feature_mean=mean(a.feature_mean, b.feature_mean),
        feature_variance=mean(a.feature_variance, b.feature_variance) + share * (1 - share) * apart**2,
        feature_size=mean(a.feature_size, b.feature_size),
        class_mean=mean(a.class_mean, b.class_mean),
        offset_mean=mean(a.offset_mean, b.offset_mean),
        offset_size=mean(a.offset_size, b.offset_size),
        target_offset=mean(a.target_offset, b.target_offset),
    )


def _merge_margins(n_least: int, a: Margins, b: Margins) -> Margins:
    least = np.concatenate([a.least, b.least])
    kept = np.argpartition(least, n_least)[:n_least] if len(least) > n_least else np.arange(len(least))
    return Margins(
        np.minimum(a.lowest, b.lowest),
        np.maximum(a.highest, b.highest),
        least[kept],
        np.concatenate([a.X, b.X])[kept],
        np.concatenate([a.labels, b.labels])[kept],
        np.concatenate([a.others, b.others])[kept],
    )
