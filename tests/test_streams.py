"""Rows that are read in parts: the same optimum as in memory, and errors that say where."""

import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_iris

import softfast
from softfast import SoftmaxRegression
from softfast.sources import parts, readers
from softfast.sources.readahead import read_ahead

NAMES = np.array(["pine", "fir", "aspen", "oak"])


@pytest.fixture
def rows(rng):
    X = rng.normal(size=(300, 6)) * np.geomspace(1, 50, 6) + 3
    y = (X / np.geomspace(1, 50, 6) @ rng.normal(size=(6, 4)) + rng.gumbel(size=(300, 4))).argmax(axis=1)
    return X, NAMES[y]


@pytest.fixture
def small_chunks(monkeypatch):
    # 20 rows of six float64.
    monkeypatch.setattr(readers, "CHUNK_BYTES", 1000)


def batches_of(X, y, size, weight=None):
    def factory():
        for begin in range(0, len(X), size):
            part = slice(begin, begin + size)
            yield (X[part], y[part]) if weight is None else (X[part], y[part], weight[part])

    return factory


def read_ahead_threads():
    return [t for t in threading.enumerate() if t.name == "softfast read-ahead"]


def same_model(model, other):
    for name in ("coef_", "intercept_"):
        ours, theirs = getattr(model, name), getattr(other, name)
        assert np.abs(ours - theirs).max() <= 1e-11 * np.abs(theirs).max()
    assert model.classes_.tolist() == other.classes_.tolist()
    assert model.n_features_in_ == other.n_features_in_


@pytest.mark.parametrize(
    "parameters",
    [{}, {"solver": "newton-cg"}, {"l1_ratio": 0.5, "C": 0.1}, {"class_weight": "balanced"}, {"fit_intercept": False}],
)
@pytest.mark.parametrize("order", "CF")
@pytest.mark.filterwarnings("ignore:The fit stopped where rounding")
def test_same_optimum_wherever_the_rows_are(parameters, order, rows, tmp_path, small_chunks, rng):
    X, y = rows
    weight = rng.uniform(0, 2, len(y))
    np.save(tmp_path / "X.npy", np.asarray(X, order=order))
    np.save(tmp_path / "y.npy", y)

    def fit(*arguments):
        return SoftmaxRegression(tol=0.0, **parameters).fit(*arguments)

    memory = fit(X, y, weight)
    same_model(fit(softfast.from_npy(tmp_path / "X.npy", tmp_path / "y.npy", weight=weight)), memory)
    for size in (45, 300):
        same_model(fit(softfast.from_batches(batches_of(X, y, size, weight))), memory)
    assert not read_ahead_threads()


def test_certified_and_no_passes_more(rows, tmp_path, small_chunks):
    X, y = rows
    np.save(tmp_path / "X.npy", X)
    memory = SoftmaxRegression().fit(X, y)
    stream = softfast.from_npy(tmp_path / "X.npy", y)
    model = SoftmaxRegression().fit(stream)
    assert model.converged_
    assert model.duality_gap_ <= 1e-6 * max(1, model.objective_)
    assert model.n_passes_ <= memory.n_passes_ + 3
    many = SoftmaxRegression(n_threads=3).fit(stream)
    np.testing.assert_array_equal(many.coef_, model.coef_)


def test_predictions(rows, tmp_path, small_chunks):
    X, y = rows
    np.save(tmp_path / "X.npy", X)
    model = SoftmaxRegression().fit(X, y)
    for stream in (softfast.from_npy(tmp_path / "X.npy", y), softfast.from_batches(batches_of(X, y, 60))):
        for _ in range(2):
            for name in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
                np.testing.assert_array_equal(getattr(model, name)(stream), getattr(model, name)(X))
            assert abs(model.score(stream) - model.score(X, y)) < 1e-15
            assert np.concatenate([labels for _, labels, _ in stream]).tolist() == y.tolist()
            # The second time after a survey.
            stream.survey()
    two = SoftmaxRegression().fit(softfast.from_batches(batches_of(X, y == "fir", 60)))
    np.testing.assert_array_equal(two.predict(X), two.predict(softfast.from_batches(batches_of(X, y, 60))))
    assert two.classes_.tolist() == [False, True]


