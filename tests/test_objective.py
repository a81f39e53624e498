"""The objective: its value against the formula, its gradient against differences, its gap against the true optimum."""

from dataclasses import replace

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from tolerance import assert_close

from softfast.balance import Balance
from softfast.objective import SoftmaxObjective
from softfast.solvers.lbfgs import lbfgs
from softfast.sources import in_memory
from softfast.sources.csr import CsrSource
from softfast.sources.dense import DenseSource


def problem(seed, n=40, p=4, n_classes=3, *, weighted=True, scale=1.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * np.geomspace(1, scale, p) + rng.normal(size=p)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    return X, labels, rng.uniform(0.2, 3, n) if weighted else None


def objective_of(X, labels, weight, *, penalty=0.05, fit_intercept=True, n_classes=3):
    n_outputs = 1 if n_classes == 2 else n_classes
    source = DenseSource(X, labels, n_classes, weight)
    return SoftmaxObjective(source, strength=penalty, fit_intercept=fit_intercept, n_outputs=n_outputs)


def plain_value(X, labels, weight, coef, intercept, penalty):
    """F written from its formula."""
    logits = X @ coef.T + intercept
    if coef.shape[0] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return np.average(losses, weights=weight) + 0.5 * penalty * (coef**2).sum()


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3, 6])
@pytest.mark.parametrize("weighted", [True, False])
def test_value_and_coordinates(fit_intercept, n_classes, weighted):
    X, labels, weight = problem(1, n_classes=n_classes, weighted=weighted)
    objective = objective_of(X, labels, weight, fit_intercept=fit_intercept, n_classes=n_classes)
    rng = np.random.default_rng(2)
    n_outputs = 1 if n_classes == 2 else n_classes
    coef = rng.normal(size=(n_outputs, 4))
    intercept = rng.normal(size=n_outputs) if fit_intercept else np.zeros(n_outputs)
    if n_outputs > 1:
        coef -= coef.mean(axis=0)
        intercept -= intercept.mean()
    x = objective.pack(coef, intercept)
    again = objective.unpack(x)
    np.testing.assert_allclose(again[0], coef, rtol=1e-13)
    np.testing.assert_allclose(again[1], intercept, rtol=1e-12, atol=1e-12)
    expected = plain_value(X, labels, weight, coef, intercept, 0.05)
    np.testing.assert_allclose(objective(x).value, expected, rtol=1e-13)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_gradient_is_the_slope_of_the_value(fit_intercept, n_classes):
    X, labels, weight = problem(3, n_classes=n_classes, scale=100.0)
    objective = objective_of(X, labels, weight, fit_intercept=fit_intercept, n_classes=n_classes)
    rng = np.random.default_rng(4)
    size = objective.pack(np.zeros((1 if n_classes == 2 else n_classes, 4)), np.zeros(1 if n_classes == 2 else 4)).size
    x = rng.normal(size=size)
    step = 1e-3
    for i in range(size):
        e = np.zeros(size)
        e[i] = step
        value = {k: objective(x + k * e).value for k in (-2, -1, 1, 2)}
        slope = (value[-2] - 8 * value[-1] + 8 * value[1] - value[2]) / (12 * step)
        assert abs(slope - objective(x).gradient[i]) < 1e-10


def optimum(X, labels, weight, penalty, fit_intercept):
    """min F by scikit-learn's Newton method."""
    total = len(labels) if weight is None else weight.sum()
    model = LogisticRegression(
        C=1 / (penalty * total), fit_intercept=fit_intercept, tol=1e-12, solver="newton-cholesky", max_iter=200
    ).fit(X, labels, sample_weight=weight)
    return plain_value(X, labels, weight, model.coef_, model.intercept_, penalty)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n_classes=st.sampled_from([2, 3, 5]),
    fit_intercept=st.booleans(),
    log_penalty=st.floats(-4, 2),
    distance=st.sampled_from([0.0, 1e-6, 1e-2, 1.0, 10.0]),
    weighted=st.booleans(),
)
def test_gap_is_never_below_the_true_suboptimality(seed, n_classes, fit_intercept, log_penalty, distance, weighted):
    penalty = 10.0**log_penalty
    X, labels, weight = problem(seed, n_classes=n_classes, weighted=weighted)
    best = optimum(X, labels, weight, penalty, fit_intercept)
    objective = objective_of(X, labels, weight, penalty=penalty, fit_intercept=fit_intercept, n_classes=n_classes)
    rng = np.random.default_rng(seed)
    n_outputs = 1 if n_classes == 2 else n_classes
    start = objective.pack(np.zeros((n_outputs, 4)), np.zeros(n_outputs))
    point = objective(start + distance * rng.normal(size=start.size))
    assert point.value - best <= point.gap + 1e-14 * max(1, best)
    assert point.gap >= 0


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_gap_closes_at_the_optimum(fit_intercept, n_classes):
    X, labels, weight = problem(7, n_classes=n_classes)
    objective = objective_of(X, labels, weight, fit_intercept=fit_intercept, n_classes=n_classes)
    model = LogisticRegression(
        C=1 / (0.05 * weight.sum()), fit_intercept=fit_intercept, tol=1e-12, solver="newton-cholesky"
    ).fit(X, labels, sample_weight=weight)
    point = objective(objective.pack(model.coef_, model.intercept_ if fit_intercept else np.zeros(len(model.coef_))))
    assert 0 <= point.gap < 1e-10


