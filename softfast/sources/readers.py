"""Where chunks of rows come from: NumPy's files, mapped, and iterators of batches."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softfast._vectors import checksum
from softfast.files import InputError
from softfast.sources.mapped import Watch
from softfast.validation import as_real

Real = NDArray[np.float32] | NDArray[np.float64]

# What is read at once: large against a team of threads that opens (1 % of the time on one thread, and as fast as all
# rows at once), small against memory, of which a few chunks are in use at a time.
CHUNK_BYTES = 2**24
# A page of the smallest size that is in use.
_PAGE = 4096


class RowsError(InputError):
    """Rows from outside that can't be used; the message names the file or batch and the place in it."""


class Columns:
    """X (m, p), p >= 1, as a decoder leaves it: its columns, each contiguous, of one type, in memory of its own."""

    def __init__(self, columns: Sequence[NDArray[Any]]) -> None:
        self.columns = columns
        self.shape = len(columns[0]), len(columns)
        self.dtype = columns[0].dtype

    def array(self) -> Real:
        """A copy in F order."""
        return np.stack(self.columns).T


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows that are read at once.

    X : (m, p), float32 or float64, its rows or its columns contiguous; `Columns` where the reader is `slow`
    y : (m,) labels as they come, or None
    weight : (m,) numbers, or None
    where : names a row, from 0, in a message
    """

    X: Real | Columns
    y: NDArray[Any] | None
    weight: NDArray[Any] | None
    where: Callable[[int], str]


def as_array(X: Real | Columns) -> Real:
    """X as it is, or its columns copied into one array."""
    return X.array() if isinstance(X, Columns) else X


class Reader(Protocol):
    """Reads the same chunks again and again."""

    name: str
    feature_names: list[str] | None
    slow: bool
    """Whether reading takes much longer than a pass over what has been read; then later passes read a copy."""

    def chunks(self) -> Iterator[Chunk]:
        """One reading of all rows."""
        ...

    def again(self) -> Iterator[Real]:
        """The X of the same chunks, without looking at anything else."""
        ...

    def verify(self) -> None:
        """An error if what has been read, and is not yet let go, may not be what was there when it was opened."""
        ...

    def checksum(self, X: Real | Columns) -> int:
        """What tells the X of a chunk from other values where `verify` can't; else 0."""
        ...

    def size(self) -> int | None:
        """Bytes of X, where that is known before reading."""
        ...


