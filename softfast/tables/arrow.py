"""CSV and Parquet files, by Arrow."""

import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softfast.tables.common import ACCEPTED, LABELS, Real, Request, Table, TableError, columns_are, count, listed, short

# What Arrow reads as a number, to find the first text that is none.
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$|^\s*[+-]?(inf|Inf|nan|NaN)\s*$|^$"

# A line must fit in a block.
_CSV_BLOCK = 4 * 2**20


def read_csv(path: Path, request: Request, head: bytes) -> Table:
    """UTF-8 text with commas; the first line names the columns."""
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    if head.startswith((b"PAR1", b"PK\x03\x04", b"\x1f\x8b")) or b"\0" in head:
        raise TableError(f"{path}: is not a CSV file: it begins with {head!r}; expected text with commas")
    line, names = next(_csv_records(path), (1, [""]))
    if "" in names:
        # pandas writes its index so: as a feature it would give the order of the rows away.
        raise TableError(f"{path}, line {line}: column {names.index('') + 1} has no name; every column needs one")
    features, target = choose_columns(path, names, request)

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
                seen, accepted = count(len(record), "value"), count(len(names), "column")
                raise TableError(f"{path}, line {line}: {seen}, but line 1 names {accepted}") from error
        raise TableError(f"{path}: can't be read as CSV: {str(error).splitlines()[0]}") from error
    if table.num_rows == 0:
        raise TableError(f"{path}: names {count(len(names), 'column')}, but has no rows; expected one at least")

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
        quotes = sum(block.count(b'"') for block in iter(lambda: file.read(_CSV_BLOCK), b""))
    if quotes % 2:
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


def read_parquet(path: Path, request: Request, head: bytes) -> Table:
    """Columns one by one, so that no second copy of the table exists."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if not head.startswith(b"PAR1"):
        raise TableError(f"{path}: is not a Parquet file: it begins with {head!r}; expected b'PAR1'")
    try:
        with ParquetFile(path) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
            # An index that pandas keeps is no column of the table, and pandas does not read it as one.
            names = [name for name in schema.names if not name.startswith("__index_level_")]
            features, target = choose_columns(path, names, request)
            if n_rows < 1:
                raise TableError(f"{path}: names {count(len(names), 'column')}, but has no rows; expected one at least")
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


def require_own_names(path: Path, names: Sequence[str]) -> None:
    """An error that tells the name that two columns have."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TableError(f"{path}: two columns have the name {twice!r}; every column needs its own")


def choose_columns(path: Path, names: Sequence[str], request: Request) -> tuple[list[str], str | None]:
    """The features' columns, and the target's if labels are asked for."""
    target = request.target
    require_own_names(path, names)
    if request.labelled and target not in names:
        asked = "the column of labels must be named (target)" if target is None else f"there is no column {target!r}"
        raise TableError(f"{path}: {asked}; {columns_are(names)}")
    if request.features is None:
        features = [name for name in names if name != target]
        if not features:
            raise TableError(f"{path}: there is no column of features; {columns_are(names)}")
    else:
        features = list(request.features)
        missing = [name for name in features if name not in set(names)]
        if missing:
            raise TableError(f"{path}: the features {listed(missing)} are missing; {columns_are(names)}")
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
    X: Real = np.empty((n_rows, len(features)), dtype=type_of(schema, features), order="F")
    for name, out in zip(features, X.T, strict=True):
        fill(out, read_column(name), partial(_where, path, name, place))
    y = None if target is None else read_labels(read_column(target), partial(_where, path, target, place))
    return Table(X, y, features)


def type_of(schema: Any, features: Sequence[str]) -> np.dtype[Any]:
    """float32 where that holds every feature exactly."""
    from pyarrow import types

    exact = [types.is_boolean, types.is_int8, types.is_uint8, types.is_int16, types.is_uint16]
    exact += [types.is_float16, types.is_float32]
    single = all(any(test(schema.field(name).type) for test in exact) for name in features)
    return np.dtype(np.float32 if single else np.float64)


def _where(path: Path, name: str, place: Callable[[int], str], row: int) -> str:
    return f"{path}, {place(row)}, column {name!r}"


def fill(out: Real, column: Any, where: Callable[[int], str]) -> None:
    """Copy an Arrow column of numbers, in chunks, into out (n,), or say which value is none."""
    begin = 0
    for chunk in _numbers(column, where).chunks:
        out[begin : begin + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
        begin += len(chunk)
    _require_finite(out, where)


def values_of(array: Any, dtype: np.dtype[Any], where: Callable[[int], str]) -> Real:
    """An Arrow array of numbers as one of the dtype (n,), a view where it is of that; or say which value is none."""
    values: Real = _numbers(array, where).to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    _require_finite(values, where)
    return values


def _numbers(column: Any, where: Callable[[int], str]) -> Any:
    """The column, decimals made floats; an error if it is none of numbers, or one is missing."""
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
        raise TableError(f"{where(row)}: got {short(column[row].as_py())} ({kind}); {ACCEPTED}")
    if column.null_count:
        raise TableError(f"{where(pc.index(column.is_null(), True).as_py())}: a value is missing; {ACCEPTED}")
    return column


def _require_finite(values: Real, where: Callable[[int], str]) -> None:
    # NaN spreads to both extremes. They take 0.6 of the time that a mask takes.
    if len(values) and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        row = int(np.isfinite(values).argmin())
        raise TableError(f"{where(row)}: got {values[row]}; {ACCEPTED}")


def read_labels(column: Any, where: Callable[[int], str]) -> NDArray[Any]:
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
            raise TableError(f"{where(row)}: got the label {labels[row]}; labels are {LABELS}")
        return labels
    try:
        text = column.cast(pa.large_string()).combine_chunks()
    except pa.ArrowException as error:
        raise TableError(f"{where(0)}: got labels of type {kind}; labels are {LABELS}") from error
    empty = pc.index(text, "").as_py()
    if empty >= 0:
        raise TableError(f"{where(empty)}: the label is missing")
    encoded = text.dictionary_encode()
    values = np.array(encoded.dictionary.to_pylist(), dtype=str)
    return np.asarray(values[encoded.indices.to_numpy()])
