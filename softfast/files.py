"""Files from outside, files that are written whole or not at all, and how much memory reading one may take."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """A file from outside that can't be used: the message says all, a traceback would add nothing."""


def require_writable(path: str | os.PathLike[str]) -> Path:
    """The resolved path, or an OSError that says why nothing can be written there."""
    final = Path(path).resolve()
    if final.exists() and not final.is_file():
        raise FileExistsError(f"{path}: exists and is not a regular file")
    if not final.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no directory {final.parent}")
    if not os.access(final.parent, os.W_OK):
        raise PermissionError(f"{path}: no permission to write in {final.parent}")
    return final


@contextmanager
def replacing(path: str | os.PathLike[str], tag: str | None = None) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it at the end; removed if anything, Ctrl-C too, comes between.

    The tag, by default the number of the process, is in its name.
    """
    final = require_writable(path)
    temporary = final.with_name(f".{final.stem}.{os.getpid() if tag is None else tag}{final.suffix}")
    try:
        yield temporary
        # Else a computer that goes down may keep the new name, but not what is in the file.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def half_of_memory() -> int:
    """Half of the physical memory in bytes; 4 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return 2**32
