"""The kernels of the array functions on every instruction set, against the formulas in extended precision."""

import numpy as np
import pytest
import reference
from problems import DTYPES, MAPS, layouts, shapes, target_layouts
from tolerance import assert_close, tolerance

from softfast import _core


@pytest.mark.parametrize("dtype", DTYPES)
def test_map(kernels, dtype, rng):
    for outer, n_classes, inner in [
        (1, 1, 1), (7, 3, 1), (17, 10, 1), (300, 31, 1), (5, 32, 1), (33, 33, 1), (3, 100, 1), (2, 1000, 1),
        (1, 4, 37), (1, 70, 300), (3, 5, 4), (2, 40, 9), (1, 2, 1), (65, 2, 1),
    ]:  # fmt: skip
        x = (4 * rng.normal(size=(outer, n_classes, inner))).astype(dtype)
        moved = np.moveaxis(x.astype(np.longdouble), 1, -1)
        views = {"C": x, "F": np.asfortranarray(x), "backwards": np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]}
        for code in (_core.SOFTMAX, _core.LOG_SOFTMAX):
            expected = np.moveaxis(MAPS[code](moved), -1, 1)
            for name, view in views.items():
                out = np.empty_like(x)
                kernels.map(view, out, code)
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
def test_cross_entropy(kernels, dtype, rng):
    for case, (n, _, n_classes) in enumerate(shapes()):
        soft = case % 2 == 0
        z = (3 * rng.normal(size=(n, n_classes))).astype(dtype)
        y = rng.dirichlet(np.ones(n_classes), n).astype(dtype) if soft else rng.integers(0, n_classes, n)
        y = y.reshape((n, n_classes) if soft else (n,))
        weight = rng.uniform(0, 2, n).astype(np.float32).astype(float)
        losses, residual = reference.cross_entropy(z, y, weight)
        for (name, view), target in zip(layouts(z), target_layouts(y), strict=False):
            gradient = np.empty_like(z)
            result = kernels.cross_entropy(view, _core.Targets(target, weight), gradient)
            what = f"{z.shape} {name} soft={soft}"
            assert_close(result, losses, dtype, n_classes, scale=20.0, what=what)
            assert_close(gradient, residual, dtype, n_classes, scale=2.0, what=what)
            np.testing.assert_array_equal(kernels.cross_entropy(view, _core.Targets(target, weight)), result)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [2, 7, 40])
def test_comparison_can_fail(kernels, dtype, n_classes, rng):
    """One logit of one row given to the kernel is off by 1000 tolerances."""
    z, y = rng.normal(size=(50, n_classes)).astype(dtype), rng.integers(0, n_classes, 50)
    z[17], y[17] = 0, 1
    other = z.copy()
    other[17, 1] += 1000 * tolerance(dtype, n_classes)
    gradient, out = np.empty_like(z), np.empty((*z.shape, 1), dtype)
    losses = kernels.cross_entropy(other, _core.Targets(y), gradient)
    expected = reference.cross_entropy(z, y)
    pairs = {"losses": (losses, expected[0]), "gradient": (gradient, expected[1])}
    for name, code in {"softmax": _core.SOFTMAX, "log_softmax": _core.LOG_SOFTMAX}.items():
        kernels.map(other[:, :, None], out, code)
        pairs[name] = out[:, :, 0].copy(), MAPS[code](z)
    kernels.map(other[:, :, None], out[:, :1], _core.LOGSUMEXP)
    pairs["logsumexp"] = out[:, 0, 0], reference.logsumexp(z.astype(np.longdouble))
    for name, (ours, theirs) in pairs.items():
        with pytest.raises(AssertionError, match=f"{name}: error"):
            assert_close(ours, theirs, dtype, n_classes, what=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [5, 50])