def chunk_rows(n_features: int, itemsize: int) -> int:
    """Rows of a chunk."""
    return max(1, CHUNK_BYTES // (itemsize * max(1, n_features)))


@dataclass(frozen=True)
class _MappedFile:
    """A file as it was when it was opened."""

    path: Path
    state: tuple[int, int]
    watch: Watch


class NpyReader:
    """An array (n, p) in a .npy file, mapped: chunks are views of it, in C or F order, and are never copied."""

    feature_names: list[str] | None = None
    slow = False

    def __init__(self, path: str | os.PathLike[str], y: Any, weight: Any) -> None:
        self.name = str(path)
        self._files: list[_MappedFile] = []
        X = self._X = self._mapped(Path(path), "X")
        if X.ndim != 2 or X.dtype.char not in "fd" or not X.dtype.isnative:
            raise RowsError(f"{path}: X must be float32 or float64 of shape (n, p), got {X.dtype} of shape {X.shape}")
        if 0 in X.shape:
            raise RowsError(f"{path}: X must have one row and one feature at least, got shape {X.shape}")
        self._columns = [self._column("y", y), self._column("weight", weight)]

    def chunks(self) -> Iterator[Chunk]:
        """One reading of all rows."""
        y, weight = self._columns
        begin = 0
        for X in self.again():
            rows = slice(begin, begin + len(X))
            yield Chunk(
                X,
                None if y is None else np.asarray(y[rows]),
                None if weight is None else np.asarray(weight[rows]),
                partial(_row, self.name, begin),
            )
            begin += len(X)

    def again(self) -> Iterator[Real]:
        """Views of X, whose pages are in memory."""
        self.verify()
        step = chunk_rows(self._X.shape[1], self._X.itemsize)
        for begin in range(0, len(self._X), step):
            X = self._X[begin : begin + step]
            touch(X)
            yield X

    def verify(self) -> None:
        """An error if a file has changed, or a page of it could not be read."""
        for file in self._files:
            require_state(file.path, file.state)
            if file.watch.broken:
                raise RowsError(
                    f"{file.path}: can't be read any more: the disk fails, or the file was cut off for a time"
                )

    def checksum(self, X: Real | Columns) -> int:
        """None: a file that is written to changes its state."""
        return 0

    def size(self) -> int | None:
        """Bytes of X."""
        return int(self._X.nbytes)

    def _mapped(self, path: Path, name: str) -> NDArray[Any]:
        """The array in a .npy file."""
        if path.suffix.lower() == ".npz":
            raise RowsError(
                f"{path}: the arrays in an .npz file can't be read in parts; save {name} by numpy.save as .npy, or "
                "load it"
            )
        try:
            state = state_of(path)
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise RowsError(f"{path}: no such file") from error
        except (OSError, ValueError, EOFError) as error:
            raise RowsError(f"{path}: is no whole .npy file of numbers ({error})") from error
        self._files.append(_MappedFile(path, state, Watch(array._mmap)))
        return np.asarray(array)

    def _column(self, name: str, value: Any) -> NDArray[Any] | None:
        """One value a row, from an array or a .npy file."""
        if value is None:
            return None
        array = self._mapped(Path(value), name) if isinstance(value, str | os.PathLike) else np.asarray(value)
        if array.shape != (len(self._X),):
            raise RowsError(f"{name} must have shape ({len(self._X)},), one value a row of X, got {array.shape}")
        return array


def state_of(path: Path) -> tuple[int, int]:
    """What tells that a file has been written to: its size, and when it was changed."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def require_state(path: Path, state: tuple[int, int]) -> None:
    """An error if the file is not in the state in which it was opened."""
    try:
        seen = state_of(path)
    except OSError as error:
        raise RowsError(f"{path}: can't be read any more ({error.strerror})") from error
    if seen != state:
        raise RowsError(f"{path}: the file has changed since it was opened")


def touch(X: Real) -> None:
    """Read a byte of each page, so that whoever reads the rest need not wait for the disk; without the GIL."""
    lines = X if X.flags.c_contiguous else X.T
    lines = lines.reshape(1, -1) if lines.flags.c_contiguous else lines
    lines.view(np.uint8)[:, ::_PAGE].max(initial=0)


def _row(name: str, begin: int, row: int) -> str:
    return f"{name}, row {begin + row}"


class BatchReader:
    """What a function returns each time it is called: an iterator of batches."""

    name = "batches"
    feature_names: list[str] | None = None
    slow = False

    def __init__(self, factory: Callable[[], Iterable[Any]]) -> None:
        if not callable(factory):
            reason = (
                "a fit reads all rows many times, and an iterator gives them once"
                if isinstance(factory, Iterator)
                else f"got {type(factory).__name__}"
            )
            raise TypeError(f"factory must be callable, returning a new iterator of batches each time: {reason}")
        self._factory = factory
        self._last: object = None

    def chunks(self) -> Iterator[Chunk]:
        """The batches, made arrays."""
        returned = self._factory()
        try:
            batches = iter(returned)
        except TypeError as error:
            raise RowsError(f"factory must return an iterator of batches, got {_kind(returned)}") from error
        if batches is self._last:
            raise RowsError(
                "factory returned the same iterator again; it must make a new one each time, as a fit reads all rows "
                "many times"
            )
        self._last = batches
        previous = None
        try:
            for number, batch in enumerate(batches):
                X, y, weight = self._arrays(number, batch)
                if previous is not None and np.may_share_memory(previous, X):
                    raise RowsError(f"batch {number}: X lies where the batch before lies, which is still in use")
                if len(X):
                    previous = X
                    yield Chunk(X, y, weight, partial(_row, f"batch {number}", 0))
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    def again(self) -> Iterator[Real]:
        """The X of the batches."""
        return (as_array(chunk.X) for chunk in self.chunks())

    def verify(self) -> None:
        """Nothing: the checksum is all there is to tell by."""

    def checksum(self, X: Real | Columns) -> int:
        """Of all bytes: another call of the function may have changed any of them."""
        array = as_array(X)
        lines = array if array.flags.c_contiguous else array.T
        return checksum(lines.reshape(-1).view(np.uint8))

    def size(self) -> int | None:
        """Not known."""
        return None

    def _arrays(self, number: int, batch: Any) -> tuple[Real, NDArray[Any] | None, NDArray[Any] | None]:
        where = f"batch {number}"
        if not isinstance(batch, tuple) or not 2 <= len(batch) <= 3:
            raise RowsError(f"{where}: expected a tuple (X, y) or (X, y, weight), got {_kind(batch)}")
        X, y, weight = batch if len(batch) == 3 else (*batch, None)
        try:
            X = as_real("X", X)
        except (TypeError, ValueError) as error:
            raise RowsError(f"{where}: {error}") from error
        if X.ndim != 2:
            raise RowsError(f"{where}: X must have shape (m, p), got {X.shape}")
        if not (X.flags.c_contiguous or X.flags.f_contiguous):
            X = np.ascontiguousarray(X)
        # Copies: weights are kept, and labels read while the next batch is made, maybe in the same memory.
        columns = [None if column is None else np.array(column) for column in (y, weight)]
        for name, column in zip(("y", "weight"), columns, strict=True):
            if column is not None and column.shape != (len(X),):
                raise RowsError(f"{where}: {name} must have shape ({len(X)},), one value a row, got {column.shape}")
        return X, columns[0], columns[1]


def _kind(value: object) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
