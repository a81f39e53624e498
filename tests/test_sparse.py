"""Sparse X and the same X dense: one problem, whatever the format."""

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import assert_close, tolerance

import softfast
from softfast import SoftmaxRegression, _core
from softfast.sources.csr import CsrSource
from softfast.sources.dense import DenseSource

FORMATS = [
    sp.csr_matrix, sp.csr_array, sp.csc_matrix, sp.csc_array, sp.coo_matrix, sp.coo_array, sp.lil_array, sp.dok_array,
    sp.bsr_array, sp.dia_array,
]  # fmt: skip


def messy_csr(rng, n, p, *, dtype=np.float64, density=0.5):
    """CSR with empty rows and columns, repeated and unsorted indices and explicit zeros; and the same dense."""
    counts = rng.binomial(2 * p, density / 2, n) * (rng.random(n) < 0.85)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    columns = np.flatnonzero(rng.random(p) < 0.85)
    columns = columns if len(columns) else np.arange(p)
    indices = rng.choice(columns, indptr[-1]).astype(np.int32)
    data = (rng.normal(size=indptr[-1]) * (rng.random(indptr[-1]) < 0.9)).astype(dtype)
    X = sp.csr_array((data, indices, indptr.astype(np.int32)), shape=(n, p))
    return X, X.astype(np.float64).toarray().astype(dtype)


def random_y(rng, n, n_classes, *, soft=False):
    """Every class occurs."""
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    return 0.7 * np.eye(n_classes)[y] + 0.3 * rng.dirichlet(np.ones(n_classes), n) if soft else y


