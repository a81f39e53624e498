"""Kernels for rows in CSR on every instruction set, type and kind of index, against the formulas on dense matrices."""

import itertools
import threading
import tracemalloc

import numpy as np
import pytest
import reference
from problems import CLASSES, FEATURES, MAPS, PAIRS, ROWS, target_layouts
from tolerance import assert_close, tolerance

from softfast import _core

INDICES = [np.int32, np.int64]


def random_csr(rng, n, p, storage, index=np.int32, wide_indptr=False, density=0.3):
    """(data, indices, indptr) with empty rows and columns, duplicates, explicit zeros, no order; and the matrix."""
    counts = rng.binomial(2 * p, density / 2, n) * (rng.random(n) < 0.8) if p else np.zeros(n, dtype=int)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    columns = np.flatnonzero(rng.random(p) < 0.8) if p > 1 else np.arange(p)
    indices = rng.choice(columns, indptr[-1]) if len(columns) else np.zeros(indptr[-1], dtype=int)
    data = rng.normal(size=indptr[-1]) * (rng.random(indptr[-1]) < 0.9)
    data = data.astype(storage)
    dense = np.zeros((n, p), dtype=reference.EXACT)
    np.add.at(dense, (np.repeat(np.arange(n), counts), indices), data.astype(reference.EXACT))
    csr = data, indices.astype(index), indptr.astype(np.int64 if wide_indptr else index)
    for array in csr:
        array.flags.writeable = False
    return csr, dense


def random_model(rng, n_outputs, p):
    coef = rng.normal(size=(n_outputs, p)) / np.sqrt(max(1, p))
    return coef.astype(np.float32).astype(float), rng.normal(size=n_outputs).astype(np.float32).astype(float)


def assert_sums_match(result, expected, data, n_terms, arithmetic, total, what):
    """In units of what is summed: losses or residuals, times the largest entry of X."""
    size = max(1.0, float(np.abs(data).max(initial=0)))
    for part, (ours, theirs) in enumerate(zip(result, expected, strict=True)):
        scale = max(total * (size if np.ndim(ours) == 2 else 1), float(np.abs(theirs).max(initial=0)) / 4, 1e-30)
        assert_close(ours, theirs, arithmetic, n_terms, scale=scale, what=f"{what}: part {part}")


def shapes():
    cycles = [itertools.cycle(values) for values in (ROWS, FEATURES[::-1], [*CLASSES, 20, 91, 150, 300])]
    yield from (tuple(next(c) for c in cycles) for _ in range(60))
    yield from [(300, 20, 5), (257, 3, 40), (129, 50, 2), (40, 5, 1000), (70, 3000, 7), (33, 1500, 150), (128, 9, 3)]


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
def test_loss_gradient_and_hessian_vector(kernels, storage, arithmetic, index, rng):
    for case, (n, p, n_classes) in enumerate(shapes()):
        soft, reference_class = case % 3 == 0, case % 2 == 0
        csr, X = random_csr(rng, n, p, storage, index, wide_indptr=case % 4 == 0)
        n_outputs = n_classes - reference_class
        coef, intercept = random_model(rng, n_outputs, p)
        direction = random_model(rng, n_outputs, p)
        weight = rng.uniform(0, 2, n).astype(np.float32).astype(float) if case % 5 else None
        offset = rng.normal(size=(n, n_classes)).astype(np.float32).astype(float) if case % 7 < 3 else None
        y = rng.dirichlet(np.ones(n_classes), n).astype(storage) if soft else rng.integers(0, n_classes, n)
        targets = _core.Targets(next(target_layouts(y.reshape((n, n_classes) if soft else (n,)))), weight)
        plain = _core.SparseRows(*csr, p, offset)
        assert (plain.n_rows, plain.n_features, plain.n_entries, plain.dtype) == (n, p, len(csr[0]), storage)
        total = float(n if weight is None else weight.sum())
        gradient = reference.loss_gradient(X, y, coef, intercept, weight, n_classes, offset)
        product = reference.hessian_vector(X, (coef, intercept), direction, n_classes, weight, offset)
        how = {"arithmetic": arithmetic, "n_threads": 1 + case % 3, "by_feature": case % 2 == 1}
        for rows in (plain, plain.with_columns(n_classes)):
            what = f"{(n, p, n_classes)} {soft=} {reference_class=} by columns: {rows is not plain}"
            result = kernels.loss_gradient(rows, targets, coef, intercept, n_classes, **how)
            assert_sums_match(result, gradient, csr[0], p + 1, arithmetic, total, what)
            result = kernels.hessian_vector(rows, targets, coef, intercept, *direction, n_classes, **how)
            assert_sums_match(result, product, csr[0], p + 1, arithmetic, 4 * total, what)


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predict(kernels, dtype, index, rng):
    for case, (n, p, n_classes) in enumerate(shapes()):
        reference_class = case % 2 == 0
        csr, X = random_csr(rng, n, p, dtype, index)
        coef, intercept = random_model(rng, n_classes - reference_class, p)
        offset = rng.normal(size=(n, n_classes)).astype(np.float32).astype(float) if case % 3 == 0 else None
        z = reference.logits(X, coef, intercept, n_classes, offset)
        scale = max(1.0, float(np.abs(z).max(initial=0)))
        for code, function in MAPS.items():
            expected = function(z) if n else z
            if code == _core.IDENTITY:
                expected = expected[:, reference_class:]
            rows = _core.SparseRows(*csr, p, offset)
            result, finite = kernels.predict(rows, coef, intercept, n_classes, code, n_threads=1 + case % 3)
            assert finite
            assert result.dtype == dtype
            assert_close(result, expected, dtype, p + 2, scale=scale, what=f"{(n, p, n_classes)} {code}")


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("n_classes", [2, 7, 40])
def test_comparison_can_fail(kernels, storage, arithmetic, by_columns, n_classes, rng):
    csr, X = random_csr(rng, 50, 6, storage)
    coef, intercept = random_model(rng, n_classes, 6)
    y = rng.integers(0, n_classes, 50)
    expected = reference.loss_gradient(X, y, coef, intercept)
    y[np.argmax(np.diff(csr[2]))] += 1
    rows = _core.SparseRows(*csr, 6)
    if by_columns:
        rows = rows.with_columns(n_classes)
    result = kernels.loss_gradient(
        rows, _core.Targets(y % n_classes), coef, intercept, n_classes, arithmetic=arithmetic
    )
    for part in range(3):
        mixed = [result[k] if k == part else expected[k] for k in range(3)]
        with pytest.raises(AssertionError, match=f"part {part}: error"):
            assert_sums_match(mixed, expected, csr[0], 7, arithmetic, 50, "one label changed")


