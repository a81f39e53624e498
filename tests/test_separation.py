"""Without penalty: separated classes are named, and nothing else is taken for separated."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning

from softfast import SoftmaxRegression, separation
from softfast.separation import find_separation
from softfast.sources.dense import DenseSource


def overlapping(rng, n=200, p=3, n_classes=3):
    X = rng.normal(size=(n, p))
    y = (X @ rng.normal(size=(p, n_classes)) + 2 * rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return X, y


def found(X, y, weight=None, *, fit_intercept=True):
    """What is found from coefficients that separate nothing."""
    n_classes = int(y.max()) + 1
    n_outputs = 1 if n_classes == 2 else n_classes
    source = DenseSource(X, y.astype(np.int64), n_classes, weight)
    return find_separation(source, np.zeros((n_outputs, X.shape[1])), np.zeros(n_outputs), fit_intercept=fit_intercept)


def whole_programme(X, y, *, fit_intercept=True):
    """ "complete", "quasi" or None by two linear programmes over all rows and classes at once (Konis 2007)."""
    n_classes = int(y.max()) + 1
    A = np.column_stack([X, np.ones(len(X))]) if fit_intercept else X
    rows = []
    for x, label in zip(A, y, strict=True):
        for k in set(range(n_classes)) - {int(label)}:
            row = np.zeros((n_classes, A.shape[1]))
            row[label], row[k] = x, -x
            rows.append(row.ravel())
    rows = np.array(rows)
    least = linprog(
        np.append(np.zeros(rows.shape[1]), -1),
        A_ub=np.column_stack([-rows, np.ones(len(rows))]),
        b_ub=np.zeros(len(rows)),
        bounds=(-1, 1),
    )
    if least.x[-1] > 1e-7:
        return "complete"
    total = linprog(-rows.sum(axis=0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=(-1, 1))
    return "quasi" if -total.fun > 1e-6 else None


def kind(result):
    return None if result is None else "complete" if result.complete else "quasi"


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_agrees_with_programmes_over_all_rows(n_classes, fit_intercept, rng):
    seen = []
    for trial in range(60):
        # Few whole numbers: ties, separation of both kinds and overlap are all frequent.
        n = int(rng.integers(6, 16)) * (n_classes - 1)
        X = rng.integers(-2, 3, size=(n, 3)).astype(float)
        score = X @ rng.integers(-2, 3, size=(3, n_classes)) + (trial % 4) * rng.gumbel(size=(n, n_classes))
        y = np.concatenate([np.arange(n_classes), score.argmax(axis=1)[n_classes:]])
        expected = whole_programme(X, y, fit_intercept=fit_intercept)
        assert kind(found(X, y, fit_intercept=fit_intercept)) == expected
        seen.append(expected)
    assert {"quasi", None} <= set(seen)


def test_rounds_of_few_rows_come_to_the_same(monkeypatch, rng):
    problems = []
    for trial in range(20):
        X = rng.integers(-3, 4, size=(150, 4)).astype(float)
        score = X @ rng.integers(-2, 3, size=(4, 3)) + (trial % 3) * rng.gumbel(size=(150, 3))
        problems.append((X, score.argmax(axis=1)))
    whole = [kind(found(*problem)) for problem in problems]
    assert len(set(whole)) > 1
    monkeypatch.setattr(separation, "_MOST_ELEMENTS", 4000)
    assert [kind(found(*problem)) for problem in problems] == whole


def test_complete_separation_names_classes_and_features(rng):
    X = pd.DataFrame(rng.normal(size=(100, 3)), columns=["height", "width", "depth"])
    X["width"] *= 100
    y = np.where(X["width"] > 0, "big", "small")
    with pytest.warns(ConvergenceWarning, match="completely separated: big and small, by width.*finite C") as record:
        model = SoftmaxRegression(C=np.inf).fit(X, y)
    assert "quasi" not in str(record[0].message)
    assert not model.converged_
    assert np.isfinite(model.coef_).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("always", [False, True])
def test_a_dummy_that_a_class_never_or_always_has_is_quasi_complete(n_classes, dtype, always, rng):
    X, y = overlapping(rng, n_classes=n_classes)
    dummy = (rng.random(200) < 0.3) & (y != 0)
    X = np.column_stack([X, dummy != always]).astype(dtype)
    names = ["feature 3"] if n_classes == 2 else ["0 and 1, 0 and 2, by feature 3"]
    with pytest.warns(ConvergenceWarning, match=f"quasi-completely separated: .*{names[0]}"):
        model = SoftmaxRegression(C=np.inf).fit(X, y)
    assert not model.converged_
    # One row of that class with the other value ends it.
    X[np.flatnonzero(y == 0)[0], 3] = not always
    assert found(X, y) is None
    assert SoftmaxRegression(C=np.inf).fit(X, y).converged_


def test_separation_by_no_single_feature_needs_the_programme(rng):
    X = rng.integers(-3, 4, size=(300, 2)).astype(float)
    total = X.sum(axis=1)
    y = np.where(total == 0, rng.integers(0, 2, 300), total > 0).astype(int)
    result = found(X, y)
    assert not result.complete
    assert sorted(result.features) == [0, 1]
    y[np.flatnonzero(total == 1)[0]] = 0
    assert found(X, y) is None


@pytest.mark.parametrize("distance", [1e-6, 1e-3, 1.0])
def test_overlap_by_one_row_is_no_separation(distance):
    x = np.concatenate([-np.arange(1.0, 51), np.arange(1.0, 51)])
    y = (x > 0).astype(int)
    assert found(x[:, None], y).complete
    # A row of class 0 beyond the first of class 1, by a little.
    x, y = np.append(x, 1 + distance), np.append(y, 0)
    assert found(x[:, None], y) is None
    assert found(np.column_stack([x, -x]), y) is None
    assert SoftmaxRegression(C=np.inf, tol=1e-4).fit(x[:, None], y).converged_
    # On it exactly, it is a boundary.
    x[-1] = 1.0
    assert not found(x[:, None], y).complete


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_rounding_is_no_separation_and_no_overlap(shift, rng):
    # Rows on the boundary but for rounding; the direction has no short binary fractions.
    direction = np.array([0.1, 0.7, -0.3])
    X = rng.normal(size=(200, 3))
    X[:80] -= np.outer(X[:80] @ direction, direction) / (direction @ direction)
    y = np.where(np.arange(200) < 80, rng.integers(0, 2, 200), X @ direction > 0).astype(int)
    assert kind(found(X + shift, y)) == "quasi"


def test_two_of_three_classes_apart_from_each_other_only_are_not_separated(rng):
    x = np.concatenate([rng.uniform(0, 2, 60), rng.uniform(1, 4, 60), rng.uniform(3, 5, 60)])
    y = np.repeat([0, 1, 2], 60)
    assert x[y == 0].max() < x[y == 2].min()
    assert found(x[:, None], y) is None
    assert SoftmaxRegression(C=np.inf).fit(x[:, None], y).converged_


def test_one_of_three_classes_apart_is_named(rng):
    X, y = overlapping(rng)
    X[y == 1, 2] += 50
    result = found(X, y)
    assert not result.complete
    assert result.apart == [(0, 1), (1, 2)]
    assert list(result.features) == [2]


def test_rows_without_weight_do_not_count(rng):
    X, y = overlapping(rng, n_classes=2)
    clean = (X[:, 0] > 0).astype(int)
    assert found(X, y) is None
    assert found(X, y, (y == clean).astype(float)).complete
    assert found(X, clean, np.ones(200)).complete
    with pytest.warns(ConvergenceWarning, match="completely separated"):
        SoftmaxRegression(C=np.inf).fit(X, y, sample_weight=(y == clean))


def test_a_class_without_weight_is_separated_by_the_intercept(rng):
    X, y = overlapping(rng)
    result = found(X, y, (y != 1).astype(float))
    assert result.apart == [(0, 1), (1, 2)]
    assert len(result.features) == 0
    assert "by the intercept" in result.describe(np.arange(3), None)


@pytest.mark.parametrize("parameters", [{"l1_ratio": 0.5}, {"solver": "newton-cg", "max_iter": 50}, {"C": np.inf}])
def test_warning_names_a_class_without_weight(rng, parameters):
    X, y = overlapping(rng)
    labels, weight = np.array(["a", "b", "c"])[y], (y != 1).astype(float)
    with pytest.warns(ConvergenceWarning, match="No row with a weight above 0 is of class b: its intercept falls"):
        SoftmaxRegression(**parameters).fit(X, labels, sample_weight=weight)
    with pytest.warns(ConvergenceWarning, match="No row with a weight above 0 is of class b: its intercept falls"):
        SoftmaxRegression(class_weight={"b": 0}, **parameters).fit(X, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = SoftmaxRegression(fit_intercept=False, **parameters).fit(X, labels, sample_weight=weight)
    assert model.converged_


def test_many_unknowns_still_tell_what_is_cheap(monkeypatch, rng):
    monkeypatch.setattr(separation, "_MOST_UNKNOWNS", 1)
    X, y = overlapping(rng)
    assert found(X, y) is None
    result = found(np.column_stack([X, (y == 2) & (X[:, 0] > 0)]), y)
    assert result.complete is None
    assert list(result.features) == [3]
    assert "The classes are separated: 0 and 2, 1 and 2, by feature 3." in result.describe(np.arange(3), None)
    with pytest.warns(ConvergenceWarning, match="are completely separated"):
        SoftmaxRegression(C=np.inf).fit(*load_digits(return_X_y=True))


@pytest.mark.parametrize("load", [load_iris, load_wine, load_breast_cancer])
def test_kind_does_not_depend_on_where_the_fit_ended(load):
    X, y = load(return_X_y=True)
    expected = "quasi-completely" if load is load_iris else "are completely"
    for max_iter, solver in itertools.product((1, 1000), ("lbfgs", "newton-cg")):
        with pytest.warns(ConvergenceWarning, match=f"{expected} separated"):
            SoftmaxRegression(C=np.inf, max_iter=max_iter, solver=solver).fit(X, y)


def test_data_without_spread():
    y = np.array([0, 1, 0, 1])
    assert found(np.ones((4, 2)), y) is None
    assert found(np.array([[1e9], [1e9 + 1e-7], [1e9], [1e9]]), y) is None


def test_chunks_give_the_same_margins(monkeypatch, rng):
    X, y = overlapping(rng, n=500, p=4)
    weight = rng.integers(0, 2, 500).astype(float)
    source = DenseSource(X, y, 3, weight)
    coef, intercept, center = rng.normal(size=(3, 4)), rng.normal(size=3), rng.normal(size=4)
    whole = source.margins(coef, intercept, center, 20)
    extremes = source.extremes()
    monkeypatch.setattr("softfast.sources.in_memory.CHUNK_BYTES", 1000)
    parts = source.margins(coef, intercept, center, 20)
    np.testing.assert_allclose(parts.lowest, whole.lowest, rtol=1e-12)
    np.testing.assert_allclose(parts.highest, whole.highest, rtol=1e-12)
    np.testing.assert_allclose(np.sort(parts.least), np.sort(whole.least), rtol=1e-12)
    np.testing.assert_array_equal(source.extremes(), extremes)
    z = (X - center) @ coef.T + intercept
    size = np.abs(X - center) @ np.abs(coef).T + np.abs(intercept)
    for a, k in itertools.permutations(range(3), 2):
        own = (y == a) & (weight > 0)
        margins = (z[own, a] - z[own, k]) / (size[own, a] + size[own, k])
        np.testing.assert_allclose(whole.lowest[a, k], margins.min(), rtol=1e-12)
        np.testing.assert_allclose(whole.highest[a, k], margins.max(), rtol=1e-12)
    for a in range(3):
        np.testing.assert_array_equal(extremes[0][a], X[(y == a) & (weight > 0)].min(axis=0))