def test_gap_is_nan_without_penalty():
    X, labels, weight = problem(8)
    objective = objective_of(X, labels, weight, penalty=0.0)
    assert np.isnan(objective(objective.pack(np.zeros((3, 4)), np.zeros(3))).gap)


def test_units_of_the_features_do_not_change_the_problem_without_penalty():
    X, labels, weight = problem(9)
    units = np.array([1e-6, 1.0, 1e3, 1e6])
    plain = objective_of(X, labels, weight, penalty=0.0)
    scaled = objective_of(X * units, labels, weight, penalty=0.0)
    x = np.random.default_rng(10).normal(size=15)
    np.testing.assert_allclose(scaled(x).value, plain(x).value, rtol=1e-9)
    np.testing.assert_allclose(scaled(x).gradient, plain(x).gradient, rtol=1e-6, atol=1e-9)


def test_constant_and_duplicate_columns_are_no_obstacle():
    X, labels, weight = problem(11)
    wide = np.column_stack([X, np.full(len(X), 3.7e5), X[:, 0], np.zeros(len(X))])
    for penalty in (0.0, 0.1):
        objective = objective_of(wide, labels, weight, penalty=penalty)
        point = objective(np.random.default_rng(12).normal(size=24))
        assert np.isfinite(point.value)
        assert np.isfinite(point.gradient).all()


@pytest.mark.parametrize("n_classes", [2, 4])
def test_value_is_within_its_allowance_for_rounding(n_classes):
    largest = 0.0
    for seed in range(20):
        X, labels, weight = problem(seed, n_classes=n_classes)
        X = X + 10.0 ** np.arange(6, 10)
        objective = objective_of(X, labels, weight, n_classes=n_classes)
        x = np.random.default_rng(seed).normal(size=5 * (1 if n_classes == 2 else n_classes))
        point = objective(x)
        exact = reference.objective(X, labels, *objective.unpack(x), 0.05, weight, n_classes)[0]
        error = abs(float(point.value - exact))
        assert error <= point.rounding
        largest = max(largest, error / point.value)
    assert largest > 1e-12  # Or the data are harmless, and an allowance in units of the value would do.


def test_gap_covers_the_rounding_of_the_intercept():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X, labels = rng.normal(size=(6, 2)), np.array([0, 1, 2, 0, 0, 0])
        weight = 10.0 ** rng.integers(-6, 1, 6)
        objective = objective_of(X, labels, weight, penalty=1e4 / weight.sum())
        start = objective(np.zeros(9))
        points = [start]
        lbfgs(
            objective, start, max_iter=40, stop=lambda point, seen=points: seen.append(point), metric=objective.metric
        )
        values = [
            reference.objective(X, labels, *objective.unpack(point.x), 1e4 / weight.sum(), weight, 3)[0]
            for point in points
        ]
        for point, value in zip(points, values, strict=True):
            assert point.gap >= value - min(values)


