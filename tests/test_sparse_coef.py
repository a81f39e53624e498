"""Sparse coefficients: the same predictions, in a smaller file."""

import json
import struct

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.exceptions import NotFittedError
from tolerance import assert_close

from softfast import SoftmaxRegression
from softfast.model_file import ModelFileError, load, save

METHODS = ("decision_function", "predict_proba", "predict_log_proba")


def problem(rng, n_classes, dtype=np.float64):
    X = rng.normal(size=(300, 12)).astype(dtype)
    logits = X[:, :3] @ rng.normal(size=(3, n_classes)) * 3
    return X, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def fitted(rng, n_classes=3, dtype=np.float64, **how):
    X, y = problem(rng, n_classes, dtype)
    return SoftmaxRegression(C=0.1, l1_ratio=1.0, **how).fit(X, y), X, y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 3, 20])
def test_predictions_are_those_of_dense_coefficients(n_classes, dtype, rng):
    model, X, y = fitted(rng, n_classes, dtype)
    dense = model.coef_.copy()
    assert 0 < np.count_nonzero(dense) < dense.size
    offset = rng.normal(size=(len(X), len(model.classes_)))
    rows = [X, np.asfortranarray(X), sp.csr_array(X), sp.coo_matrix(X)]
    expected = {(m, k): getattr(model, m)(X, offset=o) for m in METHODS for k, o in enumerate((None, offset))}
    assert model.sparsify() is model
    assert sp.issparse(model.coef_)
    assert model.coef_.nnz == np.count_nonzero(dense)
    for (method, k), theirs in expected.items():
        for x in rows:
            ours = getattr(model, method)(x, offset=(None, offset)[k])
            assert ours.dtype == dtype
            assert_close(ours, theirs, dtype, 40, scale=max(1.0, float(np.abs(theirs).max())), what=method)
    assert model.score(X, y) == np.mean(model.predict(X) == y) > 1.2 / n_classes
    assert model.sparsify().densify() is model
    np.testing.assert_array_equal(model.coef_, dense)
    np.testing.assert_array_equal(model.densify().coef_, dense)


def test_a_fit_begins_from_them_and_makes_dense_ones(rng):
    model, X, y = fitted(rng, warm_start=True)
    model.sparsify().fit(X, y)
    assert isinstance(model.coef_, np.ndarray)
    assert model.n_iter_ == 0


def test_errors(rng):
    for method in ("sparsify", "densify"):
        with pytest.raises(NotFittedError):
            getattr(SoftmaxRegression(), method)()
    model, X, _ = fitted(rng)
    model.sparsify()
    unused = np.flatnonzero(abs(model.coef_).sum(axis=0) == 0)[0]
    for bad in (np.nan, np.inf):
        X[5, unused] = bad
        for x in (X, sp.csr_array(X)):
            with pytest.raises(ValueError, match="X"):
                model.predict(x)


def test_a_file_keeps_them_sparse(rng, tmp_path):
    X = sp.random_array((200, 20_000), density=0.01, rng=rng, format="csr")
    model = SoftmaxRegression(C=0.5, l1_ratio=1.0).fit(X, rng.integers(0, 5, 200))
    paths = tmp_path / "dense", tmp_path / "sparse"
    save(model, paths[0])
    save(model.sparsify(), paths[1])
    dense, sparse = load(paths[0])[0], load(paths[1])[0]
    assert sp.issparse(sparse.coef_)
    np.testing.assert_array_equal(sparse.coef_.toarray(), dense.coef_)
    np.testing.assert_array_equal(sparse.predict_proba(X), model.predict_proba(X))
    assert paths[1].stat().st_size < paths[0].stat().st_size / 20


def test_file_of_text_with_few_words_in_the_model_is_small(data_dir, tmp_path):
    file = np.load(data_dir / "news20_tfidf.npz")
    X = sp.csr_array((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"]))
    # Of some of the rows, but of all words.
    model = SoftmaxRegression(C=2.0, l1_ratio=1.0, tol=0.5).fit(X[::16], file["y"][::16])
    assert np.mean(model.coef_ == 0) > 0.99
    proba = model.predict_proba(X)
    save(model.sparsify(), tmp_path / "model")
    assert (tmp_path / "model").stat().st_size < 2e6
    np.testing.assert_allclose(load(tmp_path / "model")[0].predict_proba(X), proba, atol=1e-5)


def spoilt(content, name, change):
    """The file with one tensor's bytes changed by a function of the array."""
    length = struct.unpack("<Q", content[:8])[0]
    entry = json.loads(content[8 : 8 + length])[name]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    array = np.frombuffer(content[begin:end], {"F64": "<f8", "I32": "<i4", "I64": "<i8"}[entry["dtype"]]).copy()
    change(array)
    return content[:begin] + array.tobytes() + content[end:]


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("method", [*METHODS, "predict"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_that_overflow_are_no_warning(dtype, method, scale, rng):
    """Neither in scikit-learn's sum of them, nor where logits become of the type of X."""
    model, X, _ = fitted(rng, 2, dtype)
    # Of one sign, for what is infinite not to be subtracted.
    model.coef_, model.intercept_ = scale * np.abs(model.coef_), np.zeros(1)
    huge = (np.finfo(dtype).max / 4 * np.sign(X[:, :1]) * np.ones_like(X)).astype(dtype)
    rows = [huge, np.ma.array(huge), sp.csr_array(huge)]
    predicted = [getattr(model, method)(x) for x in rows] + [getattr(model.sparsify(), method)(x) for x in rows]
    for other in predicted[1:]:
        np.testing.assert_allclose(other, predicted[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("coef_indices", 0, 99, r"indices must be in 0\.\.11, got 99 at 0"),
        ("coef_indices", 1, -1, "indices must be in"),
        ("coef_indptr", 1, 1000, "indptr must rise"),
        ("coef_indptr", 0, 1, "indptr must rise"),
        ("coef_data", 0, np.nan, "must not hold NaN"),
        ("intercept", 0, np.inf, "intercept must be finite"),
    ],
)
def test_damaged_files_are_refused(name, at, value, message, rng, tmp_path):
    model, _, _ = fitted(rng)
    save(model.sparsify(), tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    (tmp_path / "model").write_bytes(spoilt(content, name, lambda array: array.__setitem__(at, value)))
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path / "model")
