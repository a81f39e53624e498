# cython: language_level=3, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""The Cython kernel: fused loops over the whole batch, over the C kernels of one block of rows.

Here lie the partition into blocks, the threads, the ordered reduction and the release of the GIL; the arithmetic of a
block is in C, the meaning of the numbers in Python.  Callers have validated: shapes agree, arrays are native float32
or float64, labels are int64.  Only what memory safety needs is checked again.

The partition depends on the problem and never on the number of threads, and partial sums are added in the order of
the rows, so a result has the same bits for any number of threads.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_AsLongAndOverflow, PyLong_CheckExact
from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY, sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from native cimport (
    SF_ALIGNMENT, SF_F32, SF_F64, SF_GRAM_COLUMNS, SF_GRAM_ROWS, SF_IDENTITY, SF_LOGSUMEXP, SF_LOG_SOFTMAX, SF_OK,
    SF_SOFTMAX, sf_array_kernels, sf_array_scratch_bytes, sf_block_rows, sf_coef_index, sf_coef_size, sf_coef_stride,
    sf_csr, sf_csr_block_rows, sf_csr_columns, sf_csr_kernels, sf_csr_scratch_bytes, sf_csr_stride, sf_entry,
    sf_gradient, sf_gram, sf_gram_scratch_bytes, sf_intercept_index, sf_intercept_size, sf_kernels,
    sf_kernels_available, sf_logits, sf_many_classes, sf_map, sf_model, sf_row_kernels, sf_rows, sf_scratch_bytes,
    sf_targets,
)
from ndarrays cimport (
    check_columns, describe, is_vector_of, offset_data, real_of, same_or_apart, stride_of, vector,
)

cdef extern from *:
    const char *SF_COMPILER
    const char *SF_VERSION

cnp.import_array()

SOFTMAX = SF_SOFTMAX
LOG_SOFTMAX = SF_LOG_SOFTMAX
LOGSUMEXP = SF_LOGSUMEXP
IDENTITY = SF_IDENTITY
OPENMP = SF_OPENMP                                   # the date of the OpenMP specification, 0 without
COMPILER = (<bytes>SF_COMPILER).decode()
VERSION = (<bytes>SF_VERSION).decode()

# Results larger than this will not be found in a cache by whoever reads them next.
cdef ptrdiff_t STREAM_BYTES = 32 * 1024 * 1024
# Elements of an array that the short way of the array functions takes: a few microseconds of work, about as long as the
# general way needs to set out, and short enough to keep the GIL.
cdef ptrdiff_t SMALL_ELEMENTS = 2048
cdef enum: SMALL_NDIM = 8


@cython.final
cdef class _Buffer:
    """Aligned memory, freed with the object: NumPy's, which asks for huge pages where it is large."""
    cdef cnp.ndarray base
    cdef char *data

    def __cinit__(self, size_t n_bytes):
        cdef cnp.npy_intp size = n_bytes + SF_ALIGNMENT
        self.base = cnp.PyArray_SimpleNew(1, &size, cnp.NPY_UINT8)
        self.data = <char *>((<uintptr_t>cnp.PyArray_DATA(self.base) + SF_ALIGNMENT - 1)
                             & ~<uintptr_t>(SF_ALIGNMENT - 1))

    cdef object matrix(self, ptrdiff_t n_rows, ptrdiff_t n_columns):
        """The memory, which lives on with it, as a matrix of float64."""
        cdef ptrdiff_t begin = self.data - <char *>cnp.PyArray_DATA(self.base)
        return self.base[begin:begin + 8 * n_rows * n_columns].view(np.float64).reshape(n_rows, n_columns)


