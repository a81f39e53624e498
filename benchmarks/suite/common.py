"""Data of the suite. Append only: a changed problem makes old results incomparable."""

import numpy as np


def classification(n, p, n_classes, dtype="float64", order="C"):
    """Random rows, labels, coefficients and intercept; every page is touched."""
    rng = np.random.default_rng(20261)
    X = np.asarray(rng.standard_normal((n, p)), dtype=dtype, order=order)
    coef = rng.standard_normal((n_classes, p)) / np.sqrt(p)
    return X, rng.integers(0, n_classes, n), coef, np.zeros(n_classes)


def sampled_labels(n, p, n_classes, dtype="float64"):
    """Rows of correlated, differently scaled features with labels drawn from a softmax model."""
    rng = np.random.default_rng(20262)
    X = rng.standard_normal((n, p)) @ (rng.standard_normal((p, p)) / np.sqrt(p)) * np.geomspace(0.01, 100, p)
    z = (X / X.std(axis=0)) @ rng.standard_normal((n_classes, p)).T / np.sqrt(p)
    return X.astype(dtype), (z + rng.gumbel(size=z.shape)).argmax(axis=1)
