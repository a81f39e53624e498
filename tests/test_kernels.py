"""Loss and gradient, and prediction, on every instruction set, type and awkward shape, against the formulas in extended
precision; and what all kernels have in common."""

import ctypes
import itertools
import mmap
import sys

import numpy as np
import pytest
import reference
from problems import DTYPES, MAPS, PAIRS, layouts, random_problem, shapes, target_layouts
from tolerance import assert_close, tolerance

from softfast import _core


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
        for (name, layout), target in zip(layouts(X), target_layouts(y), strict=False):
            targets = _core.Targets(target, kernel_weight)
            result = kernels.loss_gradient(
                _core.Rows(layout), targets, coef, intercept, n_classes, arithmetic=arithmetic
            )
            what = f"{(n, p, n_classes)} {name} soft={soft} weighted={weighted} reference={reference_class}"
            assert_matches(result, expected, X, kernel_weight, arithmetic, what)


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
@pytest.mark.parametrize("n_classes", [2, 7, 40])
def test_comparison_can_fail(kernels, storage, arithmetic, n_classes, rng):
    """One label of one row given to the kernel is another: its loss is one more."""
    X, y, coef, intercept = random_problem(rng, 50, 6, n_classes, storage, soft=False)
    X[7], coef[:2], intercept[:2], y[7] = 1, 0, [0, -1], 0
    expected = reference.loss_gradient(X, y, coef, intercept)
    y[7] = 1
    result = kernels.loss_gradient(_core.Rows(X), _core.Targets(y), coef, intercept, n_classes, arithmetic=arithmetic)
    with pytest.raises(AssertionError, match="loss: error"):
        assert_matches(result, expected, X, None, arithmetic, "one label changed")
    with pytest.raises(AssertionError, match="grad_coef: error"):
        assert_matches((expected[0], *result[1:]), expected, X, None, arithmetic, "one label changed")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [2, 7, 40])
