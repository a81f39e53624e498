"""The one tolerance of all numerical comparisons."""

import numpy as np


def tolerance(dtype, n_terms=1):
    """Allowed error of a result of n_terms rounded terms, relative to the sum of their magnitudes.

    Rounding errors of independent terms add up like a random walk, so the bound grows with the square root of their
    number. The constant 8 is about four times the worst error seen over all kernels, instruction sets and shapes of
    test_kernels.py (1.9 in units of eps * sqrt(n_terms)).
    """
    return 8 * float(np.finfo(dtype).eps) * np.sqrt(max(1, n_terms))


def assert_close(actual, expected, dtype, n_terms=1, scale=None, what=""):
    """Every element within the tolerance, in units of `scale` (by default the largest expected magnitude)."""
    actual, expected = np.asarray(actual, dtype=np.longdouble), np.asarray(expected, dtype=np.longdouble)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if not actual.size:
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=what)
    if not finite.any():
        return
    if scale is None:
        scale = max(float(np.abs(expected[finite]).max()), float(np.finfo(dtype).tiny))
    scale = np.broadcast_to(scale, expected.shape)[finite]
    error = float(np.max(np.abs(actual[finite] - expected[finite]) / scale))
    allowed = tolerance(dtype, n_terms)
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}, in units of up to {np.max(scale):.3g}"
