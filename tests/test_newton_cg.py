"""Truncated Newton: on functions with known minima, with the objective's Hessian, and as the estimator's solver."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning

from softfast import SoftmaxRegression
from softfast.objective import SoftmaxObjective
from softfast.solvers.lbfgs import lbfgs
from softfast.solvers.newton_cg import newton_cg
from softfast.sources.dense import DenseSource

BUNDLED = {"iris": load_iris, "wine": load_wine, "digits": load_digits, "breast_cancer": load_breast_cancer}


@dataclass
class Evaluation:
    x: np.ndarray
    value: float
    gradient: np.ndarray
    rounding: float = 0.0


class TiltedLogCosh:
    """sum log cosh(z) - z/2, z = A (x - minimum) + artanh(1/2): linear far out, no symmetry about the minimum.

    And its Hessian A^T diag(1 - tanh(z)^2) A times a vector.
    """

    def __init__(self, condition=3.0, size=12, seed=0):
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
        self.matrix = basis * np.geomspace(1, condition, size)
        self.minimum = rng.normal(size=size)
        self.n_products = 0

    def __call__(self, x):
        z = self._shifted(x)
        value = float((np.logaddexp(z, -z) - np.log(2) - z / 2).sum())
        return Evaluation(x, value, self.matrix.T @ (np.tanh(z) - 0.5))

    def _shifted(self, x):
        return self.matrix @ (x - self.minimum) + np.arctanh(0.5)

    def hessian_vector(self, point, vector):
        self.n_products += 1
        z = self._shifted(point.x)
        return self.matrix.T @ ((1 - np.tanh(z) ** 2) * (self.matrix @ vector))


def small_gradient(tol):
    return lambda point: np.abs(point.gradient).max() <= tol


def minimise(function, start, *, stop, max_iter=200, metric=lambda point: None):
    return newton_cg(
        function, function(start), hessian_vector=function.hessian_vector, max_iter=max_iter, stop=stop, metric=metric
    )


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_finds_the_minimum(condition):
    function = TiltedLogCosh(condition)
    point, n_iter, status = minimise(function, np.zeros(12), stop=small_gradient(1e-10))
    assert status == "stopped"
    assert 0 < n_iter < 100
    np.testing.assert_allclose(point.x, function.minimum, atol=1e-9)


def test_finds_a_minimum_far_away():
    function = TiltedLogCosh()
    point, _, status = minimise(function, np.full(12, 300.0), stop=small_gradient(1e-10))
    assert status == "stopped"
    np.testing.assert_allclose(point.x, function.minimum, atol=1e-9)


def test_convergence_is_quadratic():
    def squares(solver, parameters):
        """|g| after over |g|^2 before, of the iterations near the minimum that rounding has not reached."""
        function, sizes = TiltedLogCosh(), []

        def stop(point):
            sizes.append(np.linalg.norm(point.gradient))
            return sizes[-1] <= 1e-13

        solver(function, function(np.zeros(12)), max_iter=100, stop=stop, **parameters(function))
        return [after / before**2 for before, after in pairwise(sizes) if before < 1e-1 and after > 1e-14]

    newton = squares(newton_cg, lambda f: {"hessian_vector": f.hessian_vector})
    assert len(newton) >= 2
    assert max(newton) < 10
    # The comparison tells the solvers apart.
    assert max(squares(lbfgs, lambda f: {})) > 1e3


def test_preconditioner_saves_products():
    plain, helped = TiltedLogCosh(300.0), TiltedLogCosh(300.0)
    inverse = np.linalg.inv(0.75 * helped.matrix.T @ helped.matrix)
    for function, metric in ((plain, lambda point: None), (helped, lambda point: lambda v: inverse @ v)):
        point, _, status = minimise(function, function.minimum + 1e-3, stop=small_gradient(1e-12), metric=metric)
        assert status == "stopped"
        np.testing.assert_allclose(point.x, function.minimum, atol=1e-11)
    assert helped.n_products < plain.n_products / 2


def test_value_falls_at_every_iteration():
    values = []

    def stop(point):
        values.append(point.value)
        return np.abs(point.gradient).max() <= 1e-6

    minimise(TiltedLogCosh(1e3), np.full(12, 3.0), stop=stop)
    assert len(values) > 3
    assert all(later < earlier for earlier, later in pairwise(values))


def test_flat_directions_are_left_alone():
    function = TiltedLogCosh()
    function.matrix[:, :4] = 0.0
    point, _, status = minimise(function, np.zeros(12), stop=small_gradient(1e-10))
    assert status == "stopped"
    assert not point.x[:4].any()


def test_says_when_max_iter_ends_it():
    _, n_iter, status = minimise(TiltedLogCosh(1e4), np.full(12, 50.0), stop=small_gradient(0.0), max_iter=3)
    assert (n_iter, status) == (3, "max_iter")


def test_says_when_rounding_ends_it():
    class Constant(TiltedLogCosh):
        # A constant of 1e16 swallows every decrease.
        def __call__(self, x):
            return Evaluation(x, 1e16, np.full(12, 1e-3))

    _, n_iter, status = minimise(Constant(), np.zeros(12), stop=small_gradient(1e-12))
    assert status == "stalled"
    assert n_iter < 50
    _, n_iter, status = minimise(TiltedLogCosh(), np.zeros(12), stop=lambda point: False)
    assert status == "stalled"
    assert n_iter < 100


def test_returns_the_start_where_that_is_the_minimum():
    function = TiltedLogCosh()
    point, n_iter, status = minimise(function, function.minimum, stop=small_gradient(1e-12))
    assert (n_iter, status) == (0, "stopped")
    assert function.n_products == 0
    np.testing.assert_array_equal(point.x, function.minimum)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3, 6])
@pytest.mark.parametrize("penalty", [0.0, 0.05])
def test_hessian_vector_is_the_slope_of_the_gradient(fit_intercept, n_classes, penalty, rng):
    X = rng.normal(size=(60, 4)) * np.geomspace(1, 100, 4) + rng.normal(size=4)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, 60 - n_classes)])
    n_outputs = 1 if n_classes == 2 else n_classes
    objective = SoftmaxObjective(
        DenseSource(X, labels, n_classes, rng.uniform(0, 3, 60)),
        strength=penalty,
        fit_intercept=fit_intercept,
        n_outputs=n_outputs,
    )
    x, vector = rng.normal(size=(2, n_outputs * (4 + fit_intercept)))
    step = 5e-4
    gradient = {k: objective(x + k * step * vector).gradient for k in (-2, -1, 1, 2)}
    slope = (gradient[-2] - 8 * gradient[-1] + 8 * gradient[1] - gradient[2]) / (12 * step)
    before = objective.n_passes
    product = objective.hessian_vector(objective(x), vector)
    assert objective.n_passes == before + 1 + 1.5
    np.testing.assert_allclose(product, slope, atol=1e-9 * np.abs(slope).max())


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("name", BUNDLED)
def test_minimiser_is_that_of_lbfgs(name, C):
    X, y = BUNDLED[name](return_X_y=True)
    one, other = (SoftmaxRegression(C, solver=solver, tol=1e-13).fit(X, y) for solver in ("lbfgs", "newton-cg"))
    assert other.solver_ == "newton-cg"
    assert other.converged_
    assert abs(other.objective_ - one.objective_) <= 2e-12
    # h is strongly convex: a gap bounds the distance of the coefficients, ridge/2 |W - W*|^2 <= gap.
    distance = np.linalg.norm(other.coef_ - one.coef_)
    radius = sum(np.sqrt(2 * model.duality_gap_ * C * len(y)) for model in (one, other))
    assert distance <= radius
    np.testing.assert_allclose(other.coef_, one.coef_, atol=1e-5 * np.abs(one.coef_).max())


def test_minimiser_without_penalty_is_that_of_lbfgs(rng):
    X = rng.normal(size=(400, 5)) * np.geomspace(1e-3, 1e3, 5)
    y = (X / np.geomspace(1e-3, 1e3, 5) @ rng.normal(size=(5, 4)) + rng.gumbel(size=(400, 4))).argmax(axis=1)
    one, other = (SoftmaxRegression(np.inf, solver=s, tol=1e-11).fit(X, y) for s in ("lbfgs", "newton-cg"))
    assert one.converged_
    assert other.converged_
    np.testing.assert_allclose(other.coef_, one.coef_, rtol=1e-8)


def test_passes_count_products():
    model = SoftmaxRegression(solver="newton-cg").fit(*load_iris(return_X_y=True))
    passes = model.history_["pass"]
    assert passes[-1] == model.n_passes_ > 2.5 * model.n_iter_
    assert (np.diff(passes) >= 2.5).all()
    assert (np.diff(passes) % 0.5 == 0).all()


def test_short_fit_warns_and_a_callback_stops_it():
    X, y = load_wine(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match=r"max_iter=2: relative duality gap .* after 2 iterations"):
        model = SoftmaxRegression(solver="newton-cg", max_iter=2).fit(X, y)
    assert not model.converged_
    seen = []

    def callback(it):
        seen.append((it.iteration, it.n_passes))
        return it.iteration == 3

    with pytest.warns(ConvergenceWarning, match="callback stopped the fit"):
        model = SoftmaxRegression(solver="newton-cg", callback=callback).fit(X, y)
    assert [iteration for iteration, _ in seen] == [0, 1, 2, 3]
    assert model.n_iter_ == 3


def test_needs_a_penalty_without_l1():
    with pytest.raises(ValueError, match=r"solver must be 'auto' or 'proximal-newton' with L1, got 'newton-cg'"):
        SoftmaxRegression(solver="newton-cg", l1_ratio=0.5).fit(*load_iris(return_X_y=True))
