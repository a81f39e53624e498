"""Arrays from outside: made what the kernels take, or refused with a message that names the argument."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softfast import _core

Real = NDArray[np.float32] | NDArray[np.float64]

# What the sum of a row of probabilities may miss 1 by, the root of the rounding unit, by the type's bytes.
_SLACK = {t().itemsize: float(np.sqrt(np.finfo(t).eps)) for t in (np.float16, np.float32, np.float64)}


def as_real(name: str, value: ArrayLike) -> Real:
    """float32 and float64 as they are, float16 as float32, integers and booleans as float64; aligned, native."""
    array = np.asarray(value)
    if array.dtype.char in "fd" and array.dtype.isnative and array.flags.aligned:
        return array
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f" and size <= 4:
        wanted: type = np.float32
    elif (kind == "f" and size == 8) or kind in "iub":
        wanted = np.float64
    else:
        raise TypeError(f"{name} must hold real numbers (float16, float32, float64, integers), got {array.dtype}")
    return np.require(array, dtype=wanted, requirements="A")


def as_rows(name: str, value: Any) -> _core.Rows | _core.SparseRows:
    """A view of X (n, p); a copy is made only where neither its rows nor its columns are contiguous.

    Sparse matrices and arrays of SciPy become CSR, which is viewed.
    """
    if hasattr(value, "tocsr"):
        return _as_sparse_rows(name, value.tocsr())
    array = as_real(name, value)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (n, p), got {array.shape}")
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        itemsize = array.itemsize
        contiguous = any(s == itemsize or n <= 1 for s, n in zip(array.strides, array.shape, strict=True))
        if not contiguous or any(s % itemsize for s in array.strides):
            array = array.copy("C")
    return _core.Rows(array)


def _as_sparse_rows(name: str, csr: Any) -> _core.SparseRows:
    if len(csr.shape) != 2:
        raise ValueError(f"{name} must have shape (n, p), got {csr.shape}")
    n_rows, n_features = csr.shape
    if len(csr.indptr) != n_rows + 1:
        raise ValueError(
            f"{name}, in CSR: indptr must have {n_rows + 1} elements for {n_rows} rows, got {len(csr.indptr)}"
        )
    data, indices = as_real(name, csr.data), csr.indices
    # SciPy may keep room for more entries behind the last one.
    end = int(csr.indptr[-1])
    if 0 <= end < min(len(data), len(indices)):
        data, indices = data[:end], indices[:end]
    data, indices, indptr = (np.require(part, requirements=["C", "A"]) for part in (data, indices, csr.indptr))
    try:
        return _core.SparseRows(data, indices, indptr, n_features)
    except ValueError as error:
        raise ValueError(f"{name}, in CSR: {error}") from None


def as_vector(name: str, value: ArrayLike, n: int, per: str) -> NDArray[np.float64]:
    """A contiguous float64 vector of length n, one value per `per`."""
    array = np.ascontiguousarray(as_real(name, value), dtype=np.float64)
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one value per {per}, got {np.shape(value)}")
    return array


def as_weight(value: ArrayLike | None, n_rows: int) -> NDArray[np.float64] | None:
    """Weights (n,): finite, none negative, not all zero."""
    if value is None:
        return None
    weight = as_vector("sample_weight", value, n_rows, "row of the data")
    lowest, highest = (float(weight.min()), float(weight.max())) if n_rows else (0.0, 1.0)
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ValueError("sample_weight must not hold NaN or infinity")
    if lowest < 0:
        raise ValueError(f"sample_weight must not be negative, got {lowest}")
    if highest == 0:
        raise ValueError("sample_weight must not be all zero: no row would count")
    if not math.isfinite(highest * n_rows):
        raise ValueError(f"sample_weight must add up to a finite number, got weights up to {highest}")
    return weight


def as_offset(
    value: ArrayLike | None, n_rows: int, n_classes: int, *, one_logit: bool = False
) -> NDArray[np.float64] | None:
    """Offsets (n, K) of the logits, finite.

    `one_logit`: of two classes only the difference counts, and (n,) is taken as well; returned with zeros for class 0.
    """
    if value is None:
        return None
    array = np.ascontiguousarray(as_real("offset", value), dtype=np.float64)
    if array.shape != (n_rows, n_classes) and not (one_logit and array.shape == (n_rows,)):
        either = f"({n_rows},) or " if one_logit else ""
        raise ValueError(f"offset must have shape {either}({n_rows}, {n_classes}), got {array.shape}")
    require_finite("offset", array)
    if not one_logit:
        return array
    return np.column_stack([np.zeros(n_rows), array if array.ndim == 1 else array[:, 1] - array[:, 0]])


def as_targets(y: ArrayLike, n_rows: int, n_classes: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Labels (n,) as int64 (the kernels check their range), or probabilities (n, K) of the given dtype."""
    array = np.asarray(y)
    if array.ndim == 2:
        if array.shape != (n_rows, n_classes):
            raise ValueError(f"y as probabilities must have shape ({n_rows}, {n_classes}), got {array.shape}")
        proba = np.require(as_real("y", array), dtype=dtype, requirements="A")
        if any(s % proba.itemsize for s in proba.strides):
            proba = np.ascontiguousarray(proba)
        # Of the coarser type: probabilities computed in float32 may be targets of float64 logits.
        slack = max(_SLACK.get(array.dtype.itemsize, 0.0) if array.dtype.kind == "f" else 0.0, _SLACK[dtype.itemsize])
        sums = proba.sum(axis=1)
        if proba.size and not (proba.min() >= 0 and sums.min() >= 1 - slack and sums.max() <= 1 + slack):
            raise ValueError("y as probabilities must be >= 0 and sum to 1 in every row")
        return proba
    if array.shape != (n_rows,):
        raise ValueError(f"y must have shape ({n_rows},) or ({n_rows}, {n_classes}), got {array.shape}")
    if array.dtype.kind not in "iub" and n_rows:
        raise TypeError(f"y must hold integer labels 0..{n_classes - 1}, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64)


def require_finite(name: str, array: Real) -> None:
    """An error that names the first entry that is NaN or infinite."""
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name} must not hold NaN or infinity, got {array[index]} at {index}")
