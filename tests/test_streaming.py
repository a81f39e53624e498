"""partial_fit: one batch is a fit, the steps are what they are said to be, and many come to the optimum."""

import pickle

import numpy as np
import pytest
from scipy.sparse import csr_array, csr_matrix
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

import softfast
from softfast import SoftmaxRegression, model_file, streaming

NAMES = np.array(["pine", "fir", "aspen", "oak"])


@pytest.fixture
def rows(rng):
    X = rng.normal(size=(1200, 5)) @ rng.normal(size=(5, 5)) + 1
    z = X @ rng.normal(size=(5, 4))
    return X, NAMES[(z + rng.gumbel(size=z.shape)).argmax(axis=1)], rng.uniform(0.2, 2, 1200)


def probabilities(X, coef, intercept):
    """Of all classes, of one row of coefficients too."""
    z = X @ coef.T + intercept
    z = np.column_stack([np.zeros(len(X)), z]) if z.shape[1] == 1 else z
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def gradient(X, codes, weight, parameters):
    """Of the summed loss, (M, p + 1)."""
    proba = probabilities(X, parameters[:, :-1], parameters[:, -1])
    residual = weight[:, None] * (proba - np.eye(proba.shape[1])[codes])
    return residual[:, -len(parameters) :].T @ np.column_stack([X, np.ones(len(X))])


def hessian(X, weight, parameters):
    """Of the summed loss, by the formula, row by row."""
    proba = probabilities(X, parameters[:, :-1], parameters[:, -1])[:, -len(parameters) :]
    rows = np.column_stack([X, np.ones(len(X))])
    inner = weight[:, None, None] * (proba[:, :, None] * np.eye(proba.shape[1]) - proba[:, :, None] * proba[:, None, :])
    return np.einsum("ikl,ia,ib->kalb", inner, rows, rows).reshape(parameters.size, parameters.size)


