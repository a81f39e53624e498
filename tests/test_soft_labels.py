"""Soft labels and offsets in the estimator, and their certificate: against hard labels, weighted copies of rows, and
Newton's method in extended precision."""

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from tolerance import assert_close, tolerance

import softfast
from softfast import SoftmaxRegression
from softfast.objective import SoftmaxObjective
from softfast.sources.dense import DenseSource


def soft_problem(rng, n=200, p=4, n_classes=3, dtype=np.float64):
    """X, probabilities, weights and offsets that shift the solution."""
    X = rng.normal(size=(n, p)).astype(dtype)
    q = rng.dirichlet(np.full(n_classes, 0.7), n).astype(dtype)
    return X, q, rng.uniform(0.2, 3, n), 2 * rng.normal(size=(n, n_classes)) + X[:, :1] * np.arange(n_classes)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("parameters", [{}, {"C": np.inf}, {"l1_ratio": 0.5}, {"class_weight": "balanced"}])
def test_one_hot_rows_are_hard_labels(n_classes, parameters, rng):
    X, labels, weight = rng.normal(size=(150, 4)), rng.integers(0, n_classes, 150), rng.uniform(0, 2, 150)
    one_hot = np.eye(n_classes)[labels]
    hard = SoftmaxRegression(**parameters).fit(X, labels, sample_weight=weight)
    for y in (one_hot, one_hot.astype(int), one_hot.tolist(), pd.DataFrame(one_hot)):
        soft = SoftmaxRegression(**parameters).fit(X, y, sample_weight=weight)
        np.testing.assert_array_equal(soft.classes_, np.arange(n_classes))
        # Only the classes' weights are summed in another order.
        error = 1e-12 if "class_weight" in parameters else 0
        np.testing.assert_allclose(soft.coef_, hard.coef_, rtol=0, atol=error)
        np.testing.assert_allclose(soft.intercept_, hard.intercept_, rtol=0, atol=error)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_soft_label_is_its_labels_with_weights(n_classes, class_weight, l1_ratio, dtype, rng):
    X, q, weight, offset = soft_problem(rng, n_classes=n_classes, dtype=dtype)
    model = SoftmaxRegression(C=0.5, tol=1e-10, class_weight=class_weight, l1_ratio=l1_ratio)
    soft = model.fit(X, q, sample_weight=weight, offset=offset)
    assert soft.converged_
    assert soft.coef_.shape == (1 if n_classes == 2 else n_classes, 4)
    soft = soft.coef_, soft.intercept_, soft.objective_
    rows, labels = np.repeat(np.arange(len(X)), n_classes), np.tile(np.arange(n_classes), len(X))
    share = weight[rows] * q.ravel()
    copies = model.fit(X[rows], labels, sample_weight=share, offset=offset[rows])
    assert copies.converged_
    # Of probabilities in float32 the class weights round again.
    error = max(1e-10, float(np.finfo(dtype).eps))
    assert abs(soft[2] - copies.objective_) <= 4 * error * copies.objective_
    # Strong convexity gives coefficients to the root of that.
    np.testing.assert_allclose(soft[0], copies.coef_, atol=20 * np.sqrt(error))
    np.testing.assert_allclose(soft[1], copies.intercept_, atol=20 * np.sqrt(error))


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("soft", [True, False])
def test_offsets_against_newton(n_classes, fit_intercept, soft, rng):
    X, q, weight, offset = soft_problem(rng, n_classes=n_classes)
    y = q if soft else q.argmax(axis=1)
    penalty = 0.01
    model = SoftmaxRegression(C=1 / (penalty * weight.sum()), fit_intercept=fit_intercept, tol=1e-12)
    model.fit(X, y, sample_weight=weight, offset=offset)
    coef, intercept, best = reference.newton(X, y, n_classes, penalty, weight, fit_intercept, offset)
    assert model.converged_
    # F - min F >= penalty/2 ||W - W*||^2.
    assert penalty / 2 * np.sum((model.coef_ - coef) ** 2) <= model.duality_gap_
    assert abs(model.objective_ - best) <= model.duality_gap_ + tolerance(np.float64, 40)
    np.testing.assert_allclose(model.coef_, coef.astype(float), atol=2e-5)
    if fit_intercept:
        shift = intercept.mean() if n_classes > 2 else 0
        np.testing.assert_allclose(model.intercept_, (intercept - shift).astype(float), atol=2e-5)
    # The comparison can fail: without the offsets the solution is another.
    plain = SoftmaxRegression(C=1 / (penalty * weight.sum()), fit_intercept=fit_intercept).fit(X, y, weight)
    assert np.abs(plain.coef_ - model.coef_).max() > 0.1


