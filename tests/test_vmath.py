"""exp and log: error in units in the last place, on every instruction set."""

import numpy as np
import pytest
from mpmath import mp

BOUND = {np.float32: 2, np.float64: 1}
EXTENDED = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="this platform lacks extended precision")


def ulps(actual, exact, dtype):
    """Errors in units in the last place of the exact values (spacing of subnormals below them)."""
    exact = np.asarray(exact, dtype=np.longdouble)
    smallest, largest = np.finfo(dtype).smallest_normal, np.nextafter(np.finfo(dtype).max, dtype(0))
    spacing = np.spacing(np.clip(np.abs(exact), smallest, largest).astype(dtype))
    return np.abs(actual.astype(np.longdouble) - exact) / spacing


def worst(function, exact, x):
    error = np.asarray(ulps(function(x), exact(x.astype(np.longdouble)), x.dtype.type), dtype=float)
    at = int(error.argmax())
    return error[at], x[at]


def every(step):
    """Finite float32 values, every step-th bit pattern of both signs."""
    x = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return x[np.isfinite(x)]


def around(center, dtype, n=5000):
    """The n floats on either side of a positive or negative number."""
    integer = np.int32 if dtype is np.float32 else np.int64
    bits = np.array([center], dtype).view(integer) + np.arange(-n, n, dtype=integer)
    return bits.view(dtype)


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


@EXTENDED
def test_exp_float64(kernels, rng):
    x = np.concatenate([rng.uniform(-745.2, 709.78, 400_000), rng.normal(size=200_000), rng.normal(size=50_000) * 1e-8])
    error, at = worst(kernels.exp, np.exp, x)
    assert error <= 1, f"{error} ulp at {at!r}"


@EXTENDED
def test_log_float64(kernels, rng):
    bits = rng.integers(1, np.float64(np.inf).view(np.uint64), 400_000, dtype=np.uint64)
    subnormal = rng.integers(1, 2**52, 50_000, dtype=np.uint64)
    near_one = [rng.uniform(0.5, 2, 400_000), 1 + rng.normal(size=100_000) * 1e-9]
    x = np.concatenate([bits.view(np.float64), subnormal.view(np.float64), *near_one])
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
            assert abs(mp.mpf(float(value)) - truth) / unit <= BOUND[dtype], argument


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(kernels, dtype):
    inf, nan, tiny = np.inf, np.nan, np.finfo(dtype).smallest_subnormal
    arguments = np.array([0.0, -0.0, -inf, inf, nan, -1e30, 1e30], dtype=dtype)
    np.testing.assert_array_equal(kernels.exp(arguments), np.array([1, 1, 0, inf, nan, 0, inf], dtype=dtype))
    arguments = np.array([0.0, -0.0, 1.0, inf, -inf, nan, -1.0, -tiny], dtype=dtype)
    expected = np.array([-inf, -inf, 0, inf, nan, nan, nan, nan], dtype=dtype)
    np.testing.assert_array_equal(kernels.log(arguments), expected)
    np.testing.assert_allclose(kernels.log(np.array([tiny])), np.log(np.longdouble(tiny)), rtol=1e-6)


@EXTENDED
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_at_its_limits(kernels, dtype):
    """Where results overflow, become subnormal and vanish, float by float; and where the reduction changes its n."""
    info, half = np.finfo(dtype), np.log(np.longdouble(2)) / 2
    overflow, subnormal = np.log(np.longdouble(info.max)), np.log(np.longdouble(info.smallest_normal))
    vanishing = np.log(np.longdouble(info.smallest_subnormal)) - 2 * half
    for center in (overflow, subnormal, vanishing, half, -half, 3 * half, -101 * half):
        x = around(center, dtype)
        got, exact = kernels.exp(x), np.exp(x.astype(np.longdouble))
        with np.errstate(over="ignore", under="ignore"):
            rounded = exact.astype(dtype)
        np.testing.assert_array_equal(np.isinf(got), np.isinf(rounded), err_msg=f"overflow near {center}")
        np.testing.assert_array_equal(got == 0, rounded == 0, err_msg=f"underflow near {center}")
        error = ulps(got, exact, dtype)[np.isfinite(rounded)]
        assert error.max() <= BOUND[dtype], f"{error.max()} ulp at {x[error.argmax()]!r}"
    x = np.linspace(vanishing, subnormal, 1000, dtype=dtype)[1:]
    assert (kernels.exp(x) > 0).all()
    assert ulps(kernels.exp(x), np.exp(x.astype(np.longdouble)), dtype).max() <= BOUND[dtype]


@EXTENDED
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_at_its_limits(kernels, dtype):
    """Where the mantissa wraps, around 1, and the smallest and largest numbers."""
    info = np.finfo(dtype)
    for center in (1, 0.5, 2, np.sqrt(0.5), np.sqrt(2.0), info.smallest_normal, info.max):
        x = around(center, dtype)
        error, at = worst(kernels.log, np.log, x[np.isfinite(x)])
        assert error <= BOUND[dtype], f"{error} ulp at {at!r}"
    smallest = np.arange(1, 5000) * info.smallest_subnormal
    error, at = worst(kernels.log, np.log, smallest)
    assert error <= BOUND[dtype], f"{error} ulp at {at!r}"


@pytest.mark.parametrize("n", [0, 1, 3, 15, 16, 17, 33])
def test_any_length(kernels, n, rng):
    x = rng.normal(size=n)
    np.testing.assert_allclose(kernels.exp(x), np.exp(x), rtol=1e-15)


def test_the_measure_can_fail(kernels):
    x = np.linspace(-5, 5, 100)
    assert worst(lambda v: np.exp(v) * (1 + 1e-15), np.exp, x)[0] > 1
    assert worst(lambda v: np.exp(v.astype(np.float32)) * np.float32(1 + 1e-6), np.exp, x.astype(np.float32))[0] > 2
    assert worst(kernels.exp, lambda v: np.exp(v) * (1 + 1e-15), x)[0] > 1
    assert worst(kernels.log, lambda v: np.log(v) * (1 + 1e-15), np.exp(x))[0] > 1
