"""The interior point: the minimum of the mathematics as written down, where rows far from the mean are saturated."""

import numpy as np
import pytest
import reference
from scipy.sparse import csr_array
from test_parts import Pieces

from softfast.interior_point import Rows, interior_point
from softfast.sources import Hard, RowSample
from softfast.sources.csr import CsrSource
from softfast.sources.dense import DenseSource
from softfast.sources.parts import PartedSource

CASES = ["labels", "two classes", "soft, weights, offsets", "no intercept"]


def far_rows(rng, case, n=400, p=4):
    """X of wildly scaled features with heavy tails, y, a dict of weights and offsets, classes, whether an intercept."""
    n_classes = 2 if case == "two classes" else 4
    X = rng.standard_t(1, size=(n, p)) * np.geomspace(1e-2, 1e4, p)
    logits = X / np.geomspace(1e-2, 1e4, p) @ rng.normal(size=(p, n_classes)) - 2.0 * (np.arange(n_classes) == 1)
    y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    y[:n_classes] = np.arange(n_classes)
    # Rows on the wrong side, far away.
    y[np.argsort(-np.abs(X[:, -1]))[:5]] = 0
    arguments = {}
    if case == "soft, weights, offsets":
        y = np.eye(n_classes)[y] * 0.9 + 0.1 / n_classes
        arguments = {"weight": rng.uniform(0.1, 3, n), "offset": rng.normal(size=(n, n_classes))}
    return X, y, arguments, n_classes, case != "no intercept"


def rows_of(X, y, arguments, n_classes, fit_intercept, strength):
    weight = arguments.get("weight", np.ones(len(X)))
    weight = weight / weight.sum()
    center = weight @ X if fit_intercept else np.zeros(X.shape[1])
    scale = np.sqrt(weight @ (X - center) ** 2)
    first = int(n_classes == 2)
    shape = n_classes - first, X.shape[1] + fit_intercept
    rows = Rows.of(RowSample(X, y, weight, arguments.get("offset")), center, scale, strength, shape, first)

    def unscaled(found):
        coef = found[:, : X.shape[1]] / scale
        return coef, found[:, -1] - coef @ center if fit_intercept else np.zeros(len(coef))

    return rows, unscaled


@pytest.mark.parametrize("case", CASES)
def test_minimum(rng, case):
    X, y, arguments, n_classes, fit_intercept = far_rows(rng, case)
    strength = 1 / len(X)
    rows, unscaled = rows_of(X, y, arguments, n_classes, fit_intercept, strength)
    found = interior_point(rows, tol=1e-11)
    *_, least = reference.newton(X, y, n_classes, strength, fit_intercept=fit_intercept, **arguments)
    reached = reference.objective(X, y, *unscaled(found.coef), strength, n_classes=n_classes, **arguments)[0]
    assert abs(float(reached) - found.value) <= 1e-12 * found.value + 1e-14
    print(case, float(reached - least), found.n_passes, float(least))
    assert -1e-14 <= reached - least <= 1e-9
    # From near it.
    again = interior_point(rows, found.coef, centring=1e-4 * found.value, tol=1e-11)
    assert abs(again.value - found.value) <= 1e-9
    assert again.n_passes < found.n_passes


def test_equal_rows_are_one(rng):
    X, y, _, n_classes, _ = far_rows(rng, "labels", n=60)
    often = rng.integers(1, 5, len(X))
    strength = 1 / often.sum()
    center, scale, shape = X.mean(axis=0), X.std(axis=0), (n_classes, X.shape[1] + 1)
    order = rng.permutation(np.repeat(np.arange(len(X)), often))
    many = RowSample(X[order], y[order], np.full(len(order), 1 / len(order)), None)
    few = RowSample(X, y, often / often.sum(), None)
    rows, expected = (Rows.of(sample, center, scale, strength, shape, 0) for sample in (many, few))
    assert rows.features.shape == (len(X), shape[1])
    for name in ("features", "targets"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(expected, name))
    np.testing.assert_allclose(rows.weight, expected.weight, rtol=1e-12)
    np.testing.assert_allclose(rows.ridge, expected.ridge, rtol=1e-12)
    # Rows that differ in the label alone are two.
    both = RowSample(X[[0, 0]], np.array([0, 1]), np.ones(2), None)
    assert len(Rows.of(both, center, scale, strength, shape, 0).weight) == 2


def test_inverse_hessian(rng):
    X, y, arguments, n_classes, _ = far_rows(rng, "no intercept")
    rows, unscaled = rows_of(X, y, arguments, n_classes, False, 1 / len(X))
    coef = rng.normal(size=(n_classes, X.shape[1]))
    solve = rows.inverse_hessian(rows.proba(coef), rows.weight, 1)
    vector = rng.normal(size=coef.shape)
    # Of sum 0 over the classes, as gradients are.
    vector -= vector.mean(axis=0)
    direction = solve(vector)
    model, moved = ((unscaled(v)[0], np.zeros(n_classes)) for v in (coef, direction))
    product, _ = reference.hessian_vector(X, model, moved, n_classes)
    scale = coef[0] / unscaled(coef)[0][0]
    back = product / scale + rows.ridge * direction
    np.testing.assert_allclose(back.astype(float), vector, atol=1e-7 * np.abs(vector).max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["dense", "sparse", "parts"])
def test_hard_rows_are_in_the_sample(rng, case, kind):
    X, y, arguments, n_classes, _ = far_rows(rng, case, n=6000)
    weight, offset = arguments.get("weight"), arguments.get("offset")
    n_outputs = 1 if n_classes == 2 else n_classes
    coef = 9 * rng.normal(size=(n_outputs, 4)) / np.geomspace(1e-2, 1e4, 4)
    points = ((coef, np.zeros(n_outputs)), (1.1 * coef, np.ones(n_outputs)))
    # Most rows are as the points have it.
    labels = reference.logits(X, *points[0], n_classes, offset).argmax(axis=1)
    labels[:300] = rng.integers(0, n_classes, 300)
    y = labels if y.ndim == 1 else np.eye(n_classes)[labels] * 0.9 + 0.1 / n_classes
    if kind == "parts":
        source = PartedSource(Pieces(X, y, n_classes, weight, offset, [1000, 1500, 4000]))
    elif kind == "sparse":
        source = CsrSource(csr_array(X), y, n_classes, weight, offset=offset)
    else:
        source = DenseSource(X, y, n_classes, weight, offset=offset)
    residual = np.zeros(len(X))
    for point in points:
        proba = reference.softmax(reference.logits(X, *point, n_classes, offset))
        missing = np.maximum(reference.targets(y, n_classes) - proba, 0).sum(axis=1)
        residual = np.maximum(residual, missing.astype(float))
    moments = source.moments()
    plain, sample = source.sample(500, moments), source.sample(500, moments, Hard(points, 0.8))
    row = {x.tobytes(): i for i, x in enumerate(X)}
    seen = np.array([row[x.tobytes()] for x in sample.X])
    assert np.isin(np.flatnonzero(residual >= 0.8 + 1e-9), seen).all()
    assert np.isin([row[x.tobytes()] for x in plain.X], seen).all()
    # Their own weight, and with it all sums are estimates: here of the number of rows.
    s = np.ones(len(X)) if weight is None else weight
    s = s / s.sum()
    certain = residual[seen] >= 0.8 + 1e-9
    np.testing.assert_allclose(sample.weight[certain], s[seen[certain]], rtol=1e-12)
    assert len(seen) < 0.5 * len(X)
    assert abs(sample.weight.sum() - 1) < 0.1
    np.testing.assert_array_equal(sample.targets, np.asarray(y)[seen])
