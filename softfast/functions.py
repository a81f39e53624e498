"""Softmax and its relatives on NumPy arrays, and the fused loss and gradient of softmax regression."""

import math
import operator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softfast import _core
from softfast.threads import resolve_threads
from softfast.validation import Real, as_offset, as_real, as_rows, as_targets, as_vector, as_weight, require_finite

Reduction = Literal["mean", "sum", "none"]

# Floating-point operations that exp and the passes around it cost an element, for the choice of threads.
_WORK_PER_ELEMENT = 30.0


def softmax(
    x: ArrayLike, axis: int = -1, *, out: NDArray[Any] | None = None, n_threads: int | None = None
) -> NDArray[Any]:
    """Softmax along an axis, exp(x) / sum(exp(x)), without overflow.

    Parameters
    ----------
    x : array_like of real numbers
        Logits. float32 and float64 are computed and returned as such, float16 is computed in float32, integers in
        float64.
    axis : int, default -1
        The axis of the classes.
    out : ndarray, optional
        Receives the result: of the result's shape and dtype; may be `x` itself.
    n_threads : int, optional
        Threads; by default those the process may use, one for small arrays. The result does not depend on it.

    Returns
    -------
    ndarray
        Shaped like `x`. A single +inf in a row has probability 1; a row with several, or with -inf only, has no limit
        and is NaN, as is a row that holds NaN.

    Raises
    ------
    TypeError
        If `x` does not hold real numbers.
    ValueError
        If `axis`, `out` or `n_threads` does not fit (``numpy.exceptions.AxisError`` for the axis).

    Examples
    --------
    >>> import numpy as np, softfast
    >>> softfast.softmax(np.log([[1.0, 2.0, 1.0]]))
    array([[0.25, 0.5 , 0.25]])
    """
    return _map(_core.SOFTMAX, x, axis, out, n_threads)


def log_softmax(
    x: ArrayLike, axis: int = -1, *, out: NDArray[Any] | None = None, n_threads: int | None = None
) -> NDArray[Any]:
    """Logarithm of softmax along an axis, x - logsumexp(x); accurate at the maximum too.

    Parameters
    ----------
    x, axis, out, n_threads
        As in `softmax`.

    Returns
    -------
    ndarray
        Shaped like `x`; infinities and NaN as in `softmax`.

    Examples
    --------
    >>> import softfast
    >>> softfast.log_softmax([0.0, 1000.0])
    array([-1000.,     0.])
    """
    return _map(_core.LOG_SOFTMAX, x, axis, out, n_threads)


def logsumexp(x: ArrayLike, axis: int = -1, *, keepdims: bool = False, n_threads: int | None = None) -> Any:
    """Logarithm of the sum of exponentials along an axis, without overflow.

    Parameters
    ----------
    x, axis, n_threads
        As in `softmax`.
    keepdims : bool, default False
        Keep `axis` with length 1.

    Returns
    -------
    ndarray or scalar
        `x` without `axis`. +inf where `x` holds +inf, -inf over an empty axis or where all is -inf, NaN where it
        holds NaN.

    Examples
    --------
    >>> import softfast
    >>> float(softfast.logsumexp([1000.0, 1000.0]))
    1000.6931471805599
    """
    if n_threads is None:
        small = _core.default.map_small(x, axis, None, _core.LOGSUMEXP, keepdims)
        if small is not None:
            return small
    array, given = as_real("x", x), np.asarray(x).dtype
    axis = _axis(axis, array.ndim)
    shape = (*array.shape[:axis], 1, *array.shape[axis + 1 :])
    result = np.full(shape, -np.inf, dtype=array.dtype)
    if array.size:
        _run(_core.LOGSUMEXP, array, result, axis, n_threads)
    if given == np.float16:
        result = result.astype(given)
    return result if keepdims else result.squeeze(axis)[()]


def cross_entropy(
    logits: ArrayLike,
    y: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    n_threads: int | None = None,
) -> Any:
    """Cross-entropy of rows of logits, logsumexp(z) - <q, z>.

    Parameters
    ----------
    logits : array_like of shape (n, K)
        float16 and float32 are computed in float32, float64 and integers in float64.
    y : array_like of shape (n,) or (n, K)
        Integer labels 0..K-1, or probabilities q whose rows sum to 1.
    sample_weight : array_like of shape (n,), optional
        Weights >= 0, not all zero; all 1 by default.
    reduction : {"mean", "sum", "none"}, default "mean"
        The weighted mean, sum(w * loss) / sum(w); the weighted sum; or the weighted losses of the rows.
    n_threads : int, optional
        As in `softmax`.

    Returns
    -------
    float, or ndarray of shape (n,), float64
        The mean of no rows is NaN.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range; the message names it.

    Examples
    --------
    >>> import softfast
    >>> softfast.cross_entropy([[0.0, 0.0]], [1])
    0.6931471805599453
    """
    return _cross_entropy(logits, y, sample_weight, reduction, n_threads, want_gradient=False)[0]