@pytest.mark.parametrize("solver", ["lbfgs", "proximal-newton"])
@pytest.mark.parametrize("sparsity", ["coefficient", "feature"])
def test_a_known_model_as_offset_leaves_what_is_left(solver, sparsity, rng):
    """With offsets X V the fit finds W - V of what it finds without, where the penalty is next to nothing."""
    X, q, weight, _ = soft_problem(rng, n=400)
    known = rng.normal(size=(3, 4))
    known -= known.mean(axis=0)
    model = SoftmaxRegression(C=1e6, l1_ratio=0.5 if solver == "proximal-newton" else 0, sparsity=sparsity, tol=1e-12)
    without = model.fit(X, q, sample_weight=weight).coef_
    rest = model.fit(X, q, sample_weight=weight, offset=X @ known.T).coef_
    assert model.solver_ == solver
    # Of L1 the classes' common part is the penalty's choice.
    np.testing.assert_allclose(rest - rest.mean(axis=0), without - without.mean(axis=0) - known, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 3, 40])
def test_predictions_take_offsets(dtype, n_classes, rng):
    X, _, _, offset = soft_problem(rng, n=90, n_classes=n_classes, dtype=dtype)
    model = SoftmaxRegression().fit(X, np.arange(90) % n_classes)
    z = reference.logits(X, model.coef_, model.intercept_, n_classes, offset)
    scale = float(np.abs(z).max())
    decision = model.decision_function(X, offset=offset)
    assert decision.dtype == dtype
    assert_close(decision, z[:, 1] - z[:, 0] if n_classes == 2 else z, dtype, 8, scale=2 * scale)
    assert_close(model.predict_proba(X, offset=offset), reference.softmax(z), dtype, 8, scale=scale)
    assert_close(model.predict_log_proba(X, offset=offset), reference.log_softmax(z), dtype, 8, scale=scale)
    chosen = z.argmax(axis=1)
    np.testing.assert_array_equal(model.predict(X, offset=offset), chosen)
    assert model.score(X, chosen, offset=offset) == 1.0
    assert model.score(X, chosen) < 1.0
    np.testing.assert_array_equal(model.predict_proba(X, offset=np.zeros_like(offset)), model.predict_proba(X))


def test_offset_of_two_classes_is_that_of_the_second(rng):
    X, q, weight, offset = soft_problem(rng, n_classes=2)
    both = SoftmaxRegression().fit(X, q, weight, offset)
    difference = offset[:, 1] - offset[:, 0]
    one = SoftmaxRegression().fit(X, q, weight, difference)
    np.testing.assert_array_equal(one.coef_, both.coef_)
    np.testing.assert_array_equal(one.predict_proba(X, offset=difference), both.predict_proba(X, offset=offset))
    np.testing.assert_allclose(
        one.decision_function(X, offset=difference) - one.decision_function(X), difference, atol=1e-13
    )


def test_rows_that_lie_apart_are_copied_once(rng):
    X, q, weight, offset = soft_problem(rng, n=20_000, p=40)
    apart = np.repeat(X, 2, axis=1)[:, ::2]
    coef = np.zeros((3, 40))
    for call in (
        lambda: DenseSource(apart, q, 3, weight, offset=offset),
        lambda: softfast.loss_gradient(apart, q, coef, offset=offset, n_threads=1),
    ):
        tracemalloc.start()
        call()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert X.nbytes < most < 1.5 * X.nbytes


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_same_bits_for_any_number_of_threads(n_threads, rng):
    X, q, weight, offset = soft_problem(rng, n=5000)
    one = SoftmaxRegression(n_threads=1).fit(X, q, weight, offset)
    many = SoftmaxRegression(n_threads=n_threads).fit(X, q, weight, offset)
    np.testing.assert_array_equal(one.coef_, many.coef_)


