"""Data of the suite. Append only: a changed problem makes old results incomparable."""

import numpy as np
from scipy.sparse import csr_array


def classification(n, p, n_classes, dtype="float64", order="C"):
    """Random rows, labels, coefficients and intercept; every page is touched."""
    rng = np.random.default_rng(20261)
    X = np.asarray(rng.standard_normal((n, p)), dtype=dtype, order=order)
    coef = rng.standard_normal((n_classes, p)) / np.sqrt(p)
    return X, rng.integers(0, n_classes, n), coef, np.zeros(n_classes)


def sparse_classification(n, p, n_classes, entries, dtype="float64"):
    """As `classification`, in CSR with so many entries a row, some features in many rows, most in few, as words are."""
    rng = np.random.default_rng(20263)
    indices = np.sort((p * rng.random((n, entries)) ** 4).astype(np.int32), axis=1).ravel()
    starts = np.arange(n + 1, dtype=np.int32) * entries
    X = csr_array((rng.random(n * entries).astype(dtype), indices, starts), shape=(n, p))
    X.sum_duplicates()
    coef = rng.standard_normal((n_classes, p)) / np.sqrt(entries)
    return X, rng.integers(0, n_classes, n), coef, np.zeros(n_classes)


def sampled_labels(n, p, n_classes, dtype="float64"):
    """Rows of correlated, differently scaled features with labels drawn from a softmax model."""
    rng = np.random.default_rng(20262)
    X = rng.standard_normal((n, p)) @ (rng.standard_normal((p, p)) / np.sqrt(p)) * np.geomspace(0.01, 100, p)
    z = (X / X.std(axis=0)) @ rng.standard_normal((n_classes, p)).T / np.sqrt(p)
    return X.astype(dtype), (z + rng.gumbel(size=z.shape)).argmax(axis=1)
