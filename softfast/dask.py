"""Softmax regression over Dask arrays and data frames: rows on the workers of a cluster, the solver here.

It needs the extra ``softfast[dask]``. The fit is that of `softfast.SoftmaxRegression`, to the same certified optimum.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import dask
import numpy as np
from dask import array as da
from dask.delayed import Delayed, delayed
from dask.utils import is_dataframe_like, is_series_like
from distributed import Client, default_client
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from softfast import estimator
from softfast.sources.distributed import DistributedParts, dense_rows, load
from softfast.sources.parts import PartedSource
from softfast.tables.common import listed
from softfast.targets import count_right
from softfast.training import Training, factors_of_classes, set_features


class SoftmaxRegression(estimator.SoftmaxRegression):
    """`softfast.SoftmaxRegression` whose rows may be Dask collections, on one machine or many.

    Parameters, attributes and the fitted model are those of `softfast.SoftmaxRegression`, and what is no Dask
    collection is treated as there. `n_threads` is that of each task, None for one: a worker runs as many tasks at once
    as it has threads.

    ``fit(X, y, sample_weight)`` takes

    - `X`, a Dask array of shape (n, p) of NumPy arrays or of SciPy's CSR matrices, or a Dask data frame of numbers;
    - `y` and `sample_weight`, Dask arrays or series of shape (n,): labels of any kind, and weights >= 0. They are
      rechunked to X where all sizes are known; else they must have its partitions.

    It uses the default client of ``dask.distributed``. Soft labels and `offset` are for rows in memory.

    ``predict``, ``predict_proba``, ``predict_log_proba`` and ``decision_function`` of a Dask collection return a Dask
    array that is computed when it is asked for, chunked as X is; they need no client. ``score`` computes at once.

    Notes
    -----
    Each partition is loaded once and stays on its worker until the fit ends. In a pass the coefficients go to each
    worker once, and the sums over the partitions are added in a tree whose shape depends on the partitions alone: at
    most one array of the size of the coefficients for each partition crosses the network, and the fit has the same bits
    whichever worker does what. Besides, a fit brings two samples of the rows to the client, once each: at most 20,000,
    and a tenth of them up to 64 MiB.

    The partitions of a worker that dies are computed again from the collection, elsewhere, and the fit goes on; what
    was put on the workers by ``scatter`` can't be.

    References
    ----------
    Rocklin, M. (2015). Dask: parallel computation with blocked algorithms and task scheduling. Proceedings of the 14th
    Python in Science Conference, 126-132.

    Examples
    --------
    >>> import dask.array as da
    >>> from distributed import Client
    >>> from sklearn.datasets import load_iris
    >>> from softfast.dask import SoftmaxRegression
    >>> X, y = (da.from_array(part, chunks=50) for part in load_iris(return_X_y=True))
    >>> with Client(processes=False, dashboard_address=":0") as client:
    ...     model = SoftmaxRegression().fit(X, y)
    >>> model.converged_
    True
    >>> model.predict_proba(X)
    dask.array<_predict_block, shape=(150, 3), dtype=float64, chunksize=(50, 3), chunktype=numpy.ndarray>
    """

    def to_local(self) -> estimator.SoftmaxRegression:
        """The same model as a `softfast.SoftmaxRegression`, which needs no Dask.

        Returns
        -------
        softfast.SoftmaxRegression
        """
        local = estimator.SoftmaxRegression()
        local.__dict__.update(self.__dict__)
        return local

    def decision_function(self, X: Any, *, offset: ArrayLike | None = None) -> Any:
        """Logits of the rows.

        Parameters
        ----------
        X : Dask array or data frame of shape (n, p), or what `softfast.SoftmaxRegression` takes
        offset : array_like of shape (n, K), optional
            None for Dask collections.

        Returns
        -------
        Dask array (else ndarray) of shape (n, K), or (n,) with two classes
        """
        if not _is_collection(X):
            return super().decision_function(X, offset=offset)
        return self._lazy("decision_function", X, offset, matrix=len(self.classes_) > 2)

    def predict_proba(self, X: Any, *, offset: ArrayLike | None = None) -> Any:
        """Probabilities of the classes, in the order of ``classes_``.

        Parameters
        ----------
        X : Dask array or data frame of shape (n, p), or what `softfast.SoftmaxRegression` takes
        offset : array_like of shape (n, K), optional
            None for Dask collections.

        Returns
        -------
        Dask array (else ndarray) of shape (n, K)
        """
        if not _is_collection(X):
            return super().predict_proba(X, offset=offset)
        return self._lazy("predict_proba", X, offset, matrix=True)

    def predict_log_proba(self, X: Any, *, offset: ArrayLike | None = None) -> Any:
        """Logarithms of the probabilities, accurate where a probability is near 0 or 1.

        Parameters
        ----------
        X : Dask array or data frame of shape (n, p), or what `softfast.SoftmaxRegression` takes
        offset : array_like of shape (n, K), optional
            None for Dask collections.

        Returns
        -------
        Dask array (else ndarray) of shape (n, K)
        """
        if not _is_collection(X):
            return super().predict_log_proba(X, offset=offset)
        return self._lazy("predict_log_proba", X, offset, matrix=True)

    def predict(self, X: Any, *, offset: ArrayLike | None = None) -> Any:
        """Most probable label of each row.

        Parameters
        ----------
        X : Dask array or data frame of shape (n, p), or what `softfast.SoftmaxRegression` takes
        offset : array_like of shape (n, K), optional
            None for Dask collections.

        Returns
        -------
        Dask array (else ndarray) of shape (n,), of the dtype of ``classes_``
        """
        if not _is_collection(X):
            return super().predict(X, offset=offset)
        check_is_fitted(self)
        return self._lazy("predict", X, offset, matrix=False, dtype=self.classes_.dtype)

    def score(
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None, *, offset: ArrayLike | None = None
    ) -> float:
        """Share of the rows whose label is predicted.

        Parameters
        ----------
        X : Dask array or data frame of shape (n, p), or what `softfast.SoftmaxRegression` takes
        y, sample_weight : Dask array or series of shape (n,)
            As in the fit.
        offset : array_like of shape (n, K), optional
            None for Dask collections.

        Returns
        -------
        float
        """
        if not _is_collection(X):
            return super().score(X, y, sample_weight, offset=offset)
        predicted = self.predict(X, offset=offset)
        blocks = enumerate(_aligned(predicted, y, sample_weight))
        counts = dask.compute(*(delayed(_count_right)(number, *block) for number, block in blocks))
        right, total = np.sum(counts, axis=0)
        return float(right / total)

    def _training(self, X: Any, y: Any, sample_weight: Any, offset: Any) -> Training:
        if not _is_collection(X):
            return super()._training(X, y, sample_weight, offset)
        _require_no_offset(offset)
        dtype, names = _columns(X)
        client = _client()
        n_features = X.shape[1] if names is None else len(names)
        if n_features == 0:
            raise ValueError("X has no features; expected one at least")
        task = partial(load, dtype=dtype, n_features=n_features, names=names)
        parts = DistributedParts(
            client,
            [delayed(task, pure=False)(number, *block) for number, block in enumerate(_aligned(X, y, sample_weight))],
            n_features,
            dtype,
            partial(factors_of_classes, self.class_weight),
            self.n_threads or 1,
        )
        set_features(self, n_features, names)
        return Training(PartedSource(parts), parts.classes, True)

    def _lazy(self, method: str, X: Any, offset: Any, *, matrix: bool, dtype: np.dtype[Any] | None = None) -> da.Array:
        """What the method returns of each block; of the dtype of X by default."""
        check_is_fitted(self)
        _require_no_offset(offset)
        of_X, names = _columns(X)
        expected = getattr(self, "feature_names_in_", None)
        if names is not None:
            if expected is not None and names != list(expected):
                raise ValueError(
                    f"X must have the columns of the fit, {listed(expected)}, in their order, got {listed(names)}"
                )
            X = _as_array(X, of_X, len(names))
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"X must have {self.n_features_in_} features, as in the fit, got {X.shape[1]}")
        # The names have been looked at, and blocks have none.
        model = self.to_local().set_params(callback=None, n_threads=self.n_threads or 1)
        model.__dict__.pop("feature_names_in_", None)
        dtype = of_X if dtype is None else dtype
        shape = (0, len(self.classes_)) if matrix else (0,)
        return _one_block_a_row(X).map_blocks(
            _predict_block,
            model=delayed(model),
            method=method,
            empty=np.empty(shape, dtype),
            dtype=dtype,
            meta=np.empty(shape, dtype),
            chunks=(X.chunks[0], *((n,) for n in shape[1:])),
            drop_axis=None if matrix else 1,
        )


def _is_collection(X: Any) -> bool:
    return bool(dask.is_dask_collection(X))


def _client() -> Client:
    try:
        return default_client()
    except ValueError:
        raise RuntimeError(
            "a fit over Dask collections needs a client of dask.distributed, and there is none: "
            "client = distributed.Client() starts workers on this machine (a LocalCluster), "
            "distributed.Client('tcp://HOST:8786') uses those of a scheduler elsewhere"
        ) from None


def _require_no_offset(offset: Any) -> None:
    if offset is not None:
        raise ValueError(f"offset must be None for Dask collections, got {type(offset).__name__}")


def _columns(X: Any) -> tuple[np.dtype[Any], list[Any] | None]:
    """The dtype in which X is taken, and the names of the columns of a data frame."""
    names: list[Any] | None = None
    if is_dataframe_like(X):
        names, dtypes = list(X.columns), list(X.dtypes)
        wrong = [name for name, t in zip(names, dtypes, strict=True) if getattr(t, "kind", "O") not in "fiub"]
        if wrong:
            raise ValueError(f"X must have columns of numbers, those are not: {listed(wrong)}")
    elif isinstance(X, da.Array) and X.ndim == 2:
        dtypes = [X.dtype]
        if X.dtype.kind not in "fiub":
            raise ValueError(f"X must hold real numbers, got {X.dtype}")
    else:
        raise ValueError(f"X must be a Dask array of shape (n, p) or a Dask data frame, got {X!r}")
    single = all(t == np.float32 for t in dtypes)
    return np.dtype(np.float32 if single else np.float64), names


def _aligned(X: Any, y: Any, weight: Any) -> Iterator[tuple[Delayed, Delayed, Delayed | None]]:
    """Block after block of X with that of y and that of the weights, or None."""
    if y is None:
        raise ValueError("y must be a Dask array or series of labels, got None")
    sizes = _sizes(X)
    blocks, labels = _blocks(_one_block_a_row(X)), _blocks(_cut_like(sizes, "y", y))
    weights = [None] * len(sizes) if weight is None else _blocks(_cut_like(sizes, "sample_weight", weight))
    return zip(blocks, labels, weights, strict=True)


def _cut_like(sizes: tuple[float, ...], name: str, values: Any) -> Any:
    """One value a row, in blocks as X has them."""
    if not (dask.is_dask_collection(values) and (is_series_like(values) or getattr(values, "ndim", 0) == 1)):
        raise ValueError(
            f"{name} must be a Dask array or series of shape (n,), as X is one, got {type(values).__name__} of shape "
            f"{getattr(values, 'shape', '?')}; dask.array.from_array makes one of an array in memory"
        )
    own = _sizes(values)
    if not np.isnan(sizes + own).any():
        if sum(own) != sum(sizes):
            raise ValueError(f"{name} must have one value per row of X: X has {sum(sizes)} rows, {name} {sum(own)}")
        return values if own == sizes else values.rechunk((sizes,))
    if len(own) != len(sizes):
        raise ValueError(
            f"{name} must be partitioned as X is: X has {len(sizes)} partitions, {name} has {len(own)}, and the sizes "
            "of one of them are not known, which compute_chunk_sizes() of a Dask array would find"
        )
    return values


def _sizes(values: Any) -> tuple[float, ...]:
    """The numbers of rows of the partitions, NaN where they are not known."""
    return tuple(values.chunks[0]) if isinstance(values, da.Array) else (np.nan,) * values.npartitions


def _blocks(values: Any) -> list[Delayed]:
    """What stands for each partition.

    Not optimised: two selections of columns of the same Parquet files would then read the files twice, and may have
    other numbers of partitions.
    """
    blocks = values.to_delayed(optimize_graph=False)
    return list(blocks.ravel() if isinstance(values, da.Array) else blocks)


def _as_array(frame: Any, dtype: np.dtype[Any], n_features: int) -> da.Array:
    """The rows of a data frame as an array of the same partitions, which `to_dask_array` may merge."""
    block = delayed(dense_rows, pure=True)
    shape = (np.nan, n_features)
    return da.concatenate([da.from_delayed(block(part, dtype), shape, dtype) for part in _blocks(frame)])


def _one_block_a_row(X: Any) -> Any:
    """X with whole rows in each block."""
    return X.rechunk({1: -1}) if isinstance(X, da.Array) and X.ndim == 2 and X.numblocks[1] > 1 else X


def _predict_block(
    block: Any, *, model: Any, method: str, empty: NDArray[Any], block_id: tuple[int, ...] = (0,)
) -> NDArray[Any]:
    if not block.shape[0]:
        return empty
    try:
        return np.asarray(getattr(model, method)(block))
    except ValueError as error:
        raise ValueError(f"partition {block_id[0]}: {error}") from error


def _count_right(number: int, predicted: NDArray[Any], y: Any, weight: Any) -> tuple[float, float]:
    """The sums of the weights of the rows whose label is predicted, and of all."""
    y = np.asarray(y)
    weight = None if weight is None else np.asarray(weight, dtype=np.float64)
    for name, value in (("y", y), ("sample_weight", weight)):
        if value is not None and value.shape != predicted.shape:
            raise ValueError(f"partition {number}: X has {len(predicted)} rows, but {name} has the shape {value.shape}")
    return count_right(predicted, y, weight)
