"""Sums and steps over long vectors, against NumPy in extended precision."""

import numpy as np
import pytest
from tolerance import assert_close

from softfast import _vectors

EXACT = np.longdouble
SIZES = [0, 1, 7, 8, 9, 8191, 8192, 8193, 50_003]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_steps_with_their_product(size, dtype, rng):
    y, (x, w) = rng.normal(size=size), rng.normal(size=(2, size)).astype(dtype)
    for after, function, arguments in [
        (y + EXACT(0.7) * x, _vectors.add_and_dot, (0.7, x, w)),
        (y * EXACT(-0.3), _vectors.scale_and_dot, (-0.3, w)),
    ]:
        ours = y.copy()
        dot = function(ours, *arguments)
        assert_close(ours, after, np.float64, 2, scale=5, what="the vector")
        scale = float(np.abs(w * after).sum()) + 1
        assert_close(np.array(dot), np.array((w * after).sum()), np.float64, 20, scale=scale, what="the product")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_differences(size, dtype, rng):
    a, b, c, d = rng.normal(size=(4, size))
    out, other = np.empty((2, size), dtype)
    product, square = _vectors.differences(out, other, a, b, c, d)
    np.testing.assert_array_equal(out, (a - b).astype(dtype))
    np.testing.assert_array_equal(other, (c - d).astype(dtype))
    # Of the rounded differences: the products must belong to them.
    exact = other.astype(EXACT)
    for ours, expected in [(product, out * exact), (square, other * exact)]:
        scale = float(np.abs(expected).sum()) + 1
        assert_close(np.array(ours), np.array(expected.sum()), np.float64, 20, scale=scale)


@pytest.mark.parametrize("centre_rows", [True, False])
@pytest.mark.parametrize(("n", "m"), [(0, 3), (1, 1), (5, 1), (900, 20), (70, 300), (3, 9000)])
def test_unscale(n, m, centre_rows, rng):
    x, scale, center = rng.normal(size=(n, m)), rng.uniform(0.5, 2, (n, m)), rng.normal(size=n)
    out, product = _vectors.unscale(x, scale, center, centre_rows)
    exact = x.astype(EXACT) / scale
    if centre_rows:
        exact -= exact.mean(axis=1, keepdims=True)
    assert_close(out, exact, np.float64, m + 2, scale=10, what="the matrix")
    assert_close(product, center @ exact, np.float64, n + m + 2, scale=10 * n + 1, what="the product")


@pytest.mark.parametrize("room", [0, 4])
@pytest.mark.parametrize("with_means", [True, False])
@pytest.mark.parametrize(("p", "m"), [(0, 3), (1, 1), (5, 1), (900, 20), (70, 300), (3, 9000)])
def test_derive(p, m, with_means, room, rng):
    coef, product, means = rng.normal(size=(3, p, m))
    scale, (center, mean, size) = rng.uniform(0.5, 2, (p, m)), rng.normal(size=(3, p))
    residual, total, ridge = rng.normal(size=m), 7.0, 0.3
    strided = np.full((p, m + room), np.nan)[:, room // 2 : room // 2 + m]
    strided[...] = product
    out = np.empty((p, m))
    sums = _vectors.derive(
        coef, strided, total, ridge, scale, center, residual, means if with_means else None, mean, size, out
    )
    w, g = coef.astype(EXACT), product / EXACT(total)
    d = g + EXACT(ridge) * w
    assert_close(out, (d - np.outer(center, residual)) / scale, np.float64, 4, scale=50, what="the derivatives")
    cross = (g * means).sum(axis=0) if with_means else np.zeros(m)
    expected = [(d * d).sum(axis=0), (g * w).sum(axis=0), (w * w).sum(axis=0), (g * g).sum(axis=0), cross]
    expected += [mean @ g, mean @ w, size @ np.abs(w)]
    assert_close(sums, np.array(expected), np.float64, p + 2, scale=20 * p + 1, what="the sums")


def test_comparison_can_fail(rng):
    y, x, w = rng.normal(size=(3, 100))
    dot = _vectors.add_and_dot(y, 0.5, x, w)
    with pytest.raises(AssertionError):
        assert_close(np.array(dot), np.array(w @ y + 1e-9), np.float64, 20, scale=float(np.abs(w * y).sum()))


def test_same_bits_for_any_number_of_threads(rng):
    size, p, m = 100_001, 2000, 30
    y, x, w, v = rng.normal(size=(4, size))
    coef, product, means, scale = rng.uniform(0.5, 2, (4, p, m))
    vectors, residual = rng.normal(size=(3, p)), rng.normal(size=m)

    def results(n_threads):
        out, other, flat = y.copy(), np.empty(size), np.empty((p, m))
        yield _vectors.add_and_dot(out, 0.1, x, w, n_threads=n_threads)
        yield _vectors.scale_and_dot(out, 0.1, w, n_threads=n_threads)
        yield out.copy()
        yield _vectors.differences(out, other, x, w, v, y, n_threads=n_threads)
        yield from _vectors.unscale(coef, scale, vectors[0], True, n_threads=n_threads)
        arguments = (coef, product, 3.0, 0.1, scale, vectors[0], residual, means, vectors[1], vectors[2], flat)
        yield _vectors.derive(*arguments, n_threads=n_threads)
        yield flat

    one = list(results(1))
    for n_threads in (2, 3, 16):
        for ours, theirs in zip(results(n_threads), one, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def spoilt(arguments, at):
    """The arguments, one of them of another shape."""
    changed = list(arguments)
    changed[at] = np.ones((2, 3)) if np.ndim(changed[at]) == 2 else np.ones(1)
    return changed


def test_arrays_that_do_not_fit_are_refused():
    two, square = np.ones(2), np.ones((2, 2))
    derived = [square, square, 1.0, 1.0, square, two, two, square, two, two, square.copy()]
    for function, arguments in [
        (_vectors.add_and_dot, [two, 1.0, two, two]),
        (_vectors.scale_and_dot, [two, 1.0, two]),
        (_vectors.differences, [two.copy() for _ in range(6)]),
        (_vectors.unscale, [square, square, two, True]),
        (_vectors.derive, derived),
    ]:
        function(*arguments)
        for at in [k for k, value in enumerate(arguments) if isinstance(value, np.ndarray)]:
            with pytest.raises(ValueError, match=r"vectors|matrices|a scale of"):
                function(*spoilt(arguments, at))
        with pytest.raises(ValueError, match="n_threads must be at least 1, got 0"):
            function(*arguments, n_threads=0)
    with pytest.raises(ValueError, match="columns of the product must lie next to each other"):
        _vectors.derive(square, np.ones((2, 4))[:, ::2], *derived[2:])
