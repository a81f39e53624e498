"""L-BFGS on functions whose minima are known, none of them softmax."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from softfast.solvers.lbfgs import _Memory, lbfgs


@dataclass
class Evaluation:
    x: np.ndarray
    value: float
    gradient: np.ndarray
    rounding: float = 0.0


def quadratic(n, condition, seed=0):
    """0.5 (x - m)^T A (x - m) with eigenvalues from 1 to `condition`."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    matrix = basis @ np.diag(np.geomspace(1, condition, n)) @ basis.T
    minimum = rng.normal(size=n)

    def function(x):
        d = x - minimum
        return Evaluation(x, 0.5 * d @ matrix @ d, matrix @ d)

    return function, minimum


def small_gradient(tol):
    return lambda point: np.abs(point.gradient).max() <= tol


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
def test_finds_the_minimum_of_a_quadratic(condition):
    function, minimum = quadratic(15, condition)
    point, n_iter, status = lbfgs(function, function(np.zeros(15)), max_iter=2000, stop=small_gradient(1e-9))
    assert status == "stopped"
    assert 0 < n_iter < 2000
    np.testing.assert_allclose(point.x, minimum, atol=2e-9)


def test_finds_the_minimum_of_a_function_without_a_good_first_step():
    # log cosh is linear far out: the first step is a thousandth of the way, and must be stretched.
    def function(x):
        return Evaluation(x, float(np.logaddexp(x - 1000, 1000 - x).sum()), np.tanh(x - 1000))

    point, _, status = lbfgs(function, function(np.zeros(2)), max_iter=100, stop=small_gradient(1e-10))
    assert status == "stopped"
    np.testing.assert_allclose(point.x, 1000, rtol=1e-12)


def test_value_falls_at_every_iteration():
    function, _ = quadratic(20, 1e4)
    values = []

    def stop(point):
        values.append(point.value)
        return len(values) > 40

    lbfgs(function, function(np.zeros(20)), max_iter=100, stop=stop)
    assert len(values) == 41
    assert all(later <= earlier for earlier, later in pairwise(values))


def test_says_when_max_iter_ends_it():
    function, _ = quadratic(20, 1e6)
    _, n_iter, status = lbfgs(function, function(np.zeros(20)), max_iter=3, stop=small_gradient(1e-12))
    assert (n_iter, status) == (3, "max_iter")


def test_says_when_rounding_ends_it():
    # A constant of 1e16 swallows every decrease, and a gradient that is never zero keeps it from being done.
    def function(x):
        return Evaluation(x, 1e16, np.array([1e-3]))

    _, _, status = lbfgs(function, function(np.zeros(1)), max_iter=1000, stop=small_gradient(1e-12))
    assert status == "stalled"


def test_steps_back_from_infinite_values():
    # -log(x) + x has its minimum at 1 and no value for x <= 0.
    def function(x):
        with np.errstate(all="ignore"):
            return Evaluation(x, float(-np.log(x[0]) + x[0]), 1 - 1 / x)

    point, _, status = lbfgs(function, function(np.array([1e-3])), max_iter=200, stop=small_gradient(1e-10))
    assert status == "stopped"
    np.testing.assert_allclose(point.x, 1, rtol=1e-9)


def test_returns_the_start_where_that_is_the_minimum():
    function, minimum = quadratic(5, 10)
    point, n_iter, status = lbfgs(function, function(minimum), max_iter=10, stop=small_gradient(1e-12))
    assert (n_iter, status) == (0, "stopped")
    np.testing.assert_array_equal(point.x, minimum)


def test_a_step_without_curvature_leaves_no_pair_with_old_products():
    # The memory is full: H y = s must still hold for the pair before that step.
    memory = _Memory(5, 2, np.float64, 1)
    hessian, gradient = np.diag([1.0, 2.0, 3.0, 5.0, 9.0]), np.array([1.0, -1.0, 2.0, -2.0, 1.0])
    for _ in range(2):
        direction = memory.direction(gradient, None)[0].copy()
        before, gradient = gradient, gradient + 0.1 * hessian @ direction
        memory.add(gradient, before, 0.1)
    following, slope = memory.direction(gradient, None)
    turn = hessian @ direction
    # Along `following` it turns down instead of up.
    factor = 10 * slope / (following @ turn)
    after = factor * turn
    assert following @ (after - gradient) < 0
    memory.add(after, gradient, 1.0)
    np.testing.assert_allclose(memory.direction(after, None)[0], -factor * direction, rtol=1e-9)
