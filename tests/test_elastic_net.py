"""Elastic net and L1, by coefficient and by feature: the minimum, its conditions, its certificate, the estimator."""

import signal
import warnings

import numpy as np
import pytest
import reference
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from problems import assert_interrupt_ends
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

from softfast import SoftmaxRegression
from softfast.metric import active_hessian
from softfast.objective import SoftmaxObjective
from softfast.sources.dense import DenseSource

L1_RATIOS = [0.3, 0.9, 1.0]


def problem(seed, n_classes, n=60, p=5, *, weighted=True):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * np.geomspace(0.5, 4, p) + rng.normal(size=p)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    X[:, 0] += labels
    return X, labels, rng.uniform(0.2, 3, n) if weighted else None


def total_of(labels, weight):
    return len(labels) if weight is None else float(np.sum(weight))


def objective_of(X, labels, weight, penalty, l1_ratio, *, by_feature=False, fit_intercept=True):
    n_classes = int(labels.max()) + 1
    return SoftmaxObjective(
        DenseSource(X, labels, n_classes, weight),
        strength=penalty,
        l1_ratio=l1_ratio,
        by_feature=by_feature,
        fit_intercept=fit_intercept,
        n_outputs=1 if n_classes == 2 else n_classes,
    )


def assert_optimal(model, X, labels, weight=None, *, slack=1e-4):
    """The conditions of optimality of every coefficient, in units of the threshold, from the reference's gradient."""
    total = total_of(labels, weight)
    penalty = 1 / (model.C * total)
    ridge, threshold = penalty * (1 - model.l1_ratio), penalty * model.l1_ratio
    loss = reference.loss_gradient(X, labels, model.coef_, model.intercept_, weight, len(model.classes_))
    gradient = np.asarray(loss[1] / total, dtype=float) + ridge * model.coef_
    size = threshold + 1e-7 * np.abs(X).mean(axis=0)
    by_feature = model.sparsity == "feature" and len(model.coef_) > 1
    norms = np.broadcast_to(reference.penalty_norms(model.coef_, by_feature), gradient.shape)
    pulled = reference.penalty_norms(gradient, by_feature)
    zero = norms == 0
    assert (np.broadcast_to(pulled - threshold, gradient.shape) <= slack * size)[zero].all()
    subgradient = threshold * model.coef_ / np.where(zero, 1, norms)
    assert (np.abs(gradient + subgradient) <= slack * size)[~zero].all()
    if model.fit_intercept:
        assert np.abs(np.asarray(loss[2] / total, dtype=float)).max() <= 1e-7
    else:
        assert not model.intercept_.any()


@pytest.mark.parametrize("by_feature", [False, True])
@pytest.mark.parametrize("l1_ratio", L1_RATIOS)
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_minimum_is_that_of_proximal_gradient(n_classes, fit_intercept, l1_ratio, by_feature):
    X, labels, weight = problem(n_classes, n_classes)
    C = 0.1
    model = SoftmaxRegression(
        C,
        l1_ratio=l1_ratio,
        sparsity="feature" if by_feature else "coefficient",
        fit_intercept=fit_intercept,
        tol=1e-12,
    ).fit(X, labels, sample_weight=weight)
    penalty = 1 / (C * weight.sum())
    coef, intercept, value = reference.proximal_gradient(
        X, labels, n_classes, penalty, l1_ratio, by_feature, weight, fit_intercept
    )
    assert model.solver_ == "proximal-newton"
    assert model.converged_
    np.testing.assert_array_equal(model.coef_ == 0, coef == 0)
    assert coef.any()
    assert l1_ratio < 0.9 or by_feature or not coef.all()
    # A gap of 1e-12 leaves errors of the order of its root.
    np.testing.assert_allclose(model.coef_, coef, atol=2e-6)
    shift = intercept.mean() - model.intercept_.mean() if n_classes > 2 else 0.0
    np.testing.assert_allclose(model.intercept_ + shift, intercept, atol=2e-6)
    np.testing.assert_allclose(model.objective_, float(value), rtol=1e-12)
    assert_optimal(model, X, labels, weight)


@pytest.mark.parametrize("C", [0.02, 0.5])
@pytest.mark.parametrize("l1_ratio", L1_RATIOS)
@pytest.mark.parametrize("binary", [False, True])
def test_coefficients_are_scikit_learns(binary, l1_ratio, C):
    X, y = load_wine(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    y = (y == 1).astype(int) if binary else y
    model = SoftmaxRegression(C, l1_ratio=l1_ratio, tol=1e-12).fit(X, y)
    theirs = LogisticRegression(C=C, l1_ratio=l1_ratio, solver="saga", tol=1e-9, max_iter=100_000, random_state=0)
    theirs.fit(X, y)
    np.testing.assert_array_equal(model.coef_ == 0, theirs.coef_ == 0)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=2e-6)
    np.testing.assert_array_equal(model.predict(X), theirs.predict(X))


