"""Tables in files: CSV, Parquet, NPZ and LIBSVM in, predictions out.

X is float32 where that holds every feature exactly (float16, float32, booleans, integers up to 16 bits), float64
otherwise; numbers in CSV and LIBSVM files have no width and are read as float64. Columns of CSV and Parquet files are
copied one by one into an F-order array, which the kernels read as it is.
"""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softfast.files import InputError, half_of_memory, replacing

Real = NDArray[np.float32] | NDArray[np.float64]

_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$|^\s*[+-]?(inf|Inf|nan|NaN)\s*$|^$"
_ACCEPTED = "features are finite numbers, or true and false"
_LABELS = "integers, floats, booleans or strings"

# A line must fit in a block.
_CSV_BLOCK = 4 * 2**20


class TableError(InputError):
    """A file that can't be used as a table; the message names the file and the place in it."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers and their labels.

    X : (n, p), float32 or float64, C or F order
    y : (n,), integers, floats, booleans or strings, or None
    feature_names : p names, or None where the file has none
    """

    X: Real
    y: NDArray[Any] | None
    feature_names: list[str] | None


@dataclass(frozen=True)
class _Request:
    """The arguments of `read_table`, for the reader of each kind of file."""

    target: str | None
    features: Sequence[str] | None
    n_features: int | None
    labelled: bool


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
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".pq": _read_parquet,
        ".npz": _read_npz,
        ".svm": _read_libsvm,
        ".libsvm": _read_libsvm,
        ".svmlight": _read_libsvm,
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
        table = reader(path, _Request(target, features, n_features, labelled), head)
    except MemoryError as error:
        raise TableError(f"{path}: the table does not fit in memory ({error})") from error
    if n_features is not None and table.X.shape[1] != n_features:
        seen = _count(table.X.shape[1], "feature")
        raise TableError(f"{path}: has {seen}; expected {n_features}, as the model has")
    return table


def write_predictions(
    path: str | os.PathLike[str], labels: NDArray[Any], proba: NDArray[Any], classes: NDArray[Any]
) -> None:
    """Write predicted labels and probabilities, whole or not at all.

    Parameters
    ----------
    path : path_like
        Ends in ``.csv``, ``.parquet`` or ``.pq``.
    labels : ndarray of shape (n,)
        The column ``prediction``.
    proba : ndarray of shape (n, K)
        The columns ``proba_<class>``.
    classes : ndarray of shape (K,)

    Raises
    ------
    TableError
        If the ending is another.
    OSError
        If the file can't be written.
    """
    require_predictions_ending(path)
    import pyarrow as pa

    columns = {"prediction": pa.array(labels)}
    for name, column in zip(classes.tolist(), proba.T, strict=True):
        columns[f"proba_{name}"] = pa.array(np.ascontiguousarray(column))
    table = pa.table(columns)
    with replacing(path) as temporary:
        if temporary.suffix.lower() == ".csv":
            from pyarrow.csv import write_csv

            write_csv(table, temporary)
        else:
            from pyarrow.parquet import write_table

            write_table(table, temporary)


def require_predictions_ending(path: str | os.PathLike[str]) -> None:
    """An error if `write_predictions` does not know the ending."""
    ending = Path(path).suffix
    if ending.lower() not in (".csv", ".parquet", ".pq"):
        raise TableError(f"{path}: unknown ending {ending!r}; predictions are written to .csv, .parquet or .pq")


