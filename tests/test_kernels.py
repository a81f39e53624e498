"""Every kernel on every instruction set, type and awkward shape, against the formulas in extended precision."""

import itertools

import numpy as np
import pytest
import reference
from tolerance import assert_close, tolerance

from softfast import _core

# (storage, arithmetic)
PAIRS = [(np.float32, np.float32), (np.float64, np.float64), (np.float32, np.float64)]
DTYPES = [np.float32, np.float64]
# Around the widths of vectors, tiles and panels.
ROWS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65]
CLASSES = [2, 3, 4, 5, 7, 8, 9, 13, 14, 15, 16, 17, 29, 31, 32, 33, 47, 48, 64, 65]
FEATURES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 65]


def shapes():
    """Each awkward number of rows, features and classes with changing others, and a few larger shapes."""
    cycles = [itertools.cycle(values) for values in (ROWS, FEATURES[::-1], CLASSES)]
    yield from (tuple(next(c) for c in cycles) for _ in range(80))
    yield from [(300, 20, 5), (257, 3, 40), (513, 50, 10), (40, 5, 300), (270, 130, 3)]


def layouts(X):
    """The same matrix lying in memory in different ways."""
    n, p = X.shape
    yield "C", X
    yield "F", np.asfortranarray(X)
    wide = np.full((n, p + 3), np.nan, dtype=X.dtype)
    wide[:, 1 : p + 1] = X
    yield "columns of a wider array", wide[:, 1 : p + 1]
    tall = np.full((2 * n, p), np.nan, dtype=X.dtype)
    tall[::2] = X
    yield "every other row", tall[::2]
    yield "rows backwards", np.ascontiguousarray(X[::-1])[::-1]
    yield "columns backwards, F", np.asfortranarray(X[:, ::-1])[:, ::-1]


def random_problem(rng, n, p, n_classes, dtype, *, soft, reference_class=False):
    X = rng.normal(size=(n, p)).astype(dtype)
    n_outputs = n_classes - reference_class
    # Values that float32 holds too, so that every arithmetic has the same problem.
    coef = (rng.normal(size=(n_outputs, p)) / np.sqrt(max(1, p))).astype(np.float32).astype(float)
    intercept = rng.normal(size=n_outputs).astype(np.float32).astype(float)
    y = rng.dirichlet(np.ones(n_classes), n).astype(dtype) if soft else rng.integers(0, n_classes, n)
    return X, y.reshape((n, n_classes) if soft else (n,)), coef, intercept


def assert_matches(result, expected, X, weight, arithmetic, what):
    """Loss and gradients within the tolerance, in units of what is summed: losses, and abs(residual) abs(x)."""
    n, p = X.shape
    total = n if weight is None else float(np.sum(weight))
    size = max(1.0, float(np.abs(X).max(initial=0)))
    loss_scale = max(float(abs(expected[0])), total, 1e-30)
    assert_close(result[0], expected[0], arithmetic, p + 1, scale=loss_scale, what=f"{what}: loss")
    gradient_scale = max(total, 1e-30)
    assert_close(result[1], expected[1], arithmetic, p + 1, scale=gradient_scale * size, what=f"{what}: grad_coef")
    assert_close(result[2], expected[2], arithmetic, p + 1, scale=gradient_scale, what=f"{what}: grad_intercept")


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
def test_loss_gradient(kernels, storage, arithmetic, rng):
    for case, (n, p, n_classes) in enumerate(shapes()):
        soft, weighted, reference_class = case % 3 == 0, case % 2 == 0, case % 5 == 0
        X, y, coef, intercept = random_problem(
            rng, n, p, n_classes, storage, soft=soft, reference_class=reference_class
        )
        weight = rng.uniform(0, 2, n) if weighted else None
        kernel_weight = None if weight is None else weight.astype(np.float32).astype(float)
        expected = reference.loss_gradient(X, y, coef, intercept, kernel_weight, n_classes)
        for name, layout in layouts(X):
            result = kernels.loss_gradient(
                _core.Rows(layout), _core.Targets(y, kernel_weight), coef, intercept, n_classes, arithmetic=arithmetic
            )
            what = f"{(n, p, n_classes)} {name} soft={soft} weighted={weighted} reference={reference_class}"
            assert_matches(result, expected, X, kernel_weight, arithmetic, what)


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
@pytest.mark.parametrize("n_classes", [2, 7, 40])
def test_comparison_can_fail(kernels, storage, arithmetic, n_classes, rng):
    X, y, coef, intercept = random_problem(rng, 50, 6, n_classes, storage, soft=False)
    expected = reference.loss_gradient(X, y, coef, intercept)
    y[7] = (y[7] + 1) % n_classes
    result = kernels.loss_gradient(_core.Rows(X), _core.Targets(y), coef, intercept, n_classes, arithmetic=arithmetic)
    with pytest.raises(AssertionError, match="loss: error"):
        assert_matches(result, expected, X, None, arithmetic, "one label changed")
    with pytest.raises(AssertionError, match="grad_coef: error"):
        assert_matches((expected[0], *result[1:]), expected, X, None, arithmetic, "one label changed")