def anes96(request):
    data = sm.datasets.anes96.load_pandas().data
    X = data[["logpopul", "selfLR", "age", "educ", "income"]].to_numpy(float)
    return (X - X.mean(axis=0)) / X.std(axis=0), data["PID"].to_numpy(int), 0.01


def dna(request):
    file = np.load(request.getfixturevalue("data_dir") / "dna.npz")
    some = slice(None, None, 3)
    return file["X"][some].astype(float), file["y"][some].astype(int) - file["y"].min(), 0.06


@pytest.mark.parametrize("sparsity", ["coefficient", "feature"])
@pytest.mark.parametrize("load", [anes96, dna])
def test_zeros_and_coefficients_on_real_data(load, sparsity, request):
    """To 1e-8 those of proximal gradient and of saga, which converges linearly under so strong a penalty."""
    X, y, C = load(request)
    by_feature, n_classes = sparsity == "feature", int(y.max()) + 1
    coef, intercept, value = reference.proximal_gradient(X, y, n_classes, 1 / (C * len(y)), 1.0, by_feature)
    theirs = [coef]
    if not by_feature:
        saga = LogisticRegression(C=C, l1_ratio=1.0, solver="saga", tol=1e-12, max_iter=1000, random_state=0)
        theirs.append(saga.fit(X, y).coef_)
    model = SoftmaxRegression(C, l1_ratio=1.0, sparsity=sparsity, tol=1e-11).fit(X, y)
    assert 0.2 < (model.coef_ == 0).mean() < 1
    for other in theirs:
        np.testing.assert_array_equal(model.coef_ == 0, other == 0)
        assert np.abs(model.coef_ - other).max() <= 1e-8 * np.abs(other).max()
    np.testing.assert_allclose(model.objective_, float(value), rtol=1e-13)
    # The proximal gradient's own conditions of optimality.
    model.coef_, model.intercept_ = coef, intercept
    assert_optimal(model, X, y, slack=1e-12)


def awkward_columns(X):
    """With a duplicate, a sum, a multiple, a constant and an empty column."""
    return np.column_stack([X, X[:, 0], X[:, 0] + X[:, 1], 1e3 * X[:, 1], np.full(len(X), 7.0), np.zeros(len(X))])


@pytest.mark.parametrize("sparsity", ["coefficient", "feature"])
@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("l1_ratio", L1_RATIOS)
def test_every_coefficient_is_optimal_whatever_the_columns(l1_ratio, C, sparsity):
    X, labels, weight = problem(20, 4, n=200)
    X = awkward_columns(X)
    for fit_intercept in (True, False):
        model = SoftmaxRegression(C, l1_ratio=l1_ratio, sparsity=sparsity, fit_intercept=fit_intercept, tol=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, labels, sample_weight=weight)
        assert model.converged_ == (model.duality_gap_ <= 1e-12 * max(1, model.objective_))
        # The certificate's allowance for rounding, in units of the threshold, is what a weak penalty can't get below.
        floor = 64 * np.finfo(float).eps * np.abs(X).mean(axis=0).max() * C * weight.sum()
        assert model.duality_gap_ <= 1e-9 + floor * model.objective_
        assert_optimal(model, X, labels, weight, slack=1e-3)
        if fit_intercept:
            assert not model.coef_[:, -2:].any()


