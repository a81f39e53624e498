"""Invariances of the mathematics, on problems that Hypothesis makes up."""

import numpy as np
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit
from tolerance import tolerance

import softfast
from softfast.objective import SoftmaxObjective
from softfast.sources.dense import DenseSource

LOGITS = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 20), st.integers(2, 40)),
    elements=st.floats(-300, 300, allow_subnormal=False),
)


@st.composite
def problems(draw):
    """X, labels, coef, intercept of a small problem."""
    n, p, n_classes = draw(st.integers(1, 40)), draw(st.integers(1, 6)), draw(st.sampled_from([2, 3, 5, 34]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-2, 2))
    X = rng.normal(size=(n, p)) * scale
    return X, rng.integers(0, n_classes, n), rng.normal(size=(n_classes, p)), rng.normal(size=n_classes)


def assert_same(result, expected, n_terms=200):
    for ours, theirs in zip(result, expected, strict=True):
        scale = max(1.0, float(np.abs(theirs).max()))
        assert np.abs(np.asarray(ours) - theirs).max() <= tolerance(np.float64, n_terms) * scale


@given(LOGITS)
def test_probabilities_are_probabilities(x):
    p = softfast.softmax(x)
    assert (p >= 0).all()
    assert np.abs(p.sum(axis=1) - 1).max() <= tolerance(np.float64, x.shape[1])
    assert (softfast.log_softmax(x) <= 0).all()


@given(LOGITS, st.integers(-1000, 1000))
def test_a_constant_added_to_a_row_changes_nothing(x, shift):
    x = np.round(x, 3)
    spread = np.abs(x).max() + abs(shift) + 1
    allowed = tolerance(np.float64) * spread
    assert np.abs(softfast.softmax(x + shift) - softfast.softmax(x)).max() <= allowed
    assert np.abs(softfast.logsumexp(x + shift) - softfast.logsumexp(x) - shift).max() <= allowed


@given(LOGITS)
def test_logsumexp_lies_between_its_bounds(x):
    value, top = softfast.logsumexp(x), x.max(axis=1)
    slack = tolerance(np.float64) * (1 + np.abs(top))
    assert (value >= top - slack).all()
    assert (value <= top + np.log(x.shape[1]) + slack).all()


@given(problems(), st.randoms(use_true_random=False))
def test_classes_permute(problem, random):
    X, y, coef, intercept = problem
    order = np.array(random.sample(range(len(coef)), len(coef)))
    loss, grad_coef, grad_intercept = softfast.loss_gradient(X, y, coef, intercept)
    permuted = softfast.loss_gradient(X, np.argsort(order)[y], coef[order], intercept[order])
    assert_same(permuted, (loss, grad_coef[order], grad_intercept[order]))


@given(problems())
def test_gradient_sums_to_zero_over_classes(problem):
    X, *rest = problem
    _, grad_coef, grad_intercept = softfast.loss_gradient(X, *rest)
    assert np.abs(grad_coef.sum(axis=0)).max() <= tolerance(np.float64, 200) * max(1, np.abs(X).max())
    assert abs(grad_intercept.sum()) <= tolerance(np.float64, 200)


@given(problems(), st.integers(0, 2**32 - 1))
def test_weight_two_is_the_row_twice_and_weight_zero_its_absence(problem, seed):
    X, y, coef, intercept = problem
    counts = np.random.default_rng(seed).integers(0, 3, len(y))
    counts[0] = 1
    weighted = softfast.loss_gradient(X, y, coef, intercept, sample_weight=counts)
    repeated = softfast.loss_gradient(np.repeat(X, counts, axis=0), np.repeat(y, counts), coef, intercept)
    assert_same(weighted, repeated)


