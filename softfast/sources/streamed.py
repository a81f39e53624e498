"""Rows that are read chunk by chunk in every pass: what the first pass finds out, and the passes after it."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from softfast.sources.dense import DenseSource
from softfast.sources.parts import Part
from softfast.sources.readahead import read_ahead
from softfast.sources.readers import Chunk, Columns, Reader, Real, RowsError, as_array
from softfast.sources.row_cache import RowCache
from softfast.threads import resolve_threads
from softfast.validation import as_vector

T = TypeVar("T")
Vector = NDArray[np.float64]

# Labels from the least to the greatest whose numbers are looked up: as many as stay in the first-level cache.
_LARGEST_TABLE = 4096


@dataclass(frozen=True, eq=False)
class Survey:
    """What the first pass over the rows finds out.

    classes : (K,), sorted
    codes : of each chunk, the positions of its labels in `classes`, in as few bytes as they need
    weights : of each chunk, (m,) or None
    checksums : of each chunk, as the reader makes them
    mass : (K,), the sum of the weights of each class
    """

    n_features: int
    dtype: np.dtype[Any]
    classes: NDArray[Any]
    codes: list[NDArray[np.unsignedinteger[Any]]]
    weights: list[Vector | None]
    checksums: list[int]
    mass: Vector

    @property
    def n_rows(self) -> int:
        """Of all chunks."""
        return sum(map(len, self.codes))


class StreamedRows:
    """Rows that stay where they are, on disk or behind an iterator, and are read chunk by chunk.

    Made by `from_npy`, `from_parquet` and `from_batches`; `SoftmaxRegression.fit`, `predict` and their like take it in
    place of X. Iterating over it yields ``(X, y, weight)`` of one chunk after another, for what does not fit in memory.

    As a context manager, or by `close`, it lets go of what it keeps on disk; so does the end of the process.
    """

    def __init__(
        self, reader: Reader, *, cache: str | os.PathLike[str] | None = None, cache_limit: int | None = None
    ) -> None:
        self._reader = reader
        self._folder, self._limit = cache, cache_limit
        self._survey: Survey | None = None
        self._cache: RowCache | None = None

    @property
    def feature_names(self) -> list[str] | None:
        """Names of the features, where they have any."""
        return self._reader.feature_names

    @property
    def nbytes(self) -> int | None:
        """Bytes that X would take in memory; None where that is not known before reading."""
        return self._reader.size()

    def __repr__(self) -> str:
        return f"<StreamedRows of {self._reader.name}>"

    def __enter__(self) -> "StreamedRows":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the copy on disk; it is made anew if the rows are used again."""
        if self._cache is not None:
            self._cache.close()
            self._cache = self._survey = None

    def __iter__(self) -> Iterator[tuple[Real, NDArray[Any] | None, Vector | None]]:
        """Yield (X, y, weight) of the chunks, y and weight None where there are none."""
        survey = self._survey
        if survey is None:
            with closing(read_ahead(_checked(self._reader))) as chunks:
                for chunk in chunks:
                    yield as_array(chunk.X), chunk.y, chunk.weight
                    self._reader.verify()
            return
        with closing(self.again()) as passes:
            for X, codes, weight in zip(passes, survey.codes, survey.weights, strict=True):
                yield X, survey.classes[codes], weight

    def survey(self) -> Survey:
        """What the first pass finds out; the first call makes that pass."""
        if self._survey is None:
            cache = RowCache(self._folder, self._limit, self._reader.size()) if self._reader.slow else None
            try:
                self._survey = _survey(self._reader, cache)
            except BaseException:
                if cache is not None:
                    cache.close()
                raise
            self._cache = cache
        return self._survey

    def again(self) -> Generator[Real, None, None]:
        """The X of the chunks once more, read ahead; an error if they are not those of the first pass."""
        survey = self.survey()
        number, name = 0, self._reader.name
        # Who closes the cache meanwhile does not take it from a pass under way.
        store = self._reader if self._cache is None else self._cache
        with closing(read_ahead((X, self._reader.checksum(X)) for X in store.again())) as chunks:
            for X, checksum in chunks:
                store.verify()
                if number == len(survey.codes):
                    raise RowsError(f"{name}: another pass over the rows has more chunks than the first, {number}")
                shape = len(survey.codes[number]), survey.n_features
                if X.shape != shape or X.dtype != survey.dtype or checksum != survey.checksums[number]:
                    seen = f"{X.dtype} of shape {X.shape}, expected {survey.dtype} of shape {shape}"
                    what = "other values" if X.shape == shape and X.dtype == survey.dtype else seen
                    raise RowsError(
                        f"{name}: another pass over the rows differs from the first in chunk {number}: {what}; every "
                        "pass must yield the same rows in the same order"
                    )
                yield X
                # The caller has read it by now, page by page.
                store.verify()
                number += 1
        if number < len(survey.codes):
            raise RowsError(
                f"{name}: another pass over the rows has {number} chunks, and the first had {len(survey.codes)}"
            )