@pytest.mark.parametrize("labels", [NAMES, np.array([5, 0, 7, 9]), np.array([9, 0, 5, 7])])
def test_class_first_seen_in_the_last_chunk(labels, rows):
    X, y = rows
    y = labels[np.argmax(y[:, None] == NAMES, axis=1)]
    order = np.argsort(y == labels[0], kind="stable")
    model = SoftmaxRegression().fit(softfast.from_batches(batches_of(X[order], y[order], 50)))
    assert model.classes_.tolist() == np.unique(y).tolist()
    np.testing.assert_allclose(model.objective_, SoftmaxRegression().fit(X, y).objective_, atol=2e-6)


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(4) - 2,
        np.array([3.0, 1.0, 7.0, 2e9]),
        NAMES.astype(object),
        np.array([-128, 3, 126, 127], dtype=np.int8),
        np.array([2**63 - 1, 2**63, 2**63 + 7, 2**64 - 1], dtype=np.uint64),
        np.array([1, 2, 3, 10**9]),
    ],
)
def test_labels_of_any_kind(labels, rows):
    X, y = rows
    y = labels[np.unique(y, return_inverse=True)[1]]
    model = SoftmaxRegression().fit(softfast.from_batches(batches_of(X, y, 64)))
    assert model.classes_.tolist() == np.unique(y).tolist()
    assert model.classes_.dtype == np.unique(y).dtype
    assert model.score(X, y) > 0.5


def wrong(X, y, number, change):
    """Batches of 50 of which one is changed."""

    def factory():
        for k, (x, labels) in enumerate(batches_of(X, y, 50)()):
            yield change(x.copy(), labels) if k == number else (x, labels)

    return factory


def with_nan(x, y):
    x[7, 2] = np.nan
    return x, y


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nan, "batch 3, row 7, feature 2: got nan"),
        (lambda x, y: (x[:, :4], y), "batch 3, row 0: X has 4 features of float64, but the rows before have 6"),
        (lambda x, y: (x.astype(np.float32), y), "batch 3, row 0: X has 6 features of float32"),
        (lambda x, y: (x, y[:-1]), r"batch 3: y must have shape \(50,\)"),
        (lambda x, y: (x, np.arange(50)), "batch 3, row 0: got labels of int64, and before labels of <U5"),
        (lambda x, y: (x, y, -np.ones(50)), "batch 3, row 0: got the weight -1.0"),
        (lambda x, y: x, "batch 3: expected a tuple"),
        (lambda x, y: (x.astype(str), y), "batch 3: X must hold real numbers"),
        (lambda x, y: (x, None), "batches: has no labels"),
    ],
)
def test_what_is_wrong_with_a_batch(change, message, rows):
    model = SoftmaxRegression()
    with pytest.raises(ValueError, match=message):
        model.fit(softfast.from_batches(wrong(*rows, 3, change)))
    assert not hasattr(model, "coef_")
    assert not hasattr(model, "n_features_in_")
    assert not read_ahead_threads()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda X, y: batches_of(X[::-1], y, 50)(), "differs from the first in chunk 0: other values"),
        (lambda X, y: batches_of(X[:-50], y, 50)(), "has 5 chunks, and the first had 6"),
        (lambda X, y: batches_of(np.r_[X, X], np.r_[y, y], 50)(), "has more chunks than the first, 6"),
        (lambda X, y: batches_of(X, y, 49)(), r"chunk 0: float64 of shape \(49, 6\), expected float64 of shape \(50"),
        (lambda X, y: batches_of(X[:, :3], y, 50)(), r"shape \(50, 3\)"),
    ],
)
def test_other_rows_in_the_second_pass(second, message, rows):
    passes = []

    def factory():
        passes.append(None)
        return batches_of(*rows, 50)() if len(passes) == 1 else second(*rows)

    with pytest.raises(ValueError, match=message):
        SoftmaxRegression().fit(softfast.from_batches(factory))
    assert not read_ahead_threads()


