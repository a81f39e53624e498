"""The sampled Hessian against the formula written out, and what it does for a fit."""

import numpy as np
import pytest
import reference

from softfast import SoftmaxRegression
from softfast.metric import MetricBudget, active_form, sampled_inverse
from softfast.objective import SoftmaxObjective
from softfast.sources.dense import DenseSource


def written_out(features, proba, weight, scale, ridge):
    """sum_i w_i (diag(p_i) - p_i p_i^T) (x) x_i x_i^T, scaled, plus the ridge."""
    hessian = np.diag(ridge.ravel())
    for x, p, w in zip(features, proba[:, -len(scale) :], weight, strict=True):
        hessian += w * np.kron(np.diag(p) - np.outer(p, p), np.outer(x, x)) / np.outer(scale, scale)
    return hessian


@pytest.fixture
def parts(rng):
    features = rng.normal(size=(60, 4))
    proba = rng.dirichlet(np.ones(4), 60)
    return features, proba, rng.uniform(0, 1, 60), rng.uniform(0.5, 2, (3, 4)), rng.uniform(0.01, 0.1, (3, 4))


def test_whole_inverse_is_the_inverse(parts, rng):
    solve = sampled_inverse(*parts, form="whole")
    v = rng.normal(size=(3, 4))
    np.testing.assert_allclose(written_out(*parts) @ solve(v).ravel(), v.ravel(), rtol=1e-10, atol=1e-12)


def test_blocks_are_those_on_the_diagonal(parts, rng):
    solve = sampled_inverse(*parts, form="blocks")
    v = rng.normal(size=(3, 4))
    hessian = written_out(*parts)
    result = solve(v)
    for k in range(3):
        own = slice(4 * k, 4 * k + 4)
        np.testing.assert_allclose(hessian[own, own] @ result[k], v[k], rtol=1e-10, atol=1e-12)


def test_one_block_is_their_mean_where_all_rows_are_alike(parts, rng):
    # With the same probabilities in every row the blocks are multiples of one matrix, here with one ridge for them.
    features, proba, weight, scale, ridge = parts
    alike = np.broadcast_to(proba[0], proba.shape)
    scale, ridge = np.broadcast_to(scale[0], scale.shape), np.broadcast_to(ridge[0], ridge.shape)
    v = rng.normal(size=(3, 4))
    expected = sampled_inverse(features, alike, weight, scale, ridge, form="blocks")(v)
    result = sampled_inverse(features, alike, weight, scale, ridge, form="shared")(v)
    np.testing.assert_allclose(result, expected, rtol=1e-10)


def test_one_block_and_a_mean_for_each_class(parts, rng):
    # Written out: f_k (B + m_k m_k^T), B the curvature that the means leave. With one ridge the basis serves all alike.
    features, proba, weight, scale, ridge = parts
    features = np.column_stack([features[:, :3] + 2 * proba[:, 1:], np.ones(len(features))])
    scale, ridge = np.broadcast_to(scale[0], scale.shape), np.broadcast_to(ridge[0], ridge.shape)
    curvature = (weight[:, None] * proba * (1 - proba))[:, 1:].T
    mass = curvature.sum(axis=1)
    own = curvature @ features / mass[:, None]
    few = 1 / (1 + mass**2 / (curvature**2).sum(axis=1) / 5)
    common = (mass * few) @ own / (mass * few).sum()
    mean = (1 - few)[:, None] * own + few[:, None] * common
    np.testing.assert_allclose(mean[:, 3], 1, rtol=1e-14)
    rest = (features.T * curvature.sum(axis=0)) @ features
    rest -= sum(f * np.outer(m, m) for f, m in zip(mass, mean, strict=True))
    assert np.linalg.eigvalsh(rest).min() > -1e-14 * np.linalg.norm(rest)
    v = rng.normal(size=(3, 4))
    result = sampled_inverse(features, proba, weight, scale, ridge, form="shared")(v)
    for k in range(3):
        block = mass[k] * (rest / mass.sum() + np.outer(mean[k], mean[k])) / np.outer(scale[k], scale[k])
        np.testing.assert_allclose((block + np.diag(ridge[k])) @ result[k], v[k], rtol=1e-11, atol=1e-13)
    # The means of the classes are apart, and matter.
    assert np.abs(own - common).max() > 0.1


