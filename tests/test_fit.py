"""What a fit promises: a gap that bounds the truth, one model however the data lie, one result on any threads."""

import warnings

import numpy as np
import pytest
import reference
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from tolerance import tolerance

from softfast import SoftmaxRegression
from softfast.sources.dense import DenseSource

SOLVERS = {
    "lbfgs": {"solver": "lbfgs"},
    "newton-cg": {"solver": "newton-cg"},
    "proximal-newton": {"l1_ratio": 0.5},
    "proximal-newton by feature": {"l1_ratio": 0.5, "sparsity": "feature"},
}


def overlapping(rng, n, p, n_classes):
    """X with columns of different scales and labels that it does not separate."""
    X = rng.normal(size=(n, p))
    y = (X @ rng.normal(size=(p, n_classes)) + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return X * np.geomspace(1, 100, p) + rng.normal(size=p), y


@st.composite
def problems(draw):
    """X, targets, weights or None, offsets or None, number of classes, penalty, fit_intercept."""
    n_classes, p = draw(st.sampled_from([2, 3, 4])), draw(st.integers(1, 4))
    n = draw(st.integers(n_classes, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.normal(size=(n, p)) * np.geomspace(1, 10.0 ** draw(st.integers(-1, 2)), p) + rng.normal(size=p)
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    if draw(st.booleans()):
        y = rng.dirichlet(np.full(n_classes, 0.5), n)
    weight = rng.uniform(0.2, 3, n) if draw(st.booleans()) else None
    offset = 10.0 ** draw(st.integers(-2, 2)) * rng.normal(size=(n, n_classes)) if draw(st.booleans()) else None
    return X, y, weight, offset, n_classes, 10.0 ** draw(st.floats(-3, 1)), draw(st.booleans())


@settings(max_examples=200)
@given(problems(), st.sampled_from(["lbfgs", "newton-cg"]), st.sampled_from([1e-2, 1e-6, 1e-9, 0.0]))
def test_fit_is_as_near_the_optimum_as_it_certifies(problem, solver, tol):
    X, y, weight, offset, n_classes, penalty, fit_intercept = problem
    total = len(X) if weight is None else weight.sum()
    coef, intercept, best = reference.newton(X, y, n_classes, penalty, weight, fit_intercept, offset)
    # The reference's own gradient shows that its value is that of the optimum to more digits than float64 has.
    slope, slope_intercept = reference.objective(X, y, coef, intercept, penalty, weight, n_classes, offset)[1:]
    assert np.sum(slope**2) / (2 * penalty) <= 1e-20
    assert not fit_intercept or np.abs(slope_intercept).max() <= 1e-12

    model = SoftmaxRegression(C=1 / (penalty * total), fit_intercept=fit_intercept, solver=solver, tol=tol)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if tol > 0 else "ignore")
        model.fit(X, y, sample_weight=weight, offset=offset)
    value = reference.objective(X, y, model.coef_, model.intercept_, penalty, weight, n_classes, offset)[0]
    assert value - best <= model.duality_gap_
    assert model.converged_ == (model.duality_gap_ <= tol * max(1, model.objective_)) == (tol > 0)
    size = max(1, value) if offset is None else max(1, value, np.abs(offset).max())
    assert abs(value - model.objective_) <= tolerance(np.float64, 40) * size
    # F is strongly convex in W: penalty/2 ||W - W*||^2 <= F - min F.
    assert penalty / 2 * np.sum((model.coef_ - coef) ** 2) <= model.duality_gap_


@settings(max_examples=100)
@given(problems())
def test_iterates_in_float32_are_as_near_the_optimum_as_certified(problem):
    X, y, weight, offset, n_classes, penalty, fit_intercept = problem
    X, y = X.astype(np.float32), y if y.ndim == 1 else y.argmax(axis=1)
    assume(len(np.unique(y)) == n_classes)
    total = len(X) if weight is None else weight.sum()
    best = reference.newton(X, y, n_classes, penalty, weight, fit_intercept, offset)[2]
    iterates, singles = [], []

    class Recording(DenseSource):
        def loss_gradient(self, *arguments, single=False, **options):
            singles.append(single)
            return super().loss_gradient(*arguments, single=single, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softfast.training.DenseSource", Recording)
        model = SoftmaxRegression(C=1 / (penalty * total), fit_intercept=fit_intercept, callback=iterates.append)
        model.fit(X, y, sample_weight=weight, offset=offset)
    for iterate in iterates:
        value = reference.objective(X, y, iterate.coef, iterate.intercept, penalty, weight, n_classes, offset)[0]
        assert value - best <= iterate.gap
    assert model.converged_
    # In float32 from the second evaluation on, at last in float64.
    switches = np.flatnonzero(np.diff(singles))
    assert len(switches) in (0, 2)
    assert not singles[0]
    assert not singles[-1]
    event("float32" if any(singles) else "float64 alone")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_order_and_repetition_change_nothing(solver, n_classes, rng):
    X, y = overlapping(rng, 150, 5, n_classes)
    counts, rows, columns = rng.integers(0, 4, 150), rng.permutation(150), rng.permutation(5)
    classes = np.roll(np.arange(n_classes), 1)

    def fit(*data):
        return SoftmaxRegression(tol=1e-12, **SOLVERS[solver]).fit(*data)

    model, relabelled = fit(X, y, counts), fit(X, classes[y], counts)
    others = {
        "rows in another order": (fit(X[rows], y[rows], counts[rows]), model.coef_),
        "rows repeated": (fit(np.repeat(X, counts, axis=0), np.repeat(y, counts)), model.coef_),
        "features in another order": (fit(X[:, columns], y, counts), model.coef_[:, columns]),
        "classes in another order": (relabelled, -model.coef_ if n_classes == 2 else model.coef_[np.argsort(classes)]),
    }
    ridge = (1 - model.l1_ratio) / (model.C * counts.sum())
    for name, (other, expected) in others.items():
        # F is strongly convex: ridge/2 ||W - W*||^2 <= F - min F.
        apart = (np.sqrt(model.duality_gap_) + np.sqrt(other.duality_gap_)) * np.sqrt(2 / ridge)
        assert apart < 1e-3 * np.linalg.norm(expected)
        assert np.linalg.norm(other.coef_ - expected) <= apart, name
        assert abs(other.objective_ - model.objective_) <= max(model.duality_gap_, other.duality_gap_), name


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_units_of_the_features_change_nothing_without_penalty(solver, n_classes, rng):
    X, y = overlapping(rng, 150, 5, n_classes)
    units = np.array([1e6, 1.0, 1e-6, 1e6, 1e-6])
    coef, intercept, best = reference.newton(X, y, n_classes, 0.0)
    model = SoftmaxRegression(C=np.inf, solver=solver, tol=1e-11).fit(X * units, y)
    assert model.converged_
    spread = X.std(axis=0)
    np.testing.assert_allclose(model.coef_ * units * spread, (coef * spread).astype(float), atol=1e-8)
    np.testing.assert_allclose(model.intercept_, intercept.astype(float), atol=1e-8)
    np.testing.assert_allclose(model.objective_, float(best), rtol=1e-13)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_for_any_number_of_threads(solver, dtype, rng):
    X, y = overlapping(rng, 10_000, 20, 5)
    X = X.astype(dtype)
    one, *others = (SoftmaxRegression(0.05, n_threads=n, **SOLVERS[solver]).fit(X, y) for n in (1, 2, 3, 7))
    assert one.n_iter_ > 1
    for other in others:
        for name in ("coef_", "intercept_", "objective_", "duality_gap_", "n_passes_"):
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name))
        for name in ("pass", "objective", "gap"):
            np.testing.assert_array_equal(other.history_[name], one.history_[name])
        np.testing.assert_array_equal(other.predict_proba(X), one.predict_proba(X))


@pytest.mark.parametrize("load", [load_iris, load_wine, load_breast_cancer])
@pytest.mark.parametrize("C", [1e-8, 1e-4, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("solver", SOLVERS)
def test_convergence_is_never_claimed_falsely(solver, C, load):
    X, y = load(return_X_y=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = SoftmaxRegression(C=C, **SOLVERS[solver]).fit(X, y)
    for name in ("coef_", "intercept_", "objective_", "duality_gap_"):
        assert np.isfinite(getattr(model, name)).all()
    assert np.isfinite(model.predict_log_proba(X)).all()
    assert model.converged_ == (model.duality_gap_ <= 1e-6 * max(1, model.objective_))
    assert [w.category for w in caught] == [ConvergenceWarning] * (not model.converged_)
    if model.l1_ratio == 0:
        best = reference.newton(X, y, len(model.classes_), 1 / (C * len(y)))[2]
        assert model.objective_ - best <= model.duality_gap_


IRIS = load_iris(return_X_y=True)
SIZE = r"X must hold numbers of at most 1e\+100 in absolute value, got .* feature 1"
BEYOND = {
    "X too large": (1e160, {}, None, SIZE),
    "X too large, not even a sum": (1e307, {"l1_ratio": 0.5}, None, SIZE),
    "X too large without penalty": (1e101, {"C": np.inf}, None, SIZE),
    "X too small": (1e-160, {"C": np.inf}, None, r"X must hold numbers of at least 1e-100 .* C=inf, got .* feature 1"),
    "C too small": (1.0, {"C": 1e-310}, None, r"C times the sum of the weights must be .* got C=1e-310 and .* 150"),
    "C too large": (1.0, {"C": 1e300}, None, r"C times .* \(np.inf: no penalty\), got C=1e\+300"),
    "C too large an integer": (1.0, {"C": 10**400}, None, r"C times .* got C=1000"),
    "weights too small": (
        1.0,
        {},
        1e-310,
        r"sample_weight .* have for its sum a number from 1e-100 .* got 1.5e-308",
    ),
    "weights too large": (1.0, {"C": np.inf}, 1e300, r"sample_weight .* to 1e\+100, got 1.5e\+302"),
    "weights without a sum": (
        1.0,
        {},
        1e308,
        r"sample_weight must add up to a finite number, got .* 1e\+308",
    ),
}


@pytest.mark.parametrize("case", BEYOND)
def test_what_floating_point_cannot_hold_is_named(case):
    unit, parameters, weight, message = BEYOND[case]
    X, y = IRIS
    X = np.column_stack([X[:, 0], X[:, 1] * unit])
    with pytest.raises(ValueError, match=message):
        SoftmaxRegression(**parameters).fit(X, y, None if weight is None else np.full(150, weight))


@pytest.mark.parametrize("unit", [1e-98, 1e98])
def test_extreme_units_of_features_and_weights_change_nothing_without_penalty(unit):
    X, y = IRIS[0][50:, :2], IRIS[1][50:]
    plain = SoftmaxRegression(C=np.inf).fit(X, y)
    for model, factor in (
        (SoftmaxRegression(C=np.inf).fit(X * unit, y), unit),
        (SoftmaxRegression(C=np.inf).fit(X, y, np.full(100, unit / 100)), 1.0),
    ):
        assert model.converged_
        np.testing.assert_allclose(model.coef_ * factor, plain.coef_, rtol=1e-4)
    # Separated classes are found out whatever the unit of the weights.
    with pytest.warns(ConvergenceWarning, match="separated"):
        SoftmaxRegression(C=np.inf).fit(IRIS[0][:, :2], IRIS[1], np.full(150, unit / 150))