@cython.final
cdef class Rows:
    """X (n, p) of float32 or float64, its rows or its columns contiguous; a view, never a copy.

    offset (n, K), C order, or None: what is added to the logits of the rows.
    """
    cdef cnp.ndarray X, offset                       # keep the memory that the view points to
    cdef sf_rows view
    cdef int real
    cdef readonly object dtype

    def __init__(self, cnp.ndarray X not None, cnp.ndarray offset=None):
        cdef ptrdiff_t itemsize = cnp.PyArray_ITEMSIZE(X)
        if cnp.PyArray_NDIM(X) != 2:
            raise ValueError(f"X must have shape (n, p), got {describe(X)}")
        self.real = real_of(X)
        self.X, self.dtype = X, X.dtype
        self.view.data = cnp.PyArray_DATA(X)
        self.view.n_rows, self.view.n_features = cnp.PyArray_DIM(X, 0), cnp.PyArray_DIM(X, 1)
        if offset is not None:
            self.offset = offset
            self.view.offset = offset_data(offset, self.view.n_rows)
            self.view.offset_stride = cnp.PyArray_DIM(offset, 1)
        # The stride along an axis of length 0 or 1 has no meaning, and any value: name it as the kernels like it.
        cdef ptrdiff_t row_bytes = cnp.PyArray_STRIDE(X, 0), feature_bytes = cnp.PyArray_STRIDE(X, 1)
        if self.view.n_features <= 1:
            feature_bytes = itemsize
        if self.view.n_rows <= 1:
            row_bytes = self.view.n_features * itemsize if feature_bytes == itemsize else itemsize
        self.view.row_stride, self.view.feature_stride = row_bytes // itemsize, feature_bytes // itemsize
        if self.view.row_stride != 1 and self.view.feature_stride != 1 or row_bytes % itemsize \
                or feature_bytes % itemsize:
            raise ValueError(f"X needs contiguous rows or columns, got {describe(X)}")

    @property
    def n_rows(self):
        return self.view.n_rows

    @property
    def n_features(self):
        return self.view.n_features

    @property
    def n_entries(self):
        return self.view.n_rows * self.view.n_features

    def with_offset(self, offset):
        return Rows(self.X, offset)

    cdef int check(self, ptrdiff_t n_features, ptrdiff_t n_classes) except -1:
        return check_columns(self.offset, self.view.n_features, n_features, n_classes)


@cython.final
cdef class Targets:
    """Labels (n,) int64, or probabilities (n, K) of the storage type; a weight for each row, for all, or None."""
    cdef cnp.ndarray y, weight                       # keep the memory that the view points to
    cdef sf_targets view
    cdef int real
    cdef readonly ptrdiff_t n_rows
    cdef readonly ptrdiff_t n_classes                # 0: any, where the targets are labels
    cdef readonly object dtype                       # of probabilities; None: labels

    def __init__(self, cnp.ndarray y not None, weight=None):
        memset(&self.view, 0, sizeof(sf_targets))
        if is_vector_of(y, cnp.PyArray_ISSIGNED(y)):
            self.view.labels = <const int64_t *>cnp.PyArray_DATA(y)
        elif cnp.PyArray_NDIM(y) == 2:
            self.real = real_of(y)
            self.dtype = y.dtype
            self.n_classes = cnp.PyArray_DIM(y, 1)
            self.view.row_stride = stride_of(y, 0)
            self.view.class_stride = stride_of(y, 1)
            self.view.proba = cnp.PyArray_DATA(y)
        else:
            raise ValueError(f"targets must be contiguous int64 labels or a matrix of float, got {describe(y)}")
        self.y = y
        self.n_rows = cnp.PyArray_DIM(y, 0)
        if weight is None:
            return
        if isinstance(weight, float):
            self.weight = vector(self.n_rows, weight)
        else:
            self.weight = weight
            if not is_vector_of(self.weight, cnp.PyArray_ISFLOAT(self.weight)):
                raise ValueError(f"weights must be a contiguous vector of float64, got {describe(weight)}")
            if cnp.PyArray_DIM(self.weight, 0) != self.n_rows:
                raise ValueError(f"{len(weight)} weights for {self.n_rows} rows")
        self.view.weight = <const double *>cnp.PyArray_DATA(self.weight)

    cdef int check(self, ptrdiff_t n_rows, ptrdiff_t n_classes, int real) except -1:
        if self.n_rows == n_rows and (self.view.labels != NULL or self.n_classes == n_classes and self.real == real):
            return 0
        raise ValueError(f"targets of {self.n_rows} rows, {self.n_classes} classes, {self.dtype} do not belong to "
                         f"{n_rows} rows, {n_classes} classes, {'float32' if real == SF_F32 else 'float64'}")


