"""What sources of rows in memory share: targets, weights and offsets, the evaluations, the chances of a sample."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from softfast import _core
from softfast.sources import Hard, Margins, Matrix, Moments, RowSample, Source, SparseRows, Vector
from softfast.threads import resolve_threads
from softfast.validation import as_rows

# Rows that are taken at once: a chunk of float64 copies that stays in the second-level cache.
CHUNK_BYTES = 512 * 1024
# Probabilities that are held for `overlaps`, whose result is as large as a chunk of so many rows as classes.
_LARGEST_PROBA = 2**21


class InMemorySource(ABC):
    """A view of X (n, p) with targets, weights (n,), or None for all ones, and offsets (n, K), C order, or None.

    The targets are labels (n,) in 0..K-1, or probabilities (n, K) of the dtype of X. Where those of a row do not add up
    to 1, by rounding, their sum multiplies the weight of the row: so all sums over rows belong to one problem.
    """

    def __init__(
        self,
        X: Any,
        targets: NDArray[Any],
        n_classes: int,
        weight: Vector | None = None,
        *,
        offset: Matrix | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._X = X
        self._plain_rows = as_rows("X", X)
        self._rows = self._plain_rows if offset is None else self._plain_rows.with_offset(offset)
        self._q = targets
        self._targets = _core.Targets(targets, weight)
        self._given = weight
        self._offset = offset
        self.has_offset = offset is not None
        self.n_rows, self.n_features = self._rows.n_rows, self._rows.n_features
        self.n_classes, self.dtype = n_classes, self._rows.dtype
        if targets.ndim == 2:
            sums = targets.sum(axis=1, dtype=np.float64)
            weight = sums if weight is None else weight * sums
        self._weight = weight
        self.total_weight = float(self.n_rows if weight is None else weight.sum())
        self.n_threads = resolve_threads(n_threads, 4.0 * (self._rows.n_entries + 8 * self.n_rows) * n_classes)

    def merged(self) -> tuple[Source, csr_array] | None:
        """None: that is for sparse rows."""
        return None

    def sparse_rows(self) -> SparseRows | None:
        """None: they are dense."""
        return None

    @abstractmethod
    def moments(self) -> Moments:
        """Weighted means over the rows."""

    @abstractmethod
    def extremes(self) -> tuple[Matrix, Matrix]:
        """Least and greatest value of each feature in each class, (K, p)."""

    @abstractmethod
    def _dense(self, rows: Any) -> Matrix:
        """Rows, chosen by a slice or their numbers, in float64."""

    @abstractmethod
    def _distances(self, center: Vector, inverse: Vector) -> Vector:
        """sum_j inverse_j (x_ij - center_j)^2 of the rows, (n,)."""

    @abstractmethod
    def _logits(self, chunk: slice, coef: Matrix, center: Vector) -> tuple[Matrix, Matrix]:
        """Products coef (x - center) of some rows, and abs(coef) abs(x - center)."""

    def loss_gradient(
        self, coef: Matrix, intercept: Vector, *, with_offset: bool = True, single: bool = False
    ) -> tuple[float, Matrix, Vector]:
        """Weighted sums of loss, residual^T X and residual^T 1; float32 rows too are computed in float64 by default."""
        return _core.default.loss_gradient(
            self._rows if with_offset else self._plain_rows,
            self._targets,
            coef,
            intercept,
            self.n_classes,
            arithmetic=np.float32 if single else np.float64,
            by_feature=not coef.flags.c_contiguous,
            n_threads=self.n_threads,
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
            by_feature=not coef.flags.c_contiguous,
            n_threads=self.n_threads,
        )

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

    def _weights(self, chunk: slice) -> Vector:
        """Those of some rows."""
        return np.ones(len(range(self.n_rows)[chunk])) if self._weight is None else self._weight[chunk]

    def sample(self, n_rows: int, moments: Moments, hard: Hard | None = None, *, first: int = 0) -> RowSample:
        """A random sample of about n_rows rows, likelier where class or features are rare; always the same one.

        A part of the rows, with `first` rows before its own, gives what it has of a sample of all, with the moments of
        all: it needs no sum over the others, as the mean of each of the three terms of `share` is known, and each row
        has a random number of its own, by its place among all rows.
        """
        weight = self._weights(slice(None))
        if n_rows >= moments.n_rows:
            return RowSample(self._dense(slice(None)), self._q, weight / moments.total_weight, self._offset)
        variance, frequency = moments.feature_variance, moments.class_mean
        # What is left of a constant column after centring is rounding, not spread.
        varies = variance > 1e-28 * moments.feature_mean**2
        inverse = np.divide(1, variance * varies.sum(), out=np.zeros_like(variance), where=varies)
        rareness = np.divide(1, self.n_classes * frequency, out=np.zeros(self.n_classes), where=frequency > 0)
        distance = self._distances(moments.feature_mean, inverse)
        rarity = rareness[self._q] if self._q.ndim == 1 else np.einsum("k,ik->i", rareness, self._q)
        share = weight * (1 + rarity + distance) / (3 * moments.total_weight)
        chance = np.minimum(1, n_rows * share)
        if hard is not None:
            for coef, intercept in hard.points:
                residual = self._residuals(coef, intercept)
                np.maximum(chance, np.minimum(1, residual / hard.certain), out=chance, where=weight > 0)
        chosen = np.flatnonzero(np.random.Generator(np.random.PCG64(0).advance(first)).random(self.n_rows) < chance)
        offset = None if self._offset is None else self._offset[chosen]
        scaled = weight[chosen] / (chance[chosen] * moments.total_weight)
        return RowSample(self._dense(chosen), self._q[chosen], scaled, offset)

    def every(self, step: int) -> tuple[Matrix, Vector]:
        """Every step-th row in float64, with weights for as many."""
        return self._dense(slice(None, None, step)), step * self._weights(slice(None, None, step))

    def overlaps(self, coef: Matrix, intercept: Vector) -> Matrix:
        """The weighted sum over the rows of p p^T, (K, K), chunk by chunk."""
        total, step = np.zeros((self.n_classes, self.n_classes)), max(1, _LARGEST_PROBA // self.n_classes)
        for chunk, proba in self._proba(coef, intercept, step, n_threads=self.n_threads):
            weight = self._weights(chunk)[None]
            total += _core.default.gram(_core.Rows(proba), weight, n_threads=self.n_threads)[0]
        return total

    def _residuals(self, coef: Matrix, intercept: Vector) -> Vector:
        """Of each row the sum of the positive parts of q - p, (n,), chunk by chunk."""
        result = np.empty(self.n_rows)
        for chunk, proba in self._proba(coef, intercept, self._chunk_rows(self.n_classes), n_threads=1):
            if self._q.ndim == 1:
                result[chunk] = 1 - proba[np.arange(len(proba)), self._q[chunk]]
            else:
                result[chunk] = np.maximum(self._q[chunk] - proba, 0).sum(axis=1)
        return result

    def _proba(
        self, coef: Matrix, intercept: Vector, step: int, *, n_threads: int
    ) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Probabilities (step, K) of the rows, in the type of X, chunk by chunk."""
        coef = np.ascontiguousarray(coef)
        for begin in range(0, self.n_rows, step):
            chunk = slice(begin, min(begin + step, self.n_rows))
            rows = as_rows("X", self._X[chunk])
            if self._offset is not None:
                rows = rows.with_offset(self._offset[chunk])
            yield (
                chunk,
                _core.default.predict(rows, coef, intercept, self.n_classes, _core.SOFTMAX, n_threads=n_threads)[0],
            )

    def margins(self, coef: Matrix, intercept: Vector, center: Vector, n_least: int) -> Margins:
        """Margins of the logits coef (x - center) + intercept, in float64, chunk by chunk, and the n_least lowest."""
        n_classes = self.n_classes
        lowest, highest = np.full((n_classes, n_classes), np.inf), np.full((n_classes, n_classes), -np.inf)
        least, places = np.empty(0), np.empty(0, dtype=np.int64)
        step = self._chunk_rows(n_classes)
        for begin in range(0, self.n_rows, step):
            chunk = slice(begin, begin + step)
            labels = self._q[chunk]
            z, size = self._logits(chunk, coef, center)
            z, size = z + intercept, size + np.abs(intercept)
            own = np.arange(len(z)), labels
            size = size + size[own][:, None]
            margins = np.divide(z[own][:, None] - z, size, out=np.zeros_like(z), where=size > 0)
            counts = self._weights(chunk) > 0
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
        return Margins(lowest, highest, least, self._dense(rows), self._q[rows], places % n_classes)

    def _chunk_rows(self, n_elements: int = 1) -> int:
        """Rows of a chunk, from each of which at least so many float64 elements are made."""
        row = max(n_elements, self._rows.n_entries // max(1, self.n_rows), 1)
        return max(1, CHUNK_BYTES // (8 * row))
