"""The estimator: scikit-learn's conventions, its coefficients, and what happens when things go wrong."""

import logging
import pickle
import signal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from problems import assert_interrupt_ends
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

from softfast import SoftmaxRegression

IRIS = load_iris(return_X_y=True)
BUNDLED = {"iris": load_iris, "wine": load_wine, "digits": load_digits, "breast_cancer": load_breast_cancer}


@pytest.fixture
def random_problem(rng):
    X = rng.normal(size=(300, 5))
    y = (X @ rng.normal(size=(5, 4)) + rng.gumbel(size=(300, 4))).argmax(axis=1)
    return X, y


@pytest.mark.parametrize("parameters", [{}, {"class_weight": "balanced"}, {"warm_start": True, "n_threads": 2}])
def test_scikit_learns_own_checks(parameters):
    results = check_estimator(SoftmaxRegression(**parameters), on_fail=None, on_skip=None)
    failed = [f"{r['check_name']}: {r['exception']!r}" for r in results if r["status"] == "failed"]
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 40


def assert_same_model(X, y, **parameters):
    """Coefficients equal to scikit-learn's, its tolerance tightened, to 1e-6 of the largest."""
    # As far as rounding lets it.
    model = SoftmaxRegression(tol=0.0, **parameters)
    with pytest.warns(ConvergenceWarning, match="rounding"):
        model.fit(X, y)
    reference = LogisticRegression(solver="newton-cholesky", tol=1e-10, max_iter=1000, **parameters)
    reference.fit(X, y)
    assert model.coef_.shape == reference.coef_.shape
    for ours, theirs in ((model.coef_, reference.coef_), (model.intercept_, reference.intercept_)):
        assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()
    assert 0 < model.duality_gap_ <= 1e-12 * max(1, model.objective_)
    np.testing.assert_array_equal(model.predict(X), reference.predict(X))


@pytest.mark.parametrize("name", BUNDLED)
def test_coefficients_are_scikit_learns_on_bundled_data(name):
    assert_same_model(*BUNDLED[name](return_X_y=True))


