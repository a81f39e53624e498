"""Rows in parts: what all rows have, and the way of a fit, are those of the rows in one piece."""

import pickle
from functools import partial, reduce
from itertools import accumulate

import numpy as np
import pytest
from problems import random_problem
from tolerance import assert_close

import softfast
from softfast import SoftmaxRegression
from softfast.sources.dense import DenseSource
from softfast.sources.parts import PartedSource


class Pieces:
    """Dense parts cut from arrays; each operation goes through pickle, as it would to another machine."""

    def __init__(self, X, y, n_classes, weight, offset, cuts):
        self.n_rows, self.n_features = X.shape
        self.n_classes, self.has_offset, self.dtype = n_classes, offset is not None, X.dtype
        self._parts = []
        for begin, end in zip([0, *cuts], [*cuts, len(X)], strict=True):
            piece = [None if a is None else a[begin:end] for a in (X, y, weight, offset)]
            self._parts.append(DenseSource(piece[0], piece[1], n_classes, piece[2], offset=piece[3]))
        self.total_weight = sum(part.total_weight for part in self._parts)

    def reduce(self, operation, combine):
        operation, combine = pickle.loads(pickle.dumps((operation, combine)))
        firsts = accumulate((part.n_rows for part in self._parts), initial=0)
        results = list(map(operation, self._parts, firsts))
        # Bracketed otherwise than one after another.
        middle = len(results) // 2
        return combine(reduce(combine, results[:middle]), reduce(combine, results[middle:]))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_add_up_to_the_whole(soft, dtype, rng):
    n, p, n_classes = 500, 5, 3
    X, y, coef, intercept = random_problem(rng, n, p, n_classes, dtype, soft=soft)
    X[:, 2] = 1e4 + X[:, 2]
    weight = rng.uniform(0, 2, n)
    # A part without weight, and one of a single row.
    weight[100:130] = 0
    offset = rng.normal(size=(n, n_classes))
    whole = DenseSource(X, y, n_classes, weight, offset=offset)
    source = PartedSource(Pieces(X, y, n_classes, weight, offset, [100, 130, 131, 400]))
    moments, expected = source.moments(), whole.moments()
    assert moments.n_rows == n
    for name in ("total_weight", "feature_mean", "feature_size", "class_mean", "offset_mean", "offset_size"):
        assert_close(getattr(moments, name), getattr(expected, name), np.float64, n, what=name)
    assert_close(moments.target_offset, expected.target_offset, np.float64, n, scale=expected.offset_size)
    x = X.astype(np.longdouble)
    w = weight * (y.sum(axis=1, dtype=np.longdouble) if soft else 1)
    mean = w @ x / w.sum()
    # A mean of 1e4 is itself rounded, but its square, 1e8 times the variance, must not enter.
    variance = w @ (x - mean) ** 2 / w.sum()
    assert_close(moments.feature_variance, variance, np.float64, n, scale=np.abs(mean) * np.sqrt(variance) + variance)
    direction = rng.normal(size=coef.shape), rng.normal(size=intercept.shape)
    for with_offset in (True, False):
        ours = source.loss_gradient(coef, intercept, with_offset=with_offset)
        for a, b in zip(ours, whole.loss_gradient(coef, intercept, with_offset=with_offset), strict=True):
            assert_close(a, b, np.float64, n)
    ours = source.hessian_vector(coef, intercept, *direction)
    for a, b in zip(ours, whole.hessian_vector(coef, intercept, *direction), strict=True):
        assert_close(a, b, np.float64, n)
    assert_close(source.overlaps(coef, intercept), whole.overlaps(coef, intercept), np.float64, n)
    everything = source.sample(n, moments)
    np.testing.assert_array_equal(everything.X, X)
    np.testing.assert_array_equal(everything.targets, y)
    assert_close(everything.weight, w / w.sum(), np.float64, n)
    if soft:
        return
    for a, b in zip(source.extremes(), whole.extremes(), strict=True):
        np.testing.assert_array_equal(a, b)
    ours = source.margins(coef, intercept, np.zeros(p), 7)
    theirs = whole.margins(coef, intercept, np.zeros(p), 7)
    for name in ("lowest", "highest"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12)
    order, other = np.argsort(ours.least), np.argsort(theirs.least)
    np.testing.assert_allclose(ours.least[order], theirs.least[other], rtol=1e-12)
    np.testing.assert_array_equal(ours.X[order], theirs.X[other])
    np.testing.assert_array_equal(ours.labels[order], theirs.labels[other])
    np.testing.assert_array_equal(ours.others[order], theirs.others[other])


def test_parts_take_the_way_of_the_whole(rng):
    # Enough rows to begin with a sample, and for metrics from samples.
    n = 60_000
    X = rng.normal(size=(n, 8)) * np.geomspace(1e-3, 1e3, 8)
    y = (X / np.geomspace(1e-3, 1e3, 8) @ rng.normal(size=(8, 4)) + rng.gumbel(size=(n, 4))).argmax(axis=1)
    whole = SoftmaxRegression().fit(X, y)
    assert whole.n_passes_ % 1 > 0
    for size in (977, 30_011):
        batches = [(X[begin : begin + size], y[begin : begin + size]) for begin in range(0, n, size)]
        model = SoftmaxRegression().fit(softfast.from_batches(partial(iter, batches)))
        assert model.n_passes_ == whole.n_passes_
        assert_close(model.coef_, whole.coef_, np.float64, n, scale=np.abs(whole.coef_).max(axis=0))


def test_sample_of_parts_estimates_second_moments(rng):
    n = 6000
    X = np.column_stack([rng.normal(size=n), np.r_[np.full(5, 7.0), np.zeros(n - 5)], np.full(n, 0.1)])
    labels = np.r_[np.zeros(n - 3, int), np.ones(3, int)]
    weight = rng.uniform(0.5, 2, n)
    source = PartedSource(Pieces(X, labels, 2, weight, None, [1000, 1500, 4000]))
    sample = source.sample(900, source.moments())
    # As the rows have one by one, the parts have.
    whole = DenseSource(X, labels, 2, weight)
    np.testing.assert_array_equal(sample.X, whole.sample(900, whole.moments()).X)
    assert 450 < len(sample.X) < 1800
    assert (sample.targets == 1).sum() == 3
    assert (sample.X[:, 1] > 0).sum() == 5
    estimate, exact = (sample.X.T * sample.weight) @ sample.X, (X.T * weight) @ X / weight.sum()
    np.testing.assert_allclose(np.diag(estimate), np.diag(exact), rtol=0.15)
    # Parts draw apart from each other.
    assert len(np.unique(np.flatnonzero(np.isin(X[:, 0], sample.X[:, 0])) % 500)) > 300