@pytest.mark.parametrize("C", [1e-2, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("load", [load_iris, load_digits])
def test_separable_classes_are_fitted_to_the_certificate(load, C):
    X, y = load(return_X_y=True)
    model = SoftmaxRegression(C, l1_ratio=1.0).fit(X, y)
    assert model.converged_
    assert model.n_passes_ < 200


@given(
    seed=st.integers(0, 10_000),
    n_classes=st.sampled_from([2, 3, 4]),
    fit_intercept=st.booleans(),
    l1_ratio=st.sampled_from(L1_RATIOS),
    by_feature=st.booleans(),
    log_penalty=st.floats(-3, 1),
    distance=st.sampled_from([0.0, 1e-9, 1e-6, 1e-2, 1.0, 10.0]),
    weighted=st.booleans(),
    from_minimum=st.booleans(),
)
def test_gap_is_never_below_the_true_suboptimality(
    seed, n_classes, fit_intercept, l1_ratio, by_feature, log_penalty, distance, weighted, from_minimum
):
    penalty = 10.0**log_penalty
    X, labels, weight = problem(seed, n_classes, n=30, p=3, weighted=weighted)
    by_feature = by_feature and n_classes > 2
    coef, intercept, best = reference.proximal_gradient(
        X, labels, n_classes, penalty, l1_ratio, by_feature, weight, fit_intercept
    )
    objective = objective_of(X, labels, weight, penalty, l1_ratio, by_feature=by_feature, fit_intercept=fit_intercept)
    start = objective.pack(coef * from_minimum, intercept * from_minimum)
    point = objective(start + distance * np.random.default_rng(seed).normal(size=start.size))
    # The value itself, in extended precision.
    value = reference.elastic_net(
        X, labels, *objective.unpack(point.x), penalty, l1_ratio, by_feature, weight, n_classes
    )
    np.testing.assert_allclose(point.value, float(value), rtol=1e-13)
    assert value - best <= point.gap
    if from_minimum and distance == 0:
        assert point.gap <= 1e-8


@pytest.mark.parametrize("by_feature", [False, True])
def test_groups_state_the_penalty_in_the_solvers_coordinates(by_feature, rng):
    X, labels, weight = problem(5, 4)
    objective = objective_of(X, labels, weight, 0.1, 0.7, by_feature=by_feature)
    groups = objective.groups()
    x = rng.normal(size=24)
    norms = [np.linalg.norm(x[groups.members[a:b]]) for a, b in zip(groups.starts, groups.starts[1:], strict=False)]
    expected = 0.07 * reference.penalty_norms(objective.unpack(x)[0], by_feature).sum()
    np.testing.assert_allclose(groups.weight @ norms, expected, rtol=1e-13)
    assert sorted(groups.members) == list(range(24))


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_curvature_is_the_slope_of_the_gradient(n_classes, fit_intercept, rng):
    X, labels, weight = problem(6, n_classes)
    objective = objective_of(X, labels, weight, 0.05, 0.4, fit_intercept=fit_intercept)
    size = len(objective.groups().members)
    point = objective(rng.normal(size=size))
    active = np.sort(rng.permutation(size)[: size - 2])
    model = objective.curvature(point, active)
    assert model.exact
    np.testing.assert_array_equal(model.coordinates, active)
    hessian = model.values.reshape(len(active), -1)
    for place, i in enumerate(active):
        e = np.zeros(size)
        e[i] = 1e-5
        slope = (objective(point.x + e).gradient - objective(point.x - e).gradient) / 2e-5
        np.testing.assert_allclose(hessian[place], slope[active], atol=2e-8)


@pytest.mark.parametrize("form", ["blocks", "diagonal"])
@pytest.mark.parametrize("sparsity", ["coefficient", "feature"])
def test_parts_of_the_hessian_lead_to_the_same_minimum(monkeypatch, form, sparsity):
    X, y = load_iris(return_X_y=True)
    whole = SoftmaxRegression(l1_ratio=0.8, sparsity=sparsity, tol=1e-12).fit(X, y)
    monkeypatch.setattr("softfast.objective.active_form", lambda *_: (form, 1))
    part = SoftmaxRegression(l1_ratio=0.8, sparsity=sparsity, tol=1e-12).fit(X, y)
    assert part.converged_
    assert part.n_iter_ > whole.n_iter_
    np.testing.assert_array_equal(part.coef_ == 0, whole.coef_ == 0)
    np.testing.assert_allclose(part.coef_, whole.coef_, atol=1e-5)


def test_samples_of_the_rows_lead_to_the_minimum_of_all(monkeypatch, rng):
    monkeypatch.setattr("softfast.objective._LARGEST_SAMPLE", 1000)
    X = rng.normal(size=(5000, 8))
    y = (X[:, :3] @ rng.normal(size=(3, 4)) + rng.gumbel(size=(5000, 4))).argmax(axis=1)
    model = SoftmaxRegression(0.01, l1_ratio=1.0, tol=1e-9).fit(X, y)
    assert model.converged_
    assert (model.coef_ == 0).any()
    assert_optimal(model, X, y)


def test_no_l1_is_the_same_fit_bit_for_bit():
    X, y = load_iris(return_X_y=True)
    plain = SoftmaxRegression().fit(X, y)
    for parameters in ({"l1_ratio": 0.0, "sparsity": "feature"}, {"l1_ratio": 0}):
        again = SoftmaxRegression(**parameters).fit(X, y)
        assert again.solver_ == "lbfgs"
        np.testing.assert_array_equal(again.coef_, plain.coef_)
        assert again.duality_gap_ == plain.duality_gap_
    without = SoftmaxRegression(C=np.inf, l1_ratio=0.5, max_iter=3)
    with pytest.warns(ConvergenceWarning):
        without.fit(X, y)
    assert without.solver_ == "lbfgs"


def test_features_leave_for_all_classes_at_once():
    X, y = load_wine(return_X_y=True)
    model = SoftmaxRegression(0.01, l1_ratio=1.0, sparsity="feature").fit(X, y)
    out = (model.coef_ == 0).any(axis=0)
    assert 0 < out.sum() < 13
    assert not model.coef_[:, out].any()
    one_row = [SoftmaxRegression(0.01, l1_ratio=1.0, sparsity=s).fit(X, y > 0) for s in ("coefficient", "feature")]
    np.testing.assert_array_equal(one_row[0].coef_, one_row[1].coef_)


def test_strong_penalties_leave_the_class_frequencies():
    X, y = load_iris(return_X_y=True)
    model = SoftmaxRegression(1e-4, l1_ratio=1.0, tol=1e-12).fit(X[:130], y[:130])
    assert not model.coef_.any()
    np.testing.assert_allclose(model.predict_proba(X[:1])[0], np.bincount(y[:130]) / 130, rtol=1e-6)


def test_warm_start_continues():
    X, y = load_digits(return_X_y=True)
    model = SoftmaxRegression(l1_ratio=1.0, warm_start=True).fit(X, y)
    cold = model.n_iter_
    assert model.fit(X, y).n_iter_ <= 1 < cold


def test_scikit_learns_own_checks():
    results = check_estimator(SoftmaxRegression(l1_ratio=0.5), on_fail=None, on_skip=None)
    failed = [f"{r['check_name']}: {r['exception']!r}" for r in results if r["status"] == "failed"]
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 40


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"l1_ratio": -0.1}, "l1_ratio must be a number from 0 to 1, got -0.1"),
        ({"l1_ratio": 1.5}, "l1_ratio must be"),
        ({"l1_ratio": np.nan}, "l1_ratio must be"),
        ({"l1_ratio": None}, "l1_ratio must be"),
        ({"sparsity": "row"}, "sparsity must be 'coefficient' or 'feature', got 'row'"),
        ({"solver": "lbfgs", "l1_ratio": 0.1}, "solver must be 'auto' or 'proximal-newton' with L1, got 'lbfgs'"),
        (
            {"solver": "proximal-newton"},
            "solver must be 'auto', 'lbfgs' or 'newton-cg' without L1, got 'proximal-newton'",
        ),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxRegression(**parameters).fit(*load_iris(return_X_y=True))


