"""Products with the Hessian, Gram matrices, several models at once, and offsets: on every instruction set, type and
awkward shape, against the formulas in extended precision."""

import itertools

import numpy as np
import pytest
import reference
from problems import DTYPES, MAPS, PAIRS, layouts, random_problem, shapes
from tolerance import assert_close

from softfast import _core


def as_float32(values):
    """Numbers that float32 holds too, so that every arithmetic has the same problem."""
    return values.astype(np.float32).astype(float)


def cases(rng, storage):
    """Problems over the awkward shapes, with weights, offsets and a reference class now and then."""
    for case, (n, p, n_classes) in enumerate(shapes()):
        reference_class = case % 5 == 0
        X, y, coef, intercept = random_problem(
            rng, n, p, n_classes, storage, soft=case % 3 == 0, reference_class=reference_class
        )
        weight = as_float32(rng.uniform(0, 2, n)) if case % 2 == 0 else None
        offset = as_float32(rng.normal(size=(n, n_classes))) if case % 4 < 2 else None
        what = f"{(n, p, n_classes)} weighted={case % 2 == 0} offset={case % 4 < 2} reference={reference_class}"
        yield X, y, (coef, intercept), n_classes, weight, offset, what


def random_direction(rng, model):
    """Coefficients and intercepts shaped like the model's."""
    coef, intercept = model
    return as_float32(rng.normal(size=coef.shape) / np.sqrt(max(1, coef.shape[1]))), as_float32(
        rng.normal(size=intercept.shape)
    )


def assert_products_match(result, expected, X, direction, weight, arithmetic, what):
    """Products within the tolerance, in units of what is summed: weight times abs(d) times abs(x)."""
    n, p = X.shape
    total = max(n if weight is None else float(weight.sum()), 1e-30)
    scores = float(np.abs(reference.logits(X, *direction, len(direction[0]))).max(initial=1))
    size = max(1.0, float(np.abs(X).max(initial=0)))
    assert_close(result[0], expected[0], arithmetic, p + 1, scale=total * scores * size, what=f"{what}: product")
    assert_close(result[1], expected[1], arithmetic, p + 1, scale=total * scores, what=f"{what}: residual")


def assert_gradients_match(result, expected, X, weight, arithmetic, what):
    """Loss and gradient within the tolerance, in units of what is summed."""
    n, p = X.shape
    total = max(n if weight is None else float(weight.sum()), 1e-30)
    size = max(1.0, float(np.abs(X).max(initial=0)))
    scales = max(float(abs(expected[0])), total), total * size, total
    for name, ours, theirs, scale in zip(("loss", "product", "residual"), result, expected, scales, strict=True):
        assert_close(ours, theirs, arithmetic, p + 1, scale=scale, what=f"{what}: {name}")


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
def test_hessian_vector(kernels, storage, arithmetic, rng):
    for X, y, model, n_classes, weight, offset, what in cases(rng, storage):
        direction = random_direction(rng, model)
        expected = reference.hessian_vector(X, model, direction, n_classes, weight, offset)
        targets = _core.Targets(y, weight)
        for name, layout in layouts(X):
            rows = _core.Rows(layout, offset)
            result = kernels.hessian_vector(rows, targets, *model, *direction, n_classes, arithmetic=arithmetic)
            assert_products_match(result, expected, X, direction, weight, arithmetic, f"{what} {name}")


