"""Problems for the tests of kernels: awkward shapes, layouts in memory, random data."""

import itertools
import signal
import threading
import time

import numpy as np
import pytest
import reference

from softfast import _core

DTYPES = [np.float32, np.float64]
# (storage, arithmetic)
PAIRS = [(np.float32, np.float32), (np.float64, np.float64), (np.float32, np.float64)]
MAPS = {_core.SOFTMAX: reference.softmax, _core.LOG_SOFTMAX: reference.log_softmax, _core.IDENTITY: lambda z: z}
# Around the widths of vectors, tiles and panels.
ROWS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65]
CLASSES = [2, 3, 4, 5, 7, 8, 9, 13, 14, 15, 16, 17, 29, 31, 32, 33, 47, 48, 64, 65]
FEATURES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 65]


def shapes():
    """Each awkward number of rows, features and classes with changing others, and a few larger shapes.

    Blocks have 256 rows, fewer where rows are long; coefficients of 5000 features are visited in slices of classes.
    """
    cycles = [itertools.cycle(values) for values in (ROWS, FEATURES[::-1], CLASSES)]
    yield from (tuple(next(c) for c in cycles) for _ in range(80))
    yield from [(300, 20, 5), (257, 3, 40), (513, 50, 10), (40, 5, 300), (270, 130, 3)]
    yield from [(255, 2, 3), (256, 2, 33), (512, 1, 2), (70, 5000, 13), (5, 2, 1000)]


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


def target_layouts(y):
    """Labels and probabilities, read-only; the latter lying in memory in different ways, again and again."""
    if y.ndim == 1:
        views = [y.copy()]
    else:
        apart = np.repeat(np.repeat(y, 2, axis=0), 3, axis=1)[::2, ::3]
        views = [y.copy(), np.asfortranarray(y), apart, np.ascontiguousarray(y[::-1, ::-1])[::-1, ::-1]]
    for view in views:
        view.flags.writeable = False
    return itertools.cycle(views)


def random_problem(rng, n, p, n_classes, dtype, *, soft, reference_class=False):
    X = rng.normal(size=(n, p)).astype(dtype)
    n_outputs = n_classes - reference_class
    # Values that float32 holds too, so that every arithmetic has the same problem.
    coef = (rng.normal(size=(n_outputs, p)) / np.sqrt(max(1, p))).astype(np.float32).astype(float)
    intercept = rng.normal(size=n_outputs).astype(np.float32).astype(float)
    y = rng.dirichlet(np.ones(n_classes), n).astype(dtype) if soft else rng.integers(0, n_classes, n)
    return X, y.reshape((n, n_classes) if soft else (n,)), coef, intercept


def assert_interrupt_ends(fit, *, after, within):
    """Ctrl-C so many seconds after its beginning ends what is called within so many more."""
    raised = []

    def interrupt():
        raised.append(time.perf_counter())
        signal.raise_signal(signal.SIGINT)

    threading.Timer(after, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        fit()
    assert time.perf_counter() - raised[0] < within
