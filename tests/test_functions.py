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


def test_views_into_records_and_complex_numbers(rng):
    x = rng.normal(size=40)
    records = np.zeros(40, dtype=[("a", "f8"), ("b", "i1")])
    records["a"] = x
    half = np.zeros(40, dtype=[("a", "f4"), ("b", "f4")])
    half["b"] = x
    np.testing.assert_allclose(softfast.softmax(records["a"]), scipy.special.softmax(x), rtol=1e-14)
    np.testing.assert_allclose(softfast.softmax((x + 1j * x).imag), scipy.special.softmax(x), rtol=1e-14)
    np.testing.assert_allclose(softfast.softmax(half["b"]), scipy.special.softmax(x), rtol=1e-5)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (1, 7)])
def test_lists_read_only_arrays_and_a_single_class(shape, rng):
    x = rng.normal(size=shape)
    expected = scipy.special.log_softmax(x, -1)
    x.flags.writeable = False
    for given in (x, x.tolist()):
        np.testing.assert_allclose(softfast.log_softmax(given), expected, rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(softfast.logsumexp(given), scipy.special.logsumexp(x, -1), rtol=1e-14)


@pytest.mark.parametrize("n_classes", [3, 50])
def test_infinities_and_nan(n_classes):
    inf, nan = np.inf, np.nan
    x = np.zeros((6, n_classes))
    x[[0, 1], 1] = [inf, -inf]
    x[2, :2] = inf
    x[3] = -inf
    x[4, -1] = nan
    for array in (x, np.asfortranarray(x)):
        p, log_p, sums = softfast.softmax(array), softfast.log_softmax(array), softfast.logsumexp(array)
        np.testing.assert_array_equal(p[0], np.eye(n_classes)[1])
        np.testing.assert_array_equal(log_p[0], np.where(np.eye(n_classes)[1], 0, -inf))
        np.testing.assert_allclose(p[1], scipy.special.softmax(x[1]), rtol=1e-14)
        assert np.isnan(p[2:5]).all()
        assert np.isnan(log_p[2:5]).all()
        np.testing.assert_allclose(sums, scipy.special.logsumexp(x, 1), rtol=1e-14)
    assert softfast.cross_entropy(x[[0, 1]], [1, 0]) == pytest.approx(np.log(n_classes - 1) / 2)
    assert softfast.cross_entropy(x[[0, 1]], [0, 1]) == inf
    assert np.isnan(softfast.cross_entropy(x[[0, 4]], [1, 1]))


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
    for axis in range(x.ndim):
        for in_place in (x.copy(), np.asfortranarray(x), x.copy()[::-1], np.repeat(x, 2, axis=-1)[..., ::2]):
            afterwards = function(in_place.copy(), axis)
            assert function(in_place, axis, out=in_place) is in_place
            assert_close(in_place, afterwards, np.float64, 50)
    memory = np.empty(x.size + 1)
    overlapping, target = memory[1:].reshape(shape), memory[:-1].reshape(shape)
    overlapping[...] = x
    np.testing.assert_array_equal(function(overlapping, out=target), expected)
    half = x.astype(np.float16)
    np.testing.assert_array_equal(function(half, out=np.empty(shape, np.float16)), function(half))


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


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", ">i4", "uint64", "bool", "list", "strided"])
def test_labels_of_any_integer_type(kind, rng):
    z, y = rng.normal(size=(30, 2)), rng.integers(0, 2, 30)
    given = {"list": y.tolist(), "strided": np.repeat(y, 2)[::2]}.get(kind)
    given = y.astype(kind) if given is None else given
    assert softfast.cross_entropy(z, given) == softfast.cross_entropy(z, y)
    np.testing.assert_array_equal(softfast.loss_gradient(z, given, z[:2])[1], softfast.loss_gradient(z, y, z[:2])[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [3, 40])
def test_probabilities_as_targets_lie_anywhere(dtype, n_classes, rng):
    X, coef = rng.normal(size=(30, 4)).astype(dtype), rng.normal(size=(n_classes, 4))
    z, q = rng.normal(size=(30, n_classes)).astype(dtype), rng.dirichlet(np.ones(n_classes), 30)
    wide = np.repeat(np.repeat(q, 2, axis=0), 2, axis=1)
    loss, gradient = softfast.cross_entropy_gradient(z, q)
    fused = softfast.loss_gradient(X, q, coef)
    for same in (np.asfortranarray(q), wide[::2, ::2], wide[::-2, ::2][::-1], q.tolist()):
        assert softfast.cross_entropy(z, same) == loss
        np.testing.assert_array_equal(softfast.cross_entropy_gradient(z, same)[1], gradient)
        np.testing.assert_array_equal(softfast.loss_gradient(X, same, coef)[1], fused[1])
    labels = q.argmax(axis=1)
    one_hot = np.eye(n_classes)[labels]
    assert_close(softfast.cross_entropy(z, one_hot), softfast.cross_entropy(z, labels), dtype, n_classes)
    for ours, theirs in zip(
        softfast.loss_gradient(X, one_hot, coef), softfast.loss_gradient(X, labels, coef), strict=True
    ):
        assert_close(ours, theirs, dtype, 30)


def test_loss_gradient_is_the_mean(rng):
    X, y, w = rng.normal(size=(50, 4)), rng.integers(0, 3, 50), rng.uniform(0.1, 2, 50)
    coef, intercept = rng.normal(size=(3, 4)), rng.normal(size=3)
    loss, grad_coef, grad_intercept = softfast.loss_gradient(X, y, coef, intercept, sample_weight=w)
    expected = reference.loss_gradient(X, y, coef, intercept, w)
    assert isinstance(loss, float)
    for ours, theirs in zip((loss, grad_coef, grad_intercept), expected, strict=True):
        assert_close(ours, theirs / w.sum(), np.float64, 50)
    offset = rng.normal(size=(len(X), len(coef)))
    shifted = softfast.loss_gradient(X, y, coef, intercept, sample_weight=w, offset=np.asfortranarray(offset))
    expected = reference.loss_gradient(X, y, coef, intercept, w, offset=offset)
    for ours, theirs in zip(shifted, expected, strict=True):
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
    (lambda: softfast.logsumexp(3.0), ValueError, "axis -1 is out of bounds"),
    (lambda: softfast.logsumexp(X, axis=-3), ValueError, "axis -3 is out of bounds"),
    (lambda: softfast.log_softmax(np.ones(2, object)), TypeError, "x must hold real numbers .* got object"),
    (lambda: softfast.log_softmax(X, out=np.zeros((4, 2), np.float32)), ValueError, "got float32 of shape"),
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
    (lambda: softfast.cross_entropy(X, X[:, :1]), ValueError, r"probabilities must have shape \(4, 2\), got \(4, 1\)"),
    (lambda: softfast.cross_entropy(X, 0.45 * X), ValueError, "sum to 1 in every row"),
    (lambda: softfast.cross_entropy(X, [[3, -2]] * 4), ValueError, "must be >= 0"),
    (lambda: softfast.cross_entropy(X, ["a"] * 4), TypeError, r"integer labels 0\.\.1, got <U1"),
    (lambda: softfast.cross_entropy(X, [0] * 4, sample_weight=-np.ones(4)), ValueError, "must not be negative, got -1"),
    (lambda: softfast.cross_entropy(X, [0] * 4, sample_weight=["a"] * 4), TypeError, "sample_weight must hold real"),
    (lambda: softfast.cross_entropy_gradient(X[:, :0], [0] * 4), ValueError, r"K >= 1, got \(4, 0\)"),
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
    (
        lambda: softfast.loss_gradient(X, Y, COEF, offset=np.ones(4)),
        ValueError,
        r"offset must have shape \(4, 3\), got",
    ),
    (lambda: softfast.loss_gradient(X, Y, COEF, offset=np.ones((4, 2))), ValueError, r"offset .* got \(4, 2\)"),
    (lambda: softfast.loss_gradient(X, Y, COEF, offset=np.full((4, 3), -np.inf)), ValueError, "offset must not hold"),
    (lambda: softfast.loss_gradient(X, Y, COEF, offset=[["a"] * 3] * 4), TypeError, "offset must hold real numbers"),
    (lambda: softfast.loss_gradient(X, Y, COEF, sample_weight=[1, 1, -1, 1]), ValueError, "must not be negative"),
    (lambda: softfast.loss_gradient(X, Y, COEF, sample_weight=np.zeros(4)), ValueError, "must not be all zero"),
    (lambda: softfast.loss_gradient(X, Y, COEF, sample_weight=[np.nan] * 4), ValueError, "sample_weight must not hold"),
    (lambda: softfast.loss_gradient(X, Y, COEF, sample_weight=np.ones(3)), ValueError, r"shape \(4,\).*got \(3,\)"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_arguments_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