@pytest.mark.parametrize("name", ["satellite", "letterrecognition", "dna"])
def test_coefficients_are_scikit_learns_on_real_data(name, data_dir):
    file = np.load(data_dir / f"{name}.npz")
    # scikit-learn needs a hundred times as long for all of the largest.
    some = slice(None, None, 1 + len(file["y"]) // 7000)
    assert_same_model(file["X"][some].astype(float), file["y"][some])


@pytest.mark.parametrize("C", [1e-3, 30.0])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_coefficients_are_scikit_learns_for_other_parameters(random_problem, C, fit_intercept):
    X, y = random_problem
    assert_same_model(X, y, C=C, fit_intercept=fit_intercept, class_weight={0: 2.0, 1: 0.5, 2: 1.0, 3: 1.0})
    assert_same_model(X, y > 1, C=C, fit_intercept=fit_intercept, class_weight="balanced")


def test_objective_is_what_the_documentation_says(random_problem):
    X, y = random_problem
    model = SoftmaxRegression(C=0.3).fit(X, y)
    losses = -model.predict_log_proba(X)[np.arange(len(y)), y]
    expected = losses.mean() + (model.coef_**2).sum() / (2 * 0.3 * len(y))
    np.testing.assert_allclose(model.objective_, expected, rtol=1e-12)


def test_history_tells_the_way(random_problem):
    model = SoftmaxRegression().fit(*random_problem)
    assert set(model.history_) == {"pass", "time", "objective", "gap"}
    assert {len(column) for column in model.history_.values()} == {model.n_iter_ + 1}
    assert (np.diff(model.history_["objective"]) <= 0).all()
    assert (np.diff(model.history_["pass"]) >= 1).all()
    assert model.history_["pass"][-1] == model.n_passes_
    assert model.history_["objective"][-1] == model.objective_
    assert model.history_["gap"][-1] == model.duality_gap_


def test_callback_sees_every_iteration(random_problem):
    X, y = random_problem
    seen = []
    model = SoftmaxRegression(callback=seen.append).fit(X, y)
    plain = SoftmaxRegression().fit(X, y)
    np.testing.assert_array_equal(model.coef_, plain.coef_)
    assert model.converged_
    assert [it.iteration for it in seen] == list(range(model.n_iter_ + 1))
    for key, name in {"pass": "n_passes", "time": "time", "objective": "objective", "gap": "gap"}.items():
        np.testing.assert_array_equal([getattr(it, name) for it in seen], model.history_[key])
    np.testing.assert_array_equal(seen[-1].coef, model.coef_)
    np.testing.assert_array_equal(seen[-1].intercept, model.intercept_)
    # What an iteration shows is the point that has its objective, and nobody else's array.
    middle = seen[len(seen) // 2]
    before = middle.coef
    logits = X @ before.T + middle.intercept
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
    np.testing.assert_allclose(losses.mean() + (before**2).sum() / (2 * len(y)), middle.objective, rtol=1e-12)
    middle.coef[:] = 0
    np.testing.assert_array_equal(middle.coef, before)
    with pytest.raises(AttributeError):
        middle.gap = 0.0


def test_callback_stops_the_fit(random_problem):
    with pytest.warns(
        ConvergenceWarning, match=r"callback stopped the fit: relative duality gap .* after 3 iterations"
    ):
        model = SoftmaxRegression(callback=lambda it: it.iteration == 3).fit(*random_problem)
    assert not model.converged_
    assert model.n_iter_ == 3
    assert len(model.history_["pass"]) == 4
    assert model.history_["gap"][-1] == model.duality_gap_
    # A wish to stop where the fit has converged anyway takes nothing away.
    assert SoftmaxRegression(callback=lambda it: it.gap <= 1e-6).fit(*random_problem).converged_


def test_error_in_the_callback_leaves_the_estimator_as_it_was(random_problem):
    model = SoftmaxRegression().fit(*IRIS)

    def fail(iteration):
        if iteration.iteration == 2:
            raise RuntimeError("enough")

    model.set_params(callback=fail)
    before = dict(vars(model))
    with pytest.raises(RuntimeError, match="enough"):
        model.fit(*random_problem)
    assert vars(model) == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_are_consistent(random_problem, dtype):
    X, y = random_problem
    X = X.astype(dtype)
    for labels in (y, y > 1):
        model = SoftmaxRegression().fit(X, labels)
        proba, logits = model.predict_proba(X), model.decision_function(X)
        assert proba.dtype == logits.dtype == dtype
        tol = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=tol)
        np.testing.assert_allclose(np.log(proba), model.predict_log_proba(X), atol=tol)
        if logits.ndim == 1:
            np.testing.assert_allclose(proba[:, 1], 1 / (1 + np.exp(-logits)), atol=tol)
        else:
            np.testing.assert_allclose(proba, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=tol)
        np.testing.assert_array_equal(model.predict(X), model.classes_[proba.argmax(axis=1)])
        assert model.score(X, labels) == np.mean(model.predict(X) == labels)


@pytest.mark.parametrize("labels", [["ant", "bee", "cow"], [-5, 0, 7], [0.5, 1.5, 2.0], [True, False]])
def test_labels_of_any_kind(labels, rng):
    labels = np.array(labels)
    y = labels[rng.integers(0, len(labels), 60)]
    X = rng.normal(size=(60, 3)) + (y == labels[0])[:, None]
    model = SoftmaxRegression()
    if labels.dtype.kind == "f":
        with pytest.raises(ValueError, match="continuous"):
            model.fit(X, y)
        return
    model.fit(X, y)
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    assert set(model.predict(X)) <= set(labels)


def test_layouts_and_frames_give_one_model(random_problem):
    X, y = random_problem
    expected = SoftmaxRegression(tol=1e-12).fit(X, y).coef_
    names = [f"f{i}" for i in range(X.shape[1])]
    padded = np.zeros((len(X), 9))
    padded[:, 2:7] = X
    readonly = X.copy()
    readonly.flags.writeable = False
    variants = {
        "F order": np.asfortranarray(X),
        "columns of a wider array": padded[:, 2:7],
        "both strides": np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
        "read only": readonly,
        "list": X.tolist(),
        "pandas": pd.DataFrame(X, columns=names),
        "polars": pl.DataFrame(X, schema=names),
    }
    for name, variant in variants.items():
        model = SoftmaxRegression(tol=1e-12).fit(variant, y)
        np.testing.assert_allclose(model.coef_, expected, rtol=1e-6, atol=1e-7, err_msg=name)
        if name in ("pandas", "polars"):
            assert list(model.feature_names_in_) == names
            assert model.predict(variant).shape == y.shape
            with pytest.raises(ValueError, match="feature names"):
                model.predict(variant[names[::-1]])


def test_warm_start_continues(random_problem):
    X, y = random_problem
    model = SoftmaxRegression(warm_start=True).fit(X, y)
    cold = model.n_iter_
    model.fit(X, y)
    assert model.n_iter_ < cold / 2
    assert model.fit(X[:, :3], y).coef_.shape == (4, 3)
    assert SoftmaxRegression().fit(X, y).n_iter_ == cold


def unaligned(buffer):
    """The same bytes, one byte after what is aligned."""
    data = bytearray(len(buffer.raw()) + 65)
    begin = -np.frombuffer(data, np.uint8).ctypes.data % 64 + 1
    data[begin : begin + len(buffer.raw())] = buffer.raw()
    return memoryview(data)[begin : begin + len(buffer.raw())]


def test_pickles_whose_arrays_lie_anywhere(random_problem):
    X, y = random_problem
    model, buffers = SoftmaxRegression().fit(X, y), []
    moved = pickle.dumps((model, X, csr_array(X)), protocol=5, buffer_callback=buffers.append)
    again, dense, sparse = pickle.loads(moved, buffers=[unaligned(buffer) for buffer in buffers])
    assert not dense.flags.aligned
    assert not sparse.data.flags.aligned
    for ours, theirs in ((X, dense), (csr_array(X), sparse)):
        np.testing.assert_array_equal(again.predict_proba(theirs), model.predict_proba(ours))


def test_pickles_and_clones(random_problem):
    X, y = random_problem
    model = SoftmaxRegression(C=2.0).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert clone(model).get_params() == model.get_params()
    model.set_params(callback=print)
    assert clone(model).callback is print
    assert pickle.loads(pickle.dumps(model)).callback is print


def test_short_fit_warns_and_tells_what_it_reached(random_problem):
    with pytest.warns(ConvergenceWarning, match=r"max_iter=2: relative duality gap .* after 2 iterations"):
        model = SoftmaxRegression(max_iter=2).fit(*random_problem)
    assert not model.converged_
    assert model.duality_gap_ > 1e-6
    with pytest.warns(ConvergenceWarning, match="rounding"):
        model = SoftmaxRegression(tol=0.0).fit(*random_problem)
    assert not model.converged_
    assert 0 < model.duality_gap_ < 1e-12


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 2, 2]])
def test_separable_classes_without_penalty_are_named_as_such(labels):
    X = np.array([[-2.0], [-1.0], [1.0], [2.0]]) if max(labels) == 1 else np.eye(4)
    with pytest.warns(ConvergenceWarning, match="completely separated"):
        model = SoftmaxRegression(C=np.inf).fit(X, labels)
    assert not model.converged_
    assert np.isfinite(model.coef_).all()


