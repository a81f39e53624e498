"""Rows in memory, sparse: CSR of float32 or float64."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

from softfast import _core
from softfast.sources import Matrix, Moments, Source, SparseRows, Vector
from softfast.sources.in_memory import InMemorySource

# Features that go for `merged` to be worth its copy of the rows.
_LEAST_SHARE = 0.1
# What entries of `merged` may be off by, relative: float64's rounding, or that of two float32.
_NORM_ROUNDING = 2.0**-46


class CsrSource(InMemorySource):
    """Rows of a CSR matrix or array of SciPy, which may have unsorted and repeated indices.

    What is computed here rather than in the kernels goes by chunks of rows whose indices do not repeat.
    """

    _rows: _core.SparseRows
    _plain_rows: _core.SparseRows

    def merged(self) -> tuple[Source, csr_array] | None:
        """Columns with a single entry are merged, row by row, into one: of 130,107 tf-idf columns 64,652 are left.

        All that the coefficients of such columns do is to add to the logits of the row with the entry, and with the
        least norm they do it in proportion to their entries: as one coefficient of a column whose entry is the norm of
        theirs.
        """
        X, p = self._X, self.n_features
        count = self._rows.n_entries
        indices, data = X.indices[:count], X.data[:count]
        single = (np.bincount(indices, minlength=p) == 1)[indices] & (data != 0)
        rows, columns = np.repeat(np.arange(self.n_rows), np.diff(X.indptr))[single], indices[single]
        values = data[single].astype(np.float64)
        present, group = np.unique(rows, return_inverse=True)
        if len(columns) - len(present) < _LEAST_SHARE * p:
            return None
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            norms = np.sqrt(np.bincount(group, values**2))
            entries = _exact(norms, self.dtype)
            wrong = np.abs(entries.sum(axis=1, dtype=np.float64) - norms)
            if not ((norms > 0) & (wrong <= _NORM_ROUNDING * norms)).all():
                return None
        kept = np.setdiff1d(np.arange(p), columns, assume_unique=True)
        basis = csr_array(
            (
                np.concatenate([np.ones(len(kept)), values / norms[group]]),
                (np.concatenate([kept, columns]), np.concatenate([np.arange(len(kept)), len(kept) + group])),
            ),
            shape=(p, len(kept) + len(present)),
        )
        place = np.empty(p, dtype=np.int64)
        place[kept] = np.arange(len(kept))
        n_own = np.bincount(rows, minlength=self.n_rows)
        left = _csr(data[~single], place[indices[~single]], np.diff(X.indptr) - n_own, len(kept))
        repeats = entries.shape[1]
        own = _csr(entries.ravel(), np.repeat(np.arange(len(present)), repeats), repeats * (n_own > 0), len(present))
        fewer = hstack([left, own], format="csr")
        source = CsrSource(fewer, self._q, self.n_classes, self._given, offset=self._offset, n_threads=self.n_threads)
        source._add_columns()
        return source, basis

    def _add_columns(self) -> None:
        """A second copy of the entries, by columns, for the many evaluations of a fit."""
        self._plain_rows = self._plain_rows.with_columns(self.n_classes)
        self._rows = self._plain_rows.with_offset(self._offset)

    def sparse_rows(self) -> SparseRows:
        """The rows."""
        return SparseRows(csr_array(self._X), self._q, self._weights(slice(None)) / self.total_weight, self._offset)

    def moments(self) -> Moments:
        """Weighted means over the rows; of the variance, the zeros that are not stored are added as one term."""
        total, (_, product, size, _, _) = self.total_weight, self._sums
        mean = product / total
        # About the mean, in a second sweep: E x^2 - mean^2 would cancel where the mean dwarfs the spread.
        stored, _, _, square, _ = self._rows.sums(self._weight, mean)
        square += np.where(self._is_full, 0, np.maximum(total - stored, 0)) * mean**2
        return Moments(self.n_rows, total, mean, square / total, size / total, *self._target_moments())

    def extremes(self) -> tuple[Matrix, Matrix]:
        """Least and greatest value of each feature in each class, (K, p)."""
        shape = self.n_classes, self.n_features
        least, greatest = np.full(shape, np.inf), np.full(shape, -np.inf)
        stored = np.zeros(shape, dtype=np.int64)
        for chunk, x in self._chunks():
            counts = self._entry_weights(chunk, x) > 0
            flat = (np.repeat(self._q[chunk], np.diff(x.indptr)) * self.n_features + x.indices)[counts]
            np.minimum.at(least.reshape(-1), flat, x.data[counts])
            np.maximum.at(greatest.reshape(-1), flat, x.data[counts])
            stored += np.bincount(flat, minlength=stored.size).reshape(shape)
        rows = np.bincount(self._q[self._weights(slice(None)) > 0], minlength=self.n_classes)
        has_zero = stored < rows[:, None]
        return np.where(has_zero, np.minimum(least, 0), least), np.where(has_zero, np.maximum(greatest, 0), greatest)

    def _dense(self, rows: Any) -> Matrix:
        """Rows, chosen by a slice or their numbers, in float64."""
        return np.asarray(self._X[rows].astype(np.float64).toarray())

    def _distances(self, center: Vector, inverse: Vector) -> Vector:
        """sum_j inverse_j (x_ij - center_j)^2 of the rows, from what x_ij adds to inverse_j center_j^2."""
        parts = []
        for _, x in self._chunks():
            x.data *= (x.data - 2 * center[x.indices]) * inverse[x.indices]
            parts.append(np.maximum(x.sum(axis=1) + inverse @ center**2, 0))
        return np.concatenate(parts)

    def _logits(self, chunk: slice, coef: Matrix, center: Vector) -> tuple[Matrix, Matrix]:
        """Products coef (x - center) of some rows, and abs(coef) abs(x - center)."""
        x, size = self._rows_of(chunk), np.abs(coef)
        # A column without a zero is centred element by element, for its mean may dwarf its spread.  In the others some
        # zero is as far from the mean as that is large, and nothing is lost by subtracting it last.
        own = np.where(self._is_full, center, 0.0)
        rest = center - own
        x.data -= own[x.indices]
        z = x @ coef.T - coef @ rest
        rest = np.abs(rest)
        x.data = np.abs(x.data - (center - own)[x.indices]) - rest[x.indices]
        return z, np.maximum(x @ size.T + size @ rest, 0)

    @cached_property
    def _repeats(self) -> bool:
        """Whether a row has two entries of one feature."""
        return self._rows.repeats()

    @cached_property
    def _sums(self) -> Matrix:
        """Those of `SparseRows`, about 0."""
        return self._rows.sums(self._weight, np.zeros(self.n_features))

    @property
    def _is_full(self) -> NDArray[np.bool_]:
        """Whether a column has an entry in every row with a weight, (p,)."""
        return np.asarray(self._sums[-1] == np.count_nonzero(self._weights(slice(None))))

    def _entry_weights(self, chunk: slice, x: csr_array) -> Vector:
        """Those of the rows of a chunk, for each of its entries."""
        return np.repeat(self._weights(chunk), np.diff(x.indptr))

    def _rows_of(self, chunk: slice) -> csr_array:
        """A copy of some rows in float64, without repeated indices."""
        x = csr_array(self._X[chunk], dtype=np.float64, copy=True)
        # It sorts, which took half of the time to the first evaluation of 1.8 million entries.
        if self._repeats:
            x.sum_duplicates()
        return x

    def _chunks(self) -> Iterator[tuple[slice, csr_array]]:
        """The rows in float64 without repeated indices, some at a time: as many entries as features are summed over."""
        step = max(self._chunk_rows(), self.n_features * self.n_rows // max(1, self._rows.n_entries))
        for begin in range(0, self.n_rows, step):
            chunk = slice(begin, min(begin + step, self.n_rows))
            yield chunk, self._rows_of(chunk)


def _exact(values: Vector, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers (n,) as sums of one float64 or of two float32, (n, 1) or (n, 2)."""
    high = values.astype(dtype)
    return np.column_stack([high, (values - high).astype(dtype)] if dtype == np.float32 else [high])


def _csr(data: NDArray[Any], columns: NDArray[Any], n_entries: NDArray[Any], n_columns: int) -> csr_array:
    """Rows of so many entries each; 32-bit indices where they are enough, which are less to read."""
    small = max(len(data), n_columns) <= np.iinfo(np.int32).max
    integer = np.int32 if small else np.int64
    indptr = np.append(0, np.cumsum(n_entries)).astype(integer)
    return csr_array((data, columns.astype(integer), indptr), shape=(len(n_entries), n_columns))