@pytest.mark.parametrize("container", [np.asarray, np.asfortranarray, csr_array, csr_matrix])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "parameters", [{}, {"C": 0.01}, {"fit_intercept": False}, {"class_weight": {"fir": 3.0, "oak": 0.5}}]
)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_one_batch_is_a_fit(container, dtype, parameters, n_classes, rows):
    X, y, weight = rows
    X = container(X.astype(dtype))
    if n_classes == 2:
        y = np.where(y == "fir", "fir", "oak")
    batch = SoftmaxRegression(tol=1e-13, **parameters).partial_fit(X, y, np.unique(y), weight)
    whole = SoftmaxRegression(tol=1e-13, **parameters).fit(X, y, weight)
    assert batch.coef_.shape == whole.coef_.shape
    np.testing.assert_allclose(batch.coef_, whole.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.intercept_, whole.intercept_, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(batch.classes_, whole.classes_)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_each_batch_is_the_step_that_is_stated(n_classes, rows):
    X, y, weight = rows
    y = np.where(y == "fir", "fir", "oak") if n_classes == 2 else y
    classes, codes = np.unique(y, return_inverse=True)
    model = SoftmaxRegression(C=0.3, tol=1e-14)
    n_outputs = 1 if n_classes == 2 else n_classes
    before, curvature = np.zeros((n_outputs, 6)), np.diag(np.tile(np.r_[np.full(5, 1 / 0.3), 0], n_outputs))
    # No more rows than the Hessian is taken of.
    most = 4 * 6 * n_outputs
    for batch in (slice(0, most), slice(most, most + 1), slice(most + 1, 2 * most)):
        model.partial_fit(X[batch], y[batch], classes, weight[batch])
        after = model._learned.parameters
        of_batch = gradient(X[batch], codes[batch], weight[batch], after)
        pull = curvature @ (after - before).ravel()
        assert np.abs(of_batch.ravel() + pull).max() <= 1e-4 * max(1, np.abs(of_batch).max())
        curvature = curvature + hessian(X[batch], weight[batch], after)
        np.testing.assert_allclose(model._learned.curvature, curvature, rtol=1e-9, atol=1e-9 * curvature.max())
        before = after
        centred = after - after.mean(axis=0) if n_outputs > 1 else after
        np.testing.assert_allclose(np.column_stack([model.coef_, model.intercept_]), centred, atol=1e-14)


def test_many_batches_come_to_the_optimum(rows):
    X, y, _ = rows
    whole = SoftmaxRegression(C=1e6).fit(X, y)

    def excess(model):
        codes = np.searchsorted(NAMES[np.argsort(NAMES)], y)
        loss, _, _ = softfast.loss_gradient(X, codes, model.coef_, model.intercept_)
        return loss - whole.objective_

    model, seen = SoftmaxRegression(), []
    for _ in range(32):
        for begin in range(0, 1200, 40):
            batch = slice(begin, begin + 40)
            model.partial_fit(X[batch], y[batch], NAMES)
        seen.append(excess(model))
    # Of n independent rows a fit leaves about (parameters)/(2n) = 0.0075 of the expected loss; passes make it vanish.
    assert seen[0] < 0.0075
    assert seen[31] < seen[7] / 3 < seen[1] / 9
    assert seen[31] < 1e-4


@pytest.mark.parametrize("sparse", [False, True])
def test_steps_of_adagrad(sparse, rng, monkeypatch):
    monkeypatch.setattr(streaming, "_LARGEST_CURVATURE", 10)
    monkeypatch.setattr(streaming, "_ROWS_A_STEP", 30)
    X = rng.normal(size=(200, 6)) * np.geomspace(1, 1e4, 6) * (rng.random((200, 6)) < 0.5)
    X[:, 3] = 0
    codes, weight = rng.integers(0, 3, 200), rng.uniform(0, 2, 200)
    weight[:30] = 0
    model = SoftmaxRegression()
    parameters, sums, seen = np.zeros((3, 7)), np.zeros((3, 7)), np.zeros((0, 6))
    for batch in (slice(0, 100), slice(100, 200)):
        model.partial_fit(csr_array(X[batch]) if sparse else X[batch], codes[batch], [0, 1, 2], weight[batch])
        seen = np.concatenate([seen, X[batch]])
        size = np.sqrt((seen**2).sum(axis=0) / np.maximum(1, (seen != 0).sum(axis=0)))
        for begin in range(batch.start, batch.stop, 30):
            part = slice(begin, min(begin + 30, batch.stop))
            if weight[part].any():
                g = gradient(X[part], codes[part], weight[part], parameters) / weight[part].sum()
                sums += g**2
                with np.errstate(divide="ignore", invalid="ignore"):
                    parameters -= 0.1 * np.nan_to_num(g / np.sqrt(sums) / np.append(size, 1), posinf=0, neginf=0)
    np.testing.assert_allclose(model._learned.parameters, parameters, rtol=1e-9, atol=1e-12)
    assert not model.coef_[:, 3].any()


@pytest.mark.parametrize("largest", [2000, 10])
def test_better_than_descent_by_single_rows(largest, monkeypatch):
    monkeypatch.setattr(streaming, "_LARGEST_CURVATURE", largest)
    X, y = load_digits(return_X_y=True)
    X /= 16
    held_out = X[1200:], y[1200:]
    ours, theirs = SoftmaxRegression(), SGDClassifier(loss="log_loss", random_state=0)
    for model in (ours, theirs):
        for begin in [*range(0, 1200, 200)] * 3:
            model.partial_fit(X[begin : begin + 200], y[begin : begin + 200], classes=np.arange(10))
    losses = [log_loss(held_out[1], model.predict_proba(held_out[0])) for model in (ours, theirs)]
    assert losses[0] < losses[1]


def test_same_bits_each_time(rows):
    X, y, _ = rows
    models = []
    for n_threads in (1, 1, 3):
        model = SoftmaxRegression(n_threads=n_threads)
        for begin in (0, 500):
            model.partial_fit(X[begin : begin + 500], y[begin : begin + 500], NAMES)
        models.append(model)
    # As it was before it went through pickle.
    models.append(pickle.loads(pickle.dumps(SoftmaxRegression().partial_fit(X[:500], y[:500], NAMES))))
    models[-1].partial_fit(X[500:1000], y[500:1000])
    for model in models[1:]:
        np.testing.assert_array_equal(model.coef_, models[0].coef_)


def test_before_and_after_a_fit(rows):
    X, y, _ = rows
    with pytest.raises(ValueError, match="classes must be two labels at least in the first partial_fit"):
        SoftmaxRegression().partial_fit(X, y)
    model = SoftmaxRegression(C=0.1, tol=1e-14).fit(X, y)
    before = np.column_stack([model.coef_, model.intercept_])
    model.partial_fit(X[:90], y[:90])
    assert not hasattr(model, "converged_")
    assert not hasattr(model, "objective_")
    after = np.column_stack([model.coef_, model.intercept_])
    of_batch = gradient(X[:90], np.unique(y, return_inverse=True)[1][:90], np.ones(90), after)
    pull = (after - before) / 0.1
    pull[:, -1] = 0
    assert np.abs(of_batch + pull).max() <= 1e-4 * np.abs(of_batch).max()
    model.fit(X, y)
    np.testing.assert_array_equal(model.coef_, SoftmaxRegression(C=0.1, tol=1e-14).fit(X, y).coef_)
    # And what came before the fit is forgotten; sparse coefficients are as good as others.
    model.sparsify().partial_fit(X[:90], y[:90])
    np.testing.assert_array_equal(np.column_stack([model.coef_, model.intercept_]), after)


def test_classes_that_come_late(rows):
    X, y, _ = rows
    order = np.argsort(y == "fir", kind="stable")
    model = SoftmaxRegression()
    for begin in range(0, 1200, 100):
        model.partial_fit(X[order[begin : begin + 100]], y[order[begin : begin + 100]], NAMES)
    assert model.score(X, y) > 0.5
    assert "fir" in model.predict(X)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"C": np.inf}, "C must be finite for partial_fit, got inf"),
        ({"l1_ratio": 0.5}, "l1_ratio must be 0 for partial_fit"),
        ({"class_weight": "balanced"}, "class_weight must be a dict or None for partial_fit"),
    ],
)
def test_not_there_where_all_rows_must_be_known(parameters, message, rows):
    model = SoftmaxRegression(**parameters)
    assert not hasattr(model, "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit") as caught:
        model.partial_fit(*rows[:2], NAMES)
    assert message in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("parameters", "arguments", "message"),
    [
        ({"C": -1}, {}, "C must be a number > 0"),
        ({}, {"classes": NAMES[:3]}, "classes must be those that are known"),
        ({}, {"y": np.full(1200, "elm")}, "y must hold labels that are among the classes.*'elm'"),
        ({}, {"X": np.ones((1200, 4))}, "4 features"),
        ({}, {"X": np.full((1200, 5), np.nan)}, "NaN"),
        ({}, {"sample_weight": -np.ones(1200)}, "sample_weight must not be negative"),
        ({}, {"y": np.ones((1200, 4)) / 4}, "y should be a 1d array"),
        ({}, {"y": np.array(["fir", 1] * 600, dtype=object)}, "y must hold labels that are among the classes.* got 1"),
        ({}, {"classes": [[*NAMES]]}, r"classes must be two labels at least, of one kind and shape \(K,\)"),
        ({}, {"classes": [None, "fir"]}, "classes must be labels that can be compared"),
        ({}, {"X": np.full((1200, 5), 1e160)}, r"X must hold numbers of at most 1e\+100 in absolute .* got 1e\+160"),
        ({}, {"X": csr_array(np.full((1200, 5), -1e160))}, r"X must hold numbers of at most 1e\+100 .* got 1e\+160"),
        ({}, {"X": softfast.from_batches(list), "y": None}, "X must be the rows of one batch, got <StreamedRows"),
        ({"class_weight": dict.fromkeys(NAMES, -1)}, {}, "class_weight must not be negative, .* got -1.0 for"),
        ({"class_weight": dict.fromkeys(NAMES, 0)}, {}, "class_weight must leave some row a weight"),
    ],
)
def test_errors_leave_the_estimator_as_it_was(parameters, arguments, message, rows):
    X, y, _ = rows
    model = SoftmaxRegression().partial_fit(X, y, NAMES).set_params(**parameters)
    before = dict(model.__dict__)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(**{"X": X, "y": y, **arguments})
    assert model.__dict__ == before