def test_sampled_curvature_serves_soft_labels_and_offsets(rng):
    X, q, weight, offset = soft_problem(rng, n=30_000, p=30)
    X *= np.geomspace(1, 1e4, 30)
    source = DenseSource(X, q, 3, weight, offset=offset)
    sample = source.sample(3000, source.moments())
    assert 1000 < len(sample.X) < 6000
    share = weight / weight.sum()
    estimate, exact = sample.weight @ sample.targets, share @ q
    np.testing.assert_allclose(estimate, exact, rtol=0.1)
    chosen = np.array([int(np.flatnonzero(X[:, 0] == x)[0]) for x in sample.X[:, 0]])
    np.testing.assert_array_equal(sample.targets, q[chosen])
    np.testing.assert_array_equal(sample.offset, offset[chosen])
    model = SoftmaxRegression().fit(X, q, weight, offset)
    assert model.converged_
    assert model.n_passes_ < 60


def test_blend_moves_probabilities_towards_targets(rng):
    X, q, weight, offset = soft_problem(rng, n=20)
    p, labels = rng.dirichlet(np.ones(3), 20), q.argmax(axis=1)
    for targets in (q, labels):
        source = DenseSource(X, targets, 3, weight, offset=offset)
        sample = source.sample(20, source.moments())
        thinned, moved = sample.every(3), p[::3].copy()
        thinned.blend(moved, 0.25, 0.1)
        expected = 0.9 * (0.75 * p[::3] + 0.25 * reference.targets(targets, 3)[::3].astype(float)) + 0.1 / 3
        np.testing.assert_allclose(moved, expected, rtol=1e-15)
        np.testing.assert_array_equal(thinned.offset, offset[::3])
        np.testing.assert_allclose(thinned.weight, 3 * weight[::3] / weight.sum(), rtol=1e-15)