@pytest.mark.parametrize("n_classes", [2, 7, 40])
@pytest.mark.parametrize("reference_class", [False, True])
def test_hessian_vector_is_the_slope_of_the_gradient(kernels, n_classes, reference_class, rng):
    X, y, *model = random_problem(rng, 90, 6, n_classes, np.float64, soft=True, reference_class=reference_class)
    direction, weight = random_direction(rng, model), rng.uniform(0, 2, 90)
    rows, targets = _core.Rows(X, rng.normal(size=(90, n_classes))), _core.Targets(y, weight)
    step = 1e-3

    def gradient(k):
        at = [a + k * step * b for a, b in zip(model, direction, strict=True)]
        return np.concatenate([part.ravel() for part in kernels.loss_gradient(rows, targets, *at, n_classes)[1:]])

    slope = (gradient(-2) - 8 * gradient(-1) + 8 * gradient(1) - gradient(2)) / (12 * step)
    result = kernels.hessian_vector(rows, targets, *model, *direction, n_classes)
    exact = np.concatenate([part.ravel() for part in result])
    # The formula's own error, of fourth order in the step, and the rounding of gradients over the step.
    assert np.abs(slope - exact).max() <= 1e-9 * np.abs(exact).max() + 1e-13 / step
    assert np.abs(slope).max() > 0.1


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
@pytest.mark.parametrize("n_classes", [2, 7, 40])
def test_comparison_of_products_can_fail(kernels, storage, arithmetic, n_classes, rng):
    """One row of fifty counts twice, or has one logit more by 1."""
    X, y, *model = random_problem(rng, 50, 6, n_classes, storage, soft=False)
    direction, weight = random_direction(rng, model), as_float32(rng.uniform(0.5, 2, 50))
    offset = as_float32(rng.normal(size=(50, n_classes)))
    X[17], offset[17] = 1, 0
    expected = reference.hessian_vector(X, model, direction, n_classes, weight, offset)
    weight_changed, offset_changed = weight.copy(), offset.copy()
    weight_changed[17] *= 2
    offset_changed[17, 0] += 1
    for w, o in ((weight_changed, offset), (weight, offset_changed)):
        rows, targets = _core.Rows(X, o), _core.Targets(y, w)
        result = kernels.hessian_vector(rows, targets, *model, *direction, n_classes, arithmetic=arithmetic)
        with pytest.raises(AssertionError, match="product: error"):
            assert_products_match(result, expected, X, direction, weight, arithmetic, "changed")
        with pytest.raises(AssertionError, match="residual: error"):
            assert_products_match((expected[0], result[1]), expected, X, direction, weight, arithmetic, "changed")


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
def test_loss_gradient_with_offsets(kernels, storage, arithmetic, rng):
    for X, y, model, n_classes, weight, offset, what in cases(rng, storage):
        if offset is None:
            continue
        expected = reference.loss_gradient(X, y, *model, weight, n_classes, offset)
        for name, layout in layouts(X):
            result = kernels.loss_gradient(
                _core.Rows(layout, offset), _core.Targets(y, weight), *model, n_classes, arithmetic=arithmetic
            )
            assert_gradients_match(result, expected, X, weight, arithmetic, f"{what} {name}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_predict_with_offsets(kernels, dtype, rng):
    for X, _, model, n_classes, _, offset, what in cases(rng, dtype):
        if offset is None:
            continue
        p = X.shape[1]
        z = reference.logits(X, *model, n_classes, offset)
        scale = max(1.0, float(np.abs(z).max(initial=0)))
        for code, function in MAPS.items():
            expected = function(z) if len(X) else z
            if code == _core.IDENTITY:
                expected = expected[:, n_classes - len(model[0]) :]
            for order in "CF":
                rows = _core.Rows(np.asarray(X, order=order), offset)
                result, finite = kernels.predict(rows, *model, n_classes, code)
                assert finite
                assert_close(result, expected, dtype, p + 2, scale=scale, what=f"{what} {order} {code}")


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("n", "p", "n_classes"), [(1, 3, 3), (300, 20, 2), (700, 33, 7), (600, 5, 40)])
def test_stack_is_its_models_one_by_one(kernels, storage, arithmetic, order, n, p, n_classes, rng):
    for reference_class in (False, True):
        X, y, *model = random_problem(rng, n, p, n_classes, storage, soft=False, reference_class=reference_class)
        models = [model, random_direction(rng, model), model]
        labels = _core.Targets(y, rng.uniform(0, 2, n))
        targets = [labels, labels, _core.Targets(rng.dirichlet(np.ones(n_classes), n).astype(storage))]
        rows = _core.Rows(np.asarray(X, order=order), rng.normal(size=(n, n_classes)))
        coef, intercept = (np.stack(parts) for parts in zip(*models, strict=True))
        stack = kernels.loss_gradient_stack(rows, targets, coef, intercept, n_classes, arithmetic=arithmetic)
        # The same arithmetic in the same order; the partition differs only where partial sums outgrow their memory.
        for q in range(3):
            single = kernels.loss_gradient(rows, targets[q], *models[q], n_classes, arithmetic=arithmetic)
            for ours, theirs in zip(stack, single, strict=True):
                np.testing.assert_array_equal(ours[q], theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_weights", [1, 3])
def test_gram(kernels, dtype, n_weights, rng):
    for n, p, _ in shapes():
        if p > 200:
            continue
        X, weight = rng.normal(size=(n, p)).astype(dtype), rng.normal(size=(n_weights, n))
        # In NumPy, its own product in extended precision.
        exact = X.astype(reference.EXACT)
        expected = np.stack([(exact.T * w) @ exact for w in weight])
        scale = max(1.0, float(np.abs(X).max(initial=0))) ** 2 * max(n, 1) * max(1.0, np.abs(weight).max(initial=0))
        for name, layout in layouts(X):
            result = kernels.gram(_core.Rows(layout), weight)
            np.testing.assert_array_equal(result, result.transpose(0, 2, 1))
            assert_close(result, expected, np.float64, 1, scale=scale, what=f"{(n, p)} {name}")
        if n and p:
            weight[-1, n // 2] += 1e-3
            X[n // 2, -1] = 1
            expected[-1, -1, -1] = weight[-1] @ X[:, -1].astype(float) ** 2 - 1e-3
            with pytest.raises(AssertionError, match="one weight changed: error"):
                assert_close(kernels.gram(_core.Rows(X), weight)[-1, -1, -1:], expected[-1, -1, -1:], np.float64, 1,
                             scale=scale, what="one weight changed")  # fmt: skip


def test_gram_takes_negligible_weights_for_zero(kernels, rng):
    # A product with a subnormal number would take a hundred times as long.
    X, weight = rng.normal(size=(200, 20)), rng.normal(size=(2, 200))
    some = rng.random((2, 200)) < 0.5
    small = np.where(some, weight, weight * 1e-310)
    np.testing.assert_array_equal(
        kernels.gram(_core.Rows(X), small), kernels.gram(_core.Rows(X), np.where(some, weight, 0))
    )
    assert kernels.gram(_core.Rows(X), np.full((1, 200), 1e-250)).any()


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("n", "p", "n_classes"), [(3001, 20, 5), (2600, 9, 50), (700, 130, 3)])
def test_same_bits_for_any_number_of_threads(kernels, storage, arithmetic, order, n, p, n_classes, rng):
    X, y, *model = random_problem(rng, n, p, n_classes, storage, soft=False)
    direction, weights = random_direction(rng, model), rng.uniform(0, 2, (4, n))
    targets = _core.Targets(y, weights[0])
    rows = _core.Rows(np.asarray(X, order=order), rng.normal(size=(n, n_classes)))
    stacked = [np.stack([part, part]) for part in model]
    calls = {
        "hessian_vector": lambda t: kernels.hessian_vector(
            rows, targets, *model, *direction, n_classes, arithmetic=arithmetic, n_threads=t
        ),
        "stack": lambda t: kernels.loss_gradient_stack(
            rows, [targets, _core.Targets(y)], *stacked, n_classes, arithmetic=arithmetic, n_threads=t
        ),
        "loss_gradient": lambda t: kernels.loss_gradient(
            rows, targets, *model, n_classes, arithmetic=arithmetic, n_threads=t
        ),
        "gram": lambda t: [kernels.gram(rows, some, n_threads=t) for some in (weights, weights[:1])],
        "predict": lambda t: kernels.predict(rows, *model, n_classes, _core.SOFTMAX, n_threads=t)[:1],
    }
    for (name, call), n_threads in itertools.product(calls.items(), (2, 3, 7)):
        for one, many in zip(call(1), call(n_threads), strict=True):
            np.testing.assert_array_equal(one, many, err_msg=name)


@pytest.mark.parametrize("n_classes", [3, 40])
def test_wrong_shapes_are_refused(kernels, n_classes, rng):
    X, y, coef, intercept = random_problem(rng, 20, 4, n_classes, np.float64, soft=False)
    rows, targets = _core.Rows(X), _core.Targets(y)
    model, short = (coef, intercept), (coef[1:], intercept[1:])

    def refused(match, function, *arguments, **keywords):
        with pytest.raises(ValueError, match=match):
            function(*arguments, **keywords)

    product, stack = kernels.hessian_vector, kernels.loss_gradient_stack
    refused("coef has 3 columns", product, rows, targets, *model, coef[:, :3].copy(), intercept, n_classes)
    refused("rows of coef", product, rows, targets, *model, *short, n_classes)
    refused("intercepts", product, rows, targets, *model, coef, intercept[1:], n_classes)
    refused("do not belong", product, rows, _core.Targets(y[1:]), *model, coef, intercept, n_classes)
    refused("not offered", product, rows, targets, *model, *model, n_classes, arithmetic=np.float32)
    refused("at least 1", product, rows, targets, *model, *model, n_classes, n_threads=0)
    refused("1 targets, 2 coefs", stack, rows, [targets], np.stack([coef] * 2), np.stack([intercept] * 2), n_classes)
    refused("0 targets", stack, rows, [], coef[:0][None][:0], intercept[None][:0], n_classes)
    refused("rows of coef", stack, rows, [targets] * 2, [coef, coef[1:]], [intercept, intercept[1:]], n_classes)
    refused("do not belong", stack, rows, [targets, _core.Targets(y[1:])], [coef] * 2, [intercept] * 2, n_classes)
    refused("19 weights for 20 rows", kernels.gram, rows, np.ones((2, 19)))
    refused("at least 1", kernels.gram, rows, np.ones((2, 20)), n_threads=0)
    refused("dimensions", kernels.gram, rows, np.ones(20))
    for offset in (
        np.zeros((19, n_classes)),
        np.zeros((20, n_classes), dtype=np.float32),
        np.zeros((20, 2 * n_classes))[:, ::2],
    ):
        refused("offset, .* does not belong to X", _core.Rows, X, offset)
    narrow, message = _core.Rows(X, np.zeros((20, n_classes - 1))), f"offset has {n_classes - 1} columns"
    refused(message, kernels.loss_gradient, narrow, targets, *model, n_classes)
    refused(message, product, narrow, targets, *model, *model, n_classes)
    refused(message, kernels.predict, narrow, *model, n_classes, _core.SOFTMAX)


def test_label_out_of_range_is_named_in_a_stack(kernels, rng):
    X, y, coef, intercept = random_problem(rng, 600, 4, 3, np.float64, soft=False)
    wrong = y.copy()
    wrong[523] = 3
    targets = [_core.Targets(y), _core.Targets(wrong)]
    with pytest.raises(IndexError, match=r"label 3 of row 523 is not in 0\.\.2"):
        kernels.loss_gradient_stack(
            _core.Rows(X), targets, np.stack([coef] * 2), np.stack([intercept] * 2), 3, n_threads=2
        )


@pytest.mark.parametrize("n_classes", [3, 40])
@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
def test_no_subnormal_numbers_in_products(kernels, storage, arithmetic, n_classes, rng):
    """Negligible probabilities count as 0: arithmetic on subnormal numbers takes a hundred times as long.

    One row of features, all 1, makes the gradient the residual itself.
    """
    bits = 149 if arithmetic == np.float32 else 1074
    logits = -np.log(2) * np.linspace(0, 0.9 * bits, n_classes)
    X, targets = np.ones((1, 1), storage), _core.Targets(np.array([1]), None)
    model = logits[:, None].copy(), np.zeros(n_classes)
    direction = rng.normal(size=(n_classes, 1)), np.zeros(n_classes)
    expected = reference.softmax(logits[None])[0]
    _, gradient, _ = kernels.loss_gradient(_core.Rows(X), targets, *model, n_classes, arithmetic=arithmetic)
    product, _ = kernels.hessian_vector(_core.Rows(X), targets, *model, *direction, n_classes, arithmetic=arithmetic)
    expected[1] -= 1
    least = 1e-31 if arithmetic == np.float32 else 1e-272
    for result in (gradient, product):
        assert (np.abs(result[result != 0]) > least / 100).all()
        assert np.count_nonzero(result) < n_classes
    assert_close(gradient[:, 0], expected, arithmetic, 4, scale=1)
