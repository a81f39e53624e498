"""NPZ files, by NumPy, and LIBSVM files, by scikit-learn."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from softfast.files import half_of_memory
from softfast.tables.common import ACCEPTED, LABELS, Request, Table, TableError, listed, short


def read_npz(path: Path, request: Request, head: bytes) -> Table:
    """The arrays X and y, or the one that the target names."""
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
            raise TableError(f"{path}: there is no array {name!r}; the arrays are {listed(present)}")
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
        raise TableError(f"{path}, X{list(at)}: got {X[at]}; {ACCEPTED}")
    if not request.labelled:
        return Table(X, None, None)
    y = arrays[1]
    if y.shape != X.shape[:1] or y.dtype.kind not in "biufU":
        accepted = f"{LABELS}, of shape {X.shape[:1]}"
        raise TableError(f"{path}: {wanted[1]} must hold {accepted}, got {y.dtype} of shape {y.shape}")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = int(np.isfinite(y).argmin())
        raise TableError(f"{path}, {wanted[1]}[{row}]: got the label {y[row]}; labels are {LABELS}")
    return Table(X, y, None)


def read_libsvm(path: Path, request: Request, head: bytes) -> Table:
    """Sparse rows, made dense."""
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
        raise TableError(f"{path}, line {line}, feature {feature}: got {value}; {ACCEPTED}")
    if not np.isfinite(y).all():
        row = int(np.isfinite(y).argmin())
        raise TableError(f"{path}, line {_libsvm_line(path, row)}: got the label {y[row]}; labels are {LABELS}")
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
            return f"{path}, line {line}: got {short(field)}; expected {accepted}"
    return None