@st.composite
def problems(draw):
    """X, targets, weights, offsets, number of classes, penalty, fit_intercept."""
    n_classes, p = draw(st.sampled_from([2, 3, 4])), draw(st.integers(1, 4))
    n = draw(st.integers(n_classes, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.normal(size=(n, p)) * np.geomspace(1, 10.0 ** draw(st.integers(0, 2)), p) + rng.normal(size=p)
    y = rng.dirichlet(np.full(n_classes, 0.5), n)
    if draw(st.booleans()):
        y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    offset = 10.0 ** draw(st.integers(-2, 2)) * rng.normal(size=(n, n_classes))
    return X, y, rng.uniform(0.2, 3, n), offset, n_classes, 10.0 ** draw(st.floats(-3, 1)), draw(st.booleans())


@settings(max_examples=60)
@given(problems(), st.sampled_from([0.0, 1e-6, 1e-2, 1.0, 10.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_gap_is_never_below_the_true_suboptimality(problem, distance, l1_ratio):
    X, y, weight, offset, n_classes, penalty, fit_intercept = problem
    n_outputs = 1 if n_classes == 2 else n_classes
    source = DenseSource(X, y, n_classes, weight, offset=offset)
    objective = SoftmaxObjective(
        source, strength=penalty, fit_intercept=fit_intercept, n_outputs=n_outputs, l1_ratio=l1_ratio
    )
    if l1_ratio == 0:
        best = float(reference.newton(X, y, n_classes, penalty, weight, fit_intercept, offset)[2])
    else:
        # The optimum is at most what any fit reaches; a fit of its own is judged by value alone.
        model = SoftmaxRegression(
            C=1 / (penalty * weight.sum()), l1_ratio=l1_ratio, fit_intercept=fit_intercept, tol=1e-12
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y, weight, offset)
        size = np.abs(model.coef_).sum() * l1_ratio + (1 - l1_ratio) / 2 * np.sum(model.coef_**2)
        losses, *_ = reference.loss_gradient(X, y, model.coef_, model.intercept_, weight, n_classes, offset)
        best = float(losses / weight.sum() + penalty * size)
    start = objective.pack(np.zeros((n_outputs, X.shape[1])), np.zeros(n_outputs))
    point = objective(start + distance * np.random.default_rng(0).normal(size=start.size))
    assert point.gap >= 0
    assert point.value - best <= point.gap + 1e-14 * max(1, best)


def entropy(t):
    return -np.where(t > 0, t * np.log(np.where(t > 0, t, 1)), 0).sum(axis=-1)


@given(problems(), st.sampled_from([0.0, 1e-3, 1.0]))
def test_gap_is_primal_minus_dual(problem, distance):
    """At the certificate's own dual point, but for the entropies, which it bounds by concavity."""
    X, y, weight, offset, n_classes, penalty, fit_intercept = problem
    n_outputs = 1 if n_classes == 2 else n_classes
    rng = np.random.default_rng(0)
    coef = distance * rng.normal(size=(n_outputs, X.shape[1]))
    intercept = distance * rng.normal(size=n_outputs) * fit_intercept
    if n_outputs > 1:
        coef, intercept = coef - coef.mean(axis=0), intercept - intercept.mean()
    source = DenseSource(X, y, n_classes, weight, offset=offset)
    objective = SoftmaxObjective(source, strength=penalty, fit_intercept=fit_intercept, n_outputs=n_outputs)
    point = objective(objective.pack(coef, intercept))
    value = reference.objective(X, y, coef, intercept, penalty, weight, n_classes, offset)[0]
    p, q = reference.softmax(reference.logits(X, coef, intercept, n_classes, offset)), reference.targets(y, n_classes)
    s = weight.astype(reference.EXACT) / weight.sum()
    mix, u = 0, np.full(n_classes, 1 / n_classes)
    if fit_intercept:
        # The probabilities that are mixed in make the intercept's gradient zero.
        slope, mean = s @ (p - q), s @ q
        ratio = np.min(mean[slope > 0] / slope[slope > 0])
        mix, u = 1 / (1 + ratio), np.maximum(mean - slope * ratio, 0)
    t = (1 - mix) * p + mix * u
    concavity = s @ entropy(t) - (1 - mix) * (s @ entropy(p)) - mix * entropy(u)
    gap = value - reference.dual(X, y, t, penalty, weight, n_outputs, offset) + concavity
    # The squares of sums of residuals up to 1 times X, over the penalty.
    scale = value + np.abs(offset).max() + n_classes * np.sum(np.abs(X).mean(axis=0) ** 2) / penalty
    assert abs(point.gap - gap) <= tolerance(np.float64, 40) * scale


@settings(max_examples=20)
@given(problems(), st.floats(0, 1))
def test_the_optimum_lies_between_dual_and_primal(problem, share):
    """The reference against itself: weak duality at a feasible point, strong duality at the optimum."""
    X, y, weight, offset, n_classes, penalty, fit_intercept = problem
    coef, intercept, best = reference.newton(X, y, n_classes, penalty, weight, fit_intercept, offset)
    q = reference.targets(y, n_classes)
    t = (1 - share) * q + share * np.average(q, axis=0, weights=weight)
    assert reference.dual(X, y, t, penalty, weight, len(coef), offset) <= best
    # What Newton's steps left of the gradient by the intercept is what p misses the dual's constraint by.
    missed = reference.objective(X, y, coef, intercept, penalty, weight, n_classes, offset)[2] @ intercept
    p = reference.softmax(reference.logits(X, coef, intercept, n_classes, offset))
    at_p = reference.dual(X, y, p, penalty, weight, len(coef), offset)
    assert abs(best - missed - at_p) <= 1e-12 * max(1, best, np.abs(offset).max())


@settings(max_examples=20)
@given(problems())
def test_sparse_fits_converge_to_their_certificate(problem):
    X, y, weight, offset, _, penalty, fit_intercept = problem
    C = 1 / (penalty * weight.sum())
    model = SoftmaxRegression(C, l1_ratio=0.5, fit_intercept=fit_intercept, tol=1e-8)
    assert model.fit(X, y, sample_weight=weight, offset=offset).converged_


def test_rows_that_miss_the_sum_one_count_by_their_sum(rng):
    """float32 probabilities: the certificate belongs to the problem that the kernels see."""
    X, q, weight, offset = soft_problem(rng, n=50)
    q *= rng.uniform(0.9, 1.1, (50, 1))
    source = DenseSource(X, q, 3, weight, offset=offset)
    sums = q.sum(axis=1)
    exact = DenseSource(X, q / sums[:, None], 3, weight * sums, offset=offset)
    ours, theirs = (vars(s.moments()) for s in (source, exact))
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-13, err_msg=name)
    np.testing.assert_allclose(source.total_weight, exact.total_weight, rtol=1e-14)
    point = rng.normal(size=(3, 4)), rng.normal(size=3)
    for one, other in zip(source.loss_gradient(*point), exact.loss_gradient(*point), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11)


def test_soft_labels_have_a_maximum_likelihood_where_hard_ones_have_none(rng):
    X = np.linspace(-1, 1, 40)[:, None]
    hard = (X[:, 0] > 0).astype(int)
    with pytest.warns(ConvergenceWarning, match="separated"):
        SoftmaxRegression(C=np.inf).fit(X, np.eye(2)[hard])
    confident = SoftmaxRegression(C=np.inf).fit(X, np.where(np.eye(2)[hard] == 1, 0.99, 0.01))
    assert confident.converged_
    # An offset that gives every row its label separates nothing; coefficients that do, do with any offset.
    X[::7] *= -1
    overlap = SoftmaxRegression(C=np.inf).fit(X, hard, offset=20.0 * hard - 10)
    assert overlap.converged_
    assert overlap.objective_ < np.log(2) / 40
    X[::7] *= -1
    with pytest.warns(ConvergenceWarning, match="separated"):
        SoftmaxRegression(C=np.inf).fit(X, hard, offset=rng.normal(size=40))


SOFT = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0], [0.1, 0.8, 0.1]])
FEATURES = np.arange(8.0).reshape(4, 2)
BAD = {
    "sum": (SOFT * 1.1, {}, "y as probabilities must be >= 0 and sum to 1"),
    "negative": (SOFT + [[0.7, -0.7, 0]] * 4, {}, "y as probabilities must be >= 0"),
    "NaN": (np.where(SOFT == 0.8, np.nan, SOFT), {}, "y as probabilities must be >= 0"),
    "rows": (SOFT[:3], {}, r"must have shape \(4, 3\), got \(3, 3\)"),
    "empty class": (SOFT[:, [0, 1, 2, 2]] * [1, 1, 1, 0], {}, "class 3 has 0 in all rows"),
    "offset rows": (SOFT, {"offset": np.zeros((3, 3))}, r"offset must have shape \(4, 3\), got \(3, 3\)"),
    "offset classes": (SOFT, {"offset": np.zeros((4, 2))}, r"offset must have shape \(4, 3\), got \(4, 2\)"),
    "offset vector": (SOFT, {"offset": np.zeros(4)}, r"offset must have shape \(4, 3\), got \(4,\)"),
    "offset of two": ([0, 1, 0, 1], {"offset": np.zeros(3)}, r"shape \(4,\) or \(4, 2\), got \(3,\)"),
    "offset NaN": (SOFT, {"offset": np.where(SOFT == 0.8, np.nan, 0)}, r"offset must not hold NaN.* at \(3, 1\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case):
    y, keywords, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        SoftmaxRegression().fit(FEATURES, y, **keywords)


def test_predicting_and_scoring_refuse_what_does_not_fit():
    model = SoftmaxRegression().fit(FEATURES, SOFT)
    with pytest.raises(ValueError, match=r"offset must have shape \(4, 3\), got \(4,\)"):
        model.predict(FEATURES, offset=np.zeros(4))
    with pytest.raises(ValueError, match="y must hold labels"):
        model.score(FEATURES, SOFT)
    loss = softfast.cross_entropy(model.predict_log_proba(FEATURES), SOFT)
    losses, _ = reference.cross_entropy(reference.logits(FEATURES, model.coef_, model.intercept_, 3), SOFT)
    assert_close(loss, losses.mean(), np.float64, 8)
