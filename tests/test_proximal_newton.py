"""Proximal Newton and its coordinate descent on functions whose minima are known, none of them softmax."""

from dataclasses import dataclass

import numpy as np
import pytest

from softfast._descent import descend
from softfast.quadratic import Blocks
from softfast.solvers.proximal_newton import proximal_newton


@dataclass
class Evaluation:
    x: np.ndarray
    value: float
    gradient: np.ndarray


@dataclass
class Groups:
    members: np.ndarray
    starts: np.ndarray
    weight: np.ndarray

    def norms(self, x):
        return np.array([np.linalg.norm(x[self.members[a:b]]) for a, b in zip(self.starts, self.starts[1:])])  # noqa: B905


def single(weight):
    return Groups(np.arange(len(weight)), np.arange(len(weight) + 1), np.asarray(weight, dtype=float))


def quadratic(matrix, minimum, groups, *, form="whole"):
    """0.5 (x - m)^T A (x - m) + N(x), and a Hessian of it: whole, in blocks of two, or its diagonal."""

    def function(x):
        d = x - minimum
        return Evaluation(x, 0.5 * d @ matrix @ d + groups.weight @ groups.norms(x), matrix @ d)

    def curvature(point, active):
        part = matrix[np.ix_(active, active)]
        if form == "whole":
            return Blocks(active, part.ravel(), np.array([len(active)]), True)
        step = 2 if form == "blocks" else 1
        blocks = [part[i : i + step, i : i + step] for i in range(0, len(active), step)]
        values = np.concatenate([block.ravel() for block in blocks])
        return Blocks(active, values, np.array([len(block) for block in blocks]), False)

    return function, curvature


def violation(point, groups):
    """The largest norm of a smallest subgradient, group by group."""
    worst = 0.0
    for g, weight in enumerate(groups.weight):
        own = groups.members[groups.starts[g] : groups.starts[g + 1]]
        x, slope = point.x[own], point.gradient[own]
        norm = np.linalg.norm(x)
        size = np.linalg.norm(slope + weight * x / norm) if norm else max(0, np.linalg.norm(slope) - weight)
        worst = max(worst, size)
    return worst


def solve(function, curvature, groups, start, *, tol=1e-10, max_iter=500):
    return proximal_newton(
        function,
        function(start),
        groups=groups,
        curvature=curvature,
        limits=(100, 1000),
        max_iter=max_iter,
        stop=lambda point: violation(point, groups) <= tol,
    )


def random_matrix(rng, n, condition):
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return basis @ np.diag(np.geomspace(1, condition, n)) @ basis.T


def test_soft_threshold_is_the_minimum_where_coordinates_are_apart(rng):
    minimum, weight = 3 * rng.normal(size=300), rng.uniform(0, 3, 300)
    weight[:5] = 0
    groups = single(weight)
    point, n_iter, status = solve(*quadratic(np.eye(300), minimum, groups), groups, np.zeros(300))
    assert status == "stopped"
    assert n_iter <= 3
    np.testing.assert_allclose(point.x, np.sign(minimum) * np.maximum(np.abs(minimum) - weight, 0), atol=1e-12)
    np.testing.assert_array_equal(point.x == 0, np.abs(minimum) <= weight)


def test_shrunken_groups_are_the_minimum_where_groups_are_apart(rng):
    minimum, members = rng.normal(size=60), rng.permutation(60)
    groups = Groups(members, np.arange(0, 61, 4), rng.uniform(0.5, 3, 15))
    point, _, status = solve(*quadratic(np.eye(60), minimum, groups), groups, np.zeros(60))
    assert status == "stopped"
    for g, weight in enumerate(groups.weight):
        own = members[4 * g : 4 * g + 4]
        expected = minimum[own] * max(0, 1 - weight / np.linalg.norm(minimum[own]))
        np.testing.assert_allclose(point.x[own], expected, atol=1e-9)
        assert expected.any() == point.x[own].any()


