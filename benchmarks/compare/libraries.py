"""The same work by each library that is installed: {name: call}."""

import importlib.metadata
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import scipy.special

import softfast
from softfast import _core
from softfast.numpy_reference import loss_gradient as numpy_loss_gradient

Call = Callable[[], Any]

# The package whose version is stated.
PACKAGES = {
    "softfast": "softfast",
    "softfast avx2": "softfast",
    "numpy": "numpy",
    "copy": "numpy",
    "scipy": "scipy",
    "scikit-learn": "scikit-learn",
    "oneDAL": "daal",
    "torch": "torch",
}
_CODES = {"softmax": _core.SOFTMAX, "log_softmax": _core.LOG_SOFTMAX, "logsumexp": _core.LOGSUMEXP}


def version(library: str) -> str | None:
    """The version that is installed, None if none is."""
    try:
        return importlib.metadata.version(PACKAGES[library])
    except importlib.metadata.PackageNotFoundError:
        return None


def other_isas() -> list[_core.Kernels]:
    """The AVX2 kernels, where they are not what softfast has chosen."""
    return [kernels for name, kernels in _core.kernels.items() if name == "avx2" != _core.default.name]


def loss_gradient_calls(
    n: int, p: int, n_classes: int, dtype: str, order: str = "C", n_threads: int = 1
) -> dict[str, Call]:
    """Mean cross-entropy and its gradient by coefficients and intercepts, without penalty."""
    # No array is larger than it stays, so that memory.py sees what the calls take.
    rng = np.random.default_rng(0)
    shape = (n, p) if order == "C" else (p, n)
    X = rng.standard_normal(shape, dtype=np.dtype(dtype).type)
    X = X if order == "C" else X.T
    y = rng.integers(0, n_classes, n)
    coef = (rng.standard_normal((n_classes, p)) / np.sqrt(p)).astype(dtype)
    intercept = np.zeros(n_classes, dtype=dtype)
    calls: dict[str, Call] = {"softfast": lambda: softfast.loss_gradient(X, y, coef, intercept, n_threads=n_threads)}
    rows, targets = _core.Rows(X), _core.Targets(y)
    exact = coef.astype(np.float64), intercept.astype(np.float64)
    for kernels in other_isas():
        calls[f"softfast {kernels.name}"] = lambda kernels=kernels: kernels.loss_gradient(
            rows, targets, *exact, n_classes, arithmetic=dtype, n_threads=n_threads
        )
    calls["numpy"] = lambda: numpy_loss_gradient(X, y, coef, intercept)
    calls["scikit-learn"] = _sklearn_call(X, y, coef, intercept, n_threads)
    if version("oneDAL"):
        calls["oneDAL"] = _onedal_call(X, y, coef, intercept)
    if version("torch"):
        calls["torch"] = _torch_call(X, y, coef, intercept)
    return calls


def csr_loss_gradient_calls(
    n: int, p: int, n_classes: int, entries: int, dtype: str, n_threads: int = 1
) -> dict[str, Call]:
    """The same for rows in CSR of so many entries each, some features in many rows, most in few, as words are."""
    rng = np.random.default_rng(3)
    indices = np.sort((p * rng.random((n, entries)) ** 4).astype(np.int32), axis=1).ravel()
    data = rng.random(n * entries, dtype=np.dtype(dtype).type)
    X = scipy.sparse.csr_array((data, indices, np.arange(n + 1, dtype=np.int32) * entries), shape=(n, p))
    X.sum_duplicates()
    y = rng.integers(0, n_classes, n)
    coef = (rng.standard_normal((n_classes, p)) / np.sqrt(entries)).astype(dtype)
    intercept = np.zeros(n_classes, dtype=dtype)
    return {
        "softfast": lambda: softfast.loss_gradient(X, y, coef, intercept, n_threads=n_threads),
        "scikit-learn": _sklearn_call(X, y, coef, intercept, n_threads),
    }


