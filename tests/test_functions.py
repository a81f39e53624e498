"""The public functions on arrays: axes, strides, types, out=, and what bad input is told."""

import numpy as np
import pytest
import reference
import scipy.special
from tolerance import assert_close

import softfast

MAPS = {"softmax": reference.softmax, "log_softmax": reference.log_softmax}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7,), (5, 6), (4, 40), (3, 4, 5), (2, 3, 4, 5), (50, 3, 20)])
def test_any_axis_and_strides(name, dtype, shape, rng):
    x = (3 * rng.normal(size=shape)).astype(dtype)
    for axis in range(-x.ndim, x.ndim):
        expected = np.moveaxis(MAPS[name](np.moveaxis(x, axis, -1)), -1, axis)
        for view in (x, np.asfortranarray(x), np.ascontiguousarray(np.flip(x))[(slice(None, None, -1),) * x.ndim]):
            result = getattr(softfast, name)(view, axis)
            assert result.dtype == dtype
            assert_close(result, expected, dtype, 100, what=f"{shape} axis {axis}")
        sums = softfast.logsumexp(x, axis)
        assert_close(sums, scipy.special.logsumexp(x.astype(np.longdouble), axis), dtype, 100)
        assert softfast.logsumexp(x, axis, keepdims=True).shape == np.sum(x, axis, keepdims=True).shape


def test_strided_in_both_axes(rng):
    x = rng.normal(size=(40, 60))
    np.testing.assert_allclose(softfast.softmax(x[::3, ::2]), scipy.special.softmax(x[::3, ::2], 1), rtol=1e-14)
    np.testing.assert_allclose(softfast.softmax(x[::-3, ::-2], 0), scipy.special.softmax(x[::-3, ::-2], 0), rtol=1e-14)


@pytest.mark.parametrize(
    ("given", "result"),
    [("float16", "float16"), ("float32", "float32"), (">f4", "float32"), (">f8", "float64"), ("int8", "float64"),
     ("uint64", "float64"), ("bool", "float64")],
)  # fmt: skip
def test_types(given, result, rng):
    x = rng.integers(0, 2, size=(4, 5)).astype(given)
    y = softfast.softmax(x)
    assert y.dtype == np.dtype(result)
    np.testing.assert_allclose(y.astype(float), scipy.special.softmax(x.astype(float), 1), rtol=2e-3)
    assert softfast.logsumexp(x).dtype == np.dtype(result)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("shape", [(6, 8), (5, 50), (3, 4, 5)])
def test_out(name, shape, rng):
    function = getattr(softfast, name)
    x = rng.normal(size=shape)
    expected = function(x)
    out = np.empty(shape)
    assert function(x, out=out) is out
    np.testing.assert_array_equal(out, expected)
    for awkward in (np.asfortranarray(out), np.empty((*shape[:-1], 2 * shape[-1]))[..., ::2]):
        assert function(x, out=awkward) is awkward
        assert_close(awkward, expected, np.float64, 50)
    in_place = x.copy()
    assert function(in_place, out=in_place) is in_place
    np.testing.assert_array_equal(in_place, expected)
    memory = np.empty(x.size + 1)
    overlapping, target = memory[1:].reshape(shape), memory[:-1].reshape(shape)
    overlapping[...] = x
    np.testing.assert_array_equal(function(overlapping, out=target), expected)
    half = x.astype(np.float16)
    np.testing.assert_array_equal(function(half, out=np.empty(shape, np.float16)), function(half))


def test_large_results_are_written_past_the_caches(rng):
    x = rng.normal(size=(10_007, 1001)).astype(np.float32)
    result = softfast.softmax(x, n_threads=2)
    np.testing.assert_allclose(result[::999], scipy.special.softmax(x[::999].astype(float), 1), rtol=1e-5)
    np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-5)


def test_no_elements():
    assert softfast.softmax(np.zeros((0, 3))).shape == (0, 3)
    assert softfast.softmax(np.zeros((3, 0))).shape == (3, 0)
    np.testing.assert_array_equal(softfast.logsumexp(np.zeros((2, 0))), [-np.inf, -np.inf])
    assert softfast.logsumexp(np.zeros((0, 2))).shape == (0,)
    assert np.isnan(softfast.cross_entropy(np.zeros((0, 3)), []))
    assert softfast.cross_entropy(np.zeros((0, 3)), [], reduction="sum") == 0
    loss, grad_coef, grad_intercept = softfast.loss_gradient(np.zeros((0, 2)), [], np.ones((3, 2)))
    assert loss == 0
    assert not grad_coef.any()
    assert grad_intercept.shape == (3,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 5, 40])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_and_reductions(dtype, n_classes, soft, weighted, rng):
    z = (2 * rng.normal(size=(60, n_classes))).astype(dtype)
    y = rng.dirichlet(np.ones(n_classes), 60).astype(dtype) if soft else rng.integers(0, n_classes, 60)
    w = rng.uniform(0.1, 3, 60) if weighted else None
    losses, residual = reference.cross_entropy(z, y, w)
    total = 60 if w is None else w.sum()
    for reduction, divisor in (("none", 1), ("sum", 1), ("mean", total)):
        expected = losses if reduction == "none" else losses.sum() / divisor
        loss = softfast.cross_entropy(z, y, sample_weight=w, reduction=reduction)
        again, gradient = softfast.cross_entropy_gradient(z, y, sample_weight=w, reduction=reduction)
        assert_close(loss, expected, dtype, 60 * n_classes)
        np.testing.assert_array_equal(loss, again)
        assert gradient.dtype == dtype
        assert_close(gradient, residual / divisor, dtype, 60)