@cython.final
cdef class _Model:
    """Coefficients packed for the kernels: in the arithmetic type, in the layout of sf_model."""
    cdef _Buffer memory
    cdef size_t n_bytes
    cdef sf_model view
    cdef int real

    def __init__(self, const double[:, ::1] coef, const double[::1] intercept, ptrdiff_t n_classes, int real):
        cdef ptrdiff_t n_outputs = coef.shape[0], n_features = coef.shape[1], itemsize = 4 if real == SF_F32 else 8
        check_model(n_outputs, intercept, n_classes)
        self.real = real
        self.view.n_features = n_features
        self.view.n_outputs = n_outputs
        self.view.n_classes = n_classes
        cdef ptrdiff_t coef_size = sf_coef_size(&self.view), intercept_size = sf_intercept_size(&self.view), k, j
        # The intercept begins on an aligned address of its own.
        cdef ptrdiff_t offset = ceil_div(coef_size * itemsize, SF_ALIGNMENT) * SF_ALIGNMENT
        self.memory = _Buffer(offset + intercept_size * itemsize)
        memset(self.memory.data, 0, offset + intercept_size * itemsize)
        self.view.coef = self.memory.data
        self.view.intercept = self.memory.data + offset
        for k in range(n_outputs):
            for j in range(n_features):
                put(self.view.coef, sf_coef_index(&self.view, k, j), coef[k, j], real)
            put(self.view.intercept, sf_intercept_index(&self.view, k), intercept[k], real)
        if sf_many_classes(n_classes):
            for k in range(n_classes, intercept_size):
                put(self.view.intercept, k, -INFINITY, real)


cdef int check_model(ptrdiff_t n_outputs, const double[::1] intercept, ptrdiff_t n_classes) except -1:
    if intercept.shape[0] != n_outputs or not n_classes - 1 <= n_outputs <= n_classes or n_outputs < 1:
        raise ValueError(f"{n_outputs} rows of coef, {intercept.shape[0]} intercepts, {n_classes} classes")
    return 0


cdef inline void put(const void *data, ptrdiff_t index, double value, int real) noexcept nogil:
    if real == SF_F32:
        (<float *>data)[index] = <float>value
    else:
        (<double *>data)[index] = value


cdef ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return (a + b - 1) // b


# Floating-point operations between two looks at pending signals: at most a few tenths of a second on one slow core.
cdef double WORK_BETWEEN_SIGNALS = 2e9
# What the maps and losses of logits cost for each of them, in floating-point operations.
cdef double WORK_PER_LOGIT = 30


cdef ptrdiff_t between_signals(double work, int n_threads) noexcept nogil:
    """How many blocks, each of so much work, lie between two looks at pending signals."""
    return max(<ptrdiff_t>n_threads, <ptrdiff_t>min(1e9, WORK_BETWEEN_SIGNALS / max(1.0, work)))


include "module.pxi"
include "evaluate.pxi"
include "sparse_rows.pxi"
include "csr.pxi"