def swapped(x):
    x[[149, 150]] = x[[150, 149]]


def negative(x):
    x[148:152] *= -1


def not_finite(x):
    x[150, 2] = np.nan


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
@pytest.mark.parametrize("change", [swapped, negative, not_finite])
def test_values_changed_within_a_batch(change, l1_ratio, order, rows):
    X, y = rows
    passes = []

    def factory():
        passes.append(None)
        x = np.array(X, order=order)
        # Later than the first of an optimizer's passes.
        if len(passes) > 5:
            change(x)
        yield x, y

    with pytest.raises(ValueError, match="differs from the first in chunk 0: other values"):
        SoftmaxRegression(l1_ratio=l1_ratio).fit(softfast.from_batches(factory))
    assert not read_ahead_threads()


def test_labels_and_weights_may_lie_where_those_before_lay(rows, rng):
    X, y = rows
    weight = rng.uniform(0.5, 2, len(X))
    labels_buffer, weight_buffer = np.empty(50, dtype=y.dtype), np.empty(50)

    def reused():
        for x, labels, w in batches_of(X, y, 50, weight)():
            labels_buffer[:], weight_buffer[:] = labels, w
            yield x, labels_buffer, weight_buffer

    survey = softfast.from_batches(reused).survey()
    np.testing.assert_array_equal(survey.classes[np.concatenate(survey.codes)], y)
    np.testing.assert_array_equal(np.concatenate(survey.weights), weight)


def test_iterators_that_run_out_and_buffers_used_again(rows):
    X, y = rows
    with pytest.raises(TypeError, match=r"must be callable.*an iterator gives them once"):
        softfast.from_batches(batches_of(X, y, 50)())
    once = batches_of(X, y, 50)()
    with pytest.raises(ValueError, match="returned the same iterator again"):
        SoftmaxRegression().fit(softfast.from_batches(lambda: once))
    buffer = np.empty((50, 6))

    def reused():
        for x, labels in batches_of(X, y, 50)():
            buffer[:] = x
            yield buffer, labels

    def reused_after_none():
        for batch in reused():
            yield batch
            yield X[:0], y[:0]

    with pytest.raises(ValueError, match="batch 1: X lies where"):
        SoftmaxRegression().fit(softfast.from_batches(reused))
    with pytest.raises(ValueError, match="batch 2: X lies where"):
        SoftmaxRegression().fit(softfast.from_batches(reused_after_none))
    with pytest.raises(ValueError, match="has no rows"):
        SoftmaxRegression().fit(softfast.from_batches(list))
    with pytest.raises(ValueError, match="at least two classes"):
        SoftmaxRegression().fit(softfast.from_batches(lambda: [(X, y[:1].repeat(len(X)))]))
    with pytest.raises(ValueError, match="labels of classes are no fractions"):
        SoftmaxRegression().fit(softfast.from_batches(lambda: [(X, X[:, 0])]))


