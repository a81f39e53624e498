"""L1 and elastic net on sparse rows with many features: the same minimum as of dense rows, and its conditions."""

import signal

import numpy as np
import pytest
from problems import assert_interrupt_ends
from scipy import sparse
from scipy.special import logsumexp

from softfast import SoftmaxRegression
from softfast._descent import descend_rows
from softfast.model_file import load, save
from softfast.objective import SoftmaxObjective
from softfast.row_model import RowModel
from softfast.sources.csr import CsrSource


def problem(rng, n_classes, n=150, p=2000, density=0.02):
    """Rows of few entries, p >> n, of which the first columns tell the class."""
    X = sparse.random_array((n, p), density=density, format="csr", rng=rng, data_sampler=rng.standard_exponential)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    tell = sparse.csr_array(
        (rng.uniform(0.3, 1.5, n), (np.arange(n), labels + n_classes * rng.integers(0, 5, n))), shape=(n, p)
    )
    return sparse.csr_array(X + tell), labels


def assert_optimal(model, X, labels, weight=None, offset=None, *, slack):
    """The conditions of every coefficient, in units of the threshold; the reference has no penalty and no sparse rows.

    labels (n,), or probabilities (n, K).
    """
    X = np.asarray(X.todense(), dtype=np.float64)
    n, n_classes = len(X), len(model.classes_)
    weight = np.ones(n) if weight is None else weight
    threshold = model.l1_ratio / (model.C * weight.sum())
    ridge = (1 - model.l1_ratio) / (model.C * weight.sum())
    logits = np.zeros((n, n_classes)) if offset is None else offset.copy()
    logits[:, n_classes - len(model.coef_) :] += X @ model.coef_.T + model.intercept_
    targets = np.eye(n_classes)[labels] if labels.ndim == 1 else labels
    residual = (np.exp(logits - logsumexp(logits, axis=1, keepdims=True)) - targets) * weight[:, None] / weight.sum()
    residual = residual[:, n_classes - len(model.coef_) :]
    gradient = residual.T @ X + ridge * model.coef_
    zero = model.coef_ == 0
    assert 0 < (~zero).sum() < 0.2 * zero.size
    assert np.abs(gradient[zero]).max() <= (1 + slack) * threshold
    assert np.abs(gradient + threshold * np.sign(model.coef_))[~zero].max() <= slack * threshold
    if model.fit_intercept:
        assert np.abs(residual.sum(axis=0)).max() <= slack * threshold


def used(monkeypatch):
    """Counts how often the model is asked for its minimum."""
    calls = []
    minimise = RowModel.minimise

    def counted(self, *arguments, **others):
        calls.append(len(self.coordinates))
        return minimise(self, *arguments, **others)

    monkeypatch.setattr(RowModel, "minimise", counted)
    return calls


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(("l1_ratio", "C"), [(1.0, 2.0), (1.0, 1000.0), (0.7, 20.0)])
def test_sparse_rows_have_the_minimum_of_dense_ones(n_classes, fit_intercept, l1_ratio, C, monkeypatch, rng):
    X, labels = problem(rng, n_classes, p=4000)
    calls = used(monkeypatch)
    model = SoftmaxRegression(C, l1_ratio=l1_ratio, fit_intercept=fit_intercept, tol=1e-11).fit(X, labels)
    assert model.converged_
    assert calls
    assert_optimal(model, X, labels, slack=1e-4)
    asked = len(calls)
    dense = SoftmaxRegression(C, l1_ratio=l1_ratio, fit_intercept=fit_intercept, tol=1e-11).fit(X.toarray(), labels)
    assert len(calls) == asked
    np.testing.assert_allclose(model.objective_, dense.objective_, rtol=1e-9)
    np.testing.assert_allclose(model.predict_proba(X), dense.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_weights_offsets_and_float32(n_classes, monkeypatch, rng):
    X, labels = problem(rng, n_classes, p=4000)
    X = X.astype(np.float32)
    weight, offset = rng.uniform(0, 3, len(labels)), rng.normal(size=(len(labels), n_classes))
    weight[n_classes : n_classes + 5] = 0
    calls = used(monkeypatch)
    model = SoftmaxRegression(5.0, l1_ratio=1.0, tol=1e-10)
    model.fit(X, labels, sample_weight=weight, offset=offset)
    assert calls
    assert_optimal(model, X, labels, weight, offset, slack=1e-3)


def test_soft_labels(monkeypatch, rng):
    X, labels = problem(rng, 4)
    targets = 0.8 * np.eye(4)[labels] + 0.2 * rng.dirichlet(np.ones(4), len(labels))
    calls = used(monkeypatch)
    model = SoftmaxRegression(20.0, l1_ratio=1.0, tol=1e-10).fit(X, targets)
    assert calls
    assert_optimal(model, X, targets, slack=1e-4)


@pytest.mark.parametrize(("mean", "factor", "tol"), [(100, 1e3, 1e-9), (1000, 1e6, 1e-7)])
def test_awkward_columns(mean, factor, tol, monkeypatch, rng):
    """Full, its mean dwarfing its spread; twice the same; empty, large and small; unsorted indices that repeat."""
    X, labels = problem(rng, 4)
    X = X.toarray()
    X[:, 50] = mean + rng.normal(size=len(labels))
    X[:, 51] = X[:, 0]
    X[:, 52] = X[:, 1] * factor
    X[:, 53] = X[:, 2] / factor
    X[:, 54] = 0
    X = sparse.csr_array(X)
    flipped = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(X.indptr, X.indptr[1:])])  # noqa: B905
    again = np.repeat(flipped, 2)
    messy = sparse.csr_array((X.data[again] / 2, X.indices[again], 2 * X.indptr), shape=X.shape)
    calls = used(monkeypatch)
    model = SoftmaxRegression(10.0, l1_ratio=1.0, tol=tol).fit(messy, labels)
    assert model.converged_
    assert calls
    assert_optimal(model, X, labels, slack=1e-3)
    assert model.coef_[:, 52].any()