def _sklearn_call(X: Any, y: Any, coef: Any, intercept: Any, n_threads: int) -> Call:
    """What its L-BFGS calls; private, but the only way to time it alone."""
    from sklearn._loss import HalfMultinomialLoss
    from sklearn.linear_model._linear_loss import LinearModelLoss

    linear = LinearModelLoss(HalfMultinomialLoss(n_classes=len(coef)), fit_intercept=True)
    raveled = np.ravel(np.column_stack([coef, intercept]), order="F")
    y_float = y.astype(X.dtype)
    return lambda: linear.loss_gradient(raveled, X, y_float, n_threads=n_threads)


def _onedal_call(X: Any, y: Any, coef: Any, intercept: Any) -> Call:
    """The objective function that its solvers call; its argument has the intercept first in each class."""
    import daal4py

    function = daal4py.optimization_solver_cross_entropy_loss(
        nClasses=len(coef),
        numberOfTerms=len(X),
        fptype="float" if X.dtype == np.float32 else "double",
        interceptFlag=True,
        penaltyL1=0,
        penaltyL2=0,
        resultsToCompute="value|gradient",
    )
    labels = y.astype(X.dtype).reshape(-1, 1)
    argument = np.column_stack([intercept, coef]).reshape(-1, 1)
    return lambda: function.compute(X, labels, argument)


def _torch_call(X: Any, y: Any, coef: Any, intercept: Any) -> Call:
    import torch

    rows, labels = torch.from_numpy(X), torch.from_numpy(y)
    weight, bias = (torch.from_numpy(a.copy()).requires_grad_() for a in (coef, intercept))

    def call() -> None:
        weight.grad = bias.grad = None
        torch.nn.functional.cross_entropy(torch.nn.functional.linear(rows, weight, bias), labels).backward()

    return call


def array_calls(
    function: str, shape: tuple[int, ...], axis: int, dtype: str, out: bool = False, n_threads: int = 1
) -> dict[str, Call]:
    """A function along an axis, into an array that is there already where `out`; and the floor, copying the array."""
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.dtype(dtype).type)
    result = np.empty_like(x)
    given: dict[str, Any] = {"out": result} if out else {}
    threads = n_threads if x.size > 1000 else None
    ours = getattr(softfast, function)
    calls: dict[str, Call] = {"softfast": lambda: ours(x, axis, n_threads=threads, **given)}
    collapsed = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    reduced = (collapsed[0], 1, collapsed[2]) if function == "logsumexp" else collapsed
    for kernels in other_isas():
        calls[f"softfast {kernels.name}"] = lambda kernels=kernels: kernels.map(
            x.reshape(collapsed),
            result.reshape(collapsed) if out else np.empty(reduced, x.dtype),
            _CODES[function],
            n_threads=n_threads if x.size > 1000 else 1,
        )
    calls["scipy"] = lambda: getattr(scipy.special, function)(x, axis=axis)
    if function != "logsumexp":
        calls["copy"] = (lambda: np.copyto(result, x)) if out else x.copy
    if version("torch"):
        import torch

        theirs, tensor = getattr(torch, function), torch.from_numpy(x)
        tensor_out: dict[str, Any] = {"out": torch.from_numpy(result)} if out else {}
        calls["torch"] = lambda: theirs(tensor, axis, **tensor_out)
    return calls


def cross_entropy_calls(shape: tuple[int, int], dtype: str, n_threads: int = 1) -> dict[str, Call]:
    """Cross-entropy and its gradient by the logits."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal(shape, dtype=np.dtype(dtype).type), rng.integers(0, shape[1], shape[0])
    calls: dict[str, Call] = {"softfast": lambda: softfast.cross_entropy_gradient(x, y, n_threads=n_threads)}
    if version("torch"):
        import torch

        tensor, labels = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)

        def torch_call() -> None:
            tensor.grad = None
            torch.nn.functional.cross_entropy(tensor, labels).backward()

        calls["torch"] = torch_call
    return calls
