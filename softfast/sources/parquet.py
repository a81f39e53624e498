"""Chunks of rows from Parquet and Arrow files and folders of them, by Arrow."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softfast.sources.readahead import read_ahead
from softfast.sources.readers import Chunk, Columns, Real, RowsError, as_array, chunk_rows, require_state, state_of
from softfast.tables.arrow import choose_columns, read_labels, require_own_names, type_of, values_of
from softfast.tables.common import ACCEPTED, Request, TableError, columns_are

# By the ending of a file: its format as Arrow calls it, and as a message does.
_FORMATS = {
    ".parquet": ("parquet", "Parquet"),
    ".pq": ("parquet", "Parquet"),
    ".arrow": ("ipc", "Arrow"),
    ".feather": ("ipc", "Arrow"),
}

# Read at once of each column.
_BUFFER_BYTES = 2**16


@dataclass(frozen=True, eq=False)
class _Piece:
    """Rows of one file; the first is its row number `row`."""

    columns: list[Real]
    labels: NDArray[Any] | None
    weight: Real | None
    path: Path
    row: int


class ParquetReader:
    """Reads the columns that are needed, of one file after another in the order of the files' names.

    If not `labelled`, there are no labels, and the column `target`, if there is one, is no feature.
    """

    slow = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        target: str | None,
        features: Sequence[str] | None,
        weight: str | None,
        *,
        labelled: bool = True,
    ) -> None:
        self.name = str(path)
        self._files = _files(Path(path))
        self._states = [state_of(file) for file in self._files]
        first, names = self._files[0], self._schema(self._files[0]).names
        # An index that pandas keeps is no column of the table, and pandas does not read it as one.
        names = [name for name in names if not name.startswith("__index_level_")]
        if weight is not None and weight not in names:
            raise RowsError(f"{first}: there is no column {weight!r} of weights; {columns_are(names)}")
        request = Request(target, features, None, labelled=labelled and target is not None)
        features, self._target = choose_columns(first, names, request)
        self._weight = weight
        self.feature_names: list[str] | None = [name for name in features if name != weight]
        self._features = self.feature_names
        if not self._features:
            raise RowsError(f"{path}: X has no features; expected one at least")
        others = [name for name in (self._target, weight) if name is not None]
        self._columns = list(dict.fromkeys([*self._features, *others]))
        self._types = [self._schema(first).field(name).type for name in self._columns]
        self._dtype = type_of(self._schema(first), self._features)
        self._require_numbers(first)
        self._n_rows = sum(map(self._look, self._files))
        if not self._n_rows:
            raise RowsError(f"{path}: has no rows; expected one at least")

    def chunks(self) -> Iterator[Chunk]:
        """One reading of all rows: a chunk is a batch that Arrow decodes, or several small ones."""
        step = chunk_rows(len(self._features), self._dtype.itemsize)
        pieces: list[_Piece] = []
        n_rows = 0
        for path, state in zip(self._files, self._states, strict=True):
            require_state(path, state)
            row = 0
            # The next batch is decoded while this one is looked at.
            with closing(read_ahead(self._batches(path))) as batches:
                for batch in batches:
                    if len(batch):
                        pieces.append(self._piece(batch, path, row))
                    row, n_rows = row + len(batch), n_rows + len(batch)
                    if 2 * n_rows >= step:
                        yield _joined(pieces)
                        pieces, n_rows = [], 0
        if pieces:
            yield _joined(pieces)

    def again(self) -> Iterator[Real]:
        """The X of the chunks, decoded once more."""
        return (as_array(chunk.X) for chunk in self.chunks())

    def verify(self) -> None:
        """Nothing: what has been decoded is a copy."""

    def checksum(self, X: Real | Columns) -> int:
        """None: later passes of a fit read the copy on disk."""
        return 0

    def size(self) -> int | None:
        """Bytes of X."""
        return self._n_rows * len(self._features) * self._dtype.itemsize

    def _piece(self, batch: Any, path: Path, row: int) -> _Piece:
        """The rows of a record batch, the first of which is `row` of its file."""
        import pyarrow as pa

        def where(name: str) -> Any:
            return partial(_cell, path, row, name)

        columns = [values_of(batch.column(name), self._dtype, where(name)) for name in self._features]
        labels = weight = None
        if self._target is not None:
            labels = read_labels(pa.chunked_array([batch.column(self._target)]), where(self._target))
        if self._weight is not None:
            weight = values_of(batch.column(self._weight), np.dtype(np.float64), where(self._weight))
        return _Piece(columns, labels, weight, path, row)

    def _open(self, path: Path) -> Any:
        """The file as Arrow's fragment of a data set: a whole data set refuses names that come twice as damage."""
        import pyarrow as pa
        from pyarrow import dataset, fs

        kind = dataset.ParquetFileFormat if _FORMATS[path.suffix.lower()][0] == "parquet" else dataset.IpcFileFormat
        try:
            file = kind().make_fragment(str(path), fs.LocalFileSystem())
            require_own_names(path, file.physical_schema.names)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
        return file

    def _schema(self, path: Path) -> Any:
        return self._open(path).physical_schema

    def _require_numbers(self, path: Path) -> None:
        """An error that names the first feature that can't hold numbers."""
        from pyarrow import types

        numbers = [types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null]
        for name, kind in zip(self._columns, self._types, strict=True):
            if name != self._target and not any(test(kind) for test in numbers):
                raise RowsError(f"{path}, column {name!r}: is of type {kind}; {ACCEPTED}; name the columns to read")

    def _look(self, path: Path) -> int:
        """How many rows a file has, once its columns are known to be those of the first."""
        import pyarrow as pa

        file = self._open(path)
        schema = file.physical_schema
        for name, kind in zip(self._columns, self._types, strict=True):
            position = schema.get_field_index(name)
            if position < 0:
                raise RowsError(f"{path}: there is no column {name!r}, which {self._files[0]} has")
            if schema.field(position).type != kind:
                seen = schema.field(position).type
                raise RowsError(f"{path}, column {name!r}: is of type {seen}, but of {kind} in {self._files[0]}")
        try:
            return int(file.count_rows())
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error

    def _batches(self, path: Path) -> Iterator[Any]:
        """Record batches of a file; Arrow decodes several columns at once."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        step = chunk_rows(len(self._features), self._dtype.itemsize)
        try:
            if _FORMATS[path.suffix.lower()][0] == "parquet":
                # A data set decodes whole row groups, and some at once: 5 million rows of 54 float32 in groups of a
                # million took 690 MiB, against 290 so, in the same time on the processors.
                with ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
                    yield from file.iter_batches(batch_size=step, columns=self._columns)
            else:
                yield from self._open(path).to_batches(
                    columns=self._columns, batch_size=step, batch_readahead=2, fragment_readahead=1
                )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(path, error) from error


def _joined(pieces: list[_Piece]) -> Chunk:
    """The rows of all pieces as a chunk; those of a single one are not copied."""
    columns = [_concatenated(column) for column in zip(*(piece.columns for piece in pieces), strict=True)]
    ends = np.cumsum([len(piece.columns[0]) for piece in pieces])
    origins = [(begin, piece.path, piece.row) for begin, piece in zip([0, *ends], pieces, strict=False)]
    labels = _concatenated([piece.labels for piece in pieces])
    weight = _concatenated([piece.weight for piece in pieces])
    return Chunk(Columns(columns), labels, weight, partial(_origin, origins))


def _concatenated(arrays: Sequence[Any]) -> Any:
    """One array, without a copy where it is alone; None if there is none."""
    return arrays[0] if len(arrays) == 1 or arrays[0] is None else np.concatenate(arrays)


def _files(path: Path) -> list[Path]:
    """The file, or those in a folder and its folders."""
    if not path.exists():
        raise RowsError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix.lower() not in _FORMATS:
            raise RowsError(f"{path}: unknown ending {path.suffix!r}; accepted are {', '.join(_FORMATS)}")
        return [path]
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in _FORMATS and file.is_file() and not file.name.startswith((".", "_"))
    ]
    if not files:
        raise RowsError(f"{path}: there are no files with the endings {', '.join(_FORMATS)} in this folder")
    return files


def _damaged(path: Path, error: Exception) -> TableError:
    detail = str(error).splitlines()[0] if str(error) else type(error).__name__
    return TableError(f"{path}: damaged or cut off, not a whole {_FORMATS[path.suffix.lower()][1]} file ({detail})")


def _cell(path: Path, begin: int, name: str, row: int) -> str:
    return f"{path}, row {begin + row + 1}, column {name!r}"


def _origin(origins: list[tuple[int, Path, int]], row: int) -> str:
    begin, path, first = next(origin for origin in reversed(origins) if origin[0] <= row)
    return f"{path}, row {first + row - begin + 1}"
