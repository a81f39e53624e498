"""Rows in memory, dense: float32 or float64, C or F order."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softfast.sources import Matrix, Moments, Vector
from softfast.sources.in_memory import InMemorySource


class DenseSource(InMemorySource):
    """Rows of an array."""

    def moments(self) -> Moments:
        """Weighted means over the rows, chunk by chunk."""
        # Sums of x - shift, the shift near the mean: E x^2 - mean^2 would cancel where the mean dwarfs the spread.
        shift = next(self._chunks()).mean(axis=0)
        sums, begin = np.zeros((3, self.n_features)), 0
        for x in self._chunks():
            w = self._weights(slice(begin, begin + len(x)))
            begin += len(x)
            sums[0] += w @ np.abs(x)
            np.subtract(x, shift, out=x)
            sums[1] += w @ x
            sums[2] += w @ np.square(x, out=x)
        size, rest, square = sums / self.total_weight
        variance = np.maximum(square - rest**2, 0)
        return Moments(self.n_rows, self.total_weight, shift + rest, variance, size, *self._target_moments())

    def extremes(self) -> tuple[Matrix, Matrix]:
        """Least and greatest value of each feature in each class, (K, p), chunk by chunk."""
        shape = self.n_classes, self.n_features
        least, greatest, begin = np.full(shape, np.inf), np.full(shape, -np.inf), 0
        for x in self._chunks():
            chunk = slice(begin, begin + len(x))
            begin += len(x)
            counts = self._weights(chunk) > 0
            for label in np.unique(self._q[chunk][counts]):
                rows = x[counts & (self._q[chunk] == label)]
                np.minimum(least[label], rows.min(axis=0), out=least[label])
                np.maximum(greatest[label], rows.max(axis=0), out=greatest[label])
        return least, greatest

    def _dense(self, rows: Any) -> Matrix:
        """Rows, chosen by a slice or their numbers, in float64."""
        return np.asarray(self._X[rows].astype(np.float64))

    def _distances(self, center: Vector, inverse: Vector) -> Vector:
        """sum_j inverse_j (x_ij - center_j)^2 of the rows."""
        return np.concatenate([np.square(x - center) @ inverse for x in self._chunks()])

    def _logits(self, chunk: slice, coef: Matrix, center: Vector) -> tuple[Matrix, Matrix]:
        """Products coef (x - center) of some rows, and abs(coef) abs(x - center)."""
        x = self._X[chunk].astype(np.float64) - center
        return x @ coef.T, np.abs(x) @ np.abs(coef).T

    def _chunks(self) -> Iterator[NDArray[np.float64]]:
        """The rows in float64, some at a time."""
        step = self._chunk_rows()
        for begin in range(0, self.n_rows, step):
            yield self._X[begin : begin + step].astype(np.float64)