def test_zeros_do_not_depend_on_the_tolerance(rng):
    X, labels = problem(rng, 5)
    first, second = (SoftmaxRegression(10.0, l1_ratio=1.0, tol=tol).fit(X, labels) for tol in (1e-8, 1e-9))
    np.testing.assert_array_equal(first.coef_ == 0, second.coef_ == 0)


def test_the_same_bits_for_any_number_of_threads(rng):
    X, labels = problem(rng, 5)
    one, three = (SoftmaxRegression(50.0, l1_ratio=1.0, n_threads=n).fit(X, labels) for n in (1, 3))
    np.testing.assert_array_equal(one.coef_, three.coef_)
    np.testing.assert_array_equal(one.intercept_, three.intercept_)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.4])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_product_is_the_slope_of_the_gradient_and_the_fall_that_of_the_objective(n_classes, l1_ratio, monkeypatch, rng):
    # To the end, however far away it is.
    monkeypatch.setattr("softfast.row_model._SETTLED", 0.0)
    monkeypatch.setattr("softfast.row_model._PROGRESS", np.inf)
    X, labels = problem(rng, n_classes, n=60, p=4000)
    n_outputs = 1 if n_classes == 2 else n_classes
    objective = SoftmaxObjective(
        CsrSource(X, labels, n_classes), strength=1e-3, l1_ratio=l1_ratio, fit_intercept=True, n_outputs=n_outputs
    )
    groups = objective.groups()
    size = len(groups.members)
    x = np.where(rng.random(size) < 0.02, rng.normal(size=size), 0)
    point = objective(x)
    active = np.flatnonzero((x != 0) | (rng.random(size) < 0.02) | (groups.weight == 0))
    model = objective.curvature(point, active)
    assert isinstance(model, RowModel)
    assert model.exact
    direction = np.zeros(size)
    direction[model.coordinates] = rng.normal(size=len(active))
    slope = objective(x + 1e-5 * direction).gradient - objective(x - 1e-5 * direction).gradient
    slope = slope[model.coordinates] / 2e-5
    product = model.product(direction[model.coordinates])
    np.testing.assert_allclose(product, slope, atol=1e-7 * np.abs(slope).max())

    m = len(active)
    own = np.argsort(model.coordinates)
    restricted = own, np.arange(m + 1), groups.weight[active]
    nothing = {"damping": 0.0, "low_rank": np.empty((m, 0)), "sign": np.empty(0)}
    found, fall = model.minimise(x[model.coordinates], point.gradient[model.coordinates], restricted, 1e-9, **nothing)
    target = x.copy()
    target[model.coordinates] = found
    reached = objective(target)
    assert fall > 0
    np.testing.assert_allclose(point.value - reached.value, fall, rtol=1e-10)
    zero = target[active] == 0
    slope, weight = reached.gradient[active], groups.weight[active]
    assert (np.abs(slope) - weight)[zero].max() <= 1e-8
    assert np.abs(slope + weight * np.sign(target[active]))[~zero].max() <= 1e-8