@st.composite
def problems(draw, classes=(2, 3, 5, 34)):
    """X in CSR and dense, targets, weights or None, offsets or None, the number of classes and randomness."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_classes, p = draw(st.sampled_from(classes)), draw(st.integers(1, 12))
    n = draw(st.integers(n_classes, 60))
    X, dense = messy_csr(rng, n, p, density=draw(st.floats(0.05, 1)))
    y = random_y(rng, n, n_classes, soft=draw(st.booleans()))
    weight = rng.uniform(0.2, 3, n) if draw(st.booleans()) else None
    offset = rng.normal(size=(n, n_classes)) if draw(st.booleans()) else None
    return X, dense, y, weight, offset, n_classes, rng


def assert_same(sparse, dense, n_terms, size):
    for ours, theirs in zip(sparse, dense, strict=True):
        assert_close(ours, theirs, np.float64, n_terms, scale=size)


@settings(max_examples=100)
@given(problems())
def test_sparse_and_dense_are_one_function(problem):
    X, dense, y, weight, offset, n_classes, rng = problem
    coef, intercept = rng.normal(size=(n_classes, X.shape[1])), rng.normal(size=n_classes)
    direction = rng.normal(size=coef.shape), rng.normal(size=n_classes)
    how = {"sample_weight": weight, "offset": offset}
    size = max(1.0, float(np.abs(X.data).max(initial=0)), float(np.abs(dense @ coef.T).max()))
    result = softfast.loss_gradient(X, y, coef, intercept, **how)
    assert_same(result, softfast.loss_gradient(dense, y, coef, intercept, **how), X.shape[1] + 20, size)
    rows, plain = _core.SparseRows(X.data, X.indices, X.indptr, X.shape[1], offset), _core.Rows(dense, offset)
    targets = _core.Targets(y, weight)
    products = [_core.default.hessian_vector(r, targets, coef, intercept, *direction, n_classes) for r in (rows, plain)]
    assert_same(*products, X.shape[1] + 20, size * len(dense) * (1 + np.abs(dense @ direction[0].T).max()))


@settings(max_examples=100)
@given(problems(classes=(2, 3, 5)), st.floats(-2, 1), st.booleans(), st.sampled_from(["auto", "newton-cg"]))
def test_fits_are_the_same(problem, log_penalty, fit_intercept, solver):
    X, dense, y, weight, offset, _, _ = problem
    total = len(dense) if weight is None else weight.sum()
    how = {"C": 1 / (10.0**log_penalty * total), "fit_intercept": fit_intercept, "solver": solver, "tol": 1e-9}
    sparse, plain = (SoftmaxRegression(**how).fit(x, y, sample_weight=weight, offset=offset) for x in (X, dense))
    # The steps are the same ones but for rounding, which they carry on: 1.2e-9 has been seen.
    scale = max(1.0, float(np.abs(plain.coef_).max()), float(np.abs(plain.intercept_).max()))
    assert np.abs(sparse.coef_ - plain.coef_).max() <= 1e-8 * scale
    assert np.abs(sparse.intercept_ - plain.intercept_).max() <= 1e-8 * scale
    assert abs(sparse.objective_ - plain.objective_) <= tolerance(np.float64, 100) * max(1, plain.objective_)
    assert sparse.converged_
    for method in ("predict_proba", "predict_log_proba", "decision_function"):
        np.testing.assert_allclose(getattr(sparse, method)(X), getattr(sparse, method)(dense), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(sparse.predict(X), sparse.predict(dense))


@settings(max_examples=20)
@given(problems(classes=(2, 3, 5)), st.sampled_from(["coefficient", "feature"]))
def test_elastic_nets_are_the_same(problem, sparsity):
    X, dense, y, weight, _, _, _ = problem
    how = {"l1_ratio": 0.5, "sparsity": sparsity, "tol": 1e-9}
    sparse, plain = (SoftmaxRegression(**how).fit(x, y, sample_weight=weight) for x in (X, dense))
    assert np.abs(sparse.coef_ - plain.coef_).max() <= 1e-7
    np.testing.assert_array_equal(sparse.coef_ == 0, plain.coef_ == 0)


def rows_with_words_of_their_own(rng, n=80):
    """CSR with columns of one entry, several in some rows, a stored zero, an empty row and ordinary columns."""
    ordinary = sp.random_array((n, 12), density=0.3, rng=rng, format="csr")
    rows = rng.integers(1, n // 2, 90)
    own = sp.csr_array((rng.normal(size=90), (rows, np.arange(90))), shape=(n, 90))
    own.data[5] = 0
    X = sp.hstack([own, ordinary, own[:, :1] * 0], format="csr")
    return X[:, rng.permutation(X.shape[1])]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_merged_columns_span_the_same_rows(dtype, rng):
    X = rows_with_words_of_their_own(rng).astype(dtype)
    y, weight, offset = random_y(rng, 80, 3), rng.uniform(0, 2, 80), rng.normal(size=(80, 3))
    source = CsrSource(X, y, 3, weight, offset=offset)
    merged, basis = source.merged()
    assert merged.n_features < X.shape[1] - 40
    assert merged.dtype == dtype
    np.testing.assert_allclose((basis.T @ basis).toarray(), np.eye(merged.n_features), atol=1e-15)
    few = merged.sample(1000, merged.moments())
    np.testing.assert_allclose((basis @ few.X.T).T, X.toarray(), atol=1e-15)
    other, intercept = rng.normal(size=(3, merged.n_features)), rng.normal(size=3)
    results = [s.loss_gradient(c, intercept) for s, c in ((merged, other), (source, (basis @ other.T).T))]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-13)
    np.testing.assert_allclose(results[0][1], (basis.T @ results[1][1].T).T, atol=1e-13)
    # Its evaluations, by columns, are those of the same rows without them.
    plain = CsrSource(merged._X, y, 3, weight, offset=offset)
    direction = rng.normal(size=other.shape), rng.normal(size=3)
    for how in ({}, {"single": dtype == np.float32}, {"with_offset": False}):
        for ours, theirs in zip(*(s.loss_gradient(other, intercept, **how) for s in (merged, plain)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)
    for ours, theirs in zip(*(s.hessian_vector(other, intercept, *direction) for s in (merged, plain)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)


def test_columns_are_not_merged_where_that_is_of_no_use(rng):
    y = random_y(rng, 60, 3)
    assert CsrSource(sp.random_array((60, 50), density=0.2, rng=rng, format="csr"), y, 3).merged() is None
    for extreme in (1e200, 1e-200, np.float32(3e38), np.float32(1e-40)):
        own = sp.csr_array((np.full(60, extreme), (np.repeat(np.arange(30), 2), np.arange(60))), shape=(60, 60))
        assert CsrSource(own, y, 3).merged() is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_soft_labels_with_merged_columns(dtype, rng):
    X = rows_with_words_of_their_own(rng).astype(dtype)
    q = rng.dirichlet(np.ones(3), size=80).astype(dtype)
    sparse, dense = (SoftmaxRegression(tol=1e-14).fit(rows, q) for rows in (X, X.toarray()))
    assert sparse.converged_
    # F is strongly convex, by 1 / 80: that near to the minimum is each of them.
    near = sum(np.sqrt(2 * 80 * model.duality_gap_) for model in (sparse, dense))
    assert np.linalg.norm(sparse.coef_ - dense.coef_) <= near < 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3, 40])
def test_fit_with_merged_columns_is_that_of_all(n_classes, fit_intercept, dtype, rng):
    X = rows_with_words_of_their_own(rng).astype(dtype)
    y = random_y(rng, 80, n_classes)
    seen = []
    how = {"tol": 1e-10, "fit_intercept": fit_intercept}
    sparse = SoftmaxRegression(**how, callback=lambda step: seen.append(step.coef)).fit(X, y)
    plain = SoftmaxRegression(**how).fit(X.toarray(), y)
    # F is strongly convex, by 1 / 80: that near to the minimum is each of them.
    near = sum(np.sqrt(2 * 80 * model.duality_gap_) for model in (sparse, plain))
    assert np.linalg.norm(sparse.coef_ - plain.coef_) <= near < 1e-3 * np.linalg.norm(plain.coef_)
    np.testing.assert_allclose(sparse.objective_, plain.objective_, rtol=1e-9)
    np.testing.assert_array_equal(seen[-1], sparse.coef_)
    empty = np.flatnonzero(abs(X).sum(axis=0) == 0)
    assert len(empty) > 0
    assert not sparse.coef_[:, empty].any()
    # A fit that starts from coefficients of all columns is at its minimum there.
    again = SoftmaxRegression(**how, warm_start=True).fit(X, y)
    assert again.fit(X, y).n_iter_ == 0


@settings(max_examples=30)
@given(problems(classes=(2, 3, 5)), st.integers(0, 3))
def test_sources_say_the_same(problem, n_without_weight):
    X, dense, y, weight, offset, n_classes, rng = problem
    if n_without_weight:
        weight = rng.uniform(0.2, 3, len(dense))
        weight[rng.integers(0, len(dense), n_without_weight)] = 0
    sources = CsrSource(X, y, n_classes, weight, offset=offset), DenseSource(dense, y, n_classes, weight, offset=offset)
    moments = [source.moments() for source in sources]
    for name in ("feature_mean", "feature_variance", "feature_size", "class_mean", "offset_mean", "offset_size"):
        np.testing.assert_allclose(*(getattr(m, name) for m in moments), rtol=1e-13, atol=1e-13, err_msg=name)
    samples = [source.sample(len(dense) // 2 + 1, moments[1]) for source in sources]
    np.testing.assert_allclose(samples[0].X, samples[1].X, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(samples[0].weight, samples[1].weight, rtol=1e-12)
    np.testing.assert_allclose(sources[0].sample(1000, moments[0]).X, dense, rtol=1e-14, atol=1e-15)
    if y.ndim == 2:
        return
    for ours, theirs in zip(*(source.extremes() for source in sources), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-15)
    coef, intercept, center = rng.normal(size=(n_classes, X.shape[1])), rng.normal(size=n_classes), dense.mean(axis=0)
    margins = [source.margins(coef, intercept, center, 5) for source in sources]
    for name in ("lowest", "highest"):
        np.testing.assert_allclose(*(getattr(m, name) for m in margins), rtol=1e-12, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(*(np.sort(m.least) for m in margins), rtol=1e-12, atol=1e-12)


def test_variance_does_not_cancel(rng):
    """Of columns stored in full whose mean dwarfs their spread, with rows that weigh nothing and an ordinary column."""
    n = 1000
    dense = np.column_stack([1e8 + rng.normal(size=n), rng.normal(size=n) * (rng.random(n) < 0.1), np.full(n, 3e7)])
    weight = rng.uniform(0.5, 1, n)
    weight[:10], dense[:10] = 0, 0
    moments = CsrSource(sp.csr_array(dense), rng.integers(0, 2, n), 2, weight).moments()
    exact = dense.astype(np.longdouble)
    mean = weight @ exact / weight.sum()
    variance = weight @ (exact - mean) ** 2 / weight.sum()
    np.testing.assert_allclose(moments.feature_mean, mean.astype(float), rtol=1e-15)
    np.testing.assert_allclose(moments.feature_variance[:2], variance[:2].astype(float), rtol=1e-7)
    assert moments.feature_variance[2] <= 1e-28 * 9e14


def test_chunks_give_the_same(monkeypatch, rng):
    X, _ = messy_csr(rng, 400, 7)
    y = random_y(rng, 400, 3)

    def facts():
        source = CsrSource(X, y, 3)
        moments = source.moments()
        margins = source.margins(np.ones((3, 7)) * np.arange(3)[:, None], np.ones(3), moments.feature_mean, 4)
        yield from (moments.feature_mean, moments.feature_variance, moments.feature_size, *source.extremes())
        yield from (source.sample(100, moments).weight, margins.lowest, margins.highest, np.sort(margins.least))

    whole = list(facts())
    monkeypatch.setattr("softfast.sources.in_memory.CHUNK_BYTES", 1000)
    for ours, theirs in zip(facts(), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_formats_and_types(form, dtype, rng):
    dense = (rng.normal(size=(60, 9)) * 3 * (rng.random((60, 9)) < 0.3)).astype(dtype)
    X, y = form(dense), random_y(rng, 60, 3)
    real = dense if dtype in (np.float32, np.float64) else dense.astype(float)
    coef = rng.normal(size=(3, 9))
    result = softfast.loss_gradient(X, y, coef)
    expected = reference.loss_gradient(real, y, coef, np.zeros(3))
    for ours, theirs in zip(result, expected, strict=True):
        assert_close(ours, theirs / 60, real.dtype, 10, scale=10)
    # Fits of float32 begin with its rounding, each with its own, and end as near to the minimum as their gaps say.
    how = {"C": 0.1, "tol": 1e-12 if real.dtype == np.float32 else 1e-6}
    sparse, plain = SoftmaxRegression(**how).fit(X, y), SoftmaxRegression(**how).fit(real, y)
    near = sum(np.sqrt(2 * 0.1 * 60 * model.duality_gap_) for model in (sparse, plain))
    assert np.linalg.norm(sparse.coef_ - plain.coef_) <= near
    if real.dtype == np.float64:
        np.testing.assert_allclose(sparse.coef_, plain.coef_, atol=1e-9)
    assert sparse.n_features_in_ == 9
    assert sparse.score(X, y) == plain.score(real, y)
    assert sparse.predict_proba(X).dtype == plain.predict_proba(real).dtype


def test_nothing_is_copied(rng):
    X, _ = messy_csr(rng, 50, 8)
    before = X.data.copy(), X.indices.copy(), X.indptr.copy()
    rows = softfast.validation.as_rows("X", X)
    value = _core.default.predict(rows, np.ones((2, 8)), np.zeros(2), 2, _core.IDENTITY)[0]
    X.data *= 2
    doubled = _core.default.predict(rows, np.ones((2, 8)), np.zeros(2), 2, _core.IDENTITY)[0]
    np.testing.assert_array_equal(doubled, 2 * value)
    X.data /= 2
    SoftmaxRegression().fit(X, random_y(rng, 50, 3))
    for array, copy in zip((X.data, X.indices, X.indptr), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_room_behind_the_last_entry_is_not_read():
    X = sp.csr_array((np.array([1.0, 2.0, np.nan]), np.array([0, 1, 99]), np.array([0, 1, 2])), shape=(2, 2))
    X.data = np.array([1.0, 2.0, np.nan])
    X.indices = np.array([0, 1, 99])
    np.testing.assert_allclose(softfast.loss_gradient(X, [0, 1], np.zeros((2, 2)))[0], np.log(2))


def test_errors_name_x():
    good = sp.csr_array(np.eye(3))
    for attribute, at, value, message in [
        ("indices", 1, 7, r"X, in CSR: indices must be in 0\.\.2, got 7 at 1"),
        ("indices", 2, -1, r"X, in CSR: indices must be in 0\.\.2, got -1 at 2"),
        ("indptr", 1, 5, "X, in CSR: indptr must rise"),
        ("indptr", 3, 9, "X, in CSR: indptr must rise"),
        ("indptr", 3, -9, "X, in CSR: indptr must rise"),
        ("data", 0, np.nan, "X, in CSR: data must not hold NaN or infinity"),
        ("data", 0, np.inf, "X, in CSR: data must not hold NaN or infinity"),
    ]:
        X = good.copy()
        getattr(X, attribute)[at] = value
        with pytest.raises(ValueError, match=message):
            softfast.loss_gradient(X, [0, 1, 1], np.zeros((2, 3)))
    for attribute, message in [("indices", "as many as data"), ("data", "as many as data"), ("indptr", "4 elements")]:
        X = good.copy()
        setattr(X, attribute, getattr(X, attribute)[:-1])
        with pytest.raises(ValueError, match=message):
            softfast.loss_gradient(X, [0, 1, 1], np.zeros((2, 3)))
    with pytest.raises(TypeError, match="X must hold real numbers"):
        softfast.loss_gradient(good.astype(complex), [0, 1, 1], np.zeros((2, 3)))
    with pytest.raises(ValueError, match="coef must not hold NaN"):
        softfast.loss_gradient(good, [0, 1, 1], np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match=r"coef must have shape \(K, 3\)"):
        softfast.loss_gradient(good, [0, 1, 1], np.zeros((2, 4)))
    model = SoftmaxRegression().fit(good, [0, 1, 1])
    with pytest.raises(ValueError, match="2 features"):
        model.predict(good[:, :2])
    bad = good.copy()
    bad.indices[1] = 77
    with pytest.raises(ValueError, match="X, in CSR: indices"):
        model.predict(bad)
    with pytest.raises(ValueError, match="X, in CSR: indices"):
        SoftmaxRegression().fit(bad, [0, 1, 1])
    with pytest.raises(ValueError, match="NaN"):
        model.predict(sp.csr_array([[np.nan, 0, 0]]))


def test_no_rows_and_no_entries():
    assert softfast.loss_gradient(sp.csr_array((0, 4)), np.zeros(0, dtype=int), np.zeros((3, 4)))[0] == 0
    loss, gradient, intercept = softfast.loss_gradient(sp.csr_array((5, 4)), [0, 1, 2, 0, 1], np.zeros((3, 4)))
    np.testing.assert_allclose(loss, np.log(3))
    assert not gradient.any()
    np.testing.assert_allclose(intercept, np.array([-1, -1, 2]) / 15)
    model = SoftmaxRegression().fit(sp.csr_array((5, 4)), [0, 1, 2, 0, 1])
    np.testing.assert_allclose(model.predict_proba(sp.csr_array((1, 4))), [[0.4, 0.4, 0.2]], atol=1e-3)


def test_separation_is_found():
    rng = np.random.default_rng(0)
    X = sp.random_array((200, 5), density=0.4, rng=rng, format="lil")
    y = rng.integers(0, 2, 200)
    X[:, 2] = np.where(y == 1, 1.0 + rng.random(200), 0.0)
    with pytest.warns(match=r"completely separated: 0 and 1, by feature 2"):
        model = SoftmaxRegression(C=np.inf).fit(X.tocsr(), y)
    assert not model.converged_


def test_predictions_of_few_rows_read_few_coefficients(rng):
    """A row with fewer entries than X has features takes another way than many rows."""
    X, dense = messy_csr(rng, 300, 500, density=0.02)
    for n_classes in (2, 3, 7, 40):
        model = SoftmaxRegression(max_iter=3, tol=0.3).fit(X, random_y(rng, 300, n_classes))
        many = model.predict_proba(X)
        np.testing.assert_allclose(many, model.predict_proba(dense), rtol=1e-12)
        for i in (0, 7, 299):
            np.testing.assert_array_equal(model.predict_proba(X[[i]]), many[[i]])


def test_text_fits_as_scikit_learn_does(data_dir):
    from sklearn.linear_model import LogisticRegression

    file = np.load(data_dir / "news20_tfidf.npz")
    X = sp.csr_matrix((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"]))[::24]
    y = file["y"][::24]
    model = SoftmaxRegression(C=1.0).fit(X, y)
    assert model.converged_
    theirs = LogisticRegression(C=1.0, tol=1e-6, max_iter=1000).fit(X.astype(float), y)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X.astype(float)), atol=2e-3)


@pytest.mark.filterwarnings("ignore:The fit stopped where rounding")
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
def test_fit_of_the_largest_numbers_says_how_far_it_came(l1_ratio, rng):
    """Squares of float32 numbers that do not overflow in float64 are no reason for a warning of NumPy's."""
    X = (np.sign(rng.normal(size=(60, 4))) * np.finfo(np.float32).max).astype(np.float32)
    for rows in (X, sp.csr_array(X)):
        model = SoftmaxRegression(l1_ratio=l1_ratio).fit(rows, rng.integers(3, size=60))
        assert not model.converged_
        assert model.duality_gap_ > 1
        assert np.isfinite(model.objective_)
