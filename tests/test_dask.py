"""Rows on the workers of a Dask cluster: the same optimum as in memory, whatever becomes of the workers."""

import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dask.dataframe", reason='needs Dask: pip install "softfast[dask]"')
pytest.importorskip("distributed", reason='needs dask.distributed: pip install "softfast[dask]"')

import dask
import pandas as pd
from dask import array as da
from dask import dataframe as dd
from distributed import Client, LocalCluster
from problems import random_problem
from scipy.sparse import csr_array
from sklearn.datasets import load_iris
from typer.testing import CliRunner

import softfast
from softfast.commands import app
from softfast.dask import SoftmaxRegression
from softfast.sources.distributed import Partition, _combine
from softfast.sources.parts import _add_losses

NAMES = np.array(["pine", "fir", "aspen", "oak"])
# Fits to the last bit end where rounding ends all progress.
STALLS = pytest.mark.filterwarnings("ignore:The fit stopped where rounding")


@pytest.fixture(autouse=True)
def no_test_hangs():
    """An exception in place of a wait for ever."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def end(*_):
        raise RuntimeError("the test took more than 4 minutes")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(240)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs="CRITICAL") as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster) as client:
        yield client


@pytest.fixture
def rows(rng):
    X = rng.normal(size=(300, 6)) * np.geomspace(1, 50, 6) + 3
    y = ((X - 3) / np.geomspace(1, 50, 6) @ rng.normal(size=(6, 4)) + rng.gumbel(size=(300, 4))).argmax(axis=1)
    return X, NAMES[y]


def on_dask(*arrays, chunks=70):
    return [da.from_array(a, chunks=(chunks, *a.shape[1:])) for a in arrays]


def assert_same_model(model, other, within=1e-10):
    for name in ("coef_", "intercept_"):
        ours, theirs = getattr(model, name), getattr(other, name)
        assert np.abs(ours - theirs).max() <= within * np.abs(theirs).max()
    assert model.classes_.tolist() == other.classes_.tolist()
    assert model.n_features_in_ == other.n_features_in_


@STALLS
@pytest.mark.parametrize(
    ("parameters", "chunks"),
    [({}, 150), ({"l1_ratio": 0.5, "C": 0.1}, 45), ({"class_weight": "balanced"}, 45)],
    ids=str,
)
def test_same_optimum_as_in_memory(parameters, chunks, rows, rng, client):
    X, y = rows
    weight = rng.uniform(0, 2, len(y))
    # A partition without weight among those of 45 rows.
    weight[45:90] = 0
    memory = softfast.SoftmaxRegression(tol=1e-13, **parameters).fit(X, y, weight)
    model = SoftmaxRegression(tol=1e-13, **parameters).fit(*on_dask(X, y, weight, chunks=chunks))
    assert_same_model(model, memory)


@STALLS
def test_same_way_as_in_memory(rng, client):
    # Enough rows to begin with a sample, and for metrics from samples.
    X = rng.normal(size=(60_000, 6)) * np.geomspace(1e-3, 1e3, 6)
    y = (X / np.geomspace(1e-3, 1e3, 6) @ rng.normal(size=(6, 4)) + rng.gumbel(size=(60_000, 4))).argmax(axis=1)
    memory = softfast.SoftmaxRegression().fit(X, y)
    model = SoftmaxRegression().fit(*on_dask(X, y, chunks=25_000))
    assert_same_model(model, memory)
    assert model.n_passes_ == memory.n_passes_


@STALLS
def test_classes_and_rows_of_some_partitions(rows, client):
    order = np.argsort(rows[1])
    X, y = (part[order] for part in rows)
    # Each label in one partition or two, some partitions without rows.
    chunks = (0, *np.unique(y, return_counts=True)[1] - [5, -5, 10, -10], 0)
    arrays = [da.from_array(a, chunks=(chunks, *a.shape[1:])) for a in (X, y)]
    model = SoftmaxRegression(tol=1e-12).fit(*arrays)
    assert_same_model(model, softfast.SoftmaxRegression(tol=1e-12).fit(X, y), 1e-9)
    assert model.predict(arrays[0]).compute().tolist() == model.to_local().predict(X).tolist()


def test_certified_history_and_pickle(rows, client):
    X, y = rows
    columns = da.from_array(X, chunks=(70, 4))
    model = SoftmaxRegression().fit(columns, da.from_array(y, chunks=100))
    memory = softfast.SoftmaxRegression().fit(X, y)
    assert model.converged_
    assert model.duality_gap_ <= 1e-6 * max(1, model.objective_)
    assert model.n_passes_ <= memory.n_passes_ + 3
    assert len(model.history_["gap"]) == model.n_iter_ + 1
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    local = model.to_local()
    assert type(local) is softfast.SoftmaxRegression
    np.testing.assert_array_equal(local.predict_proba(X), model.predict_proba(columns).compute())
    np.testing.assert_array_equal(SoftmaxRegression().fit(X, y).coef_, memory.coef_)


def test_same_bits_whatever_the_workers(rows, client):
    arrays = on_dask(*rows, chunks=30)
    first, second = (SoftmaxRegression().fit(*arrays) for _ in range(2))
    with Client(processes=False, n_workers=1, threads_per_worker=3, dashboard_address=":0"):
        third = SoftmaxRegression(n_threads=2).fit(*arrays)
    for other in (second, third):
        np.testing.assert_array_equal(other.coef_, first.coef_)
        np.testing.assert_array_equal(other.intercept_, first.intercept_)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_worker_killed_in_a_fit(rows, client, monkeypatch):
    monkeypatch.setattr("softfast.sources.distributed._PATIENCE", 0.5)
    X, y = rows
    arrays = on_dask(X, y, chunks=50)
    killed = []

    def kill(it):
        if it.iteration == 2:
            address, pid = sorted(client.run(os.getpid).items())[0]
            os.kill(pid, signal.SIGKILL)
            killed.append(address)

    undisturbed = SoftmaxRegression().fit(*arrays)
    disturbed = SoftmaxRegression(callback=kill).fit(*arrays)
    assert killed
    assert killed[0] not in client.nthreads()
    # Another takes its place, for the tests that follow.
    client.wait_for_workers(2, timeout=60)
    assert disturbed.n_iter_ > 3
    np.testing.assert_array_equal(disturbed.coef_, undisturbed.coef_)
    assert disturbed.converged_
    assert abs(disturbed.objective_ - softfast.SoftmaxRegression().fit(X, y).objective_) <= 2e-6


def test_what_crosses_the_network(rng, client):
    n_partitions, n_passes = 20, 5
    X, y, coef, intercept = random_problem(rng, 2000, 400, 5, np.float64, soft=False)

    def sent():
        logs = client.run(lambda dask_worker: [entry["keys"] for entry in dask_worker.transfer_outgoing_log])
        return [item for log in logs.values() for entry in log for item in entry.items()]

    def control():
        """Bytes of Dask's own messages: of the client, of the scheduler, of the workers."""
        of_workers = client.run(lambda dask_worker: dask_worker.batched_stream.byte_count)
        of_scheduler = client.run_on_scheduler(
            lambda dask_scheduler: [
                stream.byte_count
                for streams in (dask_scheduler.stream_comms, dask_scheduler.client_comms)
                for stream in streams.values()
            ]
        )
        return np.array([client.scheduler_comm.byte_count, sum(of_scheduler), sum(of_workers.values())])

    def clear():
        client.run(lambda dask_worker: dask_worker.transfer_outgoing_log.clear())

    clear()
    sources = []
    model = SoftmaxRegression(max_iter=2, callback=lambda it: True)
    training = model._training
    model._training = lambda *arguments: sources.append(training(*arguments)) or sources[-1]
    arrays = on_dask(X, y, chunks=len(X) // n_partitions)
    with pytest.warns(match="The callback stopped the fit"):
        model.fit(*arrays)

    names = {str(key).split("-")[0] for key, _ in sent()}
    assert names & {"_operate", "_combine"}
    assert not names & {"load", "among"}
    clear()
    before = control()
    for _ in range(n_passes):
        result = sources[0].source.loss_gradient(coef, intercept)
    messages = [size for _, size in sent()]
    one = coef.nbytes + intercept.nbytes
    # Each pass: the operation to the worker that has not got it, and what is added up.
    assert n_passes <= len(messages) <= n_passes * (n_partitions + 1)
    # A rim of names and losses.
    assert max(messages) <= 1.1 * one + 2000
    # The coefficients once from the client and once from the scheduler; some kilobytes that name each partition's task.
    of_client, of_scheduler, of_workers = (control() - before) / n_passes
    assert one <= of_client <= 1.1 * one + 10_000 + 1_000 * n_partitions
    assert one <= of_scheduler <= 1.1 * one + 10_000 + 3_000 * n_partitions
    assert of_workers <= 5_000 + 2_000 * n_partitions
    expected = softfast.loss_gradient(X, y, coef, intercept)
    np.testing.assert_allclose(result[0] / len(X), expected[0], rtol=1e-12)


@pytest.mark.parametrize("string", ["object", "category", "string"])
def test_labels_as_text(string, client):
    X, y = load_iris(return_X_y=True)
    frame = pd.DataFrame(X, columns=list("abcd")).assign(species=NAMES[y]).astype({"species": string})
    table = dd.from_pandas(frame, npartitions=2, sort=False)
    model = SoftmaxRegression(tol=1e-2).fit(table[list("abcd")], table["species"])
    assert model.classes_.tolist() == ["aspen", "fir", "pine"]
    predicted = model.predict(table[list("abcd")])
    assert predicted.dtype == model.classes_.dtype
    assert predicted.compute().tolist() == model.to_local().predict(frame[list("abcd")]).tolist()


def test_data_frame(client):
    X, y = load_iris(return_X_y=True, as_frame=True)
    frame = X.assign(species=NAMES[y], weight=np.arange(150) % 4).sample(frac=1, random_state=0)
    table, features = dd.from_pandas(frame, npartitions=3, sort=False), list(X.columns)
    model = SoftmaxRegression().fit(table[features], table["species"], table["weight"])
    memory = softfast.SoftmaxRegression().fit(frame[features], frame["species"], frame["weight"])
    np.testing.assert_allclose(model.coef_, memory.coef_, rtol=1e-4)
    assert model.feature_names_in_.tolist() == features
    right = model.predict(table[features]).compute() == frame["species"].to_numpy()
    accuracy = model.score(table[features], table["species"])
    assert abs(accuracy - right.mean()) < 1e-15
    accuracy = model.score(table[features], table["species"], table["weight"])
    assert abs(accuracy - np.average(right, weights=frame["weight"])) < 1e-15
    with pytest.raises(ValueError, match="X must have the columns of the fit, 'sepal length"):
        model.predict(table[features[::-1]])
    # One partition without rows, none with a known size.
    some = table[table["petal width (cm)"] > 0.2]
    assert len(model.predict_proba(some[features]).compute()) == (frame["petal width (cm)"] > 0.2).sum()
    empty = dd.concat([table.partitions[0], table.partitions[1].loc[lambda f: f["petal width (cm)"] > 99]])
    assert SoftmaxRegression(tol=1e-2).fit(empty[features], empty["species"]).converged_
    with pytest.raises(ValueError, match="X must have columns of numbers, those are not: 'species'"):
        model.fit(table, table["species"])
    missing = table.assign(**{features[1]: table[features[1]].where(table["weight"] > 0)})
    with pytest.raises(ValueError, match=r"partition \d, row \d+, feature 'sepal width \(cm\)': got nan"):
        model.fit(missing[features], missing["species"])


def test_files_are_read_once(rows, tmp_path, client):
    X, y = rows
    table = pd.DataFrame(X, columns=list("abcdef")).assign(tree=y, other="text")
    names = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for number, name in enumerate(names):
        table[100 * number : 100 * (number + 1)].to_parquet(name)
    log = tmp_path / "log"

    def read(name, columns=None):
        with log.open("a") as file:
            file.write(f"{name}\n")
        return pd.read_parquet(name, columns=columns)

    def files_read():
        lines = log.read_text().split()
        log.unlink()
        return sorted(lines)

    log.touch()
    read_by_us = dd.from_map(read, names, meta=table[:0])
    files_read()
    model = SoftmaxRegression(tol=1e-2).fit(read_by_us[list("abcdef")], read_by_us["tree"])
    assert files_read() == names
    accuracy = model.score(read_by_us[list("abcdef")], read_by_us["tree"])
    assert files_read() == names
    # Of few columns Dask reads the files together, and has fewer partitions.
    read_by_dask = dd.read_parquet(names)
    model = SoftmaxRegression(tol=1e-2).fit(read_by_dask[["a", "c"]], read_by_dask["tree"])
    assert model.predict(read_by_dask[["a", "c"]]).numblocks == (3,)
    accuracy = model.score(read_by_dask[["a", "c"]], read_by_dask["tree"])
    assert abs(accuracy - model.to_local().score(table[["a", "c"]], y)) < 1e-15


def test_sparse_blocks(rows, client):
    X, y = rows
    X = np.where(X > 0, X, 0)
    arrays = on_dask(X, y, chunks=60)
    sparse = arrays[0].map_blocks(csr_array, meta=csr_array((0, 0)))
    model = SoftmaxRegression().fit(sparse, arrays[1])
    assert_same_model(model, SoftmaxRegression().fit(*arrays), 1e-6)
    np.testing.assert_array_equal(model.predict_proba(sparse).compute(), model.predict_proba(csr_array(X)))


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_predictions_are_lazy(n_classes, dtype, rows):
    X, y = rows[0].astype(dtype), rows[1]
    y = y if n_classes == 4 else y == "fir"
    # Without a client: predictions need none.
    model = SoftmaxRegression().fit(X, y)
    ours = np.float32 if dtype == np.float32 else np.float64

    def never(block):
        raise AssertionError("was computed")

    lazy = da.from_array(X, chunks=(70, 3)).map_blocks(never, dtype=dtype, meta=np.empty((0, 0), dtype))
    shapes = {"predict": (300,), "decision_function": (300, 4) if n_classes == 4 else (300,)}
    for name in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        result = getattr(model, name)(lazy)
        assert result.dtype == (model.classes_.dtype if name == "predict" else ours)
        assert result.shape == shapes.get(name, (300, n_classes))
        assert result.chunks[0] == (70, 70, 70, 70, 20)
        computed = getattr(model, name)(da.from_array(X, chunks=(70, 3))).compute(scheduler="synchronous")
        np.testing.assert_array_equal(computed, getattr(model, name)(X))
        assert computed.dtype == result.dtype
        with pytest.raises(AssertionError, match="was computed"):
            result.compute(scheduler="synchronous")
    weight = np.arange(300.0)
    with dask.config.set(scheduler="synchronous"):
        accuracy = model.score(*on_dask(X, y, weight))
    assert abs(accuracy - model.score(X, y, weight)) < 1e-15


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_separation_is_found(rows, client):
    X, y = rows[0], (rows[0][:, 1] > 3).astype(int)
    with pytest.warns(match="separated"):
        SoftmaxRegression(C=np.inf).fit(*on_dask(X, y, chunks=150))


def spoil(X):
    # Workers can't import this module, so what they run is defined within a function.
    def change(block, block_id=None):
        block = block.copy()
        if block_id == (2, 0):
            block[7, 3] = np.nan
        return block

    return X.map_blocks(change, dtype=X.dtype)


def without_sizes(array):
    return array[da.from_array(np.ones(len(array), bool), chunks=array.chunks[0])]


def test_unknown_sizes(rows, client):
    X, y = on_dask(*rows, chunks=100)
    known = SoftmaxRegression(tol=1e-2).fit(X, y)
    for arguments in ((without_sizes(X), y), (X, without_sizes(y)), (without_sizes(X), without_sizes(y))):
        np.testing.assert_array_equal(SoftmaxRegression(tol=1e-2).fit(*arguments).coef_, known.coef_)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (spoil(X), y), "partition 2, row 7, feature 3: got nan; accepted are finite"),
        (lambda X, y: (X, y[:-1]), "y must have one value per row of X: X has 300 rows, y 299"),
        (lambda X, y: (X, without_sizes(y.rechunk(50))), "X has 5 partitions, y has 6, and the sizes of one"),
        (
            lambda X, y: (without_sizes(X), y.rechunk(((60, 80, 70, 70, 20),))),
            r"partition \d: X has 70 rows, but y has the shape",
        ),
        (lambda X, y: (X, y.compute()), r"y must be a Dask array or series of shape \(n,\), as X is one, got ndarray"),
        (lambda X, y: (X, None), "y must be a Dask array or series of labels, got None"),
        (lambda X, y: (X, X), r"y must be a Dask array or series of shape \(n,\)"),
        (lambda X, y: (X, X[:, 0]), r"partition \d, row 0: got the label .*labels of classes are no fractions"),
        (lambda X, y: (X, y == "none"), "y must hold at least two classes"),
        (
            lambda X, y: (X, y, -(X[:, 0] ** 2)),
            r"partition \d, row 0: got the weight -.*accepted are finite numbers >= 0",
        ),
        (lambda X, y: (X, y, 0 * X[:, 0]), "sample_weight must not be all zero"),
        (lambda X, y: (X, y, None, X), "offset must be None for Dask collections, got Array"),
        (lambda X, y: (X.astype(str), y), "X must hold real numbers, got <U"),
        (lambda X, y: (X[:0], y[:0]), "X has no rows"),
        (lambda X, y: (X[:0], (y[:0] == "none").astype(int)), "X has no rows"),
        (lambda X, y: (X[:, :0], y), "X has no features"),
    ],
)
def test_what_is_wrong(change, message, rows, client):
    model = SoftmaxRegression()
    with pytest.raises(ValueError, match=message):
        model.fit(*change(*on_dask(*rows)))
    assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize("dtype", [int, np.uint8, float, str])
