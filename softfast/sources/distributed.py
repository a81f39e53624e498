"""Rows on the workers of a Dask cluster: each partition is a part, and stays on the worker that has loaded it.

In a pass the operation, which holds the coefficients, goes to each worker once.  The results are combined on the
workers in a tree whose shape depends on the partitions alone, so that the bits do not depend on which worker does what;
at most one result for each partition crosses the network, and the last one comes to the client.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cached_property, partial, reduce
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from distributed import Client, Future, wait
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from softfast.sources.csr import CsrSource
from softfast.sources.dense import DenseSource
from softfast.sources.parts import Part
from softfast.sources.readers import Chunk, RowsError
from softfast.sources.streamed import Labels, checked

T = TypeVar("T")
Vector = NDArray[np.float64]

# Results that one task combines.
_FAN_IN = 8
# Seconds after which a pass looks whether its workers are still there, for the first time.
_PATIENCE = 2.0


class Summary(NamedTuple):
    """Of a partition: its number of rows, its labels, sorted, and the sum of the weights of each."""

    n_rows: int
    classes: NDArray[Any]
    mass: Vector


class Partition:
    """Rows in a worker's memory.  Where it is moved, its arrays alone are; its source is made where it is used.

    codes : (m,), positions of the labels in `classes`
    weight : (m,) or None
    """

    def __init__(
        self, X: Any, codes: NDArray[Any], weight: Vector | None, classes: NDArray[Any], n_threads: int = 1
    ) -> None:
        self.X, self.codes, self.weight, self.classes = X, codes, weight, classes
        self._n_threads = n_threads

    @cached_property
    def source(self) -> Part:
        """The rows as a source."""
        # What Dask has moved need not be aligned.
        X, codes = self.X, _at_home(self.codes)
        weight = None if self.weight is None else _at_home(self.weight)
        if not issparse(X):
            return DenseSource(_at_home(X), codes, len(self.classes), weight, n_threads=self._n_threads)
        X = csr_array(tuple(map(_at_home, (X.data, X.indices, X.indptr))), shape=X.shape)
        return CsrSource(X, codes, len(self.classes), weight, n_threads=self._n_threads)

    def summary(self) -> Summary:
        """What the client needs to know."""
        mass = np.bincount(self.codes, self.weight, len(self.classes)).astype(np.float64)
        return Summary(len(self.codes), self.classes, mass)

    def among(self, classes: NDArray[Any], by_class: Vector | None, n_threads: int) -> "Partition":
        """The same rows with codes among more classes, and weights multiplied by those of the classes, (K,)."""
        codes = np.searchsorted(classes, self.classes).astype(np.int64)[self.codes]
        weight = self.weight
        if by_class is not None:
            weight = by_class[codes] if weight is None else by_class[codes] * weight
        return Partition(self.X, codes, weight, classes, n_threads)

    def __getstate__(self) -> dict[str, Any]:
        # A source has pointers into the arrays.
        return {name: value for name, value in self.__dict__.items() if name != "source"}

    def __sizeof__(self) -> int:
        # Dask weighs by it what it had better not move.
        X = self.X
        arrays = [X.data, X.indices, X.indptr] if issparse(X) else [X]
        return sum(a.nbytes for a in (*arrays, self.codes, self.weight, self.classes) if a is not None)


def _at_home(array: NDArray[Any]) -> NDArray[Any]:
    """The array, copied where the memory to which Dask has moved it is not aligned."""
    return np.require(array, requirements="A")


def dense_rows(X: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A block of an array or of a data frame, whose missing values become NaN, as an array of the dtype."""
    return np.asarray(X.to_numpy(dtype=dtype, na_value=np.nan) if hasattr(X, "iloc") else X, dtype=dtype)


def load(
    number: int, X: Any, y: Any, weight: Any, *, dtype: np.dtype[Any], n_features: int, names: list[Any] | None
) -> Partition:
    """The partition of this number from its blocks of arrays, sparse matrices or data frames; checked."""

    def where(row: int) -> str:
        return f"partition {number}, row {row}"

    X = csr_array(X, dtype=dtype) if issparse(X) else dense_rows(X, dtype)
    y = np.asarray(y)
    weight = None if weight is None else np.asarray(weight)
    for name, value in (("y", y), ("sample_weight", weight)):
        if value is not None and value.shape != (X.shape[0],):
            raise RowsError(f"partition {number}: X has {X.shape[0]} rows, but {name} has the shape {value.shape}")
    if issparse(X):
        _require_finite_entries(X, where)
    weight = checked(Chunk(X, y, weight, where), n_features, dtype, names=names, finite=issparse(X)).weight
    labels = Labels()
    codes = labels.encode(y, where)
    classes, order = labels.finish(f"partition {number}")
    return Partition(X, order[codes], weight, classes)