def test_diagonal_preconditioner_leads_to_the_same_minimum(monkeypatch, rng):
    X, labels = problem(rng, 4)
    blocks = SoftmaxRegression(100.0, l1_ratio=1.0, tol=1e-10).fit(X, labels)
    monkeypatch.setattr("softfast.row_model._LARGEST_BLOCKS", 0)
    diagonal = SoftmaxRegression(100.0, l1_ratio=1.0, tol=1e-10).fit(X, labels)
    assert diagonal.converged_
    np.testing.assert_allclose(diagonal.objective_, blocks.objective_, rtol=1e-9)


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="signals can't be raised here")
def test_interrupt_ends_the_fit_within_two_seconds(rng):
    X, labels = problem(rng, 8, n=3000, p=30_000, density=0.01)
    model = SoftmaxRegression(1e4, l1_ratio=1.0, tol=0.0, max_iter=1_000_000)
    assert_interrupt_ends(lambda: model.fit(X, labels), after=2.0, within=2)


DESCENT = {
    "data": np.ones(2),
    "rows": np.array([0, 1], dtype=np.int32),
    "begins": np.array([0, 1, 2, 2]),
    "columns": np.array([0, 2, 1, 2]),
    "classes": np.array([0, 2, 4]),
    "center": np.array([0.5, -1.0, 0.5, -1.0]),
    "scale": np.ones(4),
    "logits": np.zeros((2, 2)),
    "proba": np.full((2, 2), 0.5),
    "labels": np.array([0, 1]),
    "row_weight": np.full(2, 0.5),
    "ridge": np.zeros(4),
    "weight": np.array([0.01, 0, 0.01, 0]),
    "gradient": np.array([-0.25, 0, -0.25, 0]),
    "start": np.zeros(4),
    "x": np.zeros(4),
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rows", np.array([0, 2], dtype=np.int32), "no row 2 among 2"),
        ("rows", np.array([0, -1], dtype=np.int32), "no row -1 among 2"),
        ("columns", np.array([0, 3, 1, 2]), "no column 3 among 3"),
        ("columns", np.array([0, 2, -1, 2]), "no column -1 among 3"),
        ("begins", np.array([0, 2, 1, 2]), "column 1 ends before it begins"),
        ("begins", np.array([0, 1, 2, 3]), "do not belong together"),
        ("classes", np.array([0, 5, 4]), "class 1 ends before it begins"),
        ("classes", np.array([0, 2, 5]), "do not belong together"),
        ("logits", np.zeros((5, 2)), "do not belong together"),
        ("labels", np.zeros(3, dtype=np.int64), "do not belong together"),
        *[(name, np.ones(3), "do not belong together") for name in ("center", "scale", "ridge", "weight", "gradient")],
    ],
)
def test_descent_refuses_arrays_that_do_not_fit(name, value, message):
    arguments = {key: array.copy() for key, array in DESCENT.items()}
    sweeps, longest = descend_rows(*arguments.values(), 100, 1e-9)
    assert 1 < sweeps < 100
    assert longest <= 1e-9
    assert arguments["x"][0] > 0
    arguments = {**DESCENT, name: value}
    with pytest.raises(ValueError, match=message):
        descend_rows(*arguments.values(), 100, 1e-9)


def test_texts(data_dir, tmp_path):
    """130,107 features and 20 classes: conditions of every coefficient, and a small model file."""
    file = np.load(data_dir / "news20_tfidf.npz")
    X = sparse.csr_array((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"]))
    labels = file["y"].astype(np.int64)
    model = SoftmaxRegression(3.0, l1_ratio=1.0).fit(X, labels)
    assert model.converged_
    proba = np.asarray(X.astype(np.float64) @ model.coef_.T) + model.intercept_
    proba = np.exp(proba - logsumexp(proba, axis=1, keepdims=True))
    gradient = ((X.T.astype(np.float64) @ (proba - np.eye(20)[labels])) * model.C).T
    zero = model.coef_ == 0
    assert zero.mean() > 0.99
    assert np.abs(gradient[zero]).max() <= 1 + 1e-4
    assert np.abs(gradient + np.sign(model.coef_))[~zero].max() <= 1e-4
    expected = model.predict_proba(X)
    save(model.sparsify(), tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size < 2e6
    again, _ = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.coef_.toarray(), model.coef_.toarray())
    np.testing.assert_allclose(again.predict_proba(X), expected, rtol=1e-5, atol=1e-7)