@cython.final
cdef class Kernels:
    """The kernels of one instruction set over whole batches."""
    cdef const sf_kernels *table

    def __cinit__(self):
        self.table = sf_kernels_available()[0]

    @property
    def name(self):
        return self.table.name.decode()

    def __repr__(self):
        return f"<softfast kernels: {self.name}>"

    def loss_gradient(self, X not None, Targets targets not None, coef, intercept, ptrdiff_t n_classes, *,
                      arithmetic=np.float64, bint by_feature=False, int n_threads=1):
        """Sums over rows, Rows or SparseRows: loss, residual^T X (M, p), residual^T 1 (M,), all float64.

        coef is in C or F order; for SparseRows it may be float32.  With by_feature their residual^T X has the classes
        of a feature next to each other, with room after them, which saves a transposition.
        """
        cdef int real = arithmetic_of(arithmetic)
        if isinstance(X, SparseRows):
            model = csr_model(X, coef, intercept, n_classes, real, n_threads)
            return evaluate_csr(self.table, X, targets, model, None, by_feature, n_threads)
        models = [_Model(np.ascontiguousarray(coef), intercept, n_classes, real)]
        losses, product, residual = evaluate(self.table, X, [targets], models, None, n_threads)
        return float(losses[0]), product[0], residual[0]

    def loss_gradient_stack(self, Rows X not None, list targets not None, coef, intercept, ptrdiff_t n_classes, *,
                            arithmetic=np.float64, int n_threads=1):
        """The same for S models, each with targets of its own, over one reading of X: coef (S, M, p), intercept (S, M).

        Returns losses (S,), residual^T X (S, M, p), residual^T 1 (S, M).
        """
        if not len(targets) == len(coef) == len(intercept) > 0:
            raise ValueError(f"{len(targets)} targets, {len(coef)} coefs and {len(intercept)} intercepts")
        cdef int real = arithmetic_of(arithmetic)
        models = [_Model(c, b, n_classes, real) for c, b in zip(coef, intercept)]
        return evaluate(self.table, X, targets, models, None, n_threads)

    def hessian_vector(self, X not None, Targets targets not None, coef, intercept, direction,
                       direction_intercept, ptrdiff_t n_classes, *, arithmetic=np.float64, bint by_feature=False,
                       int n_threads=1):
        """Sums over rows: the loss's Hessian at coef (M, p) and intercept (M,) times the direction, shaped like them.

        Of the targets only the weights count; by_feature as in `loss_gradient`.
        """
        cdef int real = arithmetic_of(arithmetic)
        if isinstance(X, SparseRows):
            model = csr_model(X, coef, intercept, n_classes, real, n_threads)
            turned = csr_model(X, direction, direction_intercept, n_classes, real, n_threads)
            return evaluate_csr(self.table, X, targets, model, turned, by_feature, n_threads)[1:]
        models = [_Model(np.ascontiguousarray(coef), intercept, n_classes, real)]
        directions = [_Model(np.ascontiguousarray(direction), direction_intercept, n_classes, real)]
        _, product, residual = evaluate(self.table, X, [targets], models, directions, n_threads)
        return product[0], residual[0]

    def gram(self, Rows X not None, const double[:, ::1] weight not None, *, int n_threads=1):
        """sum_i w_i x_i x_i^T, (g, p, p), for each of g rows of weights (g, n), computed in float64."""
        _remember_threads(n_threads)
        cdef ptrdiff_t n = X.view.n_rows, p = X.view.n_features, n_weights = weight.shape[0]
        cdef ptrdiff_t stride = sf_coef_stride(p), chunk
        cdef size_t scratch_bytes = sf_gram_scratch_bytes(p)
        if weight.shape[1] != n:
            raise ValueError(f"{weight.shape[1]} weights for {n} rows")
        matrices = np.zeros((n_weights, p, stride))
        cdef double[:, :, ::1] sums = matrices
        cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
        if n and p and n_weights:
            with nogil:
                for chunk in prange(n_threads, num_threads=n_threads, schedule='static'):
                    # Each element belongs to one thread: its bits do not depend on their number.
                    run_gram(self.table.gram[X.real], &sums[0, 0, 0], &weight[0, 0], n_weights, chunk, n_threads,
                             &X.view, scratch.data + scratch_bytes * chunk)
                    with gil:
                        PyErr_CheckSignals()
        return np.ascontiguousarray(matrices[:, :, :p])

    def predict(self, X not None, coef, intercept, ptrdiff_t n_classes, int map, *, int n_threads=1):
        """The map of the logits of every row, in the type of X: (n, K), or with IDENTITY (n, M).

        Also, whether all logits were finite, of many classes the first of each row: a row of X with NaN or infinity in
        it is never missed.
        """
        cdef sf_map sf = <sf_map>map
        _remember_threads(n_threads)
        if sf not in (SF_IDENTITY, SF_SOFTMAX, SF_LOG_SOFTMAX):
            raise ValueError(f"no such map: {map}")
        if isinstance(X, SparseRows):
            packed = csr_model(X, coef, intercept, n_classes, (<SparseRows>X).real, n_threads)
            return predict_csr(self.table, X, packed, sf, n_threads)
        cdef Rows rows = X
        cdef _Model model = _Model(coef, intercept, n_classes, rows.real)
        cdef sf_row_kernels kernels = self.table.rows[rows.real][rows.real]
        cdef ptrdiff_t n = rows.view.n_rows, p = rows.view.n_features
        rows.check(model.view.n_features, n_classes)
        cdef ptrdiff_t columns = model.view.n_outputs if sf == SF_IDENTITY else n_classes
        cdef ptrdiff_t block = sf_block_rows(p, n_classes, X.dtype.itemsize)
        cdef size_t scratch_bytes = sf_scratch_bytes(min(block, n), n_classes)
        cdef ptrdiff_t n_blocks = ceil_div(n, block), first = 0, last, i
        cdef ptrdiff_t group = between_signals(n_classes * (2.0 * p + WORK_PER_LOGIT) * block, n_threads)
        cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
        out = np.empty((n, columns), dtype=X.dtype)
        cdef Rows target = Rows(out)
        cdef void *data = <void *>target.view.data
        cdef int n_not_finite = 0
        with nogil:
            while first < n_blocks:
                last = min(first + group, n_blocks)
                for i in prange(first, last, num_threads=n_threads, schedule='static'):
                    n_not_finite += not kernels.predict(
                        data, columns, sf, &rows.view, &model.view, i * block, min((i + 1) * block, n),
                        scratch.data + scratch_bytes * threadid())
                first = last
                if first < n_blocks:
                    with gil:
                        PyErr_CheckSignals()
        return out, n_not_finite == 0

    def map(self, cnp.ndarray x not None, cnp.ndarray out not None, int map, *, int n_threads=1):
        """out = the map along axis 1 of x (outer, K, inner), K >= 1; out (outer, 1, inner) with LOGSUMEXP."""
        cdef int real = real_of(x)
        cdef cnp.npy_intp *shape = cnp.PyArray_DIMS(x)
        cdef cnp.npy_intp *out_shape = cnp.PyArray_DIMS(out)
        if cnp.PyArray_NDIM(x) != 3 or cnp.PyArray_NDIM(out) != 3 or not cnp.PyArray_ISWRITEABLE(out) \
                or real_of(out) != real or out_shape[0] != shape[0] or out_shape[2] != shape[2] or shape[1] < 1 \
                or out_shape[1] != (1 if map == SF_LOGSUMEXP else shape[1]):
            raise ValueError(f"out, {describe(out)}, does not belong to x, {describe(x)}")
        cdef map_job job
        job.x_outer, job.x_class, job.x_row = stride_of(x, 0), stride_of(x, 1), stride_of(x, 2)
        job.out_outer, job.out_class, job.out_row = stride_of(out, 0), stride_of(out, 1), stride_of(out, 2)
        cdef ptrdiff_t n_blocks = plan_map(self.table, &job, map, x, out, real, shape[0], shape[1], shape[2]), i
        _remember_threads(n_threads)
        cdef ptrdiff_t group = between_signals(WORK_PER_LOGIT * job.n_classes * job.block, n_threads), first = 0, last
        cdef _Buffer scratch = _Buffer(job.scratch_bytes * n_threads)
        with nogil:
            while first < n_blocks:
                last = min(first + group, n_blocks)
                for i in prange(first, last, num_threads=n_threads, schedule='static'):
                    run_map(&job, i, scratch.data + job.scratch_bytes * threadid())
                first = last
                if first < n_blocks:
                    with gil:
                        PyErr_CheckSignals()

    def map_small(self, x, axis, out, int map, bint keepdims=True):
        """The map along an axis of a small plain array, to `out` where given; None where `map` is needed.

        The short way: with few elements nearly all the time of a call would go into checks and views in Python.  None
        says no more than that something is out of the ordinary: a list, another type or order, a wrong axis, overlap.
        """
        cdef int overflow = 0, at, ndim, i
        if not (cnp.PyArray_CheckExact(x) and cnp.PyArray_ISCARRAY_RO(x) and PyLong_CheckExact(axis)):
            return None
        cdef cnp.ndarray source = x, sink
        cdef int kind = cnp.PyArray_TYPE(source)
        cdef cnp.npy_intp *shape = cnp.PyArray_DIMS(source)
        cdef cnp.npy_intp[SMALL_NDIM] result_shape
        cdef long wanted = PyLong_AsLongAndOverflow(axis, &overflow)
        ndim = cnp.PyArray_NDIM(source)
        if kind not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE) or ndim > SMALL_NDIM or overflow \
                or not -ndim <= wanted < ndim or not 1 <= cnp.PyArray_SIZE(source) <= SMALL_ELEMENTS:
            return None
        at = <int>(wanted + ndim if wanted < 0 else wanted)
        cdef ptrdiff_t outer = 1, n_classes = shape[at], inner = 1
        for i in range(ndim):
            result_shape[i] = shape[i]
            if i < at:
                outer *= shape[i]
            elif i > at:
                inner *= shape[i]
        if map == SF_LOGSUMEXP:
            result_shape[at] = 1
            if not keepdims:
                ndim -= 1
                for i in range(at, ndim):
                    result_shape[i] = shape[i + 1]
        if out is None:
            sink = cnp.PyArray_SimpleNew(ndim, result_shape, kind)
        elif cnp.PyArray_CheckExact(out) and cnp.PyArray_ISCARRAY(out) and cnp.PyArray_TYPE(out) == kind \
                and cnp.PyArray_SAMESHAPE(source, out) and same_or_apart(source, out) and map != SF_LOGSUMEXP:
            sink = out
        else:
            return None
        cdef map_job job
        job.x_outer, job.x_class, job.x_row = n_classes * inner, inner, 1
        job.out_outer, job.out_class, job.out_row = (1 if map == SF_LOGSUMEXP else n_classes) * inner, inner, 1
        cdef ptrdiff_t n_blocks = plan_map(self.table, &job, map, source, sink,
                                           SF_F32 if kind == cnp.NPY_FLOAT else SF_F64, outer, n_classes, inner), block
        cdef _Buffer scratch = _Buffer(job.scratch_bytes)
        for block in range(n_blocks):
            run_map(&job, block, scratch.data)
        return sink if ndim else sink[()]

    def cross_entropy(self, cnp.ndarray logits not None, Targets targets not None, cnp.ndarray gradient=None, *,
                      int n_threads=1):
        """Weighted losses (n,) float64 of logits (n, K); fills gradient (n, K), C order, where it is given."""
        cdef int real = real_of(logits)
        if cnp.PyArray_NDIM(logits) != 2 or cnp.PyArray_DIM(logits, 1) < 1:
            raise ValueError(f"logits must have shape (n, K) with K >= 1, got {describe(logits)}")
        cdef cnp.npy_intp n = cnp.PyArray_DIM(logits, 0), n_classes = cnp.PyArray_DIM(logits, 1)
        targets.check(n, n_classes, real)
        cdef void *gradient_data = NULL
        if gradient is not None:
            if not (cnp.PyArray_ISCARRAY(gradient) and cnp.PyArray_SAMESHAPE(logits, gradient)) \
                    or real_of(gradient) != real:
                raise ValueError(f"gradient, {describe(gradient)}, does not belong to logits, {describe(logits)}")
            gradient_data = cnp.PyArray_DATA(gradient)
        cdef sf_logits view
        view.data = cnp.PyArray_DATA(logits)
        view.row_stride, view.class_stride = stride_of(logits, 0), stride_of(logits, 1)
        cdef size_t itemsize = cnp.PyArray_ITEMSIZE(logits)
        cdef ptrdiff_t block = sf_block_rows(0, n_classes, itemsize)
        cdef ptrdiff_t n_blocks = ceil_div(n, block), first = 0, last, i
        cdef ptrdiff_t group = between_signals(WORK_PER_LOGIT * n_classes * block, n_threads)
        cdef size_t scratch_bytes = sf_array_scratch_bytes(min(block, n), n_classes, view.class_stride)
        _remember_threads(n_threads)
        cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
        cdef _Buffer statuses = _Buffer(n_blocks * sizeof(ptrdiff_t))
        cdef ptrdiff_t *status = <ptrdiff_t *>statuses.data
        cdef const sf_array_kernels *kernels = &self.table.arrays[real]
        cdef int streams = n * n_classes * itemsize > STREAM_BYTES
        cdef cnp.ndarray losses = cnp.PyArray_SimpleNew(1, &n, cnp.NPY_DOUBLE)
        cdef double *losses_data = <double *>cnp.PyArray_DATA(losses)
        with nogil:
            while first < n_blocks:
                last = min(first + group, n_blocks)
                for i in prange(first, last, num_threads=n_threads, schedule='static'):
                    status[i] = kernels.cross_entropy(
                        losses_data, gradient_data, &view, &targets.view, n_classes, i * block,
                        min((i + 1) * block, n), streams, scratch.data + scratch_bytes * threadid())
                first = last
                if first < n_blocks:
                    with gil:
                        PyErr_CheckSignals()
        for i in range(n_blocks):
            if status[i] != SF_OK:
                raise IndexError(label_error([targets], status[i], n_classes))
        return losses

    def exp(self, x):
        """exp(x) of a contiguous vector."""
        return self._elementwise(x, True)

    def log(self, x):
        """log(x) of a contiguous vector."""
        return self._elementwise(x, False)

    cdef object _elementwise(self, x, bint is_exp):
        cdef Rows source = Rows(np.ascontiguousarray(x).reshape(1, -1))
        out = np.empty(x.shape, x.dtype)
        cdef Rows sink = Rows(out.reshape(1, -1))
        cdef const sf_array_kernels *kernels = &self.table.arrays[source.real]
        with nogil:
            if is_exp:
                kernels.exp(<void *>sink.view.data, source.view.data, source.view.n_features)
            else:
                kernels.log(<void *>sink.view.data, source.view.data, source.view.n_features)
        return out


