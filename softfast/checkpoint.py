"""The state of a fit in a file, from which a fit of the same problem goes on after its process has ended.

The file holds a line that names its kind, the SHA-256 of the rest, and an uncompressed archive of arrays. It is written
aside, flushed to the disk and renamed: whatever happens, there is the state before or the state after. What is not
whole, not of this kind, or of another problem is refused.
"""

import hashlib
import io
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softfast.files import InputError, half_of_memory, replacing
from softfast.sources import Matrix, Moments, Vector

_KIND = b"softfast checkpoint 1\n"
_DIGEST = hashlib.sha256().digest_size
# Between two writes, which take milliseconds.
_SECONDS = 30.0
# Moments that differ by less, in units of the spread, are those of the same rows, added in another order.
_SAME = 1e-6


class CheckpointError(InputError):
    """A file that is no checkpoint, or none of this problem."""


class State(NamedTuple):
    """Where a fit is."""

    coef: Matrix
    intercept: Vector
    n_passes: float


class Checkpoint:
    """Writes and reads the state of a fit of one problem, known by its parameters, classes and moments."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        parameters: dict[str, Any],
        classes: NDArray[Any],
        moments: Moments,
        shape: tuple[int, int],
    ) -> None:
        self._path = Path(path)
        self._problem = {
            "C": float(parameters["C"]),
            "l1_ratio": float(parameters["l1_ratio"]),
            "sparsity": parameters["sparsity"],
            "fit_intercept": bool(parameters["fit_intercept"]),
            "classes": [str(label) for label in classes],
            "n_rows": moments.n_rows,
            "coef": list(shape),
        }
        self._moments = {
            "total_weight": np.array([moments.total_weight]),
            "feature_mean": moments.feature_mean,
            "feature_variance": moments.feature_variance,
            "class_mean": moments.class_mean,
            "offset_mean": moments.offset_mean,
        }
        self._written = time.monotonic()

    def read(self) -> State | None:
        """The state that was written last; None if there is no file.

        Raises
        ------
        CheckpointError
            If the file is damaged or cut off, is no checkpoint, or is one of another problem.
        """
        path = self._path
        if not path.exists():
            return None
        try:
            if path.stat().st_size > half_of_memory():
                raise CheckpointError(f"{path}: is larger than half of this machine's memory; expected a checkpoint")
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: can't be read ({error.strerror})") from error
        if not content.startswith(_KIND):
            raise CheckpointError(f"{path}: is no checkpoint of softfast, or one of another version")
        digest, data = content[len(_KIND) : len(_KIND) + _DIGEST], content[len(_KIND) + _DIGEST :]
        if hashlib.sha256(data).digest() != digest:
            raise CheckpointError(f"{path}: the checkpoint is damaged or cut off")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = dict(archive)
        self._require_same(json.loads(str(arrays["problem"])), arrays)
        return State(arrays["coef"], arrays["intercept"], float(arrays["n_passes"]))

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._written >= _SECONDS

    def write(self, state: State) -> None:
        """Write the state; where that fails, warn: the fit need not end for it."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            coef=state.coef,
            intercept=state.intercept,
            n_passes=np.array(state.n_passes),
            problem=np.array(json.dumps(self._problem)),
            allow_pickle=False,
            **self._moments,
        )
        data = buffer.getvalue()
        try:
            # One name for all that is written aside: what a process leaves that is killed here is written over.
            with replacing(self._path, "new") as temporary:
                temporary.write_bytes(_KIND + hashlib.sha256(data).digest() + data)
        except OSError as error:
            warnings.warn(f"{self._path}: the checkpoint was not written ({error})", RuntimeWarning, stacklevel=2)
        self._written = time.monotonic()

    def _require_same(self, problem: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """An error that says how the problem differs from that of the file."""
        for name, value in self._problem.items():
            if problem[name] != value:
                raise CheckpointError(
                    f"{self._path}: is of another problem: {name} {_short(problem[name])}, now {_short(value)}"
                )
        spread = np.sqrt(self._moments["feature_variance"])
        scales = {"feature_mean": spread + np.abs(self._moments["feature_mean"]) * _SAME}
        for name, value in self._moments.items():
            apart = np.abs(arrays[name] - value)
            if not (apart <= _SAME * scales.get(name, np.abs(value).max(initial=0.0))).all():
                raise CheckpointError(f"{self._path}: is of another problem: the rows have another {name}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."
