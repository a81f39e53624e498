"""exp and log: error in units in the last place, on every instruction set."""

import numpy as np
import pytest
from mpmath import mp

INTEGER = {np.float32: np.uint32, np.float64: np.uint64}


def ulps(actual, exact, dtype):
    """Errors in units in the last place of the exact values (spacing of subnormals below them)."""
    exact = np.asarray(exact, dtype=np.longdouble)
    with np.errstate(all="ignore"):
        spacing = np.spacing(np.maximum(np.abs(exact), np.finfo(dtype).smallest_normal).astype(dtype))
    return np.abs(actual.astype(np.longdouble) - exact) / spacing


def worst(function, exact, x):
    error = np.asarray(ulps(function(x), exact(x.astype(np.longdouble)), x.dtype.type), dtype=float)
    at = int(error.argmax())
    return error[at], x[at]


def every(step, dtype=np.float32):
    """Finite float32 values, every step-th bit pattern of both signs."""
    bits = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32)
    x = bits.view(dtype)
    return x[np.isfinite(x)]


# One in 1021 of all float32; with a step of 1 the bounds were seen to hold for every one of them.
STEP = 1021


def test_exp_float32(kernels):
    x = every(STEP)
    x = x[(x > -104) & (x < 88.72)]
    error, at = worst(kernels.exp, np.exp, x)
    assert error <= 2, f"{error} ulp at {at!r}"


def test_log_float32(kernels):
    x = every(STEP)
    x = x[x > 0]
    error, at = worst(kernels.log, np.log, x)
    assert error <= 2, f"{error} ulp at {at!r}"


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="this platform lacks extended precision")
def test_exp_float64(kernels, rng):
    x = np.concatenate([rng.uniform(-745.2, 709.78, 400_000), rng.normal(size=200_000), rng.normal(size=50_000) * 1e-8])
    error, at = worst(kernels.exp, np.exp, x)
    assert error <= 1, f"{error} ulp at {at!r}"


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="this platform lacks extended precision")
def test_log_float64(kernels, rng):
    bits = rng.integers(1, np.float64(np.inf).view(np.uint64), 400_000, dtype=np.uint64)
    x = np.concatenate([bits.view(np.float64), rng.uniform(0.5, 2, 400_000), 1 + rng.normal(size=100_000) * 1e-9])
    error, at = worst(kernels.log, np.log, x)
    assert error <= 1, f"{error} ulp at {at!r}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_arbitrary_precision(kernels, dtype, rng):
    mp.prec = 200
    x = rng.uniform(-80, 80, 300).astype(dtype)
    for name in ("exp", "log"):
        arguments = np.abs(x) if name == "log" else x
        exact = [getattr(mp, name)(mp.mpf(float(v))) for v in arguments]
        got = getattr(kernels, name)(arguments)
        for value, truth, argument in zip(got, exact, arguments, strict=True):
            unit = float(np.spacing(dtype(abs(float(truth)))))
            assert abs(mp.mpf(float(value)) - truth) / unit <= (2 if dtype is np.float32 else 1), argument


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(kernels, dtype):
    inf, nan, tiny = np.inf, np.nan, np.finfo(dtype).smallest_subnormal
    arguments = np.array([0.0, -0.0, -inf, inf, nan, -1e30, 1e30], dtype=dtype)
    np.testing.assert_array_equal(kernels.exp(arguments), np.array([1, 1, 0, inf, nan, 0, inf], dtype=dtype))
    arguments = np.array([0.0, -0.0, 1.0, inf, -inf, nan, -1.0, -tiny], dtype=dtype)
    expected = np.array([-inf, -inf, 0, inf, nan, nan, nan, nan], dtype=dtype)
    np.testing.assert_array_equal(kernels.log(arguments), expected)
    np.testing.assert_allclose(kernels.log(np.array([tiny])), np.log(np.longdouble(tiny)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_underflows_gradually(kernels, dtype):
    info = np.finfo(dtype)
    x = np.linspace(np.log(float(info.smallest_normal)) - 12, np.log(float(info.smallest_normal)), 1000, dtype=dtype)
    got = kernels.exp(x)
    assert (got > 0).all()
    assert ulps(got, np.exp(x.astype(np.longdouble)), dtype).max() <= 1


@pytest.mark.parametrize("n", [0, 1, 3, 15, 16, 17, 33])
def test_any_length(kernels, n, rng):
    x = rng.normal(size=n)
    np.testing.assert_allclose(kernels.exp(x), np.exp(x), rtol=1e-15)


def test_the_measure_can_fail(kernels):
    x = np.linspace(-5, 5, 100)
    assert worst(lambda v: np.exp(v) * (1 + 1e-15), np.exp, x)[0] > 1