@pytest.mark.parametrize("classes", [None, [0], [0, 1, np.nan], [0, 1, "two"], "fir", 3])
def test_classes_that_are_none(classes):
    model = SoftmaxRegression()
    with pytest.raises(ValueError, match="classes must be"):
        model.partial_fit([[0.0], [1.0]], [0, 1], classes)
    assert not hasattr(model, "classes_")


def test_a_fit_lets_go_of_what_was_learned(rows):
    X, y, _ = rows
    model = SoftmaxRegression().partial_fit(X[:100], y[:100], NAMES)
    before = dict(model.__dict__)
    with pytest.raises(ValueError, match="two classes"):
        model.fit(X, np.full(1200, "fir"))
    assert model.__dict__ == before
    model.fit(X, y)
    assert set(vars(model)) == set(vars(SoftmaxRegression().fit(X, y)))


def test_warns_where_max_iter_is_not_enough(rows):
    X, y, _ = rows
    with pytest.warns(ConvergenceWarning, match="partial_fit stopped at max_iter=1, before") as caught:
        SoftmaxRegression(max_iter=1).partial_fit(X, y, NAMES)
    assert [warning.filename for warning in caught] == [__file__]


def test_model_files_refuse_what_was_not_fitted_to_all_rows(rows, tmp_path):
    X, y, _ = rows
    model = SoftmaxRegression().partial_fit(X, y, NAMES)
    with pytest.raises(model_file.ModelFileError, match="partial_fit has reached no optimum"):
        model_file.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())
