"""Rows that need not fit in memory: from NumPy's files, and from iterators of batches."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from numpy.typing import ArrayLike

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


def from_batches(factory: Callable[[], Iterable[Any]]) -> StreamedRows:
    """Rows that a function yields in batches, the same ones each time it is called.

    Parameters
    ----------
    factory : callable
        Called without arguments for every pass, some tens of times in a fit; returns a new iterator of tuples
        ``(X, y)`` or ``(X, y, weight)``: arrays of shape (m, p), (m,) and (m,), y None for rows to predict. Every call
        must yield the same rows in the same batches. It runs in a thread, one batch ahead: a batch must not be changed
        after it has been yielded. Batches of some megabytes serve best.

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
