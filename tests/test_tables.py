"""Tables in files: what is read, and what each bad file is told."""

import io
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sklearn.datasets import dump_svmlight_file

from softfast.tables import TableError, arrow, read_table, write_predictions

X = np.array([[1.5, -2.0, 0.0], [0.25, 1e-300, 7.0], [3.0, 4.0, -5e8], [0.0, 0.0, 1.0]])
NAMES = ["a", "b", "c"]


def put(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def frame(X, labels, name="kind"):
    return pd.DataFrame(X, columns=NAMES).assign(**{name: labels})


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["x", "y", "x", "z,\n w"], "U"),
        ([3, 1, 1, -2], "i"),
        ([0.5, 1.0, 1.0, 0.5], "f"),
        ([True, False, False, True], "b"),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".pq", ".npz", ".CSV"])
def test_every_kind_of_labels_comes_back(tmp_path, ending, labels, kind):
    path = tmp_path / f"table{ending}"
    match ending.lower():
        case ".csv":
            frame(X, labels).to_csv(path, index=False)
        case ".npz":
            np.savez(path, X=X, kind=np.array(labels))
        case _:
            frame(X, labels).to_parquet(path)
    table = read_table(path, target="kind")
    np.testing.assert_array_equal(table.X, X)
    assert table.X.dtype == np.float64
    assert table.y.dtype.kind == kind
    assert table.y.tolist() == labels
    assert table.feature_names == (None if ending == ".npz" else NAMES)


@pytest.mark.parametrize("ending", [".svm", ".libsvm", ".svmlight"])
def test_libsvm(tmp_path, ending):
    path = tmp_path / f"table{ending}"
    dump_svmlight_file(X, [2, 1, 1, -1], str(path), zero_based=False)
    table = read_table(path)
    np.testing.assert_array_equal(table.X, X)
    assert table.y.dtype == np.int64
    assert table.y.tolist() == [2, 1, 1, -1]
    assert table.feature_names is None
    # The zeros at the end of the rows are not in the file.
    assert read_table(put(path, "1 1:2 # note\n\n2\n"), n_features=3).X.tolist() == [[2, 0, 0], [0, 0, 0]]
    assert read_table(put(path, "0.5 1:2\n1 qid:4 2:1\n")).y.tolist() == [0.5, 1.0]
    assert read_table(path, labelled=False).y is None


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["f4", "f4", "f4"], "f4"),
        (["f2", "i2", "u1"], "f4"),
        (["?", "u2", "i1"], "f4"),
        (["f4", "i4", "f4"], "f8"),
        (["f8", "f4", "f4"], "f8"),
        (["i8", "u8", "u4"], "f8"),
    ],
)
def test_dtype_holds_every_feature_exactly(tmp_path, dtypes, expected):
    columns = [np.array([0, 1, 1], dtype=dtype) for dtype in dtypes]
    pa.parquet.write_table(pa.table(dict(zip(NAMES, columns, strict=True))), tmp_path / "table.parquet")
    table = read_table(tmp_path / "table.parquet", labelled=False)
    assert table.X.dtype == expected
    assert table.X.flags.f_contiguous
    np.testing.assert_array_equal(table.X, np.stack(columns, axis=1).astype(expected))
    for column in columns:
        np.savez(tmp_path / "table.npz", X=column[:, None])
        small = column.dtype.kind == "b" or column.itemsize <= (4 if column.dtype.kind == "f" else 2)
        assert read_table(tmp_path / "table.npz", labelled=False).X.dtype == (np.float32 if small else np.float64)


def test_columns_are_matched_by_name_and_others_passed_over(tmp_path):
    table = frame(X, ["x", "y", "y", "x"]).assign(note=["", "text", "7", None])
    table.to_csv(tmp_path / "table.csv", index=False)
    table.to_parquet(tmp_path / "table.parquet")
    for path in (tmp_path / "table.csv", tmp_path / "table.parquet"):
        read = read_table(path, target="kind", features=["c", "a"], n_features=2)
        np.testing.assert_array_equal(read.X, X[:, [2, 0]])
        assert read.feature_names == ["c", "a"]
        assert read.y.tolist() == ["x", "y", "y", "x"]
        assert read_table(path, target="absent", features=["b"], labelled=False).y is None
        with pytest.raises(TableError, match=r"features 'd', 'e' are missing; the columns are 'a', 'b', 'c', 'kind'"):
            read_table(path, features=["d", "a", "e"], labelled=False)
        with pytest.raises(TableError, match=r"has 2 features; expected 3"):
            read_table(path, features=["a", "b"], n_features=3, labelled=False)