def test_many_classes_take_fewer_passes_by_their_means(rng):
    # 100 classes around means of their own, 20 rows a class.
    center = rng.normal(size=(100, 64)) * 0.4
    y = rng.integers(0, 100, 2000)
    X = center[y] + rng.normal(size=(2000, 64))
    model = SoftmaxRegression(tol=1e-4).fit(X, y)
    assert model.converged_
    assert model.n_passes_ <= 24


def test_one_block_in_any_units(parts, rng):
    features, proba, weight, scale, ridge = parts
    units, v = np.geomspace(1e-4, 1e4, 4), rng.normal(size=(3, 4))
    result = sampled_inverse(features, proba, weight, scale, ridge, form="shared")(v)
    other = sampled_inverse(features * units, proba, weight, scale * units, ridge, form="shared")(v)
    np.testing.assert_allclose(other, result, rtol=1e-9)


def test_no_inverse_of_a_matrix_that_has_none(parts):
    features, proba, weight, scale, _ = parts
    assert sampled_inverse(np.zeros_like(features), proba, weight, scale, np.zeros((3, 4)), form="whole") is None
    assert sampled_inverse(np.zeros_like(features), proba, weight, scale, np.zeros((3, 4)), form="blocks") is None


def test_ridge_alone_where_no_row_has_curvature(parts, rng):
    features, proba, weight, *_ = parts
    v, ridge = rng.normal(size=(3, 4)), np.full((3, 4), 0.25)
    for form in ("whole", "blocks", "shared"):
        solve = sampled_inverse(features, (proba > 2).astype(float), weight, np.ones((3, 4)), ridge, form=form)
        np.testing.assert_allclose(solve(v), 4 * v, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_sample_estimates_second_moments(weighted, rng):
    # A class of 3 rows and a feature of 5 rows are where a uniform sample would fail.
    n = 4000
    X = np.column_stack([rng.normal(size=n), np.r_[np.full(5, 7.0), np.zeros(n - 5)]])
    labels = np.r_[np.ones(3, int), np.zeros(n - 3, int)]
    weight = rng.uniform(0.5, 2, n) if weighted else None
    source = DenseSource(X, labels, 2, weight)
    sample = source.sample(800, source.moments())
    assert 400 < len(sample.X) < 1600
    assert (sample.targets == 1).sum() == 3
    assert (sample.X[:, 1] > 0).sum() == 5
    w = np.full(n, 1 / n) if weight is None else weight / weight.sum()
    estimate, exact = (sample.X.T * sample.weight) @ sample.X, (X.T * w) @ X
    np.testing.assert_allclose(np.diag(estimate), np.diag(exact), rtol=0.15)
    again = source.sample(800, source.moments())
    np.testing.assert_array_equal(sample.X, again.X)
    everything = source.sample(n, source.moments())
    np.testing.assert_allclose((everything.X.T * everything.weight) @ everything.X, exact, rtol=1e-12)


def test_metric_is_near_the_inverse_hessian(rng):
    X, labels = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    objective = SoftmaxObjective(DenseSource(X, labels, 3), strength=0.1, fit_intercept=True, n_outputs=3)
    coef, intercept, _ = reference.newton(X, labels, 3, 0.1)
    point = objective(objective.pack(coef.astype(float), intercept.astype(float)))
    multiply = objective.metric(point)

    def hessian_product(direction):
        step = 1e-5 * direction
        return (objective(point.x + step).gradient - objective(point.x - step).gradient) / 2e-5

    v = hessian_product(rng.normal(size=point.x.size))
    # The labels' share in the metric's probabilities keeps it from being exact.
    assert np.linalg.norm(hessian_product(multiply(v)) - v) < 0.3 * np.linalg.norm(v)


@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize("C", [1e-2, 1.0, 1e4])
def test_badly_scaled_correlated_features_take_tens_of_passes(scale, C, rng):
    X = (rng.normal(size=(2000, 8)) @ rng.normal(size=(8, 8)) + 30) * np.geomspace(1, scale, 8)
    z = (X - X.mean(0)) / X.std(0) @ rng.normal(size=(8, 4))
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    # At 1e4 and C = 1e6 a build without optimisation has been seen to stop at 1.1e-6, where rounding ends all progress.
    model = SoftmaxRegression(C=C, tol=3e-6).fit(X, y)
    assert model.converged_
    assert model.n_passes_ <= 40


def test_many_coefficients_fall_back_to_blocks(rng):
    X = rng.normal(size=(3000, 300))
    y = (X[:, :20] + rng.gumbel(size=(3000, 20))).argmax(axis=1)
    objective = SoftmaxObjective(DenseSource(X, y, 20), strength=1e-3, fit_intercept=True, n_outputs=20)
    start = objective(objective.pack(np.zeros((20, 300)), np.zeros(20)))
    multiply = objective.metric(start)
    only_first = np.zeros(start.x.size)
    only_first[:6000:20] = 1.0
    product = multiply(only_first)[:6000].reshape(300, 20)
    assert product[:, 0].all()
    assert not product[:, 1:].any()
    assert SoftmaxRegression().fit(X, y).n_passes_ < 100


@pytest.mark.parametrize(
    "shape", [(600_000, 7, 55), (20_000, 26, 17), (60_000, 10, 785), (10_000, 10, 785), (50_000, 1000, 513), (90, 3, 5)]
)
def test_metrics_cost_no_more_than_the_passes(shape):
    n_rows, n_outputs, width = shape
    budget, work, forms = MetricBudget(*shape), 0.0, []
    for n_passes in [0, 4, 12, *range(30, 1000, 30)]:
        plan = budget.take(n_passes)
        if plan is None:
            continue
        form, n_sampled = plan
        fewest = 5 * width if form == "shared" else max(5 * width, n_outputs * width // 2)
        assert min(n_rows, fewest) <= n_sampled <= min(n_rows, 20_000)
        cost = {
            "whole": n_sampled * (n_outputs * width) ** 2,
            "blocks": n_sampled * n_outputs * width**2,
            "shared": n_sampled * (3 * n_outputs + width) * width + 10 * width**3,
        }[form]
        work += cost
        assert work <= 4.0 * n_rows * n_outputs * width * (n_passes + 8) or cost <= 3e9
        forms.append(form)
    # Better forms come later, and none comes back.
    assert forms == sorted(forms, key=["shared", "blocks", "whole"].index)
    assert forms


def test_budget_saves_for_the_better_form():
    budget = MetricBudget(10_000, 10, 785)
    plans = [budget.take(n_passes) for n_passes in (1, 30, 100, 130, 150)]
    assert plans[0] is None
    assert plans[1] == ("shared", 3925)
    # The blocks of 3925 rows cost as much as 77 passes, of which the shared one has taken 24.
    assert plans[2][0] == "blocks"
    assert plans[3] is None


def test_last_metric_serves_until_the_next(rng):
    objective = SoftmaxObjective(
        DenseSource(rng.normal(size=(4000, 800)), rng.integers(0, 4, 4000), 4),
        strength=1e-3,
        fit_intercept=True,
        n_outputs=4,
    )
    start = objective(objective.pack(np.zeros((4, 800)), np.zeros(4)))
    assert objective.metric(start) is None
    objective.n_passes = 170
    first, second = objective.metric(start), objective.metric(start)
    assert first is second is not None
    objective.n_passes = 600
    assert objective.metric(start) is not first


def test_forms_of_the_active_follow_their_size():
    assert active_form(60, np.array([6, 6, 6]), 1e3) == ("whole", 1)
    assert active_form(20_000, np.array([1000, 1000, 900]), 1e3)[0] == "whole"
    assert active_form(20_000, np.array([1000, 1000, 1100]), 1e3)[0] == "blocks"
    assert active_form(20_000, np.array([100, 1000, 5000]), 1e3) == ("diagonal", 1)
    assert active_form(20_000, np.array([200, 200, 200]), 1e3) == ("whole", 2)
    # Rows enough for many passes' work.
    assert active_form(20_000, np.array([200, 200, 200]), 1e9) == ("whole", 1)