def test_array_kernels_have_the_same_bits_for_any_number_of_threads(kernels, dtype, n_classes, rng):
    z = rng.normal(size=(3001, n_classes)).astype(dtype)
    targets = _core.Targets(rng.integers(0, n_classes, 3001), rng.uniform(0, 2, 3001))
    results = []
    for n_threads in (1, 2, 3, 7):
        gradient, maps = np.empty_like(z), [np.empty_like(z) for _ in range(4)]
        kernels.map(z[:, :, None], maps[0][:, :, None], _core.SOFTMAX, n_threads=n_threads)
        kernels.map(z[:, :, None], maps[1][:, :, None], _core.LOG_SOFTMAX, n_threads=n_threads)
        kernels.map(z.T[None], maps[2].T[None], _core.SOFTMAX, n_threads=n_threads)
        kernels.map(z[:, :, None], maps[3][:, :1, None], _core.LOGSUMEXP, n_threads=n_threads)
        maps[3] = maps[3][:, :1]
        losses = kernels.cross_entropy(z, targets, gradient, n_threads=n_threads)
        results.append((*maps, losses, gradient))
    for result in results[1:]:
        for one, many in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, many)


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
@pytest.mark.parametrize("n_classes", [4, 40])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_of_infinities_and_nan(kernels, dtype, n_classes, soft):
    """Row by row: (logits that are not 0, label, loss, gradient at the label); NaN where there is no limit."""
    inf, nan, last = np.inf, np.nan, n_classes - 1
    cases = [
        ({2: inf}, 2, 0, 0),
        ({2: inf}, 1, inf, -1),
        ({2: -inf}, 2, inf, -1),
        ({2: -inf}, 1, np.log(n_classes - 1), 1 / (n_classes - 1) - 1),
        ({1: inf, 2: inf}, 1, nan, nan),
        (dict.fromkeys(range(n_classes), -inf), 0, nan, nan),
        *[({at: nan}, label, nan, nan) for at in (0, 1, last) for label in (0, 1, last)],
    ]
    z, labels = np.zeros((len(cases), n_classes), dtype), np.array([label for _, label, _, _ in cases])
    for row, (entries, *_) in zip(z, cases, strict=True):
        row[list(entries)] = list(entries.values())
    losses, slopes = np.array([[loss, slope] for _, _, loss, slope in cases]).T
    targets = _core.Targets(np.eye(n_classes, dtype=dtype)[labels] if soft else labels)
    for view in (z, np.asfortranarray(z)):
        gradient = np.empty_like(z)
        result = kernels.cross_entropy(view, targets, gradient)
        np.testing.assert_allclose(result, losses, rtol=tolerance(dtype, n_classes))
        at_label = gradient[np.arange(len(z)), labels]
        np.testing.assert_allclose(at_label, slopes, rtol=tolerance(dtype, n_classes), atol=0)
        assert np.isnan(gradient[4:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [3, 40])
def test_extreme_logits(kernels, dtype, n_classes):
    """Up to the largest number: probabilities stay 0 or 1, losses are exact or, where too large, infinite."""
    largest = np.finfo(dtype).max
    z = np.zeros((6, n_classes), dtype)
    z[:, 0] = [1e4, -1e4, largest, -largest, largest, largest]
    z[4:, 1:] = -largest
    z[5, 1] = largest
    expected = reference.softmax(z)
    out, log_out, sums = (np.empty((6, k, 1), dtype) for k in (n_classes, n_classes, 1))
    kernels.map(z[:, :, None], out, _core.SOFTMAX)
    kernels.map(z[:, :, None], log_out, _core.LOG_SOFTMAX)
    kernels.map(z[:, :, None], sums, _core.LOGSUMEXP)
    np.testing.assert_allclose(out[:, :, 0], expected.astype(dtype), rtol=tolerance(dtype, n_classes))
    with np.errstate(over="ignore"):
        logarithms = reference.log_softmax(z).astype(dtype)
        losses, residual = (result.astype(dtype) for result in reference.cross_entropy(z, np.full(6, 2)))
    np.testing.assert_allclose(log_out[:, :, 0], logarithms, rtol=tolerance(dtype, n_classes))
    exact = reference.logsumexp(z.astype(np.longdouble)).astype(dtype)
    np.testing.assert_allclose(sums[:, 0, 0], exact, rtol=tolerance(dtype))
    gradient = np.empty_like(z)
    np.testing.assert_allclose(kernels.cross_entropy(z, _core.Targets(np.full(6, 2)), gradient), losses, rtol=1e-6)
    np.testing.assert_allclose(gradient, residual, rtol=tolerance(dtype, n_classes))


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_larger_than_the_caches(kernels, dtype, rng):
    """Beyond 32 MiB results are written past the caches; rows of 1001 begin at every alignment."""
    n = 9000 if dtype is np.float32 else 4500
    z = rng.normal(size=(n, 1001)).astype(dtype)
    y = rng.integers(0, 1001, n)
    some = np.append(np.arange(0, n, 777), n - 1)
    out, gradient = np.full((*z.shape, 1), np.nan, dtype), np.full_like(z, np.nan)
    kernels.map(z[:, :, None], out, _core.SOFTMAX, n_threads=2)
    losses = kernels.cross_entropy(z, _core.Targets(y), gradient, n_threads=2)
    expected = reference.cross_entropy(z[some], y[some])
    assert_close(out[some, :, 0], reference.softmax(z[some]), dtype, 1001, what="softmax")
    assert_close(losses[some], expected[0], dtype, 1001, what="losses")
    assert_close(gradient[some], expected[1], dtype, 1001, what="gradient")
    assert np.abs(out.sum(axis=1, dtype=np.float64) - 1).max() < 1e-4
    assert np.abs(gradient.sum(axis=1, dtype=np.float64)).max() < 1e-4