cdef struct map_job:
    # A map over (outer, K, inner); the rows are the inner axis, strides count elements.
    const sf_array_kernels *kernels
    sf_map map
    const char *x
    char *out
    ptrdiff_t n_classes, n_rows, block, blocks_per_outer, itemsize
    ptrdiff_t x_outer, x_class, x_row, out_outer, out_class, out_row
    size_t scratch_bytes
    int streams


cdef ptrdiff_t plan_map(const sf_kernels *table, map_job *job, int map, cnp.ndarray x, cnp.ndarray out, int real,
                        ptrdiff_t outer, ptrdiff_t n_classes, ptrdiff_t inner) except -1:
    """The rest of a job whose strides are set; returns its number of blocks."""
    if map not in (SF_SOFTMAX, SF_LOG_SOFTMAX, SF_LOGSUMEXP):
        raise ValueError(f"no such map: {map}")
    if inner == 1:                                   # the rows are the outer axis: one run of them
        outer, inner = 1, outer
        job.x_outer, job.x_row = job.x_row, job.x_outer
        job.out_outer, job.out_row = job.out_row, job.out_outer
    job.kernels = &table.arrays[real]
    job.map = <sf_map>map
    job.x = <const char *>cnp.PyArray_DATA(x)
    job.out = <char *>cnp.PyArray_DATA(out)
    job.itemsize = cnp.PyArray_ITEMSIZE(x)
    job.n_classes, job.n_rows = n_classes, inner
    job.block = sf_block_rows(0, n_classes, job.itemsize)
    job.blocks_per_outer = ceil_div(inner, job.block)
    job.scratch_bytes = sf_array_scratch_bytes(min(job.block, inner), n_classes,
                                               job.out_class if job.x_class == 1 else job.x_class)
    job.streams = outer * n_classes * inner * job.itemsize > STREAM_BYTES and job.x != job.out
    return outer * job.blocks_per_outer


cdef void run_map(const map_job *job, ptrdiff_t i, void *scratch) noexcept nogil:
    cdef ptrdiff_t outer = i // job.blocks_per_outer, begin = i % job.blocks_per_outer * job.block
    cdef sf_logits view
    view.data = job.x + outer * job.x_outer * job.itemsize
    view.row_stride = job.x_row
    view.class_stride = job.x_class
    job.kernels.map(job.out + outer * job.out_outer * job.itemsize, job.out_row, job.out_class, job.map, &view,
                    job.n_classes, begin, min(begin + job.block, job.n_rows), job.streams, scratch)


def _load():
    tables = {}
    cdef const sf_kernels *const *entry = sf_kernels_available()
    cdef Kernels kernels
    while entry[0] != NULL:
        kernels = Kernels.__new__(Kernels)
        kernels.table = entry[0]
        tables[kernels.name] = kernels
        entry += 1
    return tables


kernels = _load()                                    # {name: Kernels}, best first; not to be changed
default = _choose(kernels)
