"""The solvers of fit.py: what each is asked, from loose to tight, and how it is called.

A solver is a function (problem, settings) -> coef, intercept, iterations as the library counts them. Imports stand in
the functions: a library that is missing costs its rows only. Every solver is given X as it is; those that compute in
the type of X are given float32 data a second time as float64, the conversion being part of their time.

oneDAL is measured through scikit-learn-intelex, which hands it several classes only with the solver lbfgs, a finite C
and dense rows; else it falls back to scikit-learn. StandardScaler before a penalised fit gives another minimiser, so
scikit-learn has it only where C is infinite; the coefficients are then those of the given features.
"""

import importlib.metadata
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from fit_problems import Array, Problem

Fit = tuple[Array, Array, int]
Settings = dict[str, Any]
_TOLERANCES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10)


class Solver(NamedTuple):
    """`package` is what must be installed; `ladder` are the settings, {} the library's defaults."""

    library: str
    package: str
    run: Callable[..., Fit]
    ladder: list[Settings]
    applies: Callable[[Problem], bool] = lambda problem: True


def by_tolerance(max_iter: int) -> list[Settings]:
    """The defaults, then tighter and tighter tolerances."""
    return [{}, *({"tol": tol, "max_iter": max_iter} for tol in _TOLERANCES)]


def _softfast(problem: Problem, **settings: Any) -> Fit:
    from softfast import SoftmaxRegression

    model = SoftmaxRegression(C=problem.C, **settings).fit(problem.X, problem.y)
    return model.coef_, model.intercept_, model.n_passes_


def _sklearn(solver: str) -> Callable[..., Fit]:
    def run(problem: Problem, **settings: Any) -> Fit:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=problem.C, solver=solver, **settings).fit(problem.X, problem.y)
        return model.coef_, model.intercept_, int(model.n_iter_.max())

    return run


def _scaled(run: Callable[..., Fit]) -> Callable[..., Fit]:
    def scaled(problem: Problem, **settings: Any) -> Fit:
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler()
        X = scaler.fit_transform(problem.X)
        coef, intercept, n_iter = run(Problem(X, problem.y, problem.C), **settings)
        coef = coef / scaler.scale_
        return coef, intercept - coef @ scaler.mean_, n_iter

    return scaled


def _onedal(problem: Problem, **settings: Any) -> Fit:
    from sklearnex.linear_model import LogisticRegression

    model = LogisticRegression(C=problem.C, solver="lbfgs", **settings).fit(problem.X, problem.y)
    return model.coef_, model.intercept_, int(np.max(model.n_iter_))


def _cyanure(solver: str) -> Callable[..., Fit]:
    def run(problem: Problem, **settings: Any) -> Fit:
        from cyanure.estimators import Classifier

        model = Classifier(
            loss="multiclass-logistic",
            penalty="l2",
            solver=solver,
            lambda_1=problem.penalty,
            fit_intercept=True,
            verbose=False,
            **settings,
        ).fit(problem.X, problem.y)
        return model.coef_.T, model.intercept_.ravel(), int(np.max(model.n_iter_))

    return run


def _torch(problem: Problem, **settings: Any) -> Fit:
    import torch

    X, y = torch.from_numpy(problem.X), torch.from_numpy(problem.y)
    coef = torch.zeros((problem.n_classes, X.shape[1]), dtype=X.dtype, requires_grad=True)
    intercept = torch.zeros(problem.n_classes, dtype=X.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([coef, intercept], **settings)
    calls = 0

    def closure() -> Any:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        logits = torch.nn.functional.linear(X, coef, intercept)
        value = torch.nn.functional.cross_entropy(logits, y) + problem.penalty / 2 * coef.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return coef.detach().numpy(), intercept.detach().numpy(), calls


def _statsmodels(method: str) -> Callable[..., Fit]:
    def run(problem: Problem, **settings: Any) -> Fit:
        import statsmodels.api

        X = statsmodels.api.add_constant(problem.X, has_constant="add")
        fitted = statsmodels.api.MNLogit(problem.y, X).fit(method=method, disp=False, **settings)
        # (p + 1, K - 1), the constant first, class 0 the reference.
        parameters = np.column_stack([np.zeros(X.shape[1]), np.asarray(fitted.params)])
        return parameters[1:].T, parameters[0], int(fitted.mle_retvals["iterations"])

    return run


def _penalised(problem: Problem) -> bool:
    return not math.isinf(problem.C)


def _unpenalised(problem: Problem) -> bool:
    return math.isinf(problem.C)


def _dense(problem: Problem) -> bool:
    return not problem.is_sparse


def _dense_penalised(problem: Problem) -> bool:
    return _dense(problem) and _penalised(problem)


_TORCH_LADDER = [
    {},
    *(
        {"max_iter": 100_000, "tolerance_grad": tol, "tolerance_change": 0.0, "line_search_fn": "strong_wolfe"}
        for tol in _TOLERANCES
    ),
]
_STATSMODELS = {
    "newton": [{}, {"maxiter": 1000}, {"maxiter": 1000, "tol": 1e-12}],
    "lbfgs": [{}, *({"maxiter": 100_000, "pgtol": tol, "factr": 0.0} for tol in _TOLERANCES)],
}
SOLVERS: dict[str, Solver] = {
    "softfast": Solver("softfast", "softfast", _softfast, by_tolerance(20_000)),
    **{
        f"scikit-learn {name}": Solver("scikit-learn", "scikit-learn", _sklearn(name), by_tolerance(100_000))
        for name in ("lbfgs", "newton-cg", "newton-cholesky", "saga")
    },
    **{
        f"scikit-learn scaler {name}": Solver(
            "scikit-learn", "scikit-learn", _scaled(_sklearn(name)), by_tolerance(100_000), _unpenalised
        )
        for name in ("lbfgs", "newton-cg", "newton-cholesky", "saga")
    },
    "oneDAL lbfgs": Solver("oneDAL", "scikit-learn-intelex", _onedal, by_tolerance(100_000), _dense_penalised),
    # On iris and others "auto" stops too early at any tolerance, its dual objective being above the optimum.
    **{
        f"cyanure {name}": Solver("cyanure", "cyanure", _cyanure(name), by_tolerance(100_000), _penalised)
        for name in ("auto", "qning-svrg")
    },
    "torch lbfgs": Solver("torch", "torch", _torch, _TORCH_LADDER, _dense),
    **{
        f"statsmodels {method}": Solver("statsmodels", "statsmodels", _statsmodels(method), ladder, _unpenalised)
        for method, ladder in _STATSMODELS.items()
    },
}


def version(solver: str) -> str | None:
    """The version that is installed, None if none is."""
    try:
        return importlib.metadata.version(SOLVERS[solver].package)
    except importlib.metadata.PackageNotFoundError:
        return None


def rungs(solver: str, problem: Problem) -> list[Settings]:
    """The ladder, and for float32 data once more with `float64`."""
    ladder = SOLVERS[solver].ladder
    if problem.X.dtype == np.float64 or solver == "softfast":
        return ladder
    return [*ladder, *({**settings, "float64": True} for settings in ladder)]


def fit(solver: str, problem: Problem, settings: Settings) -> Fit:
    """One fit."""
    settings = dict(settings)
    if settings.pop("float64", False):
        problem = Problem(problem.X.astype(np.float64), problem.y, problem.C)
    return SOLVERS[solver].run(problem, **settings)
