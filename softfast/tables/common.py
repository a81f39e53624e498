"""What the readers of all kinds of files share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softfast.files import InputError

Real = NDArray[np.float32] | NDArray[np.float64]

ACCEPTED = "features are finite numbers, or true and false"
LABELS = "integers, floats, booleans or strings"


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
class Request:
    """The arguments of `read_table`, for the reader of each kind of file."""

    target: str | None
    features: Sequence[str] | None
    n_features: int | None
    labelled: bool


def count(n: int, noun: str) -> str:
    """As "1 row" and "2 rows"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def short(value: object) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(values: Iterable[object]) -> str:
    """The first few names or labels, and how many there are."""
    shown = [short(value) for value in values]
    return ", ".join(shown[:8]) + (f", ... ({len(shown)})" if len(shown) > 8 else "") or "none"


def columns_are(names: Sequence[str]) -> str:
    """What columns there are, for a message."""
    hint = " (columns are separated by commas)" if len(names) == 1 and any(c in names[0] for c in ";\t|") else ""
    return f"the columns are {listed(names)}{hint}"
