"""The problems of fit.py: data, the objective that judges every fit, and its optimum."""

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from softfast import SoftmaxRegression

Array = NDArray[Any]

# Newton's Hessian is dense: coefficients at most.
_NEWTON_SIZE = 1000
# Elements of the logits that exist at a time.
_CHUNK = 2**22


@dataclass(frozen=True)
class Problem:
    """Minimise the mean cross-entropy plus ||coef||^2 / (2 C n); labels y are 0..K-1, K >= 3; X may be sparse."""

    X: Array | csr_array
    y: Array
    C: float = 1.0

    @property
    def penalty(self) -> float:
        return 0.0 if math.isinf(self.C) else 1 / (self.C * len(self.y))

    @property
    def is_sparse(self) -> bool:
        return isinstance(self.X, csr_array)

    @property
    def n_classes(self) -> int:
        return int(self.y.max()) + 1


def objective(problem: Problem, coef: Array, intercept: Array) -> float:
    """In float64, from the coefficients that a library returned."""
    coef, intercept = np.asarray(coef, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
    step, total = max(1, _CHUNK // len(coef)), 0.0
    for begin in range(0, len(problem.y), step):
        logits = problem.X[begin : begin + step].astype(np.float64) @ coef.T + intercept
        logits -= logits.max(axis=1, keepdims=True)
        labels = problem.y[begin : begin + step]
        total += float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]).sum())
    return total / len(problem.y) + problem.penalty / 2 * float((coef**2).sum())


def optimum(problem: Problem) -> dict[str, float]:
    """The lowest objective known, with what vouches for it.

    By softfast in float64, as far as rounding lets it, with its certificate where there is a penalty; and by Newton's
    method in NumPy where the Hessian is small.
    """
    exact = Problem(problem.X.astype(np.float64), problem.y, problem.C)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SoftmaxRegression(C=exact.C, tol=1e-13, max_iter=20_000).fit(exact.X, exact.y)
    found = {"objective": objective(exact, model.coef_, model.intercept_)}
    if problem.penalty > 0:
        found["gap"] = float(model.duality_gap_)
    if exact.n_classes * (exact.X.shape[1] + 1) <= _NEWTON_SIZE:
        found["newton"] = newton(exact)
        found["objective"] = min(found["objective"], found["newton"])
    return found


def newton(problem: Problem) -> float:
    """The objective where Newton's method with the whole Hessian and halved steps comes to rest."""
    # With features centred and scaled, in which the intercept takes up the means and the penalty its scale.
    mean, scale = problem.X.mean(axis=0), problem.X.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    A = np.column_stack([(problem.X - mean) / scale, np.ones(len(problem.y))])
    (n, width), n_classes = A.shape, problem.n_classes
    ridge = np.append(problem.penalty / scale**2, 0.0)
    one_hot = np.eye(n_classes)[problem.y]
    theta = np.zeros((n_classes, width))

    def value(theta: Array) -> float:
        coef = theta[:, :-1] / scale
        return objective(problem, coef, theta[:, -1] - coef @ mean)

    best = value(theta)
    for _ in range(200):
        proba = A @ theta.T
        proba = np.exp(proba - proba.max(axis=1, keepdims=True))
        proba /= proba.sum(axis=1, keepdims=True)
        gradient = (proba - one_hot).T @ A / n + ridge * theta
        hessian = np.empty((n_classes, width, n_classes, width))
        for k in range(n_classes):
            for m in range(k, n_classes):
                weight = proba[:, k] * ((k == m) - proba[:, m]) / n
                hessian[k, :, m] = hessian[m, :, k] = (A * weight[:, None]).T @ A
            hessian[k, :, k] += np.diag(ridge)
        step = np.linalg.lstsq(hessian.reshape(theta.size, -1), gradient.ravel(), rcond=1e-13)[0].reshape(theta.shape)
        length = 1.0
        while length > 1e-6 and value(theta - length * step) >= best:
            length /= 2
        if length <= 1e-6:
            return best
        theta = theta - length * step
        best = value(theta)
    return best


def _bundled(name: str) -> Problem:
    from sklearn import datasets

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return Problem(X, y)


def _anes96() -> Problem:
    import statsmodels.api

    data = statsmodels.api.datasets.anes96.load_pandas()
    return Problem(data.exog.to_numpy(dtype=float), data.endog.to_numpy().astype(int), math.inf)


def _file(name: str, C: float = 1.0) -> Problem:
    """A data set of the folder SOFTFAST_DATA, as it is."""
    folder = os.environ.get("SOFTFAST_DATA")
    if not folder:
        raise FileNotFoundError(f"{name} needs the folder of data sets that SOFTFAST_DATA names")
    file = np.load(Path(folder) / f"{name}.npz")
    if "indptr" in file:
        # Some of scikit-learn's solvers take 32-bit indices only.
        index = file["indices"].astype(np.int32), file["indptr"].astype(np.int32)
        X = csr_array((file["data"].astype(np.float32), *index), shape=tuple(file["shape"]))
        return Problem(X, file["y"].astype(np.int64), C)
    X = file["X"]
    return Problem(X if X.dtype.kind == "f" else X.astype(np.float64), file["y"].astype(np.int64), C)


def _standardised(problem: Problem, n_columns: int | None = None) -> Problem:
    """The first columns with mean 0 and variance 1, the others as they are: another problem, for the penalty stays."""
    X = problem.X.astype(np.float64)
    head = X[:, :n_columns]
    spread = head.std(axis=0)
    X[:, :n_columns] = (head - head.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return Problem(X, problem.y, problem.C)


def _fashion_mnist() -> Problem:
    problem = _file("fashion_mnist")
    return Problem((problem.X / 255).astype(np.float32), problem.y)


def _clusters(n: int, p: int, n_classes: int) -> Problem:
    """Rows around the means of their classes, as embeddings are."""
    rng = np.random.default_rng(0)
    spread = np.arange(1, p + 1) ** -0.5
    y = rng.integers(0, n_classes, n)
    X = (0.5 * rng.normal(size=(n_classes, p)))[y] * spread + rng.normal(size=(n, p)) * spread
    X *= np.sqrt(p) / np.linalg.norm(X, axis=1, keepdims=True)
    return Problem(X.astype(np.float32), y)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "digits": lambda: _bundled("digits"),
    "iris": lambda: _bundled("iris"),
    "wine": lambda: _bundled("wine"),
    "wine standardised": lambda: _standardised(_bundled("wine")),
    "anes96 C=inf": _anes96,
    "contraceptive C=inf": lambda: _file("contraceptive", math.inf),
    "satellite": lambda: _file("satellite"),
    "letterrecognition": lambda: _file("letterrecognition"),
    "shuttle": lambda: _file("shuttle"),
    "diamonds_cut": lambda: _file("diamonds_cut"),
    "fashion_mnist": _fashion_mnist,
    # Ten columns of covtype are numbers, the others indicators.
    "covtype standardised": lambda: _standardised(_file("covtype"), 10),
    "covtype": lambda: _file("covtype"),
    "kddcup99_10pct standardised": lambda: _standardised(_file("kddcup99_10pct")),
    "kddcup99_10pct": lambda: _file("kddcup99_10pct"),
    "news20, CSR": lambda: _file("news20_tfidf"),
    "clinc150, CSR": lambda: _file("clinc150_tfidf12"),
    "clusters K=1000": lambda: _clusters(20_000, 256, 1000),
}
BUNDLED = ("digits", "iris", "wine", "wine standardised", "anes96 C=inf")