@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize(
    ("n", "p", "n_classes"), [(3001, 400, 2), (1700, 90, 3), (900, 40, 7), (400, 30, 33), (5, 9, 3)]
)
def test_same_bits_for_any_number_of_threads(kernels, storage, arithmetic, index, by_columns, n, p, n_classes, rng):
    csr, _ = random_csr(rng, n, p, storage, index)
    coef, intercept = random_model(rng, n_classes - 1, p)
    direction = random_model(rng, n_classes - 1, p)
    rows = _core.SparseRows(*csr, p)
    if by_columns:
        rows = rows.with_columns(n_classes)
    targets = _core.Targets(rng.integers(0, n_classes, n), rng.uniform(0, 2, n))

    def results(n_threads):
        how = {"arithmetic": arithmetic, "n_threads": n_threads}
        yield from kernels.loss_gradient(rows, targets, coef, intercept, n_classes, **how)
        yield from kernels.hessian_vector(rows, targets, coef, intercept, *direction, n_classes, **how)
        yield kernels.predict(rows, coef, intercept, n_classes, _core.SOFTMAX, n_threads=n_threads)[0]

    one = list(results(1))
    for n_threads in (2, 3, 7, 400):
        for ours, theirs in zip(results(n_threads), one, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize(("storage", "arithmetic"), PAIRS)
@pytest.mark.parametrize("n_classes", [20, 150])
def test_offset_and_columns_in_either_order(n_classes, storage, arithmetic, index, rng):
    csr, _ = random_csr(rng, 200, 90, storage, index)
    model, targets = random_model(rng, n_classes, 90), _core.Targets(rng.integers(0, n_classes, 200))
    offset = rng.normal(size=(200, n_classes))
    plain = _core.SparseRows(*csr, 90)
    first, last, without = (
        _core.default.loss_gradient(rows, targets, *model, n_classes, arithmetic=arithmetic)[1]
        for rows in (
            plain.with_offset(offset).with_columns(n_classes),
            plain.with_columns(n_classes).with_offset(offset),
            plain.with_columns(n_classes),
        )
    )
    np.testing.assert_array_equal(first, last)
    assert abs(first - without).max() > 1


def test_too_many_residuals_to_go_by_columns(rng):
    # In float32 they are few enough; evaluations in float64 go row by row, as if there were no columns.
    n, p, n_classes = 20_000, 30, 150
    csr, _ = random_csr(rng, n, p, np.float32)
    plain, model = _core.SparseRows(*csr, p), random_model(rng, n_classes, p)
    rows, targets = plain.with_columns(n_classes), _core.Targets(rng.integers(0, n_classes, n))
    assert rows is not plain
    assert plain.with_columns(2 * n_classes) is plain
    for arithmetic in (np.float32, np.float64):
        ours, theirs = (
            _core.default.loss_gradient(r, targets, *model, n_classes, arithmetic=arithmetic)[1] for r in (rows, plain)
        )
        # The same residuals, added up in float64.
        assert_close(ours, theirs, np.float64, n, scale=n)


def test_memory_of_an_earlier_evaluation_makes_no_difference(rng):
    csr, _ = random_csr(rng, 90, 70, np.float32)
    used = _core.SparseRows(*csr, 70)
    for n_classes, arithmetic in [
        (3, np.float32),
        (40, np.float64),
        (3, np.float64),
        (9, np.float32),
        (40, np.float32),
    ]:
        model = random_model(rng, n_classes, 70)
        y = rng.integers(0, n_classes, 90)
        results = [
            _core.default.loss_gradient(rows, _core.Targets(y), *model, n_classes, arithmetic=arithmetic)
            for rows in (used, used, _core.SparseRows(*csr, 70))
        ]
        with pytest.raises(IndexError, match="label"):
            _core.default.loss_gradient(used, _core.Targets(y + n_classes), *model, n_classes)
        for result in results[:2]:
            for ours, theirs in zip(result, results[2], strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_gradients_are_not_made_once_a_thread(rng):
    n, p, n_classes = 300, 20_000, 20
    csr, _ = random_csr(rng, n, p, np.float32, density=0.002)
    model, targets = random_model(rng, n_classes, p), _core.Targets(rng.integers(0, n_classes, n))
    peaks = []
    for n_threads in (1, 16):
        rows = _core.SparseRows(*csr, p)
        tracemalloc.start()
        _core.default.loss_gradient(rows, targets, *model, n_classes, n_threads=n_threads)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    gradient = 8 * p * n_classes
    assert peaks[0] > 2 * gradient
    # Fifteen times more scratch of a block, 0.1 MB each, but no second gradient.
    assert peaks[1] < peaks[0] + gradient


def test_rows_may_be_evaluated_by_several_python_threads_at_once(rng):
    csr, _ = random_csr(rng, 500, 60, np.float64)
    rows, targets = _core.SparseRows(*csr, 60), _core.Targets(rng.integers(0, 5, 500))
    models = [random_model(rng, 5, 60) for _ in range(4)]
    expected = [_core.default.loss_gradient(_core.SparseRows(*csr, 60), targets, *m, 5)[1] for m in models]
    differ = []

    def work(which):
        for _ in range(50):
            product = _core.default.loss_gradient(rows, targets, *models[which], 5, n_threads=2)[1]
            differ.append(not np.array_equal(product, expected[which]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(differ) == 200
    assert not any(differ)


def test_first_evaluation_by_several_python_threads_at_once(rng):
    # What the first evaluation finds out of the rows is found out by several, and one of them may end before others.
    n, p, n_classes = 2000, 60, 5
    csr, _ = random_csr(rng, n, p, np.float64, density=2)
    targets, model = _core.Targets(rng.integers(0, n_classes, n)), random_model(rng, n_classes, p)
    expected = _core.default.loss_gradient(_core.SparseRows(*csr, p), targets, *model, n_classes)[1]
    for _ in range(30):
        rows, start, products = _core.SparseRows(*csr, p), threading.Barrier(4), []

        def work(rows=rows, start=start, products=products):
            start.wait()
            products.append(_core.default.loss_gradient(rows, targets, *model, n_classes, n_threads=2)[1])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(products) == 4
        for product in products:
            np.testing.assert_array_equal(product, expected)


@pytest.mark.parametrize("n_classes", [3, 40])
def test_loss_is_exact_where_the_probability_underflows(kernels, n_classes):
    for storage, arithmetic in PAIRS:
        data = np.array([1.0, 1e4, -1e4], dtype=storage)
        rows = _core.SparseRows(data, np.zeros(3, dtype=np.int32), np.arange(4, dtype=np.int32), 1)
        coef, y = np.zeros((n_classes, 1)), np.array([0, 1, 0])
        coef[0] = 1.0
        loss = kernels.loss_gradient(
            rows, _core.Targets(y), coef, np.zeros(n_classes), n_classes, arithmetic=arithmetic
        )[0]
        expected = reference.loss_gradient(data[:, None], y, coef, np.zeros(n_classes))[0]
        np.testing.assert_allclose(loss, float(expected), rtol=tolerance(arithmetic, 3))


@pytest.mark.parametrize("label", [-1, 3, 40, 2**40, -(2**62)])
@pytest.mark.parametrize("n_classes", [3, 40])
def test_label_out_of_range_is_an_error(kernels, label, n_classes, rng):
    csr, _ = random_csr(rng, 600, 4, np.float64)
    y = rng.integers(0, n_classes, 600)
    y[523] = label if not 0 <= label < n_classes else n_classes
    with pytest.raises(IndexError, match=rf"label {y[523]} of row 523 is not in 0\.\.{n_classes - 1}"):
        kernels.loss_gradient(
            _core.SparseRows(*csr, 4), _core.Targets(y), *random_model(rng, n_classes, 4), n_classes, n_threads=2
        )


DATA, COLUMNS, STARTS = np.ones(4), np.array([0, 2, 1, 1]), np.array([0, 2, 2, 4])


@pytest.mark.parametrize("index", INDICES)
def test_rows_know_whether_a_feature_comes_twice_in_one(index):
    indptr = np.array([0, 2, 2, 5], dtype=index)
    for indices, expected in (([2, 0, 0, 2, 1], False), ([2, 0, 1, 0, 1], True), ([0, 0, 0, 1, 2], True)):
        rows = _core.SparseRows(np.zeros(5), np.array(indices, dtype=index), indptr, 3)
        assert rows.repeats() is expected
    assert not _core.SparseRows(np.zeros(0), np.zeros(0, dtype=index), np.zeros(1, dtype=index), 0).repeats()


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [True, False])
def test_sums_of_features_take_what_comes_twice_as_one(weighted, dtype, index, rng):
    csr, dense = random_csr(rng, 300, 40, dtype, index)
    weight = rng.uniform(0, 2, 300) * (rng.random(300) < 0.9) if weighted else np.ones(300)
    center = rng.normal(size=40)
    stored = np.zeros((300, 40), dtype=bool)
    stored[np.repeat(np.arange(300), np.diff(csr[2])), csr[1]] = True
    terms = [stored, dense * stored, np.abs(dense), stored * (dense - center) ** 2]
    expected = [*(weight @ term for term in terms), np.count_nonzero(stored[weight > 0], axis=0)]
    sums = _core.SparseRows(*csr, 40).sums(weight if weighted else None, center)
    for ours, theirs in zip(sums, expected, strict=True):
        assert_close(ours, theirs, np.float64, 300)


def test_sums_of_features_want_a_weight_a_row_and_a_center_a_feature(rng):
    rows = _core.SparseRows(DATA, COLUMNS, STARTS, 3)
    for weight, center in ((np.ones(4), np.zeros(3)), (None, np.zeros(2))):
        with pytest.raises(ValueError, match="3 rows of 3 features"):
            rows.sums(weight, center)
    empty = _core.SparseRows(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64), 0)
    assert empty.sums(None, np.zeros(0)).shape == (5, 0)


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bad_csr_is_an_error_that_names_the_argument(index, dtype):
    data, indices, indptr = DATA.astype(dtype), COLUMNS.astype(index), STARTS.astype(index)
    rows = _core.SparseRows(data, indices, indptr, 3)
    assert (rows.n_rows, rows.n_features) == (3, 3)

    def changed(array, at, value):
        array = array.copy()
        array[at] = value
        return array

    huge = np.iinfo(index).max
    cases = [
        (data, changed(indices, 3, 3), indptr, 3, r"indices must be in 0\.\.2, got 3 at 3"),
        (data, changed(indices, 1, -1), indptr, 3, r"indices must be in 0\.\.2, got -1 at 1"),
        (data, changed(indices, 1, huge), indptr, 3, rf"indices must be in 0\.\.2, got {huge} at 1"),
        (data, indices, indptr, 0, "indices must be in"),
        (data, indices, changed(indptr, 0, 1), 3, "indptr must rise from 0 to the number of entries, 4.*got 1 at 0"),
        (data, indices, changed(indptr, 3, 3), 3, "indptr must rise.*got 3 at 3"),
        (data, indices, changed(indptr, 3, 5), 3, "indptr must rise.*got 5 at 3"),
        (data, indices, changed(indptr, 1, 3), 3, "indptr must rise.*got 2 at 2"),
        (data, indices, changed(indptr, 1, -huge), 3, "indptr must rise.*at 1"),
        (data, indices, changed(indptr, 1, huge), 3, "indptr must rise.*at 1"),
        (data, indices, indptr[:0], 3, "indptr must have n"),
        (data[:3], indices, indptr, 3, "indices must be as many as data, 3, got 4"),
        (changed(data, 2, np.nan), indices, indptr, 3, "data must not hold NaN or infinity, got nan at 2"),
        (changed(data, 3, -np.inf), indices, indptr, 3, "data must not hold NaN or infinity, got -inf at 3"),
        (data.astype(np.float16), indices, indptr, 3, "data must be float32 or float64, got float16"),
        (data.astype(np.int64), indices, indptr, 3, "data must be float32 or float64, got int64"),
        (data.astype(np.complex64), indices, indptr, 3, "data must be float32 or float64, got complex64"),
        (data.astype(">f8"), indices, indptr, 3, "data must be contiguous, native"),
        (np.ones(8, dtype)[::2], indices, indptr, 3, "data must be contiguous"),
        (data[:, None], indices, indptr, 3, "data must be contiguous, native and of one dimension"),
        (data, indices.astype(np.uint32), indptr, 3, "indices must be int32 or int64, got uint32"),
        (data, indices.astype(float), indptr, 3, "indices must be int32 or int64, got float64"),
        (data, indices, indptr.astype(np.int16), 3, "indptr must be int32 or int64, got int16"),
        (data, indices, indptr[::-1], 3, "indptr must be contiguous"),
        (data, indices, indptr, -1, "n_features"),
    ]
    for *arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            _core.SparseRows(*arguments)
    for offset in (np.ones((2, 3)), np.ones(3), np.ones((3, 4))[:, ::2], np.ones((3, 2), dtype=np.float32)):
        with pytest.raises(ValueError, match="offset"):
            _core.SparseRows(data, indices, indptr, 3, offset)


def test_a_bad_entry_behind_many_good_ones_is_found(rng):
    n = 10_001
    for at in (0, 4095, 4096, n - 1):
        indices, data = np.zeros(n, dtype=np.int32), np.ones(n, dtype=np.float32)
        indices[at], data[at] = 1, np.nan
        with pytest.raises(ValueError, match=f"indices must be in 0..0, got 1 at {at}"):
            _core.SparseRows(data, indices, np.array([0, n]), 1)
        with pytest.raises(ValueError, match=f"data must not hold NaN or infinity, got nan at {at}"):
            _core.SparseRows(data, indices, np.array([0, n]), 2)


def test_mismatched_arguments():
    kernels, rows = _core.default, _core.SparseRows(DATA, COLUMNS, STARTS, 3)
    targets, coef, intercept = _core.Targets(np.array([0, 1, 1])), np.zeros((2, 3)), np.zeros(2)
    cases = [
        (lambda: kernels.loss_gradient(rows, targets, coef[:, :2].copy(), intercept, 2), "columns"),
        (lambda: kernels.loss_gradient(rows, _core.Targets(np.array([0, 1])), coef, intercept, 2), "do not belong"),
        (lambda: kernels.loss_gradient(rows, targets, coef, intercept, 4), "classes"),
        (lambda: kernels.loss_gradient(rows, targets, coef, intercept[:1], 2), "intercepts"),
        (lambda: kernels.loss_gradient(rows, targets, coef, intercept, 2, arithmetic=np.float32), "not offered"),
        (lambda: kernels.loss_gradient(rows, targets, coef, intercept, 2, n_threads=0), "n_threads"),
        (lambda: kernels.hessian_vector(rows, targets, coef, intercept, coef[:1], intercept[:1], 2), "rows of coef"),
        (lambda: kernels.predict(rows, coef[:, :2].copy(), intercept, 2, _core.SOFTMAX), "columns"),
        (lambda: kernels.predict(rows, coef, intercept, 2, 17), "no such map"),
        (lambda: kernels.predict(rows, coef, intercept, 2, _core.SOFTMAX, n_threads=-1), "n_threads"),
        (
            lambda: kernels.predict(
                _core.SparseRows(DATA, COLUMNS, STARTS, 3, np.zeros((3, 5))), coef, intercept, 2, 0
            ),
            "offset has 5",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="Rows"):
        kernels.gram(rows, np.ones((1, 3)))
    with pytest.raises(TypeError):
        kernels.loss_gradient(np.ones((3, 3)), targets, coef, intercept, 2)
