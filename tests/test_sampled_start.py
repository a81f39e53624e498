"""Fits that begin with a sample of the rows: same optimum, fewer passes, nothing taken that is worse."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from tolerance import assert_close

from softfast import SoftmaxRegression, from_npy, minimise, sampled_start
from softfast.objective import SoftmaxObjective
from softfast.sources.dense import DenseSource

N = 60_000


@pytest.fixture(params=["labels", "soft, weights, offsets", "two classes"])
def problem(request, rng):
    """X, y and what else fit takes; a rare class, and a feature few rows have."""
    X = rng.normal(size=(N, 6)) * np.geomspace(1e-3, 1e3, 6)
    X[:, 3] *= rng.random(N) < 1e-3
    n_classes = 2 if request.param == "two classes" else 4
    logits = X / np.geomspace(1e-3, 1e3, 6) @ rng.normal(size=(6, n_classes)) - 3.0 * (np.arange(n_classes) == 1)
    if request.param != "soft, weights, offsets":
        return X, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1), {}
    y = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return X, y, {"sample_weight": rng.uniform(0, 2, N), "offset": rng.normal(size=(N, n_classes))}


def test_same_optimum_in_fewer_passes(problem):
    X, y, arguments = problem
    model, plain = (SoftmaxRegression(solver=solver, tol=1e-9).fit(X, y, **arguments) for solver in ("auto", "lbfgs"))
    assert model.converged_
    assert plain.converged_
    assert abs(model.objective_ - plain.objective_) <= 2e-9
    # The sample's passes count in part.
    assert model.n_passes_ < plain.n_passes_
    assert model.n_passes_ % 1 > 0
    assert model.n_passes_ > model.history_["pass"][0] > 2


def test_interior_start_reaches_the_optimum(problem, monkeypatch):
    X, y, arguments = problem
    plain = SoftmaxRegression(solver="lbfgs", tol=1e-9).fit(X, y, **arguments)
    # As if L-BFGS had not settled.
    monkeypatch.setattr(sampled_start, "_ENOUGH", 1)
    model, again = (SoftmaxRegression(tol=1e-9, n_threads=n).fit(X, y, **arguments) for n in (1, 2))
    assert model.converged_
    assert abs(model.objective_ - plain.objective_) <= 2e-9
    # The start is so near that a few steps are left.
    assert model.history_["objective"][-1 - model.n_iter_] - plain.objective_ <= 1e-2 * plain.objective_
    assert model.n_iter_ < plain.n_iter_
    # The same bits for any number of threads.
    assert np.array_equal(model.coef_, again.coef_)


def test_few_rows_have_no_sample(rng):
    X, y = rng.normal(size=(49_999, 3)), rng.integers(0, 3, 49_999)
    assert objective_of(X, y).on_sample() is None
    wide = objective_of(rng.normal(size=(60_000, 700)).astype(np.float32), rng.integers(0, 3, 60_000))
    assert wide.on_sample() is None


def objective_of(X, y):
    source = DenseSource(X, y, int(y.max()) + 1)
    return SoftmaxObjective(source, strength=1 / len(y), fit_intercept=True, n_outputs=source.n_classes)


@pytest.fixture
def wild(rng):
    """X with rows hundreds of standard deviations away, some on the wrong side, and y; one class is rare."""
    X = rng.standard_t(1, size=(N, 8)) * np.geomspace(1e-2, 1e4, 8)
    logits = X / np.geomspace(1e-2, 1e4, 8) @ rng.normal(size=(8, 5)) - 3.0 * np.arange(5)
    return X, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def test_wild_rows_take_few_passes(wild, tmp_path, monkeypatch):
    X, y = wild
    starts = []
    interior_start = minimise.interior_start
    monkeypatch.setattr(minimise, "interior_start", lambda *a: starts.append(interior_start(*a)) or starts[-1])
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    model, plain = (SoftmaxRegression(solver=solver).fit(X, y) for solver in ("auto", "lbfgs"))
    streamed = SoftmaxRegression().fit(from_npy(tmp_path / "X.npy", tmp_path / "y.npy"))
    # L-BFGS on the sample did not settle.
    assert len(starts) == 2
    assert model.converged_
    assert abs(model.objective_ - plain.objective_) <= 2e-6
    assert model.n_passes_ < 0.6 * plain.n_passes_
    assert streamed.n_passes_ == model.n_passes_
    assert_close(streamed.coef_, model.coef_, np.float64, N)


@pytest.mark.parametrize("warm_start", [False, True])
def test_interior_point_is_tried_where_a_fit_takes_long(wild, warm_start, monkeypatch):
    # Too few rows for a sample to begin with.
    X, y = wild[0][:8000], wild[1][:8000]
    plain = SoftmaxRegression(solver="lbfgs").fit(X, y)
    begin, patience = len(plain.history_["pass"]) // 4, len(plain.history_["pass"]) // 2
    with pytest.warns(ConvergenceWarning):
        model = SoftmaxRegression(max_iter=begin, warm_start=warm_start).fit(X, y)
    np.testing.assert_array_equal(model.history_["objective"], plain.history_["objective"][: begin + 1])
    monkeypatch.setattr(minimise, "_PATIENCE", patience)
    model.set_params(max_iter=1000).fit(X, y)
    assert model.converged_
    assert abs(model.objective_ - plain.objective_) <= 2e-6
    # Iterations, their start, and the best points between the rounds.
    assert patience < model.n_iter_ < len(model.history_["pass"]) - 1


def test_callback_hears_of_the_interior_point_and_ends_it(wild):
    X, y = wild
    model = SoftmaxRegression().fit(X, y)
    rounds = len(model.history_["pass"]) - 1 - model.n_iter_
    assert rounds >= 2
    # The best point so far, each time.
    assert (np.diff(model.history_["objective"][: rounds + 1]) <= 0).all()
    seen = []
    with pytest.warns(ConvergenceWarning, match="The callback stopped the fit"):
        stopped = SoftmaxRegression(callback=lambda it: seen.append(it) or len(seen) == rounds).fit(X, y)
    assert len(seen) == rounds
    assert not stopped.converged_
    assert stopped.n_iter_ == 0
    assert stopped.objective_ == seen[-1].objective == model.history_["objective"][rounds - 1]
    np.testing.assert_array_equal(stopped.coef_, seen[-1].coef)


@pytest.mark.parametrize("failure", ["no step", "far above"])
def test_failed_interior_point_leaves_the_fit_as_it_was(problem, monkeypatch, failure):
    X, y, arguments = problem
    monkeypatch.setattr(sampled_start, "_ENOUGH", 20)

    def fail(objective, *_, **__):
        if failure == "no step":
            raise np.linalg.LinAlgError
        return np.ones(1), np.inf

    monkeypatch.setattr(SoftmaxObjective, "interior_minimum", fail)
    model = SoftmaxRegression().fit(X, y, **arguments)
    monkeypatch.setattr(sampled_start, "_ITERATIONS", 1000)
    failed = SoftmaxRegression().fit(X, y, **arguments)
    assert failed.converged_
    assert abs(failed.objective_ - model.objective_) <= 2e-6


def test_sample_estimates_the_objective(rng):
    X, y = rng.normal(size=(N, 3)), rng.integers(0, 3, N)
    objective = objective_of(X, y)
    part, share = objective.on_sample()
    assert 0.05 < share < 0.2
    for _ in range(3):
        coef, intercept = rng.normal(size=(3, 3)), rng.normal(size=3)
        whole, sampled = (f(f.pack(coef, intercept)).value for f in (objective, part))
        assert abs(sampled - whole) < 0.05 * whole


def test_worse_point_is_not_taken(rng, monkeypatch):
    X, y = rng.normal(size=(N, 3)), rng.integers(0, 3, N)
    objective = objective_of(X, y)
    start = objective(np.zeros(12))
    far = SoftmaxObjective.__call__

    def misleading(part, start, **_):
        return far(part, start.x + 100), 1, "stopped"

    monkeypatch.setattr(sampled_start, "lbfgs", misleading)
    even_share = objective.even_share
    assert sampled_start.sampled_start(objective, start)[0] is start
    assert objective.n_passes > 2
    assert objective.even_share == even_share


def test_classes_that_the_sample_separates_end(rng):
    # Separated but for five rows out of 60,000: without penalty the sample's objective may have no minimum.
    X, y = rng.normal(size=(N, 2)), np.zeros(N, dtype=int)
    y[X[:, 0] > 0] = 1
    X[:, 0] += np.sign(X[:, 0])
    y[:5] = 1 - y[:5]
    model = SoftmaxRegression(C=np.inf).fit(X, y)
    assert model.converged_
    assert np.isfinite(model.coef_).all()