def test_parquet_of_several_row_groups_and_odd_names(tmp_path):
    rng = np.random.default_rng(0)
    columns = {"a": rng.normal(size=1000), "a.b": rng.normal(size=1000), "": rng.integers(9, size=1000)}
    labels = pd.Categorical(rng.choice(["x", "y"], size=1000))
    pd.DataFrame({**columns, "kind": labels}).to_parquet(tmp_path / "table.parquet", row_group_size=77)
    table = read_table(tmp_path / "table.parquet", target="kind")
    np.testing.assert_array_equal(table.X, np.stack(list(columns.values()), axis=1))
    assert table.y.tolist() == list(labels)


def test_parquet_index_of_pandas_is_no_feature(tmp_path):
    frame(X, [0, 1, 0, 1]).query("a < 2").to_parquet(tmp_path / "table.parquet")
    assert "__index_level_0__" in pa.parquet.read_schema(tmp_path / "table.parquet").names
    assert read_table(tmp_path / "table.parquet", target="kind").feature_names == NAMES


def test_csv_dialect(tmp_path):
    def read(text):
        table = read_table(put(tmp_path / "table.csv", text), target="y")
        return table.X.tolist(), table.y.tolist()

    expected = ([[1.0, 0.5], [2.0, -1e3]], ["p", "q"])
    assert read("a,b,y\n1,.5,p\n2,-1e3,q\n") == expected
    assert read("a,b,y\r\n1,.5,p\r\n\r\n2,-1e3,q") == expected
    assert read(b'\xef\xbb\xbf"a","b","y"\n1, .5,p\n"2",-1e3,"q"\n') == expected
    assert read("a,b,y\n1,true,p\n2,False,q\n") == ([[1.0, 1.0], [2.0, 0.0]], ["p", "q"])
    assert read('y,b\n"NA",1\nx,2\n') == ([[1.0], [2.0]], ["NA", "x"])
    assert read("y,b\n2020-01-01,1\n2021-01-01,2\n") == ([[1.0], [2.0]], ["2020-01-01", "2021-01-01"])
    assert read("y,b\n1,1\n2.5,2\n") == ([[1.0], [2.0]], [1.0, 2.5])


def test_csv_of_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "_CSV_BLOCK", 4096)
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(3000, 3)), rng.integers(100, size=3000)
    frame(rows, [f"{label}\nx" for label in labels]).to_csv(tmp_path / "table.csv", index=False)
    table = read_table(tmp_path / "table.csv", target="kind")
    np.testing.assert_array_equal(table.X, rows)
    assert table.y.tolist() == [f"{label}\nx" for label in labels]


