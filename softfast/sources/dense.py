"""Rows in memory, dense: float32 or float64, C or F order."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softfast import _core
from softfast.sources import Margins, Matrix, Moments, RowSample, Vector
from softfast.threads import resolve_threads
from softfast.validation import as_rows

# Rows whose moments are taken at once: a chunk of float64 copies that stays in the second-level cache.
_CHUNK_BYTES = 512 * 1024


class DenseSource:
    """A view of X (n, p) with targets, weights (n,), or None for all ones, and offsets (n, K), C order, or None.

    The targets are labels (n,) in 0..K-1, or probabilities (n, K) of the dtype of X. What a row of these misses the
    sum 1 by, in rounding, counts as weight: so all sums over rows belong to one problem.
    """

    def __init__(
        self,
        X: NDArray[np.floating],
        targets: NDArray[Any],
        n_classes: int,
        weight: Vector | None = None,
        *,
        offset: Matrix | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._X = X
        self._plain_rows = as_rows("X", X)
        self._rows = self._plain_rows if offset is None else as_rows("X", X, offset)
        self._q = targets
        self._targets = _core.Targets(targets, weight)
        self._given = weight
        self._offset = offset
        self.has_offset = offset is not None
        self.n_rows, self.n_features = X.shape
        self.n_classes = n_classes
        if targets.ndim == 2:
            sums = targets.sum(axis=1, dtype=np.float64)
            weight = sums if weight is None else weight * sums
        self._weight = weight
        self.total_weight = float(self.n_rows if weight is None else weight.sum())
        self._n_threads = resolve_threads(n_threads, 4.0 * self.n_rows * (self.n_features + 8) * n_classes)

    def moments(self) -> Moments:
        """Weighted means over the rows, chunk by chunk."""
        # Sums of x - shift, the shift near the mean: E x^2 - mean^2 would cancel where the mean dwarfs the spread.
        shift = next(self._chunks()).mean(axis=0)
        sums, begin = np.zeros((3, self.n_features)), 0
        for x in self._chunks():
            w = np.ones(len(x)) if self._weight is None else self._weight[begin : begin + len(x)]
            begin += len(x)
            sums[0] += w @ np.abs(x)
            np.subtract(x, shift, out=x)
            sums[1] += w @ x
            sums[2] += w @ np.square(x, out=x)
        size, rest, square = sums / self.total_weight
        variance = np.maximum(square - rest**2, 0)
        return Moments(self.n_rows, self.total_weight, shift + rest, variance, size, *self._target_moments())

    def _target_moments(self) -> tuple[Vector, Vector, float, float]:
        """The means of targets and offsets, in the order of `Moments`."""
        class_mean = self._class_sums() / self.total_weight
        if self._offset is None:
            return class_mean, np.zeros(self.n_classes), 0.0, 0.0
        largest = np.maximum(self._offset.max(axis=1), -self._offset.min(axis=1))
        w, given = (np.ones(self.n_rows) if v is None else v for v in (self._weight, self._given))
        if self._q.ndim == 1:
            of_target = w @ self._offset[np.arange(self.n_rows), self._q]
        else:
            of_target = np.einsum("i,ik,ik->", given, self._q, self._offset)
        return (
            class_mean,
            w @ self._offset / self.total_weight,
            float(w @ largest) / self.total_weight,
            float(of_target) / self.total_weight,
        )

    def _class_sums(self) -> Vector:
        """The weighted sums of the targets, (K,)."""
        weight = self._given
        if self._q.ndim == 1:
            return np.bincount(self._q, weights=weight, minlength=self.n_classes).astype(np.float64)
        # einsum converts float32 a little at a time; a product of matrices would copy the whole.
        return np.asarray(np.einsum("i,ik->k", np.ones(self.n_rows) if weight is None else weight, self._q))

    def sample(self, n_rows: int, moments: Moments, *, seed: int = 0) -> RowSample:
        """A random sample of about n_rows rows, likelier where class or features are rare; always the same one.

        A part of the rows gives what it has of a sample of all, with the moments of all and a seed of its own: it needs
        no sum over the others, as the mean of each of the three terms of `share` is known.
        """
        weight = np.ones(self.n_rows) if self._weight is None else self._weight
        if n_rows >= moments.n_rows:
            return RowSample(self._X.astype(np.float64), self._q, weight / moments.total_weight, self._offset)
        variance, frequency = moments.feature_variance, moments.class_mean
        # What is left of a constant column after centring is rounding, not spread.
        varies = variance > 1e-28 * moments.feature_mean**2
        inverse = np.divide(1, variance * varies.sum(), out=np.zeros_like(variance), where=varies)
        rareness = np.divide(1, self.n_classes * frequency, out=np.zeros(self.n_classes), where=frequency > 0)
        distance = np.concatenate([np.square(x - moments.feature_mean) @ inverse for x in self._chunks()])
        rarity = rareness[self._q] if self._q.ndim == 1 else np.einsum("k,ik->i", rareness, self._q)
        share = weight * (1 + rarity + distance) / (3 * moments.total_weight)
        chance = np.minimum(1, n_rows * share)
        chosen = np.flatnonzero(np.random.default_rng(seed).random(self.n_rows) < chance)
        offset = None if self._offset is None else self._offset[chosen]
        scaled = weight[chosen] / (chance[chosen] * moments.total_weight)
        return RowSample(self._X[chosen].astype(np.float64), self._q[chosen], scaled, offset)

    def _chunks(self) -> Iterator[NDArray[np.float64]]:
        """The rows in float64, some at a time."""
        step = max(1, _CHUNK_BYTES // (8 * max(1, self.n_features)))
        for begin in range(0, self.n_rows, step):
            yield self._X[begin : begin + step].astype(np.float64)

    def loss_gradient(
        self, coef: Matrix, intercept: Vector, *, with_offset: bool = True
    ) -> tuple[float, Matrix, Vector]:
        """Weighted sums of loss, residual^T X and residual^T 1; float32 rows too are computed in float64."""
        rows = self._rows if with_offset else self._plain_rows
        return _core.default.loss_gradient(
            rows, self._targets, coef, intercept, self.n_classes, n_threads=self._n_threads
        )

    def hessian_vector(
        self, coef: Matrix, intercept: Vector, direction: Matrix, direction_intercept: Vector
    ) -> tuple[Matrix, Vector]:
        """The loss's Hessian at coef and intercept, summed over the rows, times a direction; in float64."""
        return _core.default.hessian_vector(
            self._rows,
            self._targets,
            coef,
            intercept,
            direction,
            direction_intercept,
            self.n_classes,
            n_threads=self._n_threads,
        )

    def extremes(self) -> tuple[Matrix, Matrix]:
        """Least and greatest value of each feature in each class, (K, p), chunk by chunk."""
        shape = self.n_classes, self.n_features
        least, greatest, begin = np.full(shape, np.inf), np.full(shape, -np.inf), 0
        for x in self._chunks():
            chunk = slice(begin, begin + len(x))
            begin += len(x)
            counts = np.ones(len(x), dtype=bool) if self._weight is None else self._weight[chunk] > 0
            for label in np.unique(self._q[chunk][counts]):
                rows = x[counts & (self._q[chunk] == label)]
                np.minimum(least[label], rows.min(axis=0), out=least[label])
                np.maximum(greatest[label], rows.max(axis=0), out=greatest[label])
        return least, greatest

    def margins(self, coef: Matrix, intercept: Vector, center: Vector, n_least: int) -> Margins:
        """Margins of the logits coef (x - center) + intercept, in float64, chunk by chunk, and the n_least lowest."""
        n_classes = self.n_classes
        lowest, highest = np.full((n_classes, n_classes), np.inf), np.full((n_classes, n_classes), -np.inf)
        least, places = np.empty(0), np.empty(0, dtype=np.int64)
        step = max(1, _CHUNK_BYTES // (8 * max(self.n_features, n_classes)))
        for begin in range(0, self.n_rows, step):
            chunk = slice(begin, begin + step)
            labels = self._q[chunk]
            x = self._X[chunk].astype(np.float64) - center
            z, size = x @ coef.T + intercept, np.abs(x) @ np.abs(coef).T + np.abs(intercept)
            own = np.arange(len(x)), labels
            size = size + size[own][:, None]
            margins = np.divide(z[own][:, None] - z, size, out=np.zeros_like(z), where=size > 0)
            counts = np.ones(len(x), dtype=bool) if self._weight is None else self._weight[chunk] > 0
            for label in np.unique(labels[counts]):
                rows = margins[counts & (labels == label)]
                np.minimum(lowest[label], rows.min(axis=0), out=lowest[label])
                np.maximum(highest[label], rows.max(axis=0), out=highest[label])
            margins[own] = np.inf
            margins[~counts] = np.inf
            flat = np.concatenate([least, margins.ravel()])
            where = np.concatenate([places, np.arange(begin * n_classes, begin * n_classes + margins.size)])
            kept = np.argpartition(flat, n_least)[:n_least] if len(flat) > n_least else np.arange(len(flat))
            least, places = flat[kept], where[kept]
        diagonal = np.diag_indices(n_classes)
        lowest[diagonal], highest[diagonal] = np.inf, -np.inf
        fine = np.isfinite(least)
        least, places = least[fine], places[fine]
        rows = places // n_classes
        X = self._X[rows].astype(np.float64)
        return Margins(lowest, highest, least, X, self._q[rows], places % n_classes)