def cross_entropy_gradient(
    logits: ArrayLike,
    y: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    n_threads: int | None = None,
) -> tuple[Any, NDArray[Any]]:
    """Cross-entropy and its gradient with respect to the logits, in one pass.

    Parameters
    ----------
    logits, y, sample_weight, reduction, n_threads
        As in `cross_entropy`.

    Returns
    -------
    loss : float, or ndarray of shape (n,)
        As `cross_entropy` returns it.
    gradient : ndarray of shape (n, K), of the logits' dtype, float64 for integers
        w (softmax(z) - q), divided by sum(w) with ``reduction="mean"``.

    Examples
    --------
    >>> import softfast
    >>> softfast.cross_entropy_gradient([[0.0, 0.0]], [1])
    (0.6931471805599453, array([[ 0.5, -0.5]]))
    """
    losses, gradient = _cross_entropy(logits, y, sample_weight, reduction, n_threads, want_gradient=True)
    assert gradient is not None
    return losses, gradient


def loss_gradient(
    X: ArrayLike,
    y: ArrayLike,
    coef: ArrayLike,
    intercept: ArrayLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    n_threads: int | None = None,
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Mean cross-entropy of softmax regression and its gradient, fused: no (n, K) array is made.

    Parameters
    ----------
    X : array_like or sparse matrix or array of shape (n, p)
        float32 is read and computed in float32, float64 and integers in float64; C and F order, and slices of whole
        rows or columns, are read where they are, once. So is CSR, twice; other sparse formats are converted to it.
    y : array_like of shape (n,) or (n, K)
        Integer labels 0..K-1, or probabilities q whose rows sum to 1.
    coef : array_like of shape (K, p)
        One row of coefficients a class, K >= 2.
    intercept : array_like of shape (K,), optional
        Zero by default.
    sample_weight : array_like of shape (n,), optional
        Weights >= 0, not all zero; all 1 by default.
    offset : array_like of shape (n, K), optional
        Known parts of the logits, finite; zero by default.
    n_threads : int, optional
        Threads; by default those the process may use. The result has the same bits for any number.

    Returns
    -------
    loss : float
        sum_i w_i (logsumexp(z_i) - <q_i, z_i>) / sum_i w_i with z_i = coef x_i + intercept + offset_i;
        0 for no rows.
    grad_coef : ndarray of shape (K, p), float64
    grad_intercept : ndarray of shape (K,), float64

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or is not finite; the message names it.

    Examples
    --------
    >>> import numpy as np, softfast
    >>> X, y = np.array([[1.0], [-1.0]]), np.array([0, 1])
    >>> softfast.loss_gradient(X, y, np.zeros((2, 1)))
    (0.6931471805599453, array([[-0.5],
           [ 0.5]]), array([0., 0.]))
    """
    rows = as_rows("X", X)
    is_sparse = isinstance(rows, _core.SparseRows)
    coef = as_real("coef", coef)
    if not (is_sparse and (coef.flags.c_contiguous or coef.flags.f_contiguous)):
        coef = np.ascontiguousarray(coef, dtype=np.float64)
    if coef.ndim != 2 or coef.shape[0] < 2 or coef.shape[1] != rows.n_features:
        raise ValueError(f"coef must have shape (K, {rows.n_features}) with K >= 2, got {coef.shape}")
    n_classes = coef.shape[0]
    bias = np.zeros(n_classes) if intercept is None else as_vector("intercept", intercept, n_classes, "class")
    if offset is not None:
        rows = rows.with_offset(as_offset(offset, rows.n_rows, n_classes))
    weight = as_weight(sample_weight, rows.n_rows)
    total = float(rows.n_rows if weight is None else weight.sum()) or 1.0
    # A sparse gradient may be longer than the rows: in the weights, division by their sum costs no pass over it.
    scaled = weight if not is_sparse else 1 / total if weight is None else weight / total
    targets = _core.Targets(as_targets(y, rows.n_rows, n_classes, rows.dtype), scaled)
    try:
        loss, grad_coef, grad_intercept = _core.default.loss_gradient(
            rows,
            targets,
            coef,
            bias,
            n_classes,
            arithmetic=rows.dtype,
            by_feature=True,
            n_threads=resolve_threads(n_threads, 4.0 * (rows.n_entries + 8 * rows.n_rows) * n_classes),
        )
    except IndexError as error:
        raise ValueError(f"y: {error}") from None
    # Checked here only, for NaN and infinity in an argument always reach the result; what is stored of sparse rows is
    # known to be finite.
    seen = grad_intercept if is_sparse else grad_coef
    if not (np.isfinite(loss) and np.isfinite(seen).all()):
        require_finite("coef", coef)
        require_finite("intercept", bias)
        if not is_sparse:
            require_finite("X", as_real("X", X))
    if is_sparse:
        return loss, grad_coef, grad_intercept
    return loss / total, grad_coef / total, grad_intercept / total


def _axis(axis: int, ndim: int) -> int:
    index = operator.index(axis)
    if not -ndim <= index < ndim:
        raise np.exceptions.AxisError(index, ndim)
    return index % ndim


def _run(code: int, x: Real, out: Real, axis: int, n_threads: int | None) -> None:
    """The kernel on x and out as (outer, K, inner); out's axes must collapse without a copy."""
    before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    _core.default.map(
        x.reshape(before, x.shape[axis], after),
        out.reshape(before, out.shape[axis], after),
        code,
        n_threads=resolve_threads(n_threads, _WORK_PER_ELEMENT * x.size),
    )


def _map(code: int, x: ArrayLike, axis: int, out: NDArray[Any] | None, n_threads: int | None) -> NDArray[Any]:
    if n_threads is None:
        small = _core.default.map_small(x, axis, out, code)
        if small is not None:
            return small
    given = np.asarray(x)
    array = as_real("x", given)
    axis = _axis(axis, array.ndim)
    dtype = given.dtype if given.dtype == np.float16 else array.dtype
    if out is not None and not (
        isinstance(out, np.ndarray) and out.shape == array.shape and out.dtype == dtype and out.flags.writeable
    ):
        seen = f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"out must be a writeable array of {dtype}, shape {array.shape}, got {seen}")
    result: NDArray[Any] = np.empty(array.shape, array.dtype) if out is None or not _is_direct(array, out) else out
    if array.size:
        _run(code, array, result, axis, n_threads)
    if out is None:
        return result.astype(dtype, copy=False)
    if result is not out:
        out[...] = result
    return out


