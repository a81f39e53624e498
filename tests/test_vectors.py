"""Sums and steps over long vectors, against NumPy in extended precision."""

import numpy as np
import pytest
from tolerance import assert_close

from softfast import _vectors

EXACT = np.longdouble
# About vectors, strips of 2,048 and parts of 32,768 elements.
SIZES = [0, 1, 7, 8, 9, 2047, 2049, 32_767, 32_769, 70_003]


@pytest.fixture
def functions(kernels):
    """Those of each instruction set."""
    return _vectors.vectors[kernels.name]


def size_of(terms):
    """How large the error of their sum may be, in units of rounding."""
    return float(np.abs(terms).sum()) + 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_sums_and_steps(functions, size, dtype, rng):
    x, y, (d,) = rng.normal(size=size), rng.normal(size=size), rng.normal(size=(1, size)).astype(dtype)
    terms = d * y.astype(EXACT)
    assert_close(np.array(functions.dot(d, y)), np.array(terms.sum()), np.float64, 20, scale=size_of(terms))
    np.testing.assert_array_equal(functions.largest(y), np.abs(y).max(initial=0))
    assert_close(functions.step(x, -0.3, d), x + EXACT(-0.3) * d, np.float64, 2, scale=5)


def test_largest_is_found_anywhere_and_passes_over_nan(functions):
    for at in range(20):
        x = np.ones(20)
        x[at] = -3
        assert functions.largest(x) == 3
        x[at] = np.nan
        assert functions.largest(x) == 1