def test_partitions_without_rows(dtype, rows, client):
    X, y = rows
    y = np.unique(y, return_inverse=True)[1].astype(dtype)
    chosen = np.arange(300) % 140 >= 70
    lazy, labels, rule = (da.from_array(a, chunks=(70, 6)[: a.ndim]) for a in (X, y, chosen))
    model = SoftmaxRegression(tol=1e-12).fit(lazy[rule], labels[rule])
    np.testing.assert_allclose(
        model.coef_, softfast.SoftmaxRegression(tol=1e-12).fit(X[chosen], y[chosen]).coef_, rtol=1e-4
    )
    np.testing.assert_array_equal(model.classes_, np.unique(y))


def test_wrong_rows_in_a_prediction(rows):
    model = SoftmaxRegression().fit(*rows)
    X = da.from_array(np.where(np.arange(300)[:, None] == 200, np.nan, rows[0]), chunks=(70, 6))
    with pytest.raises(ValueError, match="partition 2: X must not hold NaN"):
        model.predict(X).compute(scheduler="synchronous")
    with pytest.raises(ValueError, match="X must have 6 features, as in the fit, got 5"):
        model.predict(X[:, :5])
    with pytest.raises(ValueError, match="offset must be None"):
        model.predict(X, offset=np.zeros((300, 4)))