def _is_direct(x: Real, out: NDArray[Any]) -> bool:
    """Whether the kernel may write straight to `out`.

    Its axes must collapse without a copy. A block of rows is written after it has been read, so `out` may be `x`
    itself, but may not overlap it in any other way.
    """
    return (
        out.dtype == x.dtype
        and out.flags.aligned
        and (out.flags.c_contiguous or x.ndim <= 2)
        and (not np.may_share_memory(out, x) or (out.ctypes.data == x.ctypes.data and out.strides == x.strides))
    )


def _cross_entropy(
    logits: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    reduction: Reduction,
    n_threads: int | None,
    *,
    want_gradient: bool,
) -> tuple[Any, NDArray[Any] | None]:
    """The reduced loss, and its gradient where wanted."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    given = np.asarray(logits)
    z = as_real("logits", given)
    if z.ndim != 2 or z.shape[1] < 1:
        raise ValueError(f"logits must have shape (n, K) with K >= 1, got {z.shape}")
    n_rows, n_classes = z.shape
    if not z.flags.c_contiguous and any(s % z.itemsize for s in z.strides):
        z = z.copy("C")
    weight = as_weight(sample_weight, n_rows)
    scaled: NDArray[np.float64] | float | None = weight
    if reduction == "mean" and n_rows:
        # In the weights the division costs no pass over the gradient.
        scaled = 1 / n_rows if weight is None else weight / weight.sum()
    targets = _core.Targets(as_targets(y, n_rows, n_classes, z.dtype), scaled)
    gradient: NDArray[Any] | None = np.empty(z.shape, z.dtype) if want_gradient else None
    try:
        losses = _core.default.cross_entropy(
            z, targets, gradient, n_threads=resolve_threads(n_threads, _WORK_PER_ELEMENT * z.size)
        )
    except IndexError as error:
        raise ValueError(f"y: {error}") from None
    if gradient is not None and given.dtype == np.float16:
        gradient = gradient.astype(np.float16)
    if reduction == "none":
        return losses, gradient
    return (float(np.add.reduce(losses)) if n_rows or reduction == "sum" else float("nan")), gradient