@pytest.mark.parametrize("form", ["whole", "blocks", "diagonal"])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("condition", [1e1, 1e3])
def test_conditions_of_optimality_hold_at_the_minimum(form, size, condition, rng):
    matrix, minimum = random_matrix(rng, 40, condition), rng.normal(size=40)
    groups = Groups(rng.permutation(40), np.arange(0, 41, size), np.ones(40 // size))
    groups.weight *= np.median(groups.norms(matrix @ minimum))
    function, curvature = quadratic(matrix, minimum, groups, form=form)
    point, _, status = solve(function, curvature, groups, rng.normal(size=40), tol=1e-8, max_iter=3000)
    assert status == "stopped"
    assert violation(point, groups) <= 1e-8
    assert 0 < np.count_nonzero(point.x) < 40


def test_coordinates_that_differ_by_rounding_are_no_obstacle(rng):
    half = rng.normal(size=(50, 10))
    rows = np.hstack([half, half, half + 1e-9 * rng.normal(size=(50, 10))])
    matrix = rows.T @ rows / 50 + 1e-12 * np.eye(30)
    groups = single(np.full(30, 0.05))
    point, n_iter, status = solve(*quadratic(matrix, rng.normal(size=30), groups), groups, np.zeros(30), tol=1e-9)
    assert status == "stopped"
    assert n_iter < 20
    assert violation(point, groups) <= 1e-9


def test_shortens_steps_that_leave_the_domain_or_go_too_far():
    # -log(x) + x + 0.5 |x| has its minimum at 2/3; sqrt(1 + x^2) has a Hessian that overshoots from afar.
    def function(x):
        with np.errstate(all="ignore"):
            value = float(-np.log(x[0]) + x[0] + np.sqrt(1 + x[1] ** 2) + 0.5 * np.abs(x).sum())
            return Evaluation(x, value, np.array([1 - 1 / x[0], x[1] / np.sqrt(1 + x[1] ** 2)]))

    def curvature(point, active):
        x = point.x
        diagonal = np.array([1 / x[0] ** 2, (1 + x[1] ** 2) ** -1.5])[active]
        return Blocks(active, np.diag(diagonal).ravel(), np.array([len(active)]), True)

    groups = single([0.5, 0.5])
    point, _, status = solve(function, curvature, groups, np.array([5.0, 30.0]))
    assert status == "stopped"
    np.testing.assert_allclose(point.x, [2 / 3, 0], atol=1e-9)
    assert point.x[1] == 0


def test_says_when_max_iter_ends_it(rng):
    groups = single(np.full(40, 0.1))
    function, curvature = quadratic(random_matrix(rng, 40, 1e3), rng.normal(size=40), groups, form="diagonal")
    _, n_iter, status = solve(function, curvature, groups, np.zeros(40), max_iter=3)
    assert (n_iter, status) == (3, "max_iter")


def test_says_when_rounding_ends_it(rng):
    groups = single(np.full(20, 0.1))
    function, curvature = quadratic(random_matrix(rng, 20, 1e3), rng.normal(size=20), groups)
    point, n_iter, status = solve(function, curvature, groups, np.zeros(20), tol=-1.0, max_iter=10_000)
    assert status == "stalled"
    assert n_iter < 100
    assert violation(point, groups) < 1e-10


def test_returns_the_start_where_that_is_the_minimum():
    groups = single([1.0, 1.0])
    function, curvature = quadratic(np.eye(2), np.array([0.5, 3.0]), groups)
    point, n_iter, status = solve(function, curvature, groups, np.array([0.0, 2.0]))
    assert (n_iter, status) == (0, "stopped")
    np.testing.assert_array_equal(point.x, [0, 2])


def descent_arguments(rng, m=6, rank=2):
    """A quadratic of two blocks and low rank, its start at 0, groups of one and two."""
    blocks = [random_matrix(rng, size, 5.0) for size in (2, m - 2)]
    low_rank = 0.1 * rng.normal(size=(m, rank))
    sign = np.array([1.0, -1.0])[:rank]
    hessian = np.zeros((m, m))
    hessian[:2, :2], hessian[2:, 2:] = blocks
    hessian += (low_rank * sign) @ low_rank.T
    members, starts = np.array([0, 3, 1, 2, 4, 5]), np.array([0, 2, 3, 4, 5, 6])
    arguments = {
        "values": np.concatenate([block.ravel() for block in blocks]),
        "sizes": np.array([2, m - 2]),
        "low_rank": low_rank,
        "sign": sign,
        "members": members,
        "starts": starts,
        "weight": np.full(5, 0.3),
        "bound": np.full(5, np.linalg.eigvalsh(hessian)[-1]),
        "x": np.zeros(m),
        "gradient": rng.normal(size=m),
        "product": np.zeros(rank),
        "max_sweeps": 10_000,
        "tolerance": 1e-13,
    }
    return arguments, hessian


def test_descent_ends_where_no_group_wants_to_move(rng):
    arguments, hessian = descent_arguments(rng)
    first = arguments["gradient"].copy()
    sweeps, longest = descend(*arguments.values())
    assert sweeps < 10_000
    assert longest <= 1e-13
    x = arguments["x"]
    slope = first + hessian @ x
    low_rank = arguments["low_rank"]
    np.testing.assert_allclose(arguments["gradient"] + low_rank @ arguments["product"], slope, atol=1e-12)
    groups = Groups(arguments["members"], arguments["starts"], arguments["weight"])
    assert violation(Evaluation(x, 0.0, slope), groups) <= 1e-12
    assert x.any()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sizes", np.array([2, 5]), "blocks of sizes"),
        ("sizes", np.array([-1, 7]), "blocks of sizes"),
        ("sizes", np.array([2, 3]), "do not belong together"),
        ("values", np.ones(3), "do not belong together"),
        ("low_rank", np.ones((5, 2)), "do not belong together"),
        ("sign", np.ones(3), "do not belong together"),
        ("gradient", np.ones(5), "do not belong together"),
        ("product", np.ones(1), "do not belong together"),
        ("bound", np.ones(4), "do not belong together"),
        ("bound", np.zeros(5), "group 0 is empty or has the bound 0.0"),
        ("starts", np.array([0, 2, 3, 4, 5, 7]), "do not belong together"),
        ("starts", np.array([0, 2, 2, 4, 5, 6]), "group 1 is empty"),
        ("starts", np.array([0, 9, 3, 4, 5, 6]), "group 0 is empty"),
        ("members", np.array([0, 3, 1, 2, 4, 6]), "no coordinate 6 among 6"),
        ("members", np.array([0, 3, 1, 2, 4, -1]), "no coordinate -1 among 6"),
    ],
)
def test_descent_refuses_arrays_that_do_not_fit(name, value, message, rng):
    arguments, _ = descent_arguments(rng)
    arguments[name] = value
    with pytest.raises(ValueError, match=message):
        descend(*arguments.values())
