"""Model files: the same bits come back, and nothing but a model is accepted."""

import functools
import json
import math
import struct
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from sklearn.exceptions import NotFittedError

from softfast import SoftmaxRegression, files, model_file
from softfast.model_file import ModelFileError, load, save

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
LABELS = {
    "int64": np.arange(60) % 3 - 1,
    "uint8": (np.arange(60) % 3).astype(np.uint8),
    "uint64": (np.arange(60) % 3).astype(np.uint64) + np.uint64(2**63),
    "two classes": np.arange(60) % 2,
    "float64": np.array([-1.0, 2.0, 1e15])[np.arange(60) % 3],
    "float32": np.array([-1, 2, 2**24], dtype=np.float32)[np.arange(60) % 3],
    "bool": np.arange(60) % 2 == 0,
    "str": np.array(["a", "é\n", "\U0001f600 long"])[np.arange(60) % 3],
    "object": np.array(["a", "b"], dtype=object)[np.arange(60) % 2],
}


@functools.cache
def fitted(kind="int64", C=1.0):
    return SoftmaxRegression(C=C).fit(X, LABELS[kind])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("kind", LABELS)
def test_the_same_bits_come_back(path, kind):
    model = fitted(kind)
    save(model, path, target="label")
    loaded, metadata = load(path)
    assert metadata["target"] == "label"
    assert loaded.classes_.dtype == model.classes_.dtype
    assert loaded.predict(X).dtype == model.predict(X).dtype
    assert loaded.predict(X).tolist() == model.predict(X).tolist()
    for rows in (X, X.astype(np.float32), np.asfortranarray(X)):
        assert loaded.predict_proba(rows).tobytes() == model.predict_proba(rows).tobytes()
    kept = {name: value for name, value in vars(model).items() if name != "history_"}
    np.testing.assert_equal(vars(loaded), kept)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            {"verbose": True, "fit_intercept": 1, "warm_start": 1},
            {"verbose": 1, "fit_intercept": True, "warm_start": True},
        ),
        ({"verbose": None, "fit_intercept": "", "warm_start": []}, {"verbose": 0, "fit_intercept": False}),
        ({"verbose": -1, "fit_intercept": np.True_}, {"verbose": 1, "fit_intercept": True}),
        ({"verbose": 2.5, "warm_start": None}, {"verbose": 1, "warm_start": False}),
        ({"verbose": np.int8(3), "n_threads": np.int64(1)}, {"verbose": 3, "n_threads": 1}),
        ({"C": True, "l1_ratio": False, "tol": Fraction(1, 1000)}, {"C": 1.0, "l1_ratio": 0.0, "tol": 1e-3}),
        ({"C": Fraction(1, 2), "max_iter": 10**30, "n_threads": 10**30}, {"C": 0.5, "max_iter": 10**30}),
    ],
)
def test_what_a_fit_takes_is_saved(path, given, kept):
    model = SoftmaxRegression(**given).fit(X, LABELS["int64"])
    save(model, path)
    loaded, _ = load(path)
    assert {name: loaded.get_params()[name] for name in kept} == kept
    assert loaded.predict_proba(X).tobytes() == model.predict_proba(X).tobytes()


def test_parameters_and_feature_names_come_back(path):
    parameters = {
        "C": np.inf,
        "l1_ratio": 0.5,
        "sparsity": "feature",
        "fit_intercept": False,
        "class_weight": {"a": 2, "b": np.float64(0.1)},
        "solver": "lbfgs",
        "tol": np.float32(1e-3),
        "max_iter": np.int64(7000),
        "warm_start": True,
        "n_threads": 2,
        "verbose": 0,
        "callback": lambda it: None,
    }
    assert parameters.keys() == SoftmaxRegression().get_params().keys()
    frame = pd.DataFrame(X, columns=["a", "é", "", "a b"])
    model = SoftmaxRegression(**parameters).fit(frame, RNG.choice(["a", "b"], size=60))
    save(model, path)
    loaded, metadata = load(path)
    # Code is not kept.
    assert loaded.get_params() == {**parameters, "callback": None}
    assert math.isnan(loaded.duality_gap_)
    assert loaded.feature_names_in_.tolist() == metadata["feature_names"] == list(frame.columns)
    assert metadata["target"] is None
    np.testing.assert_array_equal(loaded.predict_proba(frame), model.predict_proba(frame))
    # It is a model like another: it can be fitted again, from where it stands.
    assert loaded.fit(frame, RNG.choice(["a", "b"], size=60)).converged_
    save(SoftmaxRegression(class_weight="balanced").fit(X, LABELS["str"]), path)
    assert load(path)[0].class_weight == "balanced"