@pytest.mark.parametrize("out_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [[], [3], [0, 2], [5, 1, 4], [4, 0, 1, 5], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("size", SIZES)
def test_combine(functions, size, rows, dtype, out_dtype, rng):
    vectors, rows = rng.normal(size=(6, size)).astype(dtype), np.array(rows, dtype=np.intp)
    factors, other, out = rng.normal(size=len(rows)), rng.normal(size=size), np.empty(size, out_dtype)
    functions.combine(vectors, rows, factors, other, 0.7, out)
    exact = factors.astype(EXACT) @ vectors[rows] + EXACT(0.7) * other
    assert_close(out, exact, out_dtype, 10, scale=10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_products_and_how_a_gradient_turns(functions, size, dtype, rng):
    vectors, (after, before) = rng.normal(size=(5, size)).astype(dtype), rng.normal(size=(2, size))
    rows = np.array([4, 0, 2], dtype=np.intp)
    given = vectors.copy()
    product, square = functions.turn(vectors, rows, 2, after, before, 0.7)
    turned = (after.astype(EXACT) - before) / EXACT(0.7)
    assert_close(vectors[2], turned, dtype, 3, scale=10, what="the difference")
    # Products are with the difference as it is kept.
    exact = vectors[rows].astype(EXACT)
    assert_close(product, exact @ after, np.float64, 20, scale=size_of(exact * after))
    assert_close(np.array(square), np.array((exact[2] ** 2).sum()), np.float64, 20, scale=size_of(exact[2] ** 2))
    np.testing.assert_array_equal(vectors[[0, 1, 3, 4]], given[[0, 1, 3, 4]])
    assert_close(functions.products(vectors, rows, after), product, np.float64, 20, scale=size_of(exact * after))


@pytest.mark.parametrize("centre_rows", [True, False])
@pytest.mark.parametrize(("n", "m"), [(0, 3), (1, 1), (5, 1), (900, 20), (70, 300), (3, 40_000)])
def test_unscale(functions, n, m, centre_rows, rng):
    x, scale, center = rng.normal(size=(n, m)), rng.uniform(0.5, 2, (n, m)), rng.normal(size=n)
    out, product = functions.unscale(x, scale, center, centre_rows)
    exact = x.astype(EXACT) / scale
    if centre_rows:
        exact -= exact.mean(axis=1, keepdims=True)
    assert_close(out, exact, np.float64, m + 2, scale=10, what="the matrix")
    assert_close(product, center @ exact, np.float64, n + m + 2, scale=10 * n + 1, what="the product")


@pytest.mark.parametrize("room", [0, 4])
@pytest.mark.parametrize("with_means", [True, False])
@pytest.mark.parametrize(("p", "m"), [(0, 3), (1, 1), (5, 1), (900, 20), (70, 300), (3, 40_000)])
def test_derive(functions, p, m, with_means, room, rng):
    coef, product, means = rng.normal(size=(3, p, m))
    scale, (center, mean, size) = rng.uniform(0.5, 2, (p, m)), rng.normal(size=(3, p))
    residual, total, ridge = rng.normal(size=m), 7.0, 0.3
    strided = np.full((p, m + room), np.nan)[:, room // 2 : room // 2 + m]
    strided[...] = product
    out = np.empty((p, m))
    sums, weighted = functions.derive(
        coef, strided, total, ridge, scale, center, residual, means if with_means else None, mean, size, out
    )
    w, g = coef.astype(EXACT), product / EXACT(total)
    d = g + EXACT(ridge) * w
    assert_close(out, (d - np.outer(center, residual)) / scale, np.float64, 4, scale=50, what="the derivatives")
    squares = [d * d, g * w, w * w, g * g, g * means if with_means else np.zeros((1, 1))]
    for ours, terms in zip(sums, squares, strict=True):
        assert_close(np.array(ours), np.array(terms.sum()), np.float64, p + 20, scale=size_of(terms), what="a sum")
    expected = np.array([mean @ g, mean @ w, size @ np.abs(w)])
    assert_close(weighted, expected, np.float64, p + 2, scale=20 * p + 1, what="the weighted sums")


def test_comparison_can_fail(functions, rng):
    y, x = rng.normal(size=(2, 100))
    with pytest.raises(AssertionError):
        assert_close(np.array(functions.dot(x, y)), np.array(x @ y + 1e-9), np.float64, 20, scale=size_of(x * y))


def test_same_bits_for_any_number_of_threads(functions, rng):
    size, p, m = 100_001, 2000, 30
    x, y = rng.normal(size=(2, size))
    pairs, rows = rng.normal(size=(4, size)), np.array([0, 2], dtype=np.intp)
    coef, product, means, scale = rng.uniform(0.5, 2, (4, p, m))
    features, residual = rng.normal(size=(3, p)), rng.normal(size=m)

    def results(n_threads):
        vectors, flat = pairs.copy(), np.empty((p, m))
        yield functions.dot(x, y, n_threads=n_threads)
        yield functions.largest(x, n_threads=n_threads)
        yield functions.step(x, 0.1, y, n_threads=n_threads)
        yield functions.products(vectors, rows, x, n_threads=n_threads)
        yield from functions.turn(vectors, rows, 3, x, y, 0.1, n_threads=n_threads)
        functions.combine(vectors, rows, residual[:2], x, 0.1, vectors[1], n_threads=n_threads)
        yield vectors
        yield from functions.unscale(coef, scale, features[0], True, n_threads=n_threads)
        arguments = (coef, product, 3.0, 0.1, scale, features[0], residual, means, features[1], features[2], flat)
        yield from functions.derive(*arguments, n_threads=n_threads)
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


def test_arrays_that_do_not_fit_are_refused(functions):
    two, square, rows = np.ones(2), np.ones((2, 2)), np.array([0, 1], dtype=np.intp)
    derived = [square, square, 1.0, 1.0, square, two, two, square, two, two, square.copy()]
    for function, arguments in [
        (functions.dot, [two, two]),
        (functions.step, [two, 1.0, two]),
        (functions.products, [square, rows, two]),
        (functions.combine, [square, rows, two, two, 1.0, two.copy()]),
        (functions.turn, [square.copy(), rows, 1, two, two, 1.0]),
        (functions.unscale, [square, square, two, True]),
        (functions.derive, derived),
    ]:
        function(*arguments)
        for at in [k for k, a in enumerate(arguments) if isinstance(a, np.ndarray) and a.dtype == np.float64]:
            with pytest.raises(ValueError, match=r"vectors|matrices|a scale of"):
                function(*spoilt(arguments, at))
        with pytest.raises(ValueError, match="n_threads must be at least 1, got 0"):
            function(*arguments, n_threads=0)
    for function, arguments in [
        (functions.products, [two]),
        (functions.combine, [two, two, 1.0, two.copy()]),
        (functions.turn, [1, two, two, 1.0]),
    ]:
        for row in (-1, 2):
            with pytest.raises(ValueError, match=f"row {row} of 2 vectors"):
                function(square.copy(), np.array([0, row], dtype=np.intp), *arguments)
    with pytest.raises(ValueError, match="row 2 of 2 vectors"):
        functions.turn(square.copy(), rows, 2, two, two, 1.0)
    with pytest.raises(ValueError, match="columns of the product must lie next to each other"):
        functions.derive(square, np.ones((2, 4))[:, ::2], *derived[2:])


@pytest.mark.parametrize("size", [0, 1, 7, 8, 63, 64, 65, 200])
def test_checksum_tells_any_change_of_bytes(size, rng):
    data = rng.integers(256, size=size, dtype=np.uint8)
    checksum = _vectors.checksum(data)
    assert _vectors.checksum(data.copy()) == checksum
    assert _vectors.checksum(np.r_[data, np.uint8(0)]) != checksum
    for bit in range(8 * size):
        other = data.copy()
        other[bit // 8] ^= 1 << bit % 8
        assert _vectors.checksum(other) != checksum, bit


def test_checksum_tells_order_and_signs(rng):
    x = rng.standard_normal((8, 24))
    others = [x.copy() for _ in range(24)]
    for i, other in enumerate(others[:8]):
        other[[i, i - 1]] = other[[i - 1, i]]
    for i, other in enumerate(others[8:16]):
        other[:, [0, i + 1]] = other[:, [i + 1, 0]]
    for i, other in enumerate(others[16:]):
        other[i:] *= -1
    assert len({_vectors.checksum(other.reshape(-1).view(np.uint8)) for other in [x, *others]}) == 25