class StreamedParts:
    """The chunks of streamed rows as parts of a problem; by_class (K,) multiplies the weights, if given."""

    has_offset = False

    def __init__(self, rows: StreamedRows, by_class: Vector | None, n_threads: int | None) -> None:
        survey = rows.survey()
        self._rows, self._survey, self._by_class = rows, survey, by_class
        self.n_rows, self.n_features, self.n_classes = survey.n_rows, survey.n_features, len(survey.classes)
        self.dtype = survey.dtype
        self.total_weight = float(survey.mass.sum() if by_class is None else survey.mass @ by_class)
        self._n_threads = resolve_threads(n_threads, 4.0 * self.n_rows * (self.n_features + 8) * self.n_classes)

    def reduce(self, operation: Callable[[Part, int], T], combine: Callable[[T, T], T]) -> T:
        """operation(part, first) of each chunk, combined one after another; the next is read meanwhile."""
        firsts = accumulate((len(codes) for codes in self._survey.codes), initial=0)
        with closing(self._rows.again()) as chunks:
            parts = (self._part(X, number) for number, X in enumerate(chunks))
            return reduce(combine, map(operation, parts, firsts))

    def _part(self, X: Real, number: int) -> Part:
        codes, weight = self._survey.codes[number].astype(np.int64), self._survey.weights[number]
        if self._by_class is not None:
            by_row = self._by_class[codes]
            weight = by_row if weight is None else by_row * weight
        return DenseSource(X, codes, self.n_classes, weight, n_threads=self._n_threads)


def _checked(reader: Reader) -> Iterator[Chunk]:
    """The chunks of a reader: one type, one number of features, finite, weights >= 0."""
    expected: tuple[int, np.dtype[Any]] | None = None
    for chunk in reader.chunks():
        if expected is None:
            expected = chunk.X.shape[1], chunk.X.dtype
        yield checked(chunk, *expected, names=reader.feature_names)


def checked(
    chunk: Chunk, n_features: int, dtype: np.dtype[Any], *, names: list[Any] | None = None, finite: bool = False
) -> Chunk:
    """The chunk, with weights in float64; an error if it is not as expected; `finite` if X is known to be.

    What a decoder leaves in columns is finite: it has looked while they were in its processor's cache.
    """
    X, weight = chunk.X, chunk.weight
    if (X.shape[1], X.dtype) != (n_features, dtype):
        raise RowsError(
            f"{chunk.where(0)}: X has {X.shape[1]} features of {X.dtype}, but the rows before have "
            f"{n_features} of {dtype}"
        )
    if not (finite or isinstance(X, Columns) or np.isfinite(X).all()):
        row, column = (int(i) for i in np.argwhere(~np.isfinite(X))[0])
        name = names[column] if names else column
        raise RowsError(f"{chunk.where(row)}, feature {name!r}: got {X[row, column]}; accepted are finite numbers")
    if weight is not None:
        weight = as_vector("weight", weight, X.shape[0], "row")
        if not (weight >= 0).all() or np.isinf(weight).any():
            row = int(np.argmin((weight >= 0) & np.isfinite(weight)))
            raise RowsError(f"{chunk.where(row)}: got the weight {weight[row]}; accepted are finite numbers >= 0")
    return Chunk(X, chunk.y, weight, chunk.where)