def _read_csv(path: Path, request: _Request, head: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    if head.startswith((b"PAR1", b"PK\x03\x04", b"\x1f\x8b")) or b"\0" in head:
        raise TableError(f"{path}: is not a CSV file: it begins with {head!r}; expected text with commas")
    line, names = next(_csv_records(path), (1, [""]))
    if "" in names:
        # pandas writes its index so: as a feature it would give the order of the rows away.
        raise TableError(f"{path}, line {line}: column {names.index('') + 1} has no name; every column needs one")
    features, target = _choose_columns(path, names, request)

    def read(types: dict[str, Any]) -> Any:
        return arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(block_size=_CSV_BLOCK),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=features if target is None else [*features, target],
                column_types=types,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    # Where Arrow infers the type of any column it keeps all text until the end: 830 MiB against 470 for 240 MiB of X.
    labels = {} if target is None else {target: pa.dictionary(pa.int32(), pa.string())}
    try:
        try:
            table = read({**dict.fromkeys(features, pa.float64()), **labels})
        except pa.ArrowInvalid:
            # A column of true and false, or one to complain of.
            table = read(labels)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        for line, record in islice(_csv_records(path), 1, None):
            if len(record) != len(names):
                seen, accepted = _count(len(record), "value"), _count(len(names), "column")
                raise TableError(f"{path}, line {line}: {seen}, but line 1 names {accepted}") from error
        raise TableError(f"{path}: can't be read as CSV: {str(error).splitlines()[0]}") from error
    if table.num_rows == 0:
        raise TableError(f"{path}: names {_count(len(names), 'column')}, but has no rows; expected one at least")

    def place(row: int) -> str:
        record = next(islice(_csv_records(path), row + 1, None), None)
        return f"row {row + 1}" if record is None else f"line {record[0]}"

    _require_closed_quotes(path)
    n_rows, schema = table.num_rows, table.schema
    columns = {name: table.column(name) for name in table.column_names}
    # Each column's memory is free again once it is copied.
    del table
    if target is not None:
        columns[target] = _parse_labels(columns[target])
    return _assemble(path, n_rows, features, target, schema, columns.pop, place)


def _parse_labels(column: Any) -> Any:
    """Labels written as text, as integers, floats or booleans if all of them are that."""
    import pyarrow as pa

    encoded = column.unify_dictionaries().combine_chunks()
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        try:
            return pa.chunked_array([encoded.dictionary.cast(kind).take(encoded.indices)])
        except pa.ArrowInvalid:
            continue
    return column


def _require_closed_quotes(path: Path) -> None:
    """An error for a quote that is never closed: Arrow would take the rest of the file for one label."""
    with path.open("rb") as file:
        count = sum(block.count(b'"') for block in iter(lambda: file.read(_CSV_BLOCK), b""))
    if count % 2:
        for _ in _csv_records(path):
            pass


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank and the lines they end on; slow, for the header and the place of an error."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        line = 0
        try:
            for record in reader:
                line = reader.line_num
                if record:
                    yield line, record
        except UnicodeDecodeError as error:
            raise TableError(f"{path}: is not UTF-8 text ({error.reason})") from error
        except csv.Error as error:
            raise TableError(f"{path}, line {line + 1}: is not CSV ({error})") from error


def _read_parquet(path: Path, request: _Request, head: bytes) -> Table:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if not head.startswith(b"PAR1"):
        raise TableError(f"{path}: is not a Parquet file: it begins with {head!r}; expected b'PAR1'")
    try:
        with ParquetFile(path) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
            # An index that pandas keeps is no column of the table, and pandas does not read it as one.
            names = [name for name in schema.names if not name.startswith("__index_level_")]
            features, target = _choose_columns(path, names, request)
            if n_rows < 1:
                raise TableError(
                    f"{path}: names {_count(len(names), 'column')}, but has no rows; expected one at least"
                )
            return _assemble(
                path,
                n_rows,
                features,
                target,
                schema,
                lambda name: file.read(columns=[name]).column(name),
                lambda row: f"row {row + 1}",
            )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: damaged or cut off, not a whole Parquet file ({error})") from error


def _choose_columns(path: Path, names: Sequence[str], request: _Request) -> tuple[list[str], str | None]:
    """The features' columns, and the target's if labels are asked for."""
    target = request.target
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TableError(f"{path}: two columns have the name {twice!r}; every column needs its own")
    if request.labelled and target not in names:
        asked = "the column of labels must be named (target)" if target is None else f"there is no column {target!r}"
        raise TableError(f"{path}: {asked}; {_columns(names)}")
    if request.features is None:
        features = [name for name in names if name != target]
        if not features:
            raise TableError(f"{path}: there is no column of features; {_columns(names)}")
    else:
        features = list(request.features)
        missing = [name for name in features if name not in set(names)]
        if missing:
            raise TableError(f"{path}: the model's features {_listed(missing)} are missing; {_columns(names)}")
    return features, target if request.labelled else None


def _assemble(
    path: Path,
    n_rows: int,
    features: list[str],
    target: str | None,
    schema: Any,
    read_column: Callable[[str], Any],
    place: Callable[[int], str],
) -> Table:
    """The table of Arrow columns: each is read, copied into X and let go before the next."""
    from pyarrow import types

    exact = [types.is_boolean, types.is_int8, types.is_uint8, types.is_int16, types.is_uint16]
    exact += [types.is_float16, types.is_float32]
    single = all(any(test(schema.field(name).type) for test in exact) for name in features)
    X = np.empty((n_rows, len(features)), dtype=np.float32 if single else np.float64, order="F")
    for name, out in zip(features, X.T, strict=True):
        _fill(out, read_column(name), partial(_where, path, name, place))
    y = None if target is None else _labels(read_column(target), partial(_where, path, target, place))
    return Table(X, y, features)


def _where(path: Path, name: str, place: Callable[[int], str], row: int) -> str:
    return f"{path}, {place(row)}, column {name!r}"


def _fill(out: Real, column: Any, where: Callable[[int], str]) -> None:
    """Copy an Arrow column of numbers into out (n,), or say which value is none."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    kind = column.type
    if types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_null(kind)):
        try:
            row = pc.index(pc.match_substring_regex(column.cast(pa.large_string()), _NUMBER), False).as_py()
        except pa.ArrowException:
            row = 0
        if row < 0:
            # A column of text that holds digits alone.
            row = pc.index(column.is_valid(), True).as_py()
        raise TableError(f"{where(row)}: got {_short(column[row].as_py())} ({kind}); {_ACCEPTED}")
    if column.null_count:
        raise TableError(f"{where(pc.index(column.is_null(), True).as_py())}: a value is missing; {_ACCEPTED}")
    begin = 0
    for chunk in column.chunks:
        out[begin : begin + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
        begin += len(chunk)
    finite = np.isfinite(out)
    if not finite.all():
        row = int(finite.argmin())
        raise TableError(f"{where(row)}: got {out[row]}; {_ACCEPTED}")


def _labels(column: Any, where: Callable[[int], str]) -> NDArray[Any]:
    """Labels (n,) of an Arrow column: numbers and booleans as they are, anything else as text."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    kind = column.type
    if column.null_count:
        raise TableError(f"{where(pc.index(column.is_null(), True).as_py())}: the label is missing")
    if types.is_integer(kind) or types.is_boolean(kind):
        return np.asarray(column.to_numpy())
    if types.is_floating(kind):
        labels = np.asarray(column.to_numpy())
        finite = np.isfinite(labels)
        if not finite.all():
            row = int(finite.argmin())
            raise TableError(f"{where(row)}: got the label {labels[row]}; labels are {_LABELS}")
        return labels
    try:
        text = column.cast(pa.large_string()).combine_chunks()
    except pa.ArrowException as error:
        raise TableError(f"{where(0)}: got labels of type {kind}; labels are {_LABELS}") from error
    empty = pc.index(text, "").as_py()
    if empty >= 0:
        raise TableError(f"{where(empty)}: the label is missing")
    encoded = text.dictionary_encode()
    values = np.array(encoded.dictionary.to_pylist(), dtype=str)
    return np.asarray(values[encoded.indices.to_numpy()])


def _read_npz(path: Path, request: _Request, head: bytes) -> Table:
    if not head.startswith(b"PK"):
        raise TableError(f"{path}: is not an NPZ file: it begins with {head!r}; expected b'PK'")
    wanted = ["X", request.target or "y"] if request.labelled else ["X"]
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            present = list(archive.files)
            arrays = [archive[name] for name in wanted if name in present]
    except MemoryError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy have no common base for what a damaged file makes them raise
        raise TableError(f"{path}: damaged, or holds Python objects, which are not read ({error})") from error
    for name in wanted:
        if name not in present:
            raise TableError(f"{path}: there is no array {name!r}; the arrays are {_listed(present)}")
    X = arrays[0]
    for name, array in zip(wanted, arrays, strict=True):
        if not isinstance(array, np.ndarray):
            raise TableError(f"{path}: {name!r} is not an array in NumPy's format")
    if X.ndim != 2 or X.dtype.kind not in "biuf":
        raise TableError(f"{path}: X must hold numbers of shape (n, p), got {X.dtype} of shape {X.shape}")
    if 0 in X.shape:
        raise TableError(f"{path}: X must have one row and one feature at least, got shape {X.shape}")
    single = X.dtype.kind == "b" or X.itemsize <= (4 if X.dtype.kind == "f" else 2)
    X = np.require(X, dtype=np.float32 if single else np.float64)
    finite = np.isfinite(X)
    if not finite.all():
        at = tuple(int(i) for i in np.unravel_index(int(finite.argmin()), X.shape))
        raise TableError(f"{path}, X{list(at)}: got {X[at]}; {_ACCEPTED}")
    if not request.labelled:
        return Table(X, None, None)
    y = arrays[1]
    if y.shape != X.shape[:1] or y.dtype.kind not in "biufU":
        accepted = f"{_LABELS}, of shape {X.shape[:1]}"
        raise TableError(f"{path}: {wanted[1]} must hold {accepted}, got {y.dtype} of shape {y.shape}")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = int(np.isfinite(y).argmin())
        raise TableError(f"{path}, {wanted[1]}[{row}]: got the label {y[row]}; labels are {_LABELS}")
    return Table(X, y, None)


def _read_libsvm(path: Path, request: _Request, head: bytes) -> Table:
    from sklearn.datasets import load_svmlight_file

    try:
        # Indices begin at 1, as LIBSVM has it: guessing would shift a file whose first feature is always zero.
        rows, y = load_svmlight_file(path, zero_based=False)
    except MemoryError:
        raise
    except Exception as error:  # the reader raises what its parts raise
        raise TableError(_libsvm_fault(path) or f"{path}: can't be read as LIBSVM: {error}") from error
    if 0 in rows.shape:
        raise TableError(f"{path}: has no rows, or no features; expected one at least of each")
    finite = np.isfinite(rows.data)
    if not finite.all():
        entry = int(finite.argmin())
        line = _libsvm_line(path, int(np.searchsorted(rows.indptr, entry, side="right")) - 1)
        feature, value = rows.indices[entry] + 1, rows.data[entry]
        raise TableError(f"{path}, line {line}, feature {feature}: got {value}; {_ACCEPTED}")
    if not np.isfinite(y).all():
        row = int(np.isfinite(y).argmin())
        raise TableError(f"{path}, line {_libsvm_line(path, row)}: got the label {y[row]}; labels are {_LABELS}")
    n_rows, n_features = rows.shape
    if request.n_features is not None and n_features < request.n_features:
        # The file stores no zeros, so its last features may be absent.
        n_features = request.n_features
        rows.resize((n_rows, n_features))
    size, limit = 8 * n_rows * n_features, half_of_memory()
    if size > limit:
        raise TableError(
            f"{path}: {n_rows} rows of {n_features} features would take {size / 2**30:.3g} GiB as a dense array; "
            f"accepted is half of the memory, {limit / 2**30:.3g} GiB"
        )
    integral = bool((y == np.trunc(y)).all()) and bool((np.abs(y) < 2**53).all())
    return Table(rows.toarray(), (y.astype(np.int64) if integral else y) if request.labelled else None, None)


def _libsvm_records(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """The lines that hold a row, split, and their numbers."""
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            fields = text.split(b"#")[0].split()
            if fields:
                yield line, fields


def _libsvm_line(path: Path, row: int) -> int:
    return next(islice(_libsvm_records(path), row, None))[0]


def _libsvm_fault(path: Path) -> str | None:
    """What is wrong with the first line that is not ``label index:value index:value ...``, if any is."""
    for line, fields in _libsvm_records(path):
        field, previous = fields[0], 0
        try:
            float(field)
            for field in fields[1:]:
                key, value = field.split(b":")
                if key == b"qid":
                    continue
                float(value)
                if int(key) <= previous:
                    raise ValueError
                previous = int(key)
        except ValueError:
            accepted = "a label, then index:value for each feature that is not zero, the indices rising from 1"
            return f"{path}, line {line}: got {_short(field)}; expected {accepted}"
    return None


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(_short(name) for name in names[:8])
    return f"{shown}, ... ({len(names)})" if len(names) > 8 else shown or "none"


def _columns(names: Sequence[str]) -> str:
    """What columns there are, for a message."""
    hint = " (columns are separated by commas)" if len(names) == 1 and any(c in names[0] for c in ";\t|") else ""
    return f"the columns are {_listed(names)}{hint}"