@given(problems(), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_loss_is_convex(problem, seed, t):
    X, y, coef, _ = problem
    other = np.random.default_rng(seed).normal(size=coef.shape)
    at = [softfast.loss_gradient(X, y, c)[0] for c in (coef, other, t * coef + (1 - t) * other)]
    line = t * at[0] + (1 - t) * at[1]
    assert at[2] <= line + tolerance(np.float64, 200) * max(1, line)


@given(problems())
def test_gradient_is_the_slope_of_the_loss(problem):
    X, y, coef, intercept = problem
    direction = np.random.default_rng(0).normal(size=coef.shape) / max(1.0, np.abs(X).max())
    step = 1e-3
    value = {k: softfast.loss_gradient(X, y, coef + k * step * direction, intercept)[0] for k in (-2, -1, 1, 2)}
    slope = (value[-2] - 8 * value[-1] + 8 * value[1] - value[2]) / (12 * step)
    exact = float((softfast.loss_gradient(X, y, coef, intercept)[1] * direction).sum())
    # The formula's own error, of fourth order in the step, and the rounding of values over the step.
    assert abs(slope - exact) <= 1e-8 + 1e-15 / step * max(value.values())


@given(problems())
def test_two_classes_are_logistic_regression(problem):
    X, y, coef, intercept = problem
    y = y % 2
    w, b = coef[1] - coef[0], intercept[1] - intercept[0]
    z = X @ w + b
    p = expit(z)
    loss = np.mean(np.logaddexp(0, z) - y * z)
    gradient = (p - y) @ X / len(y)
    ours = softfast.loss_gradient(X, y, coef[:2], intercept[:2])
    scale = max(1.0, np.abs(X).max()) * (1 + np.abs(z).max())
    allowed = tolerance(np.float64, 200) * scale
    assert abs(ours[0] - loss) <= allowed
    assert np.abs(ours[1] - [-gradient, gradient]).max() <= allowed


@st.composite
def penalised_problems(draw):
    """X, labels in which every class occurs, weights, number of classes, penalty, fit_intercept."""
    n_classes, p = draw(st.sampled_from([2, 3, 4])), draw(st.integers(1, 4))
    n = draw(st.integers(n_classes, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.normal(size=(n, p)) * np.geomspace(1, 10.0 ** draw(st.integers(0, 2)), p) + rng.normal(size=p)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    penalty = 10.0 ** draw(st.floats(-3, 1))
    return X, labels, rng.uniform(0.2, 3, n), n_classes, penalty, draw(st.booleans())


@settings(max_examples=20)
@given(penalised_problems(), st.floats(0, 1))
def test_the_optimum_lies_between_dual_and_primal(problem, share):
    """The reference against itself: weak duality at a feasible point, strong duality at the optimum."""
    X, y, weight, n_classes, penalty, fit_intercept = problem
    coef, intercept, best = reference.newton(X, y, n_classes, penalty, weight, fit_intercept)
    q = reference.targets(y, n_classes)
    t = (1 - share) * q + share * np.average(q, axis=0, weights=weight)
    assert reference.dual(X, y, t, penalty, weight, len(coef)) <= best
    # What Newton's steps left of the gradient by the intercept is what p misses the dual's constraint by.
    missed = reference.objective(X, y, coef, intercept, penalty, weight, n_classes)[2] @ intercept
    p = reference.softmax(reference.logits(X, coef, intercept, n_classes))
    assert abs(best - missed - reference.dual(X, y, p, penalty, weight, len(coef))) <= 1e-12 * max(1, best)


@given(penalised_problems(), st.sampled_from([1e-3, 1.0]))
def test_gap_is_primal_minus_dual(problem, distance):
    """Without an intercept the probabilities are a feasible dual point, and the certificate is the gap there."""
    X, y, weight, n_classes, penalty, _ = problem
    n_outputs = 1 if n_classes == 2 else n_classes
    coef = distance * np.random.default_rng(0).normal(size=(n_outputs, X.shape[1]))
    if n_outputs > 1:
        coef -= coef.mean(axis=0)
    intercept = np.zeros(n_outputs)
    source = DenseSource(X, y, n_classes, weight)
    objective = SoftmaxObjective(source, strength=penalty, fit_intercept=False, n_outputs=n_outputs)
    point = objective(objective.pack(coef, intercept))
    value, grad_coef, _ = reference.objective(X, y, coef, intercept, penalty, weight, n_classes)
    p = reference.softmax(reference.logits(X, coef, intercept, n_classes))
    gap = float(value - reference.dual(X, y, p, penalty, weight, n_outputs))
    assert abs(point.value - value) <= tolerance(np.float64, 40) * value
    # The gap is |g|^2 / (2 penalty), and the gradient g a sum of residuals up to 1 times X.
    scale = np.abs(X).max() + penalty
    assert abs(point.gap - gap) <= tolerance(np.float64, 40) * (value + scale * np.abs(grad_coef).sum() / penalty)
    packed = objective.pack(np.asarray(grad_coef, dtype=float), intercept) / objective.pack(
        np.ones_like(coef), intercept
    )
    returned = point.gradient * objective.pack(np.ones_like(coef), intercept)
    assert np.abs(returned - packed).max() <= tolerance(np.float64, 40) * scale