def test_short_fit_warns_and_tells_what_it_reached():
    X, y = load_wine(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match=r"max_iter=2: relative duality gap .* after 2 iterations"):
        model = SoftmaxRegression(l1_ratio=1.0, max_iter=2).fit(X, y)
    assert not model.converged_
    with pytest.warns(ConvergenceWarning, match="rounding"):
        model = SoftmaxRegression(l1_ratio=1.0, tol=0.0).fit(X, y)
    assert not model.converged_
    assert 0 < model.duality_gap_ < 1e-9


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="signals can't be raised here")
def test_interrupt_ends_the_fit_within_two_seconds(rng):
    X, y = rng.normal(size=(3000, 300)), rng.integers(0, 6, 3000)
    model = SoftmaxRegression(1.0, l1_ratio=1.0, tol=0.0, max_iter=1_000_000)
    assert_interrupt_ends(lambda: model.fit(X, y), after=1.0, within=2)
    assert not hasattr(model, "coef_")


@pytest.mark.parametrize("sparsity", ["coefficient", "feature"])
def test_an_optimum_without_coefficients_ends_the_fit_whatever_the_tolerance(sparsity):
    X, labels, _ = problem(1, 3)
    model = SoftmaxRegression(C=1e-6, l1_ratio=0.5, sparsity=sparsity, fit_intercept=False, tol=0)
    with pytest.warns(ConvergenceWarning, match="rounding ends all progress"):
        model.fit(X, labels)
    assert not model.coef_.any()
    np.testing.assert_allclose(model.objective_, np.log(3), rtol=1e-14)
    assert 0 <= model.duality_gap_ < 1e-13


def test_hessian_keeps_its_diagonal_where_probabilities_are_nearly_1(rng):
    X = rng.normal(size=(50, 3)) * 1e3
    proba = np.tile([1 - 2.0**-50, 2.0**-51], (50, 1))
    outputs, columns = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    _, values, _ = active_hessian(X, proba, np.full(50, 0.02), outputs, columns, np.full(6, 1e-2), np.zeros(6), "whole")
    variance = (proba.astype(np.longdouble) * (1 - proba.astype(np.longdouble)))[0][outputs]
    expected = variance * np.square(X / 1e-2).mean(axis=0)[columns]
    np.testing.assert_allclose(np.diag(values.reshape(6, 6)), expected.astype(float), rtol=1e-12)
