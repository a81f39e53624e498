"""Parquet and Arrow files that are read in parts, and the copy on disk that later passes read."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, parquet
from typer.testing import CliRunner

import softfast
from softfast import SoftmaxRegression, commands, model_file
from softfast.sources import readers

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def table(rng):
    z = rng.normal(size=(900, 4))
    X, y = z * [1, 10, 0.1, 3] + 2, (z @ rng.normal(size=(4, 3)) + rng.gumbel(size=(900, 3))).argmax(axis=1)
    labels = np.array(["pine", "fir", "oak"])[y]
    return pa.table({**dict(zip(NAMES, X.T, strict=True)), "tree": labels, "w": rng.uniform(0.1, 2, 900)})


@pytest.fixture
def folder(table, tmp_path, monkeypatch):
    # 31 rows of four float64: chunks that begin and end anywhere in files and row groups.
    monkeypatch.setattr(readers, "CHUNK_BYTES", 1000)
    path = tmp_path / "rows"
    (path / "more").mkdir(parents=True)
    parquet.write_table(table[:300], path / "1.parquet", row_group_size=70)
    parquet.write_table(table[300:310], path / "2.pq")
    feather.write_feather(table[310:].combine_chunks(), path / "more" / "3.arrow", compression="uncompressed")
    (path / "_SUCCESS").write_text("")
    (path / ".hidden.parquet").write_text("")
    return path


def arrays(table, dtype=np.float64):
    X = np.column_stack([table.column(name).to_numpy() for name in NAMES]).astype(dtype)
    return X, np.array(table.column("tree").to_pylist()), table.column("w").to_numpy()


@pytest.mark.filterwarnings("ignore:The fit stopped where rounding")
@pytest.mark.parametrize("parameters", [{}, {"class_weight": "balanced"}, {"C": np.inf}])
def test_same_optimum_as_in_memory(parameters, folder, table, tmp_path):
    X, y, weight = arrays(table)
    disk = tmp_path / "disk"
    disk.mkdir()
    with softfast.from_parquet(folder, target="tree", columns=NAMES, weight="w", cache=disk) as rows:
        streamed = SoftmaxRegression(tol=0.0, **parameters).fit(rows)
        assert sys.platform == "win32" or not list(disk.iterdir())
        predicted, score = streamed.predict(rows), streamed.score(rows)
    assert not list(disk.iterdir())
    memory = SoftmaxRegression(tol=0.0, **parameters).fit(X, y, weight)
    for name in ("coef_", "intercept_"):
        ours, theirs = getattr(streamed, name), getattr(memory, name)
        assert np.abs(ours - theirs).max() <= 1e-10 * np.abs(theirs).max()
    assert streamed.classes_.tolist() == ["fir", "oak", "pine"]
    assert streamed.feature_names_in_.tolist() == NAMES
    np.testing.assert_array_equal(predicted, memory.predict(X))
    assert abs(score - memory.score(X, y, weight)) < 1e-12
    # The rows can be used again after they have been closed.
    assert streamed.score(rows) == score


def test_columns_and_types(folder, table, tmp_path):
    X, _, _ = arrays(table)
    rows = softfast.from_parquet(folder, columns=["c", "a"])
    chunks = list(rows)
    np.testing.assert_array_equal(np.concatenate([x for x, _, _ in chunks]), X[:, [2, 0]])
    assert all(y is None and weight is None for _, y, weight in chunks)
    with pytest.raises(ValueError, match="has no labels"):
        SoftmaxRegression().fit(rows)
    mixed = pa.table(
        {
            "half": pa.array(np.ones(5, np.float16)),
            "yes": [True, False, True, True, False],
            "short": pa.array(np.arange(5, dtype=np.int16)),
            "y": pa.array(["p", "q", "p", "q", "q"]).dictionary_encode(),
        }
    )
    parquet.write_table(mixed, tmp_path / "mixed.parquet")
    ((x, y, _),) = softfast.from_parquet(tmp_path / "mixed.parquet", target="y")
    assert x.dtype == np.float32
    assert x.tolist() == [[1, 1, 0], [1, 0, 1], [1, 1, 2], [1, 1, 3], [1, 0, 4]]
    assert y.tolist() == ["p", "q", "p", "q", "q"]
    frame = pd.DataFrame({"x": np.arange(6.0), "y": [0, 1] * 3}, index=np.arange(6) + 3)
    frame.to_parquet(tmp_path / "pandas.parquet")
    assert softfast.from_parquet(tmp_path / "pandas.parquet", target="y").feature_names == ["x"]


def test_features_are_those_of_the_fit(folder):
    model = SoftmaxRegression().fit(softfast.from_parquet(folder, target="tree", columns=NAMES))
    with pytest.raises(ValueError, match="must have the features of the fit"):
        model.predict(softfast.from_parquet(folder, columns=NAMES[::-1]))
    decoded = model.predict(softfast.from_parquet(folder, columns=NAMES))
    assert len(decoded) == 900


def set_column(table, name, values):
    return table.set_column(table.schema.get_field_index(name), name, values)


def with_value(table, name, row, value):
    values = table.column(name).to_pylist()
    values[row] = value
    return set_column(table, name, pa.array(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: with_value(t, "b", 222, float("nan")), r"1\.parquet, row 223, column 'b': got nan"),
        (lambda t: with_value(t, "b", 222, float("inf")), r"1\.parquet, row 223, column 'b': got inf"),
        (lambda t: with_value(t, "b", 222, None), r"1\.parquet, row 223, column 'b': a value is missing"),
        (lambda t: with_value(t, "tree", 222, None), r"1\.parquet, row 223, column 'tree': the label is missing"),
        (lambda t: with_value(t, "w", 222, -1.0), r"1\.parquet, row 223: got the weight -1\.0"),
        (lambda t: set_column(t, "b", t.column("tree")), "1.parquet, column 'b': is of type string"),
        (
            lambda t: set_column(t, "b", t.column("tree").dictionary_encode()),
            "1.parquet, column 'b': is of type dictionary",
        ),
        (lambda t: t.drop_columns(["b"]), r"1\.parquet: the features 'b' are missing|no column 'b'"),
        (lambda t: t.drop_columns(["tree"]), r"1\.parquet: there is no column 'tree'"),
        (lambda t: t.drop_columns(["w"]), r"1\.parquet: there is no column 'w' of weights"),
        (
            lambda t: set_column(t, "c", t.column("c").cast(pa.float32())),
            r"2\.pq, column 'c': is of type double, but of float in .*1\.parquet",
        ),
    ],
)
def test_what_is_wrong_with_a_file(change, message, folder, table, tmp_path):
    parquet.write_table(change(table[:300].combine_chunks()), folder / "1.parquet", row_group_size=70)
    disk = tmp_path / "disk"
    disk.mkdir()
    with pytest.raises(ValueError, match=message):
        SoftmaxRegression().fit(softfast.from_parquet(folder, target="tree", columns=NAMES, weight="w", cache=disk))
    assert not list(disk.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": "ab"}, "columns must be a list of names, got the string 'ab'"),
        ({"columns": ["a", "tree"]}, "columns must be those of X alone, but 'tree' is the target"),
        ({"columns": ["a", "w"], "weight": "w"}, "columns must be those of X alone, but 'w' is the weight"),
        ({"weight": "tree"}, "weight must be another column than the target, got 'tree' for both"),
        ({"cache_limit": -1}, "cache_limit must be None or an integer >= 0, bytes, got -1"),
        ({"cache_limit": "1 GB"}, "cache_limit must be None or an integer >= 0, bytes, got '1 GB'"),
    ],
)
def test_bad_arguments_are_named(arguments, message, folder):
    with pytest.raises(ValueError, match=message):
        softfast.from_parquet(folder, target="tree", **{"columns": NAMES, **arguments})


@pytest.mark.parametrize("column", ["b", "tree"])
def test_schema_that_changes_between_files(column, folder, table):
    parquet.write_table(table[300:310].drop_columns([column]), folder / "2.pq")
    with pytest.raises(ValueError, match=rf"2\.pq: there is no column '{column}', which .*1\.parquet has"):
        softfast.from_parquet(folder, target="tree", columns=NAMES)


@pytest.mark.parametrize("name", ["1.parquet", "2.arrow", "3.pq"])
def test_columns_of_the_same_name(name, folder, table):
    """In the first file or a later one, whether the columns are asked for or not."""
    twice = table.append_column("a", table.column("b"))
    if name.endswith(".arrow"):
        with pa.ipc.new_file(folder / name, twice.schema) as file:
            file.write_table(twice)
    else:
        parquet.write_table(twice, folder / name)
    for columns in (None, ["b"]):
        with pytest.raises(ValueError, match=rf"{name}: two columns have the name 'a'; every column needs its own"):
            softfast.from_parquet(folder, target="tree", columns=columns, weight="w")


@pytest.mark.parametrize("n_rows", [250, 350])
def test_file_that_changes_between_opening_and_reading(n_rows, folder, table, tmp_path):
    rows = softfast.from_parquet(folder, target="tree", columns=NAMES, cache=tmp_path)
    parquet.write_table(table[:n_rows], folder / "1.parquet", row_group_size=70)
    with pytest.raises(ValueError, match=r"1\.parquet: the file has changed since it was opened"):
        SoftmaxRegression().fit(rows)
    (folder / "1.parquet").unlink()
    with pytest.raises(ValueError, match=r"1\.parquet: can't be read any more \(No such file"):
        SoftmaxRegression().fit(rows)


def test_pass_under_way_goes_on_where_the_rows_are_closed(folder, table, tmp_path):
    rows = softfast.from_parquet(folder, target="tree", columns=NAMES, cache=tmp_path)
    SoftmaxRegression().fit(rows)
    chunks = []
    for X, _, _ in rows:
        rows.close()
        chunks.append(X.copy())
    np.testing.assert_array_equal(np.concatenate(chunks), arrays(table)[0])


def test_damaged_files(folder, table, tmp_path):
    whole = (folder / "1.parquet").read_bytes()
    (folder / "2.pq").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"2\.pq: damaged or cut off, not a whole Parquet file"):
        softfast.from_parquet(folder, target="tree")
    # A page in the middle: found when it is decoded.
    begin = parquet.ParquetFile(folder / "1.parquet").metadata.row_group(2).column(1).data_page_offset
    (folder / "2.pq").write_bytes(whole[:begin] + b"\xff" * 40 + whole[begin + 40 :])
    with pytest.raises(ValueError, match=r"2\.pq: damaged or cut off"):
        SoftmaxRegression().fit(softfast.from_parquet(folder, target="tree", weight="w"))
    (folder / "2.pq").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2\.pq: damaged or cut off"):
        softfast.from_parquet(folder, target="tree")
    parquet.write_table(table[:0], tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"empty\.parquet: has no rows"):
        softfast.from_parquet(tmp_path / "empty.parquet", target="tree")
    (tmp_path / "x.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"unknown ending '\.csv'"):
        softfast.from_parquet(tmp_path / "x.csv")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="there are no files with the endings"):
        softfast.from_parquet(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no such file or folder"):
        softfast.from_parquet(tmp_path / "none.parquet")


def test_not_enough_space(folder, tmp_path, monkeypatch):
    limited = softfast.from_parquet(folder, target="tree", columns=NAMES, cache=tmp_path, cache_limit=20_000)
    model = SoftmaxRegression()
    with pytest.raises(ValueError, match=r"takes .* or more, and cache_limit is .*; name a folder with more space"):
        model.fit(limited)
    with pytest.raises(ValueError, match="the rows can't be kept there"):
        model.fit(softfast.from_parquet(folder, target="tree", columns=NAMES, cache=tmp_path / "none"))
    assert not hasattr(model, "coef_")
    usage = SimpleNamespace(total=10**9, used=10**9 - 1000, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"9\.31e-07 GiB are free"):
        model.fit(softfast.from_parquet(folder, target="tree", columns=NAMES, cache=tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the operating system")
def test_disk_that_fills_up(folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
import resource, threading, softfast
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
rows = softfast.from_parquet({str(folder)!r}, target="tree", cache={str(disk)!r})
try:
    softfast.SoftmaxRegression().fit(rows)
except ValueError as error:
    print(error)
assert threading.active_count() == 1
"""
    out = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True).stdout
    assert "the disk is full" in out
    assert not list(disk.iterdir())


