"""Tables in files: CSV, Parquet, NPZ and LIBSVM in, predictions out.

X is float32 where that holds every feature exactly (float16, float32, booleans, integers up to 16 bits), float64
otherwise; numbers in CSV and LIBSVM files have no width and are read as float64. Columns of CSV and Parquet files are
copied one by one into an F-order array, which the kernels read as it is.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softfast.files import replacing
from softfast.tables.arrays import read_libsvm, read_npz
from softfast.tables.arrow import read_csv, read_parquet
from softfast.tables.common import Request, Table, TableError, count

__all__ = ["Table", "TableError", "read_table", "require_predictions_ending", "write_predictions"]


def read_table(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    n_features: int | None = None,
    labelled: bool = True,
) -> Table:
    r"""Read a table by the ending of its name.

    Parameters
    ----------
    path : path_like
        ``.csv`` (UTF-8, commas, the first line names the columns); ``.parquet`` or ``.pq``; ``.npz`` (the arrays X of
        shape (n, p) and y of shape (n,)); ``.svm``, ``.libsvm`` or ``.svmlight`` (indices from 1; made dense).
    target : str, optional
        The column of labels; in an NPZ file the array of labels, "y" by default. LIBSVM files need none.
    features : sequence of str, optional
        Names of the columns of X, in this order, where the columns have names; others are passed over. By default all
        but `target`.
    n_features : int, optional
        How many features the table must have.
    labelled : bool, default True
        Whether to read labels. If not, ``y`` is None, and the column `target`, if there is one, is passed over.

    Returns
    -------
    Table

    Raises
    ------
    TableError
        If the file can't be read, is not what its ending says, is empty, or holds what can't be used.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from softfast.tables import read_table
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "rows.csv"
    ...     _ = path.write_text("width,height,kind\n1,2.5,a\n3,4,b\n")
    ...     table = read_table(path, target="kind")
    >>> table.X.tolist(), table.y.tolist(), table.feature_names
    ([[1.0, 2.5], [3.0, 4.0]], ['a', 'b'], ['width', 'height'])
    """
    path = Path(path)
    readers = {
        ".csv": read_csv,
        ".parquet": read_parquet,
        ".pq": read_parquet,
        ".npz": read_npz,
        ".svm": read_libsvm,
        ".libsvm": read_libsvm,
        ".svmlight": read_libsvm,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TableError(f"{path}: unknown ending {path.suffix!r}; accepted are {', '.join(readers)}")
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such file"
        raise TableError(f"{path}: {what}; expected a table")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise TableError(f"{path}: can't be read: {error.strerror}") from error
    if not head:
        raise TableError(f"{path}: the file is empty; expected a table of at least one row")
    try:
        table = reader(path, Request(target, features, n_features, labelled), head)
    except MemoryError as error:
        raise TableError(f"{path}: the table does not fit in memory ({error})") from error
    if n_features is not None and table.X.shape[1] != n_features:
        seen = count(table.X.shape[1], "feature")
        raise TableError(f"{path}: has {seen}; expected {n_features}, as the model has")
    return table


def write_predictions(
    path: str | os.PathLike[str], classes: NDArray[Any], batches: Iterable[tuple[NDArray[Any], NDArray[Any]]]
) -> int:
    """Write predicted labels and probabilities batch by batch, all or nothing.

    Parameters
    ----------
    path : path_like
        Ends in ``.csv``, ``.parquet`` or ``.pq``.
    classes : ndarray of shape (K,)
    batches : iterable of (labels, proba)
        Of shapes (m,) and (m, K), for the columns ``prediction`` and ``proba_<class>``.

    Returns
    -------
    int
        The number of rows.

    Raises
    ------
    TableError
        If the ending is another.
    OSError
        If the file can't be written.
    """
    require_predictions_ending(path)
    import pyarrow as pa
    from pyarrow.csv import CSVWriter
    from pyarrow.parquet import ParquetWriter

    kind = CSVWriter if Path(path).suffix.lower() == ".csv" else ParquetWriter
    n_rows = 0
    with replacing(path) as temporary, ExitStack() as stack:
        writer = None
        for labels, proba in batches:
            columns = {"prediction": pa.array(labels)}
            for name, column in zip(classes.tolist(), proba.T, strict=True):
                columns[f"proba_{name}"] = pa.array(np.ascontiguousarray(column))
            table = pa.table(columns)
            if writer is None:
                writer = stack.enter_context(kind(temporary, table.schema))
            writer.write_table(table)
            n_rows += len(labels)
    return n_rows


def require_predictions_ending(path: str | os.PathLike[str]) -> None:
    """An error if `write_predictions` does not know the ending."""
    ending = Path(path).suffix
    if ending.lower() not in (".csv", ".parquet", ".pq"):
        raise TableError(f"{path}: unknown ending {ending!r}; predictions are written to .csv, .parquet or .pq")