def test_fit_without_a_client(rows):
    with pytest.raises(RuntimeError, match=r"there is none: client = distributed\.Client\(\) starts workers"):
        SoftmaxRegression().fit(*on_dask(*rows))


def test_partitions_move_as_arrays(rows):
    X, y = rows
    partition = Partition(X, np.unique(y, return_inverse=True)[1], None, np.unique(y))
    expected = partition.source.loss_gradient(np.ones((4, 6)), np.zeros(4))
    assert sys.getsizeof(partition) >= X.nbytes
    assert sys.getsizeof(partition.source.sample(len(X), partition.source.moments())) >= X.nbytes
    moved = pickle.loads(pickle.dumps(partition))
    for ours, theirs in zip(moved.source.loss_gradient(np.ones((4, 6)), np.zeros(4)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sums_can_be_made_again():
    results = [([float(k)], np.full((2, 3), float(k)), np.ones(2)) for k in range(4)]
    for _ in range(2):
        losses, product, residual = _combine(_add_losses, results)
        assert losses == [0, 1, 2, 3]
        assert (product == 6).all()
        assert (residual == 4).all()


def test_command(rows, tmp_path, client):
    X, y = rows
    table = pd.DataFrame(X, columns=list("abcdef")).assign(tree=y)
    (tmp_path / "rows").mkdir()
    for number in range(3):
        table[100 * number : 100 * (number + 1)].to_parquet(tmp_path / "rows" / f"{number}.parquet")
    out = tmp_path / "model.safetensors"
    address = client.scheduler.address
    arguments = ["fit", str(tmp_path / "rows"), "--target", "tree", "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--dask", address])
    assert result.exit_code == 0, result.output
    assert "3 partitions on 2 workers" in result.output
    from softfast.model_file import load

    model, metadata = load(out)
    assert metadata["feature_names"] == list("abcdef")
    np.testing.assert_allclose(model.coef_, softfast.SoftmaxRegression().fit(X, y).coef_, rtol=1e-3)
    result = CliRunner().invoke(app, [*arguments[:3], "none", "--dask", address])
    assert result.exit_code == 2
    assert "there is no column 'none'" in result.output


def test_documented_example_prints_what_it_says(tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "dask.md").read_text(encoding="utf-8")
    code, expected = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-P", str(tmp_path / "example.py")]
    assert subprocess.run(command, capture_output=True, text=True, timeout=180).stdout == expected
