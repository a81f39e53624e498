"""A copy of rows on disk in the form in which the kernels read them, for rows that are slow to decode."""

import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softfast.sources.mapped import Watch
from softfast.sources.readers import Columns, Real, RowsError, touch


class RowCache:
    """Chunks, one after another in an unnamed file that is gone when it is closed, or when the process ends.

    Each lies column by column: that is how decoders give them, and evaluations read them as fast as rows.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, limit: int | None, expected: int | None) -> None:
        self._folder = tempfile.gettempdir() if folder is None else folder
        self._limit = limit
        self._written = 0
        self._shapes: list[tuple[int, int]] = []
        self._dtype: np.dtype[Any] = np.dtype(np.float64)
        self._map: NDArray[Any] | None = None
        try:
            if expected is not None:
                self._require(expected, shutil.disk_usage(self._folder).free)
            # Unbuffered: a buffer would try to write once more when it is closed on a full disk.
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise RowsError(f"{self._folder}: the rows can't be kept there ({error.strerror})") from error

    def append(self, X: Columns) -> None:
        """Write a chunk (m, p)."""
        m, p = X.shape
        end = self._written + m * p * X.dtype.itemsize
        self._require(end, None)
        try:
            # From the decoder's memory: copied into an array first, the first pass took an eighth longer.
            for column in X.columns:
                rest = memoryview(column.view(np.uint8))  # type: ignore[arg-type]
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise self._full(end, f"the disk is full ({error.strerror})") from error
        self._written = end
        self._shapes.append(X.shape)
        self._dtype = X.dtype

    def finish(self) -> None:
        """All has been written."""
        # The mapping holds the file.
        with self._file:
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._watch = Watch(mapped)
        self._map = np.frombuffer(mapped, dtype=self._dtype)

    def verify(self) -> None:
        """An error if a page could not be read."""
        if self._watch.broken:
            raise RowsError(f"{self._folder}: the copy of the rows there can't be read any more: the disk fails")

    def again(self) -> Iterator[Real]:
        """The chunks, views of the file, whose pages are in memory."""
        # Who closes the cache meanwhile does not take it from a pass under way.
        begin, mapped = 0, self._map
        assert mapped is not None
        for m, p in self._shapes:
            X = mapped[begin : begin + m * p].reshape(p, m).T
            touch(X)
            yield X
            begin += m * p

    def close(self) -> None:
        """Remove the file; memory that is still in use stays until it is let go."""
        self._map = None
        self._file.close()

    def _require(self, size: int, free: int | None) -> None:
        if self._limit is not None and size > self._limit:
            raise self._full(size, f"cache_limit is {_gib(self._limit)}")
        if free is not None and size > free:
            raise self._full(size, f"{_gib(free)} are free")

    def _full(self, size: int, reason: str) -> RowsError:
        return RowsError(
            f"{self._folder}: the copy of the rows that later passes read takes {_gib(size)} or more, and {reason}; "
            "name a folder with more space (cache)"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