def test_the_format_is_plain_safetensors(path):
    save(fitted("str"), path)
    with safe_open(path, framework="numpy") as file:
        assert sorted(file.keys()) == ["coef", "intercept"]
        assert file.get_tensor("coef").tobytes() == fitted("str").coef_.tobytes()
        text = file.metadata()["softfast"]
    assert text.isascii()
    assert json.loads(text)["classes"] == {"dtype": "str", "values": ["a", "é\n", "\U0001f600 long"]}
    assert (json.loads(text)["format"], json.loads(text)["version"]) == ("softfast.SoftmaxRegression", 1)


def test_saving_is_whole_or_not_at_all(path, monkeypatch):
    save(fitted(), path)
    before = path.read_bytes()

    def interrupted(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(fitted("str"), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    link = path.with_name("link.safetensors")
    link.symlink_to(path)
    save(fitted("str"), link)
    assert link.is_symlink()
    assert load(path)[0].classes_.tolist() == fitted("str").classes_.tolist()
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        save(fitted(), path.parent / "absent" / "model.safetensors")
    with pytest.raises(FileExistsError, match="exists and is not a regular file"):
        save(fitted(), path.parent)


def test_what_can_not_be_loaded_is_not_saved(path):
    with pytest.raises(NotFittedError):
        save(SoftmaxRegression(), path)
    dates = np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]")[np.arange(60) % 2]
    broken = SoftmaxRegression().fit(X, LABELS["str"])
    broken.coef_[0, 0] = np.nan
    surrogate = SoftmaxRegression().fit(X, np.array(["a", "\ud800"])[np.arange(60) % 2])
    for model, message in [
        (SoftmaxRegression().fit(X, dates), "classes must be of dtype bool, int8, .* object, got 'datetime64"),
        (broken, "coef must be finite, got NaN or infinity"),
        (surrogate, "classes must be a list of values of type str"),
        (
            SoftmaxRegression().fit(X, LABELS["str"]).set_params(solver=None),
            "'params.solver' must be a string, got None",
        ),
    ]:
        with pytest.raises(ModelFileError, match=message):
            save(model, path)
    with pytest.raises(ModelFileError, match="'target' must be a string or null, got 7"):
        save(fitted(), path, target=7)
    assert not path.exists()


def parts(path):
    """The header of a safetensors file and the bytes after it."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def changed(path, change):
    """Write the model file with its metadata changed by a function, or by what replaces them."""
    save(fitted("str"), path, target="label")
    header, data = parts(path)
    metadata = json.loads(header["__metadata__"]["softfast"])
    metadata = change(metadata) or metadata if callable(change) else change
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    header["__metadata__"]["softfast"] = text
    write(path, header, data)


def put(*keys, value):
    def change(metadata):
        for key in keys[:-1]:
            metadata = metadata[key]
        metadata[keys[-1]] = value

    return change


BAD_METADATA = {
    "not JSON": ("{", "damaged: its entry 'softfast' is not JSON"),
    "deep": ("[" * 100_000, "is not JSON"),
    "list": ([1], "expected the format 'softfast.SoftmaxRegression', got [1]"),
    "other format": (put("format", value="other"), "expected the format 'softfast.SoftmaxRegression', got 'other'"),
    "newer": (put("version", value=2), "model file version 2; softfast 0.1.0 reads version 1. Upgrade softfast."),
    "version": (put("version", value=True), "model file version True; softfast 0.1.0 reads version 1."),
    "version text": (put("version", value="x" * 1000), "model file version 'xxxx"),
    "key gone": (lambda m: m.pop("solver") and None, "the metadata lacks the keys ['solver'] and has unknown ones []"),
    "key more": (put("extra", value=1), "has unknown ones ['extra']"),
    "parameter gone": (lambda m: m["params"].pop("tol") and None, "'params' lacks the keys ['tol']"),
    "parameter more": (
        put("params", "__class__", value=1),
        "'params' lacks the keys [] and has unknown ones ['__class",
    ),
    "parameters": (put("params", value=None), "'params' must be an object, got None"),
    "C": (put("params", "C", value=-1), "'params.C' must be a number > 0 or \"inf\", got -1"),
    "C huge": (put("params", "C", value=10**400), "'params.C' must be a number > 0"),
    "C infinite": (put("params", "C", value=math.inf), "'params.C' must be a number > 0 or \"inf\", got inf"),
    "max_iter": (put("params", "max_iter", value=1.5), "'params.max_iter' must be an integer >= 1, got 1.5"),
    "class_weight": (
        put("params", "class_weight", value=[[[], 1]]),
        "'params.class_weight' must be null, \"balanced\"",
    ),
    "n_features": (put("n_features", value=2**62), "coef must be F64 of shape (3, 4611686018427387904), as"),
    "n_features 0": (put("n_features", value=0), "'n_features' must be an integer >= 1, got 0"),
    "objective": (put("objective", value=math.nan), "'objective' must be a finite number, got nan"),
    "converged": (put("converged", value=1), "'converged' must be true or false, got 1"),
    "target": (put("target", value=["y"]), "'target' must be a string or null, got ['y']"),
    "surrogate": (put("target", value="\ud800"), "'target' must be a string or null, got '\\ud800'"),
    "names": (put("feature_names", value=["a"]), "'feature_names' must be null or a list of 4 different strings"),
    "names twice": (put("feature_names", value=list("abca")), "'feature_names' must be null or a list of 4 different"),
    "names numbers": (
        put("feature_names", value=[1, 2, 3, 4]),
        "'feature_names' must be null or a list of 4 different",
    ),
    "classes": (put("classes", value=["a", "b", "c"]), "'classes' must be an object of dtype and values"),
    "dtype": (put("classes", "dtype", value="O8,(100,)f8"), "classes must be of dtype bool, int8,"),
    "dtype list": (put("classes", "dtype", value=[]), "classes must be of dtype bool, int8,"),
    "one class": (put("classes", "values", value=["a"]), "classes must be two or more different ones in order"),
    "two classes": (put("classes", "values", value=["a", "b"]), "coef must be F64 of shape (1, 4), as"),
    "classes twice": (put("classes", "values", value=["a", "b", "b"]), "must be two or more different ones in order"),
    "classes unsorted": (
        put("classes", "values", value=["a", "c", "b"]),
        "must be two or more different ones in order",
    ),
    "classes mixed": (put("classes", "values", value=["a", 1, "c"]), "classes must be a list of values of type str"),
    "class NUL": (put("classes", "values", value=["a", "b\0", "c"]), "classes must fit their dtype str"),
    "class too large": (
        put("classes", value={"dtype": "int8", "values": [1, 2, 300]}),
        "classes must fit their dtype int8, got [1, 2, 300]",
    ),
    "class infinite": (
        put("classes", value={"dtype": "float32", "values": [1.0, 2.0, 1e300]}),
        "classes must fit their dtype float32",
    ),
    "class of any length": (
        put("classes", "values", value=[*map(str, range(1000, 2000)), "x" * 2**17]),
        "classes must fit in 67108864 characters, padded to one length",
    ),
}


@pytest.mark.parametrize("name", BAD_METADATA)
def test_bad_metadata(path, name):
    change, message = BAD_METADATA[name]
    changed(path, change)
    with pytest.raises(ModelFileError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BAD_TENSORS = {
    "float32": (
        {"coef": entry("F32", [3, 8], 0, 96), "intercept": entry("F64", [3], 96, 120)},
        "got F32 of shape (3, 8)",
    ),
    "bfloat16": ({"coef": entry("BF16", [3, 16], 0, 96), "intercept": entry("F64", [3], 96, 120)}, "got BF16 of shape"),
    "integers": ({"coef": entry("I64", [3, 4], 0, 96), "intercept": entry("F64", [3], 96, 120)}, "got I64 of shape"),
    "shape": (
        {"coef": entry("F64", [4, 3], 0, 96), "intercept": entry("F64", [3], 96, 120)},
        "got F64 of shape (4, 3)",
    ),
    "one": ({"coef": entry("F64", [3, 5], 0, 120)}, "expected the tensors coef and intercept, got ['coef']"),
    "none": ({}, "not a whole safetensors file"),
    "overlap": (
        {"coef": entry("F64", [3, 4], 0, 96), "intercept": entry("F64", [3], 0, 24)},
        "not a whole safetensors",
    ),
    "beyond": (
        {"coef": entry("F64", [3, 4], 0, 96), "intercept": entry("F64", [2**40], 96, 2**43 + 96)},
        "not a whole",
    ),
    "overflow": ({"coef": entry("F64", [2**63, 2**63], 0, 96), "intercept": entry("F64", [3], 96, 120)}, "not a whole"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_bad_tensors(path, name):
    tensors, message = BAD_TENSORS[name]
    save(fitted("str"), path)
    header, data = parts(path)
    write(path, {"__metadata__": header["__metadata__"], **tensors}, data)
    with pytest.raises(ModelFileError) as caught:
        load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tensors_must_be_finite(path, value):
    save(fitted(), path)
    header, data = parts(path)
    write(path, header, data[:-8] + struct.pack("<d", value))
    with pytest.raises(ModelFileError, match=r"(coef|intercept) must be finite, got NaN or infinity in it"):
        load(path)


def test_foreign_files(path, monkeypatch):
    with pytest.raises(ModelFileError, match="there is no such file; expected a model file"):
        load(path)
    with pytest.raises(ModelFileError, match="there is no such file; expected a model file"):
        load(path.parent)
    for data in (b"", b"PK\x03\x04", b"a,b,y\n1,2,3\n" * 100, b"\x80\x04\x95" + b"x" * 100, b"\xff" * 100):
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match="not a whole safetensors file"):
            load(path)
    write(path, {"weight": entry("F64", [1], 0, 8)}, b"\0" * 8)
    with pytest.raises(ModelFileError, match="a safetensors file, but no model of softfast: no entry 'softfast'"):
        load(path)
    save(fitted(), path)
    monkeypatch.setattr(model_file, "half_of_memory", lambda: 100)
    with pytest.raises(ModelFileError, match="larger than half of this machine's memory"):
        load(path)


def test_half_of_memory(monkeypatch):
    assert 2**26 < files.half_of_memory() < 2**50
    monkeypatch.delattr("os.sysconf")
    assert files.half_of_memory() == 2**32


def test_every_cut(path):
    save(fitted("str"), path, target="label")
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match="not a whole safetensors file"):
            load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        load(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("flips") / "model.safetensors"
    frame = pd.DataFrame(X, columns=list("abcd"))
    save(SoftmaxRegression(class_weight={"a": 1.0}).fit(frame, LABELS["str"]), path, target="label")
    return path, path.read_bytes()


@settings(max_examples=400, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_an_error_or_a_sound_model(whole, flips):
    path, data = whole
    flipped = bytearray(data)
    for position, bits in flips:
        flipped[position % len(data)] ^= bits
    path.write_bytes(flipped)
    try:
        model, _ = load(path)
    except ModelFileError:
        return
    assert model.coef_.shape == (3, 4)
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.intercept_).all()
    assert len(np.unique(model.classes_)) == 3
    assert model.predict_proba(named_rows(model)).shape == (len(X), 3)


def named_rows(model):
    """X as the model wants it; without names where it has none, for they are optional in the file."""
    names = getattr(model, "feature_names_in_", None)
    return X if names is None else pd.DataFrame(X, columns=names)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["inf", "object"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), value=JSON)
def test_any_json_anywhere_gives_an_error_or_a_sound_model(whole, data, value):
    path, content = whole
    path.write_bytes(content)
    header, tensors = parts(path)
    metadata = json.loads(header["__metadata__"]["softfast"])
    place = metadata
    key = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], dict | list) and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = value
    header["__metadata__"]["softfast"] = json.dumps(metadata)
    write(path, header, tensors)
    try:
        model, _ = load(path)
    except ModelFileError:
        return
    assert model.predict_proba(named_rows(model)).shape == (len(X), 3)
    assert set(model.predict(named_rows(model))) <= set(model.classes_)