@pytest.mark.parametrize("storage", [DenseSource, CsrSource])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_overlaps_are_products_of_probabilities(storage, n_classes, monkeypatch, rng):
    # Chunks of 16 rows, and a last one of 8.
    monkeypatch.setattr(in_memory, "_LARGEST_PROBA", 16 * n_classes)
    X, labels, weight = problem(13, n_classes=n_classes)
    offset = rng.normal(size=(len(X), n_classes))
    rows = csr_array(X) if storage is CsrSource else X
    source = storage(rows, labels, n_classes, weight, offset=offset)
    coef, intercept = rng.normal(size=(max(n_classes - 1, n_classes % 3), 4)), np.zeros(n_classes)
    intercept = rng.normal(size=len(coef))
    p = reference.softmax(reference.logits(X, coef, intercept, n_classes, offset))
    assert_close(source.overlaps(coef, intercept), (p.T * weight) @ p, np.float64, len(X))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_hessian_of_the_intercepts_is_the_slope_of_the_gradient(n_classes, rng):
    X, labels, weight = problem(14, n_classes=n_classes)
    objective = objective_of(X, labels, weight, n_classes=n_classes)
    n_outputs = 1 if n_classes == 2 else n_classes
    point = objective(rng.normal(size=n_outputs * 5))
    hessian, own = objective.intercept_hessian(point), objective.intercepts
    direction = np.zeros(n_outputs * 5)
    direction[own] = rng.normal(size=n_outputs)
    if n_outputs > 1:
        # But for what changes no probability, where F is constant: adding one number to all intercepts.
        constant = objective.pack(np.zeros((n_outputs, 4)), np.ones(n_outputs))[own]
        direction[own] -= constant * (constant @ direction[own]) / (constant @ constant)
        assert constant @ hessian @ constant > 0.01 * (constant @ constant)
    slope = objective(point.x + 1e-5 * direction).gradient - objective(point.x - 1e-5 * direction).gradient
    np.testing.assert_allclose(hessian @ direction[own], slope[own] / 2e-5, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("n_classes", [2, 9])
def test_balanced_intercepts_certify(n_classes):
    X, labels, weight = problem(15, n=400, n_classes=n_classes)
    X = X + 30
    objective = objective_of(X, labels, weight, penalty=1e-3, n_classes=n_classes)
    start = objective(np.zeros(5 * (n_classes if n_classes > 2 else 1)))
    best, *_ = lbfgs(objective, start, max_iter=200, stop=lambda point: point.gap < 1e-10, metric=objective.metric)
    own, x = objective.intercepts, best.x.copy()
    x[own] += np.random.default_rng(0).normal(size=len(x[own])) * 1e-4
    near = objective(x)
    tol = near.gap / 20
    assert near.balanced_gap < 0.5 * tol
    objective.n_passes = 0
    found = Balance(objective, tol)(near)
    assert found.gap <= tol
    assert found.value < near.value
    assert np.abs(found.gradient[own]).max() < 1e-2 * np.abs(near.gradient[own]).max()
    np.testing.assert_array_equal(found.x[: own.start], x[: own.start])
    assert 1 < objective.n_passes <= 4
    # Not where the coefficients are to blame, nor where the next iterates will do.
    assert Balance(objective, near.balanced_gap / near.value / 2)(near) is near
    assert Balance(objective, near.gap / 2)(near) is near


def test_balance_ends_in_float64():
    X, labels, weight = problem(15, n=400, n_classes=9)
    X = (X + 3).astype(np.float32)
    objective = objective_of(X, labels, weight, penalty=1e-3, n_classes=9)
    start = objective(np.zeros(45))
    best, *_ = lbfgs(objective, start, max_iter=200, stop=lambda point: point.gap < 1e-10, metric=objective.metric)
    x = best.x.copy()
    x[objective.intercepts] += np.random.default_rng(0).normal(size=9) * 1e-4
    exact = objective(x)
    # From its first iterate on in float32.
    objective.refine(exact)
    near = objective(x)
    assert near.rounding > 1e6 * exact.rounding
    found = Balance(objective, exact.gap / 100)(near)
    assert found.gap <= exact.gap / 100
    assert found.rounding <= 2 * exact.rounding


def test_no_intercepts_to_balance():
    X, labels, weight = problem(15, n=400)
    objective = objective_of(X, labels, weight, fit_intercept=False)
    point = objective(np.zeros(12))
    assert Balance(objective, point.gap / 5)(point) is point
    assert objective.n_passes == 1


def test_saturated_classes_can_not_be_balanced():
    # All probabilities are 0 or 1: no intercept moves them, and there is no factorisation or no better point.
    X, labels, weight = problem(16, n=400)
    objective = objective_of(X, labels, weight, penalty=1e-12)
    point = objective(np.full(15, 1.0) * 1e9 * np.sign(np.random.default_rng(0).normal(size=15)))
    point = replace(point, balanced_gap=0.0)
    found = Balance(objective, 1e-9)(point)
    assert found.gap <= point.gap
    assert found.value <= point.value