BAD_CSV = {
    "empty": ("", "the file is empty; expected a table"),
    "blank": ("\n\n", "line 1: column 1 has no name"),
    "header only": ("a,b,y\n", "names 3 columns, but has no rows"),
    "ragged": ('a,b,y\n1,"2\n",x\n1,2,x\n\n1,2\n', "line 6: 2 values, but line 1 names 3 columns"),
    "too long": ("a,b,y\n1,2,x,4\n", "line 2: 4 values, but line 1 names 3 columns"),
    "text in a column": ("a,b,y\n1,2,x\n\n3,four,x\n5,six,x\n", "line 4, column 'b': got 'four' (string); features"),
    "text in a block of numbers": ("a,b,y\n" + "1,2,x\n" * 5000 + "1,1_0,x\n", "line 5002, column 'b': got '1_0'"),
    "dates": ("a,b,y\n1,2020-01-01,x\n", "line 2, column 'b': got datetime.date(2020, 1, 1) (date32[day]); features"),
    "not UTF-8 in a column": (b"a,b,y\n1,\xff\xfe,x\n", "is not UTF-8 text (invalid start byte)"),
    "missing": ("a,b,y\n1,2,x\n3,,x\n", "line 3, column 'b': a value is missing; features are finite numbers"),
    "NA": ("a,b,y\n1,2,x\nNA,2,x\n", "line 3, column 'a': a value is missing"),
    "NaN": ("a,b,y\n1,2,x\n3,4,y\n5,nan,x\n", "line 4, column 'b': a value is missing"),
    "all missing": ("a,b,y\n1,,x\n3,,x\n", "line 2, column 'b': a value is missing"),
    "inf": ("a,b,y\n1,2,x\n3,-inf,x\n", "line 3, column 'b': got -inf; features are finite numbers"),
    "overflow": ("a,b,y\n1,1e400,x\n", "line 2, column 'b': got inf; features are finite numbers"),
    "label missing": ("a,y\n1,x\n2,\n", "line 3, column 'y': the label is missing"),
    "label missing among integers": ("a,y\n1,0\n2,\n", "line 3, column 'y': the label is missing"),
    "label missing in quotes": ('a,y\n1,x\n2,""\n', "line 3, column 'y': the label is missing"),
    "label NA": ("a,y\n1,x\n2,NA\n", "line 3, column 'y': the label is missing"),
    "label infinite": ("a,y\n1,1.5\n2,inf\n", "line 3, column 'y': got the label inf; labels are integers"),
    "label not UTF-8": (b"a,y\n1,x\n2,\xff\n", "is not UTF-8 text (invalid start byte)"),
    "no target": ("a,b,c\n1,2,3\n", "there is no column 'y'; the columns are 'a', 'b', 'c'"),
    "semicolons": ("a;b;y\n1;2;3\n", "the columns are 'a;b;y' (columns are separated by commas)"),
    "no features": ("y\n1\n", "there is no column of features; the columns are 'y'"),
    "twice": ("a,b,a,y\n1,2,3,4\n", "two columns have the name 'a'"),
    "nameless": (",b,y\n0,2,3\n", "line 1: column 1 has no name"),
    "Parquet": (b"PAR1\x15\x04\x15", "is not a CSV file: it begins with b'PAR1"),
    "gzip": (b"\x1f\x8b\x08\x08abc", "is not a CSV file: it begins with b'\\x1f\\x8b"),
    "binary": (b"ab\x00cd", "is not a CSV file: it begins with b'ab\\x00cd'"),
    "UTF-16": ("a,b".encode("utf-16-le"), "is not a CSV file"),
    "names not UTF-8": (b"a\xff,y\n1,2\n", "is not UTF-8 text (invalid start byte)"),
    "unclosed quote": ('a,y\n1,p\n\n2,"q\n3,p\n', "line 4: is not CSV (unexpected end of data)"),
    "unclosed quote among numbers": ('a,y\n1,p\n"2,q\n3,p\n', "line 3: is not CSV (unexpected end of data)"),
    "endless label": ('a,y\n1,"' + "x" * 200_000, "line 2: is not CSV (field larger than field limit (131072))"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_csv(tmp_path, name):
    text, message = BAD_CSV[name]
    path = put(tmp_path / "table.csv", text)
    with pytest.raises(TableError) as caught:
        read_table(path, target="y")
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def parquet(columns, **options):
    buffer = io.BytesIO()
    pa.parquet.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


GOOD_PARQUET = parquet({"a": np.arange(200.0), "y": ["p", "q"] * 100})

BAD_PARQUET = {
    "CSV": (b"a,y\n1,2\n", "is not a Parquet file: it begins with b'a,y\\n1,2\\n'; expected b'PAR1'"),
    "four bytes": (b"PAR1", "damaged or cut off, not a whole Parquet file"),
    "cut off": (GOOD_PARQUET[:-20], "damaged or cut off, not a whole Parquet file"),
    "pages overwritten": (GOOD_PARQUET[:4] + b"\xff" * 60 + GOOD_PARQUET[64:], "damaged or cut off"),
    "no rows": (
        parquet({"a": pa.array([], pa.float64()), "y": pa.array([], pa.int64())}),
        "names 2 columns, but has no",
    ),
    "no target": (parquet({"a": [1.0], "b": [2.0]}), "there is no column 'y'; the columns are 'a', 'b'"),
    "missing": (parquet({"a": [1.0, 2.0, None], "y": [0, 1, 1]}), "row 3, column 'a': a value is missing"),
    "nothing": (parquet({"a": pa.nulls(2), "y": [0, 1]}), "row 1, column 'a': a value is missing"),
    "NaN": (parquet({"a": [1.0, np.nan], "y": [0, 1]}), "row 2, column 'a': got nan; features are finite numbers"),
    "text": (parquet({"a": ["1", "2", "three"], "y": [0, 1, 1]}), "row 3, column 'a': got 'three' (string)"),
    "digits as text": (parquet({"a": [None, "7"], "y": [0, 1]}), "row 2, column 'a': got '7' (string)"),
    "categories": (parquet({"a": pa.array(["u", "v"]).dictionary_encode(), "y": [0, 1]}), "row 1, column 'a': got 'u'"),
    "lists": (parquet({"a": [[1.0], [2.0]], "y": [0, 1]}), "row 1, column 'a': got [1.0] (list<"),
    "label missing": (parquet({"a": [1.0, 2.0], "y": ["p", None]}), "row 2, column 'y': the label is missing"),
    "label NaN": (parquet({"a": [1.0, 2.0], "y": [0.5, np.nan]}), "row 2, column 'y': got the label nan"),
    "labels lists": (parquet({"a": [1.0, 2.0], "y": [[0], [1]]}), "got labels of type list<"),
}


@pytest.mark.parametrize("name", BAD_PARQUET)
def test_bad_parquet(tmp_path, name):
    data, message = BAD_PARQUET[name]
    path = put(tmp_path / "table.parquet", data)
    with pytest.raises(TableError) as caught:
        read_table(path, target="y")
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


GOOD_NPZ = npz(X=X, y=np.arange(4))


def plain_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("X.npy", b"not an array")
        file.writestr("y.npy", b"not an array")
    return buffer.getvalue()


def huge_header():
    """An array of 2^50 numbers, says its header."""
    buffer, array = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f8", "fortran_order": False, "shape": (2**25, 2**25)})
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("X.npy", array.getvalue())
    return buffer.getvalue()


BAD_NPZ = {
    "text": (b"a,y\n1,2\n", "is not an NPZ file: it begins with b'a,y\\n1,2\\n'; expected b'PK'"),
    "cut off": (GOOD_NPZ[:300], "damaged, or holds Python objects"),
    "one byte changed": (GOOD_NPZ[:200] + b"?" + GOOD_NPZ[201:], "damaged, or holds Python objects"),
    "not arrays": (plain_zip(), "'X' is not an array in NumPy's format"),
    "huge": (huge_header(), "does not fit in memory"),
    "objects": (npz(X=np.array([[1, None]]), y=np.arange(1)), "holds Python objects, which are not read"),
    "no X": (npz(data=X, y=np.arange(4)), "there is no array 'X'; the arrays are 'data', 'y'"),
    "no y": (npz(X=X), "there is no array 'y'; the arrays are 'X'"),
    "empty": (npz(), "there is no array 'X'; the arrays are none"),
    "one dimension": (npz(X=X[0], y=np.arange(3)), "X must hold numbers of shape (n, p), got float64 of shape (3,)"),
    "strings": (npz(X=np.array([["1"]]), y=np.arange(1)), "X must hold numbers of shape (n, p), got <U1"),
    "complex": (npz(X=X + 1j, y=np.arange(4)), "got complex128 of shape (4, 3)"),
    "no rows": (npz(X=X[:0], y=np.arange(0)), "must have one row and one feature at least, got shape (0, 3)"),
    "NaN": (npz(X=np.where(X == 7, np.nan, X), y=np.arange(4)), "X[1, 2]: got nan; features are finite numbers"),
    "y short": (
        npz(X=X, y=np.arange(3)),
        "y must hold integers, floats, booleans or strings, of shape (4,), got int64",
    ),
    "y bytes": (npz(X=X, y=np.array([b"a"] * 4)), "got |S1 of shape (4,)"),
    "y NaN": (npz(X=X, y=np.array([0, 1, np.nan, 1])), "y[2]: got the label nan"),
}


@pytest.mark.parametrize("name", BAD_NPZ)
def test_bad_npz(tmp_path, name):
    data, message = BAD_NPZ[name]
    path = put(tmp_path / "table.npz", data)
    with pytest.raises(TableError) as caught:
        read_table(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


BAD_LIBSVM = {
    "text": ("a,y\n1,2\n", "line 1: got b'a,y'; expected a label, then index:value"),
    "no colon": ("1 1:2\n1 2\n", "line 2: got b'2'; expected a label, then index:value"),
    "no number": ("# c\n1 1:x\n", "line 2: got b'1:x'; expected a label"),
    "from zero": (
        "1 0:3\n",
        "line 1: got b'0:3'; expected a label, then index:value for each feature that is not zero",
    ),
    "falling": ("1 1:3\n1 3:1 2:1\n", "line 2: got b'2:1'; expected"),
    "binary": (b"\x00\xff\x12PAR1", "line 1: got b'\\x00\\xff\\x12PAR1'; expected"),
    "several labels": ("1,2 1:3\n", "line 1: got b'1,2'; expected a label"),
    "no rows": ("# nothing\n", "has no rows, or no features"),
    "NaN": ("1 1:3\n# c\n1 1:1 3:nan\n", "line 3, feature 3: got nan; features are finite numbers"),
    "label inf": ("1 1:3\n\ninf 1:1\n", "line 3: got the label inf; labels are integers"),
    "wide": ("1 1:3\n1 2000000000:1\n2 1:1\n" * 1000, "as a dense array; accepted is half of the memory"),
    "wider": ("1 99999999999999999999:1\n", "can't be read as LIBSVM"),
}


@pytest.mark.parametrize("name", BAD_LIBSVM)
def test_bad_libsvm(tmp_path, name):
    text, message = BAD_LIBSVM[name]
    path = put(tmp_path / "table.svm", text)
    with pytest.raises(TableError) as caught:
        read_table(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(TableError, match=r"absent\.csv: no such file"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TableError, match=r"folder\.csv: is not a file"):
        read_table(tmp_path / "folder.csv")
    with pytest.raises(TableError, match=r"unknown ending '\.xlsx'; accepted are \.csv, \.parquet, \.pq, \.npz, \.svm"):
        read_table(tmp_path / "table.xlsx")


def test_target_must_be_named(tmp_path):
    with pytest.raises(TableError, match=r"the column of labels must be named \(target\); the columns are 'a', 'b'"):
        read_table(put(tmp_path / "table.csv", "a,b\n1,2\n"))
    header = ",".join(f"c{j}" for j in range(20))
    with pytest.raises(TableError, match=r"the columns are 'c0', 'c1', .*'c7', \.\.\. \(20\)$"):
        read_table(put(tmp_path / "table.csv", f"{header}\n"), target="y")


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".pq"])
@pytest.mark.parametrize("labels", [["x", 'y"\n,'], [1, 2], [0.5, 1.0], [False, True]])
def test_predictions_come_back(tmp_path, ending, labels):
    path = tmp_path / f"predictions{ending}"
    classes = np.array(labels)
    proba = np.asfortranarray(np.array([[0.25, 0.75], [1 / 3, 2 / 3], [1.0, 0.0]]))
    assert write_predictions(path, classes, [(classes[[1, 1]], proba[:2]), (classes[[0]], proba[2:])]) == 3
    read = pyarrow.csv.read_csv(path) if ending == ".csv" else pa.parquet.read_table(path)
    assert read.column_names == ["prediction", *(f"proba_{label}" for label in labels)]
    assert read["prediction"].to_pylist() == [labels[1], labels[1], labels[0]]
    np.testing.assert_array_equal(np.stack([column.to_numpy() for column in read.columns[1:]], axis=1), proba)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_predictions_are_whole_or_not_at_all(tmp_path, ending):
    path = put(tmp_path / f"predictions{ending}", "before")

    def interrupted():
        yield np.arange(2), np.eye(2)
        assert len(list(tmp_path.iterdir())) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(path, np.arange(2), interrupted())
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_predictions_elsewhere(tmp_path):
    with pytest.raises(
        TableError, match=r"unknown ending '\.txt'; predictions are written to \.csv, \.parquet or \.pq"
    ):
        write_predictions(tmp_path / "predictions.txt", np.arange(2), [(np.arange(2), np.eye(2))])
    with pytest.raises(FileNotFoundError, match=r"absent/p\.csv: there is no directory"):
        write_predictions(tmp_path / "absent" / "p.csv", np.arange(2), [(np.arange(2), np.eye(2))])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FileExistsError, match=r"folder\.csv: exists and is not a regular file"):
        write_predictions(tmp_path / "folder.csv", np.arange(2), [(np.arange(2), np.eye(2))])