def run(*arguments, code=0):
    result = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_commands_take_folders(folder, table, tmp_path):
    whole, model = tmp_path / "whole.parquet", tmp_path / "m.safetensors"
    parquet.write_table(table.drop_columns(["w"]), whole)
    for path in folder.rglob("*.p*q*"):
        if not path.name.startswith("."):
            parquet.write_table(parquet.read_table(path).drop_columns(["w"]), path)
    feather.write_feather(table[310:].drop_columns(["w"]), folder / "more" / "3.arrow")
    inside = run("fit", whole, "--target", "tree", "--out", tmp_path / "inside.safetensors").stdout
    assert "900 rows, 4 features, float64\n" in inside
    for file in (folder, whole):
        out = run("fit", file, "--target", "tree", "--out", model, "--memory-limit", 1e-6, "--cache", tmp_path).stdout
        assert "900 rows, 4 features, float64, in parts" in out
        assert out.splitlines()[-2] == inside.splitlines()[-2]
    streamed, metadata = model_file.load(model)
    assert (metadata["feature_names"], metadata["target"]) == (NAMES, "tree")
    # A feature that a file has in another place, and one that the model does not know.
    moved = table.select(["d", "w", "c", "b", "a", "tree"])
    parquet.write_table(moved, tmp_path / "moved.parquet")
    X, y, _ = arrays(table)
    for file in (folder, whole, tmp_path / "moved.parquet"):
        run("predict", model, file, "--out", tmp_path / "p.parquet")
        predictions = parquet.read_table(tmp_path / "p.parquet")
        np.testing.assert_array_equal(predictions.column("prediction").to_pylist(), labels_of(streamed, X))
        np.testing.assert_allclose(predictions.column("proba_oak"), proba_of(streamed, X)[:, 1], rtol=1e-12)
        evaluated = run("evaluate", model, file).stdout
        assert f"{(labels_of(streamed, X) == y).mean():.4f}" in evaluated
    message = run("fit", folder, "--out", model, code=2).stderr
    assert "the column of labels must be named" in message
    message = run("evaluate", model, folder, "--target", "d", code=2).stderr
    assert "the model does not know the labels" in message
    parquet.write_table(table.drop_columns(["a", "w"]), folder / "1.parquet")
    assert "the features 'a' are missing" in run("predict", model, folder, "--out", "p.csv", code=2).stderr


def labels_of(model, X):
    return model.classes_[(X @ model.coef_.T + model.intercept_).argmax(axis=1)]


def proba_of(model, X):
    z = np.exp(X @ model.coef_.T + model.intercept_)
    return z / z.sum(axis=1, keepdims=True)