def _require_finite_entries(X: csr_array, where: Callable[[int], str]) -> None:
    finite = np.isfinite(X.data)
    if not finite.all():
        entry = int(np.argmin(finite))
        row = int(np.searchsorted(X.indptr, entry, side="right")) - 1
        value, column = X.data[entry], int(X.indices[entry])
        raise RowsError(f"{where(row)}, feature {column}: got {value}; accepted are finite numbers")


class DistributedParts:
    """The partitions that loading tasks give as parts of a problem, those without rows left out.

    find_factors : gives, of the classes (K,) and the sums of their weights (K,), what the weights are multiplied with,
        (K,), or None
    """

    has_offset = False

    def __init__(
        self,
        client: Client,
        loading: Sequence[Any],
        n_features: int,
        dtype: np.dtype[Any],
        find_factors: Callable[[NDArray[Any], Vector], Vector | None],
        n_threads: int,
    ) -> None:
        self._client = client
        loaded = client.compute(list(loading))
        summaries = client.gather(client.map(Partition.summary, loaded, pure=False))
        kept = [(number, s) for number, s in enumerate(summaries) if s.n_rows]
        if not kept:
            raise RowsError("X has no rows; expected one at least")
        labels = Labels()
        for number, summary in kept:
            labels.encode(summary.classes, partial("partition {}, row {}".format, number))
        self.classes, _ = labels.finish("y")
        mass = np.zeros(len(self.classes))
        for _, summary in kept:
            mass[np.searchsorted(self.classes, summary.classes)] += summary.mass
        if not mass.any():
            raise RowsError("sample_weight must not be all zero: no row would count")
        by_class = find_factors(self.classes, mass)
        self.n_rows, self.n_features, self.n_classes = sum(s.n_rows for _, s in kept), n_features, len(self.classes)
        self.dtype = dtype
        self.total_weight = float(mass.sum() if by_class is None else mass @ by_class)
        self._partitions: list[Future] = client.map(
            Partition.among,
            [loaded[number] for number, _ in kept],
            classes=self.classes,
            by_class=by_class,
            n_threads=n_threads,
            pure=False,
        )
        # How many rows are before those of each partition.
        self._firsts = list(accumulate((s.n_rows for _, s in kept), initial=0))
        self._workers: list[str] | None = None

    def reduce(self, operation: Callable[[Part, int], T], combine: Callable[[T, T], T]) -> T:
        """operation(part, first) of each partition, combined in a tree; again if a worker goes meanwhile."""
        while True:
            level, workers, patience = self._submit(operation), set(self._places()), _PATIENCE
            while len(level) > 1:
                groups = [level[begin : begin + _FAN_IN] for begin in range(0, len(level), _FAN_IN)]
                level = self._client.map(partial(_combine, combine), groups, pure=False)
            while True:
                try:
                    return cast(T, level[0].result(timeout=patience))
                except TimeoutError:
                    if level[0].status == "error":
                        raise
                # What is bound to a worker that is gone waits for ever.
                if not workers <= set(self._client.nthreads()):
                    break
                patience *= 2
            self._workers = None

    def _submit(self, operation: Callable[[Part, int], T]) -> list[Future]:
        """Its results, each on the worker that has the partition."""
        shared = self._client.submit(_same, operation, pure=False)
        numbers = defaultdict(list)
        for number, worker in enumerate(self._places()):
            numbers[worker].append(number)
        results: dict[int, Future] = {}
        for worker, own in numbers.items():
            # Without this the scheduler may move a partition to a worker that has less to do.
            futures = self._client.map(
                _operate,
                [self._partitions[i] for i in own],
                [self._firsts[i] for i in own],
                operation=shared,
                workers=[worker],
                pure=False,
            )
            results.update(zip(own, futures, strict=True))
        return [results[number] for number in range(len(self._partitions))]

    def _places(self) -> list[str]:
        """The worker of each partition."""
        while self._workers is None:
            # What a worker had that is gone, Dask computes again.
            wait(self._partitions)
            holders = self._client.who_has(self._partitions)
            places = [sorted(holders.get(future.key) or ()) for future in self._partitions]
            for future in self._partitions:
                if future.status in ("error", "cancelled"):
                    future.result()
            if all(places):
                self._workers = [workers[0] for workers in places]
        return self._workers


def _same(operation: T) -> T:
    return operation


def _operate(partition: Partition, first: int, *, operation: Callable[[Part, int], T]) -> T:
    if isinstance(operation, partial):
        # Its coefficients have been moved, too.
        operation = partial(operation.func, *(_at_home(a) if isinstance(a, np.ndarray) else a for a in operation.args))
    return operation(partition.source, first)


def _combine(combine: Callable[[T, T], T], results: list[T]) -> T:
    # The first may be changed, but it is Dask's, who may need it again.
    return reduce(combine, results[1:], deepcopy(results[0]))