def test_gap_is_nan_without_penalty(random_problem):
    model = SoftmaxRegression(C=np.inf).fit(*random_problem)
    assert model.converged_
    assert np.isnan(model.duality_gap_)


BAD_PARAMETERS = [
    ({"C": 0}, "C must be a number > 0"),
    ({"C": -1.0}, "C must be a number > 0"),
    ({"C": np.nan}, "C must be a number > 0"),
    ({"C": "1"}, "C must be a number > 0"),
    ({"tol": -1e-3}, "tol must be"),
    ({"tol": np.inf}, "tol must be"),
    ({"max_iter": 0}, "max_iter must be"),
    ({"max_iter": 1.5}, "max_iter must be"),
    ({"solver": "saga"}, "solver must be 'auto', 'lbfgs', 'newton-cg' or 'proximal-newton', got 'saga'"),
    ({"n_threads": 0}, "n_threads must be"),
    ({"callback": 3}, "callback must be None or callable, got 3"),
    ({"class_weight": "heavy"}, "class_weight"),
    ({"class_weight": {0: -1.0, 1: 1.0, 2: 1.0}}, "class_weight must not be negative, .* got -1.0 for the class"),
    ({"class_weight": {0: 1.0, 1: np.inf, 2: 1.0}}, "class_weight must not be .*infinite.* got inf for the class"),
    ({"class_weight": {0: 0.0, 1: 0.0, 2: 0.0}}, "class_weight must leave some row a weight"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD_PARAMETERS)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxRegression(**parameters).fit(*IRIS)


def test_labels_of_several_kinds():
    with pytest.raises(ValueError, match="y must hold labels that can be compared"):
        SoftmaxRegression().fit([[0.0], [1.0]], np.array(["a", 1], dtype=object))


def with_entry(value):
    X = IRIS[0].copy()
    X[3, 2] = value
    return X


BAD_ARGUMENTS = {
    "NaN in X": (with_entry(np.nan), IRIS[1], None, "NaN"),
    "infinity in X": (with_entry(np.inf), IRIS[1], None, "infinity"),
    "X of one dimension": (IRIS[0][:, 0], IRIS[1], None, "2D array"),
    "no rows": (IRIS[0][:0], IRIS[1][:0], None, "0 sample"),
    "no features": (IRIS[0][:, :0], IRIS[1], None, "0 feature"),
    "text in X": (np.array([["a"], ["b"]]), [0, 1], None, "could not convert|not numeric"),
    "y too short": (IRIS[0], IRIS[1][:-1], None, "inconsistent numbers of samples"),
    "one class": (IRIS[0], np.zeros(150, int), None, "at least two classes.*one class: "),
    "regression targets": (IRIS[0], np.linspace(0, 1, 150), None, "continuous"),
    "NaN in y": (IRIS[0], np.where(IRIS[1] == 0, np.nan, 1.0), None, "NaN"),
    "negative weight": (*IRIS, np.where(np.arange(150) == 5, -1.0, 1.0), "sample_weight must not be negative, got -1"),
    "weights all zero": (*IRIS, np.zeros(150), "sample_weight must not be all zero"),
    "NaN weight": (*IRIS, np.full(150, np.nan), "sample_weight must not hold NaN"),
    "weights too short": (*IRIS, np.ones(149), r"sample_weight must have shape \(150,\)"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_are_named_and_leave_the_estimator_as_it_was(case):
    X, y, sample_weight, message = BAD_ARGUMENTS[case]
    model = SoftmaxRegression().fit(*IRIS)
    before = dict(vars(model))
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, sample_weight=sample_weight)
    assert vars(model) == before


def test_predicting_needs_a_fit_and_the_same_features():
    with pytest.raises(NotFittedError):
        SoftmaxRegression().predict(IRIS[0])
    model = SoftmaxRegression().fit(*IRIS)
    with pytest.raises(ValueError, match="expecting 4 features"):
        model.predict(IRIS[0][:, :3])
    with pytest.raises(ValueError, match="NaN"):
        model.predict_proba(with_entry(np.nan))


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="signals can't be raised here")
def test_interrupt_ends_the_fit_within_a_second(rng):
    X, y = rng.normal(size=(400_000, 40)), rng.integers(0, 8, 400_000)
    model = SoftmaxRegression().fit(*IRIS)
    before = dict(vars(model))
    model.set_params(tol=0.0, max_iter=1_000_000)
    before.update(tol=0.0, max_iter=1_000_000)
    assert_interrupt_ends(lambda: model.fit(X, y), after=1.0, within=1)
    assert vars(model) == before


def test_verbose_logs_where_nobody_watches(caplog, random_problem):
    with caplog.at_level(logging.INFO, logger="softfast"):
        model = SoftmaxRegression(verbose=1).fit(*random_problem)
    assert len(caplog.records) == model.n_iter_ + 1
    assert "relative duality gap" in caplog.records[-1].getMessage()
    caplog.clear()
    SoftmaxRegression(verbose=0).fit(*random_problem)
    assert not caplog.records


def test_verbose_draws_a_bar_in_a_terminal(monkeypatch, capsys, random_problem):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    SoftmaxRegression(verbose=1).fit(*random_problem)
    assert "relative duality gap" in capsys.readouterr().err


def test_constant_columns_do_no_harm(random_problem):
    X, y = random_problem
    plain = SoftmaxRegression(tol=1e-12).fit(X, y)
    constant = SoftmaxRegression(tol=1e-12).fit(np.column_stack([X, np.full(len(X), 1e4)]), y)
    np.testing.assert_allclose(constant.coef_[:, :5], plain.coef_, atol=1e-6)
    np.testing.assert_allclose(constant.coef_[:, 5], 0, atol=1e-9)