def test_comparison_of_predictions_can_fail(kernels, dtype, n_classes, rng):
    """One row given to the kernel has one logit, 1 where the others are 0, off by 1000 tolerances."""
    X, _, coef, intercept = random_problem(rng, 50, 6, n_classes, dtype, soft=False)
    X[17], coef[:], intercept[:] = 0, 0, 0
    X[17, 0], coef[-1, 0] = 1, 1
    z = reference.logits(X, coef, intercept, n_classes)
    X[17, 0] += 1000 * tolerance(dtype, 8)
    for code, function in MAPS.items():
        result, _ = kernels.predict(_core.Rows(X), coef, intercept, n_classes, code)
        with pytest.raises(AssertionError, match="one row changed: error"):
            assert_close(result[17], function(z[17:18])[0], dtype, 8, what="one row changed")


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
    for case, (n, p, n_classes) in enumerate(shapes()):
        reference_class = case % 4 == 0
        X, _, coef, intercept = random_problem(rng, n, p, n_classes, dtype, soft=False, reference_class=reference_class)
        z = reference.logits(X, coef, intercept, n_classes)
        scale = max(1.0, float(np.abs(z).max(initial=0)))
        for code, function in MAPS.items():
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


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages of memory as Linux does")
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_read_beyond_an_array(kernels, dtype, rng):
    """Arrays that end where a forbidden page begins, or begin where one ends: any access beyond them is fatal."""
    page, protect = mmap.PAGESIZE, ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def guarded(array, at_end):
        array = np.asarray(array)
        size = -(-array.nbytes // page) * page
        memory = mmap.mmap(-1, size + 2 * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert protect(base, page, 0) == 0
        assert protect(base + page + size, page, 0) == 0
        start = page + (size - array.nbytes if at_end else 0)
        order = "C" if array.flags.c_contiguous else "F"
        copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape, order=order)
        copy[...] = array
        return copy

    for n, p, n_classes in [(1, 1, 2), (3, 5, 3), (7, 9, 7), (17, 17, 33), (31, 4, 40), (9, 33, 64), (65, 15, 5)]:
        X, y, coef, intercept = random_problem(rng, n, p, n_classes, dtype, soft=False)
        z, weight = rng.normal(size=(n, n_classes)).astype(dtype), rng.uniform(0, 1, n)
        q = rng.dirichlet(np.ones(n_classes), n).astype(dtype)
        for order, at_end in itertools.product("CF", (True, False)):
            model = guarded(coef, at_end), guarded(intercept, at_end), n_classes
            features, scores, proba = (guarded(np.asarray(a, order=order), at_end) for a in (X, z, q))
            offset = guarded(z.astype(float), at_end)
            for view in (features, features[::-1] if order == "C" else features[:, ::-1]):
                rows = _core.Rows(view, offset)
                for target in (guarded(y, at_end), proba):
                    targets = _core.Targets(target, guarded(weight, at_end))
                    kernels.loss_gradient(rows, targets, *model, arithmetic=dtype)
                kernels.hessian_vector(rows, targets, *model[:2], *model, arithmetic=dtype)
                kernels.gram(rows, guarded(np.stack([weight, weight]), at_end))
                kernels.predict(rows, *model, _core.SOFTMAX)
            for view in (scores, scores[::-1], scores[:, ::-1]):
                out = guarded(np.empty((n, n_classes), dtype), at_end)
                kernels.map(view[:, :, None], out[:, :, None], _core.SOFTMAX)
                kernels.map(view[:, :, None], out[:, :1, None], _core.LOGSUMEXP)
                kernels.cross_entropy(view, targets, out)
            kernels.exp(scores.ravel("K"))
            kernels.log(scores.ravel("K"))


def test_rows_may_share_memory(kernels, rng):
    """Sliding windows over a series, and broadcast rows and columns, are read where they are."""
    series, coef, intercept = rng.normal(size=300), rng.normal(size=(3, 7)), rng.normal(size=3)
    views = [
        np.lib.stride_tricks.sliding_window_view(series, 7),
        np.broadcast_to(series[:7], (290, 7)),
        np.broadcast_to(series[:290, None], (290, 7)),
    ]
    for X in views:
        y = rng.integers(0, 3, len(X))
        result = kernels.loss_gradient(_core.Rows(X), _core.Targets(y), coef, intercept, 3)
        assert_matches(result, reference.loss_gradient(X, y, coef, intercept), X, None, np.float64, str(X.strides))


@pytest.mark.parametrize("n_features", [7, 600])
def test_the_stride_of_a_single_row_has_no_meaning(kernels, n_features, rng):
    """A record of a structured array, and strides that no address can follow."""
    record = np.zeros(1, [("x", float, n_features), ("flag", np.uint8)])
    record["x"] = rng.normal(size=n_features)
    row, coef = record["x"].copy(), rng.normal(size=(3, n_features))
    views = [record["x"], *(np.lib.stride_tricks.as_strided(row, strides=(far, 8)) for far in (2**62, -(2**62)))]
    for X in views:
        assert X.strides != row.strides
        result = kernels.loss_gradient(_core.Rows(X), _core.Targets(np.array([1])), coef, np.zeros(3), 3)
        expected = reference.loss_gradient(row, np.array([1]), coef, np.zeros(3))
        assert_matches(result, expected, row, None, np.float64, str(X.strides))


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
@pytest.mark.parametrize("n_classes", [3, 40])
def test_floating_point_state_is_left_alone(kernels, dtype, n_classes, rng):
    subnormal = np.array([np.finfo(dtype).smallest_subnormal * 4])
    X, y, coef, intercept = random_problem(rng, 40, 4, n_classes, dtype, soft=False)
    z, out = (
        np.linspace(-200, 200, 40 * n_classes, dtype=dtype).reshape(40, n_classes),
        np.empty((40, n_classes), dtype),
    )
    calls = [
        lambda: kernels.loss_gradient(_core.Rows(X), _core.Targets(y), coef, intercept, n_classes, arithmetic=dtype),
        lambda: kernels.predict(_core.Rows(X), coef, intercept, n_classes, _core.SOFTMAX),
        lambda: kernels.map(z[:, :, None], out[:, :, None], _core.SOFTMAX, n_threads=2),
        lambda: kernels.cross_entropy(z, _core.Targets(y), out, n_threads=2),
        lambda: kernels.exp(z[0]),
        lambda: kernels.log(np.abs(z[0])),
    ]
    for call in calls:
        call()
        assert (subnormal / 2 > 0).all()
        assert (subnormal * 1 == subnormal).all()


def test_what_is_no_array_of_rows_is_refused_by_name():
    for X in (np.ones((2, 3), dtype=np.float16), np.ones(3), np.ones((2, 3)).astype(">f8")):
        with pytest.raises(ValueError, match=r"kernels take|X must have shape"):
            _core.Rows(X)
    unaligned = np.zeros(2 * 3 * 8 + 1, dtype=np.uint8)[1:].view(np.float64).reshape(2, 3)
    with pytest.raises(ValueError, match="aligned"):
        _core.Rows(unaligned)
    with pytest.raises(ValueError, match="offset"):
        _core.Rows(np.ones((2, 3)), np.ones((3, 2)))


def test_bad_calls_of_the_binding_are_errors():
    kernels, rows, targets = _core.default, _core.Rows(np.ones((2, 3))), _core.Targets(np.array([0, 1]))
    coef, intercept = np.zeros((2, 3)), np.zeros(2)
    with pytest.raises(TypeError, match="targets"):
        kernels.loss_gradient_stack(rows, [None], coef[None], intercept[None], 2)
    for call in (
        lambda n: kernels.loss_gradient(rows, targets, coef, intercept, 2, n_threads=n),
        lambda n: kernels.predict(rows, coef, intercept, 2, _core.SOFTMAX, n_threads=n),
        lambda n: kernels.gram(rows, np.ones((1, 2)), n_threads=n),
    ):
        for n_threads in (0, -1):
            with pytest.raises(ValueError, match="n_threads"):
                call(n_threads)
    with pytest.raises(ValueError, match="arithmetic"):
        kernels.loss_gradient(rows, targets, coef, intercept, 2, arithmetic="float16")
    assert repr(type(kernels)()) == repr(kernels)