def test_name_is_the_one_asked_for(kernels, request):
    assert kernels.name == request.node.callspec.params["kernels"]


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("n", "p", "n_classes"), [(3001, 20, 5), (2600, 9, 50), (700, 300, 3)])
def test_same_bits_for_any_number_of_threads(kernels, storage, arithmetic, order, n, p, n_classes, rng):
    X, y, coef, intercept = random_problem(rng, n, p, n_classes, storage, soft=False)
    rows, targets = _core.Rows(np.asarray(X, order=order)), _core.Targets(y, rng.uniform(0, 2, n))
    results = [
        kernels.loss_gradient(rows, targets, coef, intercept, n_classes, arithmetic=arithmetic, n_threads=t)
        for t in (1, 2, 3, 7)
    ]
    for result in results[1:]:
        for one, many in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, many)
    predictions = [
        kernels.predict(rows, coef, intercept, n_classes, _core.SOFTMAX, n_threads=t)[0] for t in (1, 2, 3, 7)
    ]
    for prediction in predictions[1:]:
        np.testing.assert_array_equal(predictions[0], prediction)


@pytest.mark.parametrize("dtype", DTYPES)
def test_predict(kernels, dtype, rng):
    maps = {_core.SOFTMAX: reference.softmax, _core.LOG_SOFTMAX: reference.log_softmax, _core.IDENTITY: lambda z: z}
    for case, (n, p, n_classes) in enumerate(shapes()):
        reference_class = case % 4 == 0
        X, _, coef, intercept = random_problem(rng, n, p, n_classes, dtype, soft=False, reference_class=reference_class)
        z = reference.logits(X, coef, intercept, n_classes)
        scale = max(1.0, float(np.abs(z).max(initial=0)))
        for code, function in maps.items():
            expected = function(z) if n else z
            if code == _core.IDENTITY:
                expected = expected[:, reference_class:]
            for name, layout in layouts(X):
                result, finite = kernels.predict(_core.Rows(layout), coef, intercept, n_classes, code)
                assert finite
                assert result.dtype == dtype
                assert_close(result, expected, dtype, p + 2, scale=scale, what=f"{(n, p, n_classes)} {name} {code}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [2, 5, 40])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_predict_notices_what_is_not_finite(kernels, dtype, n_classes, bad, rng):
    for reference_class in (False, True):
        X, _, coef, intercept = random_problem(
            rng, 70, 6, n_classes, dtype, soft=False, reference_class=reference_class
        )
        coef[:, 3] = 0
        for column in (0, 3):
            spoilt = X.copy()
            spoilt[69, column] = bad
            for order in "CF":
                rows = _core.Rows(np.asarray(spoilt, order=order))
                assert not kernels.predict(rows, coef, intercept, n_classes, _core.SOFTMAX)[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_map(kernels, dtype, rng):
    maps = {_core.SOFTMAX: reference.softmax, _core.LOG_SOFTMAX: reference.log_softmax}
    for outer, n_classes, inner in [
        (1, 1, 1), (7, 3, 1), (17, 10, 1), (300, 31, 1), (5, 32, 1), (33, 33, 1), (3, 100, 1), (2, 1000, 1),
        (1, 4, 37), (1, 70, 300), (3, 5, 4), (2, 40, 9), (1, 2, 1), (65, 2, 1),
    ]:  # fmt: skip
        x = (4 * rng.normal(size=(outer, n_classes, inner))).astype(dtype)
        moved = np.moveaxis(x.astype(np.longdouble), 1, -1)
        views = {"C": x, "F": np.asfortranarray(x), "backwards": np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]}
        for code, function in maps.items():
            expected = np.moveaxis(function(moved), -1, 1)
            for name, view in views.items():
                out = np.empty_like(x)
                kernels.map(view, out, code, n_threads=2)
                what = f"{x.shape} {name} {code}"
                # Relative to each value: small probabilities too are accurate; a logarithm of 0 excepted.
                scale = np.maximum(np.abs(expected), 1e-3 if code == _core.LOG_SOFTMAX else np.finfo(dtype).tiny)
                spread = float(np.abs(moved.max(-1) - moved.min(-1)).max())
                assert_close(out, expected, dtype, n_classes + spread**2, scale=scale, what=what)
        out = np.empty((outer, 1, inner), dtype)
        for view in views.values():
            kernels.map(view, out, _core.LOGSUMEXP)
            assert_close(out[:, 0], reference.logsumexp(moved), dtype, n_classes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [3, 32, 70])
def test_log_softmax_is_accurate_where_a_row_is_certain(kernels, dtype, n_classes):
    x = np.zeros((5, n_classes), dtype)
    x[:, 1] = [20, 30, 40, 60, 80]
    out = np.empty((5, n_classes, 1), dtype)
    kernels.map(x[:, :, None], out, _core.LOG_SOFTMAX)
    expected = reference.log_softmax(x)[:, 1]
    assert (np.abs(expected) < 1e-6).all()
    np.testing.assert_allclose(out[:, 1, 0], expected.astype(dtype), rtol=tolerance(dtype, n_classes))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [4, 40])