def _survey(reader: Reader, cache: RowCache | None) -> Survey:
    """One pass; the rows go into the cache, if there is one."""
    labels = Labels()
    codes: list[NDArray[np.intp]] = []
    weights: list[Vector | None] = []
    checksums: list[int] = []
    with closing(read_ahead((chunk, reader.checksum(chunk.X)) for chunk in _checked(reader))) as chunks:
        for chunk, checksum in chunks:
            if chunk.y is None:
                raise RowsError(f"{reader.name}: has no labels; a fit needs one for each row")
            codes.append(labels.encode(chunk.y, chunk.where))
            weights.append(chunk.weight)
            checksums.append(checksum)
            n_features, dtype = chunk.X.shape[1], chunk.X.dtype
            if cache is not None:
                assert isinstance(chunk.X, Columns)
                cache.append(chunk.X)
            reader.verify()
    if not codes:
        raise RowsError(f"{reader.name}: has no rows; expected one at least")
    if n_features == 0:
        raise RowsError(f"{reader.name}: X has no features; expected one at least")
    classes, order = labels.finish(reader.name)
    ordered = [order[c] for c in codes]
    mass = np.zeros(len(classes))
    for c, w in zip(ordered, weights, strict=True):
        mass += np.bincount(c, w, len(classes))
    if not mass.any():
        raise RowsError(f"{reader.name}: the weights are all zero: no row would count")
    if cache is not None:
        cache.finish()
    return Survey(n_features, dtype, classes, ordered, weights, checksums, mass)


class Labels:
    """Finds the classes chunk by chunk, and numbers them as it meets them; `finish` sorts them."""

    def __init__(self) -> None:
        self._sorted: NDArray[Any] | None = None
        self._numbers = np.empty(0, dtype=np.intp)
        self._table: NDArray[np.intp] | None = None

    def encode(self, y: NDArray[Any], where: Callable[[int], str]) -> NDArray[Any]:
        """The numbers of the labels of a chunk, in as few bytes as they need."""
        if self._sorted is not None and _family(y) != _family(self._sorted):
            raise RowsError(f"{where(0)}: got labels of {y.dtype}, and before labels of {self._sorted.dtype}")
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            row = int(np.argmin(np.isfinite(y)))
            raise RowsError(f"{where(row)}: got the label {y[row]}")
        numbers = self._looked_up(y)
        if numbers is not None:
            return numbers.astype(np.min_scalar_type(len(self._numbers) - 1))
        try:
            if self._sorted is None:
                self._learn(np.unique(y), where)
            known = self._sorted
            assert known is not None
            places = self._places(y)
            strange = known[places] != y
            if strange.any():
                self._learn(np.unique(y[strange]), where)
                places = self._places(y)
        except TypeError as error:
            raise RowsError(f"{where(0)}: labels that can't be compared ({error})") from error
        numbers = self._numbers[places]
        return numbers.astype(np.min_scalar_type(len(self._numbers) - 1))

    def _looked_up(self, y: NDArray[Any]) -> NDArray[np.intp] | None:
        """The numbers of labels that are integers close together, a tenth of the time of a search; None if some is new.

        The table holds the numbers of the labels from the least to the greatest, -1 where there is none.
        """
        if self._table is None or self._sorted is None or y.dtype.kind not in "iu":
            return None
        least, greatest = int(self._sorted[0]), int(self._sorted[-1])
        if not least <= int(y.min()) <= int(y.max()) <= greatest:
            return None
        numbers = self._table[y.astype(np.int64) - least]
        return None if numbers.min() < 0 else numbers

    def _places(self, y: NDArray[Any]) -> NDArray[np.intp]:
        assert self._sorted is not None
        return np.minimum(np.searchsorted(self._sorted, y), len(self._sorted) - 1)

    def _learn(self, new: NDArray[Any], where: Callable[[int], str]) -> None:
        if new.dtype.kind == "f" and (new != np.trunc(new)).any():
            # scikit-learn refuses them too; here they would fill the memory first.
            fraction = new[new != np.trunc(new)][0]
            raise RowsError(f"{where(0)}: got the label {fraction}; labels of classes are no fractions")
        known = new if self._sorted is None else np.concatenate([self._sorted, new])
        numbers = np.arange(len(known))
        numbers[: len(self._numbers)] = self._numbers
        order = np.argsort(known, kind="stable")
        self._sorted, self._numbers = known[order], numbers[order]
        self._table = None
        if known.dtype.kind in "iu" and len(known) and self._sorted[-1] < 2**63:
            places = self._sorted.astype(np.int64)
            if int(places[-1]) - int(places[0]) < _LARGEST_TABLE:
                self._table = np.full(places[-1] - places[0] + 1, -1)
                self._table[places - places[0]] = self._numbers

    def finish(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """The classes, and where the one of each number stands among them."""
        classes = self._sorted
        assert classes is not None
        order = np.empty(len(classes), dtype=np.min_scalar_type(len(classes) - 1))
        order[self._numbers] = np.arange(len(classes))
        return classes, order


def _family(labels: NDArray[Any]) -> str:
    """What can be compared with each other."""
    return "number" if labels.dtype.kind in "biuf" else labels.dtype.kind