def test_loss_gradient_is_the_mean(rng):
    X, y, w = rng.normal(size=(50, 4)), rng.integers(0, 3, 50), rng.uniform(0.1, 2, 50)
    coef, intercept = rng.normal(size=(3, 4)), rng.normal(size=3)
    loss, grad_coef, grad_intercept = softfast.loss_gradient(X, y, coef, intercept, sample_weight=w)
    expected = reference.loss_gradient(X, y, coef, intercept, w)
    assert isinstance(loss, float)
    for ours, theirs in zip((loss, grad_coef, grad_intercept), expected, strict=True):
        assert_close(ours, theirs / w.sum(), np.float64, 50)
    single = softfast.loss_gradient(X.astype(np.float32), y, coef, intercept, sample_weight=w)
    assert single[1].dtype == np.float64
    np.testing.assert_allclose(single[1], grad_coef, atol=1e-6)
    strided = np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2]
    np.testing.assert_array_equal(softfast.loss_gradient(strided, y, coef)[1], softfast.loss_gradient(X, y, coef)[1])


def test_misaligned_arrays(rng):
    raw = np.zeros(8 * 60 + 1, np.uint8)
    X = raw[1:].view(np.float64).reshape(12, 5)
    X[...] = rng.normal(size=(12, 5))
    assert not X.flags.aligned
    y = rng.integers(0, 3, 12)
    coef = rng.normal(size=(3, 5))
    np.testing.assert_array_equal(softfast.loss_gradient(X, y, coef)[1], softfast.loss_gradient(X.copy(), y, coef)[1])
    np.testing.assert_array_equal(softfast.softmax(X), softfast.softmax(X.copy()))


X, Y, COEF = np.ones((4, 2)), np.array([0, 1, 2, 0]), np.zeros((3, 2))
NAN_X = np.array([[1.0, 2], [3, np.nan], [5, 6], [7, 8]])
BAD = [
    (lambda: softfast.softmax(["a"]), TypeError, "x must hold real numbers"),
    (lambda: softfast.softmax([1j]), TypeError, "x must hold real numbers"),
    (lambda: softfast.softmax(3.0), ValueError, "axis -1 is out of bounds"),
    (lambda: softfast.softmax(X, axis=2), ValueError, "axis 2 is out of bounds"),
    (lambda: softfast.softmax(X, axis=0.5), TypeError, "integer"),
    (lambda: softfast.softmax(X, out=np.zeros(3)), ValueError, r"out must be a writeable array of float64.*\(4, 2\)"),
    (lambda: softfast.softmax(X, out=[1]), ValueError, "out must be .* got list"),
    (lambda: softfast.softmax(X, n_threads=0), ValueError, "n_threads must be"),
    (lambda: softfast.softmax(X, n_threads=1.5), ValueError, "n_threads must be"),
    (lambda: softfast.cross_entropy(X[0], Y), ValueError, "logits must have shape"),
    (lambda: softfast.cross_entropy(X, Y), ValueError, r"y: label 2 of row 2 is not in 0\.\.1"),
    (lambda: softfast.cross_entropy(X, [0, 1]), ValueError, r"y must have shape \(4,\) or \(4, 2\), got \(2,\)"),
    (lambda: softfast.cross_entropy(X, [0.0, 1, 0, 1]), TypeError, "integer labels"),
    (lambda: softfast.cross_entropy(X, X), ValueError, "sum to 1 in every row"),
    (lambda: softfast.cross_entropy(X, NAN_X), ValueError, "sum to 1 in every row"),
    (lambda: softfast.cross_entropy(X, [0] * 4, reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
    (lambda: softfast.loss_gradient(X[0], Y, COEF), ValueError, r"X must have shape \(n, p\), got \(2,\)"),
    (lambda: softfast.loss_gradient(X, Y, COEF[:, :1]), ValueError, r"coef must have shape \(K, 2\)"),
    (lambda: softfast.loss_gradient(X, Y, COEF[:1]), ValueError, "K >= 2"),
    (lambda: softfast.loss_gradient(X, Y, COEF, [0.0]), ValueError, r"intercept must have shape \(3,\)"),
    (lambda: softfast.loss_gradient(X, Y + 1, COEF), ValueError, "y: label 3 of row 2"),
    (lambda: softfast.loss_gradient(X, Y - 1, COEF), ValueError, "y: label -1 of row 0"),
    (lambda: softfast.loss_gradient(X, Y[:3], COEF), ValueError, "y must have shape"),
    (
        lambda: softfast.loss_gradient(NAN_X, Y, COEF),
        ValueError,
        r"X must not hold NaN or infinity, got nan at \(1, 1\)",
    ),
    (lambda: softfast.loss_gradient(X * np.inf, Y, COEF), ValueError, "X must not hold NaN or infinity, got inf"),
    (lambda: softfast.loss_gradient(X, Y, COEF * np.nan), ValueError, "coef must not hold"),
    (lambda: softfast.loss_gradient(X, Y, COEF, [0, 0, np.inf]), ValueError, "intercept must not hold"),
    (lambda: softfast.loss_gradient(X, Y, COEF, sample_weight=[1, 1, -1, 1]), ValueError, "must not be negative"),
    (lambda: softfast.loss_gradient(X, Y, COEF, sample_weight=np.zeros(4)), ValueError, "must not be all zero"),
    (lambda: softfast.loss_gradient(X, Y, COEF, sample_weight=[np.nan] * 4), ValueError, "sample_weight must not hold"),
    (lambda: softfast.loss_gradient(X, Y, COEF, sample_weight=np.ones(3)), ValueError, r"shape \(4,\).*got \(3,\)"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_arguments_are_named(number):
    call, kind, message = BAD[number]
    with pytest.raises(kind, match=message):
        call()
