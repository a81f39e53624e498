"""The short way of the array functions for small arrays: the bits of the general way, and nothing it should not do."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from tolerance import assert_close

import softfast
from softfast import _core

FUNCTIONS = {"softmax": _core.SOFTMAX, "log_softmax": _core.LOG_SOFTMAX, "logsumexp": _core.LOGSUMEXP}
SHAPES = [(1,), (10,), (40,), (2048,), (1, 1), (3, 1), (16, 4), (300, 5), (50, 40), (3, 4, 5), (2, 40, 3), (2,) * 8]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bits_as_the_general_way(kernels, name, dtype, shape, rng):
    x = (3 * rng.normal(size=shape)).astype(dtype)
    for axis in range(-x.ndim, x.ndim):
        small = kernels.map_small(x, axis, None, FUNCTIONS[name])
        assert small is not None
        assert small.dtype == dtype
        before, after = int(np.prod(shape[: axis % x.ndim])), int(np.prod(shape[axis % x.ndim + 1 :]))
        expected = np.empty_like(small)
        kernels.map(x.reshape(before, -1, after), expected.reshape(before, -1, after), FUNCTIONS[name])
        np.testing.assert_array_equal(small, expected)
        # An explicit number of threads goes the general way.
        public = getattr(softfast, name)(x, axis)
        general = getattr(softfast, name)(x, axis, n_threads=1)
        assert type(public) is type(general)
        assert public.dtype == dtype
        np.testing.assert_array_equal(public, general)
        if name == "logsumexp":
            kept = softfast.logsumexp(x, axis, keepdims=True)
            np.testing.assert_array_equal(kept, softfast.logsumexp(x, axis, keepdims=True, n_threads=1))
            assert kept.shape == expected.shape


def test_comparison_can_fail(kernels, rng):
    x = rng.normal(size=(4, 10))
    other = kernels.map_small(x + np.eye(4, 10) * 1e-12, -1, None, _core.SOFTMAX)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(other, kernels.map_small(x, -1, None, _core.SOFTMAX))


def test_what_is_out_of_the_ordinary_is_left_to_the_general_way(kernels):
    x, code = np.ones((4, 10)), _core.SOFTMAX
    byte = np.zeros(8 * 40 + 1, np.uint8)[1:].view(np.float64).reshape(4, 10)
    read_only = np.ones((4, 10))
    read_only.flags.writeable = False
    memory = np.ones(41)
    arguments = [
        (x.tolist(), -1, None), (x.astype("f2"), -1, None), (x.astype(">f8"), -1, None), (x.astype(int), -1, None),
        (x.astype(np.longdouble), -1, None), (x.astype(complex), -1, None), (x.astype(object), -1, None),
        (np.ma.array(x), -1, None), (x.T, -1, None), (x[:, ::2], -1, None), (x[::-1], -1, None), (byte, -1, None),
        (np.float64(1), -1, None), (np.array(1.0), -1, None), (np.array(1.0), 0, None), (x[:0], -1, None),
        (x[:, :0], -1, None), (np.ones(2049), -1, None), (np.ones((1,) * 9), -1, None),
        (x, 2, None), (x, -3, None), (x, 2**70, None), (x, -(2**70), None), (x, 1.0, None), (x, True, None),
        (x, None, None), (x, -1, x.tolist()), (x, -1, np.ones((10, 4))), (x, -1, np.ones(40)),
        (x, -1, np.ones((4, 10), np.float32)), (x, -1, np.ones((10, 4)).T), (x, -1, byte), (x, -1, read_only),
        (memory[1:].reshape(4, 10), -1, memory[:-1].reshape(4, 10)),
        (memory[:-1].reshape(4, 10), -1, memory[1:].reshape(4, 10)),
    ]  # fmt: skip
    for given in arguments:
        assert kernels.map_small(*given, code) is None, given
    assert kernels.map_small(x, -1, np.ones((4, 10)), _core.LOGSUMEXP) is None
    with pytest.raises(ValueError, match="no such map: 7"):
        kernels.map_small(x, -1, None, 7)


def test_out_may_be_the_input_or_its_neighbour(kernels, rng):
    memory = rng.normal(size=80)
    x, beside = memory[:40].reshape(4, 10), memory[40:].reshape(4, 10)
    for axis in (0, 1):
        expected = kernels.map_small(x, axis, None, _core.SOFTMAX)
        given = x.copy()
        assert kernels.map_small(x, axis, beside, _core.SOFTMAX) is beside
        np.testing.assert_array_equal(beside, expected)
        np.testing.assert_array_equal(x, given)
        assert kernels.map_small(x, axis, x, _core.SOFTMAX) is x
        np.testing.assert_array_equal(x, expected)
        x[...] = given


def test_results_belong_to_the_caller():
    x = np.array([1.0, 2.0])
    results = [softfast.softmax(x) for _ in range(100)]
    results[0][:] = 7
    assert all((result == softfast.softmax(x)).all() for result in results[1:])
    total = softfast.logsumexp(x)
    assert type(total) is np.float64
    assert softfast.logsumexp(np.ones((2, 3), np.float32)).shape == (2,)


def test_side_by_side(rng):
    arrays = [rng.normal(size=(1 + i % 7, 3 + i % 40)) for i in range(200)]
    expected = [softfast.softmax(x) for x in arrays]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            for ours, theirs in zip(pool.map(softfast.softmax, arrays), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_of_float16_is_computed_in_float32(soft, weighted, rng):
    z, y = rng.normal(size=(30, 4)).astype(np.float16), rng.integers(0, 4, 30)
    w = rng.uniform(0.5, 2, 30).astype(np.float16) if weighted else None
    if soft:
        y = rng.dirichlet(np.ones(4), 30).astype(np.float16)
    losses, gradient = softfast.cross_entropy_gradient(z, y, sample_weight=w, reduction="none")
    expected = reference.cross_entropy(z, y, w)
    assert losses.dtype == np.float64
    assert gradient.dtype == np.float16
    assert_close(losses, expected[0], np.float32, 4)
    assert_close(gradient, expected[1], np.float16)
    np.testing.assert_array_equal(softfast.cross_entropy(z, y, sample_weight=w, reduction="none"), losses)


def test_probabilities_of_a_coarser_type_are_targets(rng):
    z = rng.normal(size=(20, 50))
    for dtype in (np.float16, np.float32):
        q = softfast.softmax(z.astype(dtype))
        assert_close(softfast.cross_entropy(z, q), reference.cross_entropy(z, q)[0].mean(), np.float64, 1000)
    with pytest.raises(ValueError, match="sum to 1"):
        softfast.cross_entropy(z, 1.001 * softfast.softmax(z.astype(np.float32)))
    with pytest.raises(ValueError, match="sum to 1"):
        softfast.cross_entropy(z, softfast.softmax(z) * (1 + 1e-7))


def test_arguments_that_kernels_refuse(kernels):
    x = np.ones((4, 10, 1))
    for bad in (x.astype(">f8"), x.astype(np.float16), x.astype(int), np.ones((4, 10)), np.ones((4, 11, 1))):
        with pytest.raises(ValueError, match=r"kernels take|does not belong"):
            kernels.map(x, bad, _core.SOFTMAX)
    with pytest.raises(ValueError, match="does not belong"):
        kernels.map(x, np.broadcast_to(x, x.shape), _core.SOFTMAX)
    with pytest.raises(ValueError, match="n_threads must be at least 1"):
        kernels.map(x, x, _core.SOFTMAX, n_threads=0)
    targets = _core.Targets(np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="n_threads must be at least 1"):
        kernels.cross_entropy(x[:, :, 0], targets, n_threads=-1)
    for bad in (np.ones((4, 10), np.float32), np.ones((10, 4)).T, np.ones((4, 9))):
        with pytest.raises(ValueError, match=r"gradient, .* does not belong to logits"):
            kernels.cross_entropy(x[:, :, 0], targets, bad)
    for bad in (np.zeros(4), np.zeros(4, np.int32), np.zeros(8, np.int64)[::2], np.zeros((2, 2, 1))):
        with pytest.raises(ValueError, match="targets must be"):
            _core.Targets(bad)
    for bad in (np.ones(4, np.float32), np.ones(8)[::2], np.ones((4, 1))):
        with pytest.raises(ValueError, match="weights must be"):
            _core.Targets(np.zeros(4, np.int64), bad)
    with pytest.raises(ValueError, match="3 weights for 4 rows"):
        _core.Targets(np.zeros(4, np.int64), np.ones(3))