def test_infinities_and_nan(kernels, dtype, n_classes):
    inf, nan = np.inf, np.nan
    x = np.zeros((7, n_classes), dtype)
    x[0, 2] = inf  # certain
    x[1, 2] = -inf  # impossible
    x[2, :] = -inf  # no limit
    x[3, 1:3] = inf  # no limit
    x[4, 0] = nan
    x[5, :2] = [nan, inf]
    x[6, :] = np.finfo(dtype).max
    out, log_out, sums = (
        np.empty((7, n_classes, 1), dtype),
        np.empty((7, n_classes, 1), dtype),
        np.empty((7, 1, 1), dtype),
    )
    kernels.map(x[:, :, None], out, _core.SOFTMAX)
    kernels.map(x[:, :, None], log_out, _core.LOG_SOFTMAX)
    kernels.map(x[:, :, None], sums, _core.LOGSUMEXP)
    one_hot = np.eye(n_classes)[2]
    np.testing.assert_array_equal(out[0, :, 0], one_hot)
    np.testing.assert_array_equal(log_out[0, :, 0], np.where(one_hot == 1, 0, -inf))
    np.testing.assert_allclose(out[1, :, 0], (1 - one_hot) / (n_classes - 1), rtol=tolerance(dtype, n_classes))
    assert log_out[1, 2, 0] == -inf
    assert np.isnan(out[2:6]).all()
    assert np.isnan(log_out[2:6]).all()
    np.testing.assert_allclose(out[6], 1 / n_classes, rtol=tolerance(dtype))
    np.testing.assert_array_equal(sums[[0, 2, 3, 4, 5], 0, 0], np.array([inf, -inf, inf, nan, nan], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy(kernels, dtype, rng):
    for case, (n, _, n_classes) in enumerate(shapes()):
        soft = case % 2 == 0
        z = (3 * rng.normal(size=(n, n_classes))).astype(dtype)
        y = rng.dirichlet(np.ones(n_classes), n).astype(dtype) if soft else rng.integers(0, n_classes, n)
        y = y.reshape((n, n_classes) if soft else (n,))
        weight = rng.uniform(0, 2, n).astype(np.float32).astype(float)
        losses, residual = reference.cross_entropy(z, y, weight)
        for name, view in layouts(z):
            gradient = np.empty_like(z)
            result = kernels.cross_entropy(view, _core.Targets(y, weight), gradient, n_threads=2)
            what = f"{z.shape} {name} soft={soft}"
            assert_close(result, losses, dtype, n_classes, scale=20.0, what=what)
            assert_close(gradient, residual, dtype, n_classes, scale=2.0, what=what)
            np.testing.assert_array_equal(kernels.cross_entropy(view, _core.Targets(y, weight)), result)


@pytest.mark.parametrize("n_classes", [3, 50])
@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
def test_loss_is_exact_where_the_probability_underflows(kernels, storage, arithmetic, n_classes):
    X = np.array([[1.0], [1e4], [-1e4]], dtype=storage)
    coef = np.zeros((n_classes, 1))
    coef[0] = 1.0
    y = np.array([0, 1, 0])
    loss, grad_coef, grad_intercept = kernels.loss_gradient(
        _core.Rows(X), _core.Targets(y), coef, np.zeros(n_classes), n_classes, arithmetic=arithmetic
    )
    expected = reference.loss_gradient(X, y, coef, np.zeros(n_classes))
    np.testing.assert_allclose(loss, float(expected[0]), rtol=tolerance(arithmetic, 3))
    np.testing.assert_allclose(grad_coef, expected[1].astype(float), rtol=tolerance(arithmetic, 3), atol=1e-6)
    assert np.isfinite(grad_intercept).all()


@pytest.mark.parametrize("label", [-1, 3, 40, 2**40, -(2**62)])
@pytest.mark.parametrize("n_classes", [3, 40])
def test_label_out_of_range_is_an_error(kernels, label, n_classes, rng):
    X, y, coef, intercept = random_problem(rng, 600, 4, n_classes, np.float64, soft=False)
    y[523] = label
    if 0 <= label < n_classes:
        y[523] = n_classes
    message = rf"label {y[523]} of row 523 is not in 0\.\.{n_classes - 1}"
    with pytest.raises(IndexError, match=message):
        kernels.loss_gradient(_core.Rows(X), _core.Targets(y), coef, intercept, n_classes, n_threads=2)
    with pytest.raises(IndexError, match=message):
        kernels.cross_entropy(rng.normal(size=(600, n_classes)), _core.Targets(y), n_threads=2)


def test_read_only_and_mismatched_arguments(kernels, rng):
    X, y, coef, intercept = random_problem(rng, 20, 4, 3, np.float64, soft=False)
    expected = kernels.loss_gradient(_core.Rows(X), _core.Targets(y), coef, intercept, 3)
    for array in (X, y, coef, intercept):
        array.flags.writeable = False
    again = kernels.loss_gradient(_core.Rows(X), _core.Targets(y), coef, intercept, 3)
    np.testing.assert_array_equal(again[1], expected[1])
    with pytest.raises(ValueError, match="columns"):
        kernels.loss_gradient(_core.Rows(X[:, :3]), _core.Targets(y), coef, intercept, 3)
    with pytest.raises(ValueError, match="do not belong"):
        kernels.loss_gradient(_core.Rows(X), _core.Targets(y[:-1]), coef, intercept, 3)
    with pytest.raises(ValueError, match="classes"):
        kernels.loss_gradient(_core.Rows(X), _core.Targets(y), coef, intercept, 5)
    with pytest.raises(ValueError, match="not offered"):
        kernels.loss_gradient(_core.Rows(X), _core.Targets(y), coef, intercept, 3, arithmetic=np.float32)
    with pytest.raises(ValueError, match="contiguous"):
        _core.Rows(np.zeros((6, 6))[::2, ::2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_floating_point_state_is_left_alone(kernels, dtype, rng):
    subnormal = np.array([np.finfo(dtype).smallest_subnormal * 4])
    X, y, coef, intercept = random_problem(rng, 40, 4, 3, dtype, soft=False)
    kernels.loss_gradient(_core.Rows(X), _core.Targets(y), coef, intercept, 3, arithmetic=dtype)
    kernels.exp(np.array([-100.0, 0.0], dtype))
    assert (subnormal / 2 > 0).all()
    assert (subnormal * 1 == subnormal).all()