def test_files_that_are_no_arrays(rows, tmp_path):
    X, y = rows
    np.savez(tmp_path / "X.npz", X=X)
    with pytest.raises(ValueError, match=r"X\.npz: the arrays in an \.npz file can't be read in parts"):
        softfast.from_npy(tmp_path / "X.npz", y)
    np.save(tmp_path / "X.npy", X)
    cut = (tmp_path / "X.npy").read_bytes()[:-100]
    (tmp_path / "cut.npy").write_bytes(cut)
    with pytest.raises(ValueError, match=r"cut\.npy: is no whole \.npy file"):
        softfast.from_npy(tmp_path / "cut.npy", y)
    with pytest.raises(ValueError, match=r"none\.npy: no such file"):
        softfast.from_npy(tmp_path / "none.npy", y)
    with pytest.raises(ValueError, match=r"y must have shape \(300,\)"):
        softfast.from_npy(tmp_path / "X.npy", y[:-1])
    for wrong_type in (X.astype(int), X[0], X.astype(">f8"), X[:0]):
        np.save(tmp_path / "wrong.npy", wrong_type)
        with pytest.raises(ValueError, match=r"wrong\.npy: X must"):
            softfast.from_npy(tmp_path / "wrong.npy", y)
    stream = softfast.from_npy(tmp_path / "X.npy", y)
    np.save(tmp_path / "X.npy", X[:-1])
    with pytest.raises(ValueError, match="has changed since it was opened"):
        SoftmaxRegression().fit(stream)


def test_arguments_beside_the_rows(rows):
    X, y = rows
    stream = softfast.from_batches(batches_of(X, y, 60))
    with pytest.raises(ValueError, match="y must be None, got ndarray"):
        SoftmaxRegression().fit(stream, y)
    with pytest.raises(ValueError, match="sample_weight must be None"):
        SoftmaxRegression().fit(stream, sample_weight=np.ones(len(y)))
    model = SoftmaxRegression().fit(stream)
    with pytest.raises(ValueError, match="offset must be None"):
        model.predict(stream, offset=np.zeros((len(y), 4)))
    with pytest.raises(ValueError, match="has 3 features, the fit had 6"):
        model.predict(softfast.from_batches(batches_of(X[:, :3], y, 60)))
    with pytest.raises(ValueError, match="no labels to compare with"):
        model.score(softfast.from_batches(lambda: [(X, None)]))


def test_error_in_the_factory_is_raised_in_the_fit(rows):
    def factory():
        yield from list(batches_of(*rows, 60)())[:3]
        raise ConnectionResetError("the store is gone")

    with pytest.raises(ConnectionResetError, match="the store is gone"):
        SoftmaxRegression().fit(softfast.from_batches(factory))
    assert not read_ahead_threads()


def test_read_ahead_is_ahead_by_one_and_ends():
    got = []

    def items():
        try:
            for k in range(10):
                got.append(k)
                yield k
        finally:
            got.append("closed")

    ahead = read_ahead(items())
    assert next(ahead) == 0
    time.sleep(0.1)
    assert got == [0, 1]
    assert next(ahead) == 1
    ahead.close()
    assert got[-1] == "closed"
    assert not read_ahead_threads()
    assert list(read_ahead(iter(range(5)))) == list(range(5))


def test_ctrl_c_while_the_thread_is_started_ends_it(monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(read_ahead(iter(range(5))))
    assert not read_ahead_threads()


def test_a_factory_must_return_something():
    with pytest.raises(ValueError, match="factory must return an iterator of batches, got NoneType"):
        SoftmaxRegression().fit(softfast.from_batches(lambda: None))


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_a_streamed_fit(tmp_path):
    script = """
import threading, numpy as np, softfast
X = np.random.default_rng(0).normal(size=(20000, 50))
y = np.arange(20000) % 3
def factory():
    while True:
        yield X.copy(), y
try:
    softfast.SoftmaxRegression().fit(softfast.from_batches(factory))
except KeyboardInterrupt:
    assert threading.active_count() == 1
    print("ended", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True)
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert out == "ended\n"


def test_operations_can_be_pickled():
    assert pickle.loads(pickle.dumps(partial(parts._sample, 3, None))).args == (3, None)


def test_iris_from_lists():
    X, y = load_iris(return_X_y=True)
    model = SoftmaxRegression().fit(softfast.from_batches(lambda: [(X.tolist(), y.tolist())]))
    np.testing.assert_allclose(model.coef_, SoftmaxRegression().fit(X, y).coef_, atol=1e-8)
