"""Rows that need not fit in memory: from NumPy's files, Parquet and Arrow files, and from iterators of batches."""

import os
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

from numpy.typing import ArrayLike

from softfast.sources.parquet import ParquetReader
from softfast.sources.readers import BatchReader, NpyReader
from softfast.sources.streamed import StreamedRows


def from_npy(
    X: str | os.PathLike[str],
    y: str | os.PathLike[str] | ArrayLike | None = None,
    *,
    weight: str | os.PathLike[str] | ArrayLike | None = None,
) -> StreamedRows:
    """Rows of an array in a ``.npy`` file, which is mapped into memory and read in place in every pass.

    Parameters
    ----------
    X : path_like
        A file of `numpy.save`: float32 or float64 of shape (n, p), in C or F order, finite.
    y : path_like or array_like of shape (n,), optional
        Labels of any kind, in such a file too or in memory; none are needed to predict.
    weight : path_like or array_like of shape (n,), optional
        Weights >= 0 of the rows, not all zero.

    Returns
    -------
    StreamedRows
        In place of X for `SoftmaxRegression.fit` and its predictions. A fit keeps one to four bytes for each label and
        eight for each weight in memory.

    Raises
    ------
    ValueError
        If a file can't be used; the message names it. What is wrong with single rows is found by the first pass.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import softfast
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder) / "X.npy", X)
    ...     model = softfast.SoftmaxRegression().fit(softfast.from_npy(Path(folder) / "X.npy", y))
    >>> model.converged_
    True
    """
    return StreamedRows(NpyReader(X, y, weight))


def from_parquet(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    columns: Sequence[str] | None = None,
    weight: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_limit: int | None = None,
) -> StreamedRows:
    """Rows of a Parquet or Arrow file, or of all such files in a folder, in the order of their names.

    Decoding takes several times as long as an evaluation. So the first pass of a fit writes the numbers to a file from
    which the others read them: as large as X in memory, without a name in its folder, and gone when the rows are closed
    or the process ends, however it does. A prediction without a fit decodes as it goes, and writes none.

    Parameters
    ----------
    path : path_like
        A file ending in ``.parquet``, ``.pq``, ``.arrow`` or ``.feather``, or a folder of them, at any depth; names
        that begin with a dot or an underscore are passed over. All must have the columns of the first, of the same
        types.
    target : str, optional
        The column of labels: integers, floats, booleans or strings; none is needed to predict.
    columns : sequence of str, optional
        The columns of X, in this order; by default all but `target` and `weight`. They must hold numbers, or true and
        false. X is float32 where that holds all of them exactly, else float64.
    weight : str, optional
        A column of weights >= 0, not all zero.
    cache : path_like, optional
        The folder for that file, by default that of temporary files, which on many systems is in memory: for large data
        name one on a disk.
    cache_limit : int, optional
        Bytes that the file may take; by default what is free.

    Returns
    -------
    StreamedRows
        In place of X for `SoftmaxRegression.fit` and its predictions.

    Raises
    ------
    ValueError
        If a file can't be used; the message names it, and the column and row if there is one.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import softfast
    >>> from sklearn.datasets import load_iris
    >>> table = load_iris(as_frame=True).frame
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table[:100].to_parquet(Path(folder) / "1.parquet")
    ...     table[100:].to_parquet(Path(folder) / "2.parquet")
    ...     with softfast.from_parquet(folder, target="target") as rows:
    ...         model = softfast.SoftmaxRegression().fit(rows)
    >>> model.feature_names_in_.tolist()[0]
    'sepal length (cm)'
    """
    if isinstance(columns, str):
        raise ValueError(f"columns must be a list of names, got the string {columns!r}")
    for name, column in (("target", target), ("weight", weight)):
        if column is not None and columns is not None and column in columns:
            raise ValueError(f"columns must be those of X alone, but {column!r} is the {name}")
    if weight is not None and weight == target:
        raise ValueError(f"weight must be another column than the target, got {weight!r} for both")
    if cache_limit is not None and not (isinstance(cache_limit, Integral) and cache_limit >= 0):
        raise ValueError(f"cache_limit must be None or an integer >= 0, bytes, got {cache_limit!r}")
    return StreamedRows(ParquetReader(path, target, columns, weight), cache=cache, cache_limit=cache_limit)


def from_batches(factory: Callable[[], Iterable[Any]]) -> StreamedRows:
    """Rows that a function yields in batches, the same ones each time it is called.

    Parameters
    ----------
    factory : callable
        Called without arguments for every pass, some tens of times in a fit; returns a new iterator of tuples
        ``(X, y)`` or ``(X, y, weight)``: arrays of shape (m, p), (m,) and (m,), y None for rows to predict. Every call
        must yield the same rows in the same batches, in the same order in memory; a pass of a fit in which a value of X
        differs is an error. It runs in a thread, one batch ahead: a batch must not be changed after it has been
        yielded. Batches of some megabytes serve best.

    Returns
    -------
    StreamedRows
        In place of X for `SoftmaxRegression.fit` and its predictions.

    Raises
    ------
    TypeError
        If `factory` is not callable: an iterator gives its rows once, and a fit reads them many times.

    Examples
    --------
    >>> import numpy as np
    >>> import softfast
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> def batches():
    ...     for begin in range(0, 150, 50):
    ...         yield X[begin : begin + 50], y[begin : begin + 50]
    >>> model = softfast.SoftmaxRegression().fit(softfast.from_batches(batches))
    >>> model.classes_
    array([0, 1, 2])
    """
    return StreamedRows(BatchReader(factory))
