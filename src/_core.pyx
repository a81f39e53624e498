# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: freethreading_compatible=True
"""The Cython kernel: fused loops over the whole batch, over the C kernels of one block of rows.

Here lie the partition into blocks, the threads, the ordered reduction and the release of the GIL; the arithmetic of a
block is in C, the meaning of the numbers in Python.  Callers have validated: shapes agree, arrays are native float32
or float64, labels are int64.  Only what memory safety needs is checked again.

The partition depends on the problem and never on the number of threads, and partial sums are added in the order of
the rows, so a result has the same bits for any number of threads.
"""

import os

import numpy as np

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef extern from "softfast.h" nogil:
    enum: SF_ALIGNMENT
    enum: SF_MAX_LANES
    enum: SF_OK
    ctypedef enum sf_map:
        SF_SOFTMAX
        SF_LOG_SOFTMAX
        SF_LOGSUMEXP
        SF_IDENTITY
    ctypedef enum sf_real:
        SF_F32
        SF_F64
    ctypedef struct sf_rows:
        const void *data
        ptrdiff_t n_rows, n_features, row_stride, feature_stride
    ctypedef struct sf_targets:
        const int64_t *labels
        const void *proba
        ptrdiff_t row_stride, class_stride
        const double *weight
    ctypedef struct sf_model:
        const void *coef
        const void *intercept
        ptrdiff_t n_features, n_outputs, n_classes
    ctypedef struct sf_gradient:
        double loss
        double *coef
        double *intercept
    ctypedef struct sf_logits:
        const void *data
        ptrdiff_t row_stride, class_stride
    ctypedef struct sf_row_kernels:
        ptrdiff_t (*loss_gradient)(sf_gradient *, const sf_rows *, const sf_targets *, const sf_model *, ptrdiff_t,
                                   ptrdiff_t, void *) noexcept nogil
        int (*predict)(void *, ptrdiff_t, sf_map, const sf_rows *, const sf_model *, ptrdiff_t, ptrdiff_t,
                       void *) noexcept nogil
    ctypedef struct sf_array_kernels:
        void (*map)(void *, ptrdiff_t, ptrdiff_t, sf_map, const sf_logits *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                    int, void *) noexcept nogil
        ptrdiff_t (*cross_entropy)(double *, void *, const sf_logits *, const sf_targets *, ptrdiff_t, ptrdiff_t,
                                   ptrdiff_t, int, void *) noexcept nogil
        void (*exp)(void *, const void *, ptrdiff_t) noexcept nogil
        void (*log)(void *, const void *, ptrdiff_t) noexcept nogil
    ctypedef struct sf_kernels:
        const char *name
        sf_row_kernels rows[2][2]
        sf_array_kernels arrays[2]
    const sf_kernels *const *sf_available()
    ptrdiff_t sf_block_rows(ptrdiff_t, ptrdiff_t, size_t)
    size_t sf_scratch_bytes(ptrdiff_t, ptrdiff_t)
    bint sf_many_classes(ptrdiff_t)
    ptrdiff_t sf_coef_size(const sf_model *)
    ptrdiff_t sf_coef_index(const sf_model *, ptrdiff_t, ptrdiff_t)
    ptrdiff_t sf_intercept_size(const sf_model *)
    ptrdiff_t sf_intercept_index(const sf_model *, ptrdiff_t)

cdef extern from *:
    """
    #ifdef _OPENMP
    #define SF_OPENMP _OPENMP
    #else
    #define SF_OPENMP 0
    #endif
    """
    enum: SF_OPENMP
    const char *SF_COMPILER
    const char *SF_VERSION

SOFTMAX = SF_SOFTMAX
LOG_SOFTMAX = SF_LOG_SOFTMAX
LOGSUMEXP = SF_LOGSUMEXP
IDENTITY = SF_IDENTITY
OPENMP = SF_OPENMP                                   # the date of the OpenMP specification, 0 without
COMPILER = (<bytes>SF_COMPILER).decode()
VERSION = (<bytes>SF_VERSION).decode()

# Partial gradients: at most this many bytes in all, but never fewer than 8 of them nor more than 256.
cdef ptrdiff_t PARTIAL_BYTES = 64 * 1024 * 1024
# Rows of a task at least, beyond 8 tasks: below, setting partial gradients up and adding them shows.
cdef ptrdiff_t TASK_ROWS = 1024
# Elements of partial gradients that a thread adds at a time: they stay in its first-level cache.
cdef ptrdiff_t SUM_CHUNK = 2048
# Results larger than this will not be found in a cache by whoever reads them next.
cdef ptrdiff_t STREAM_BYTES = 32 * 1024 * 1024
# Floating-point operations between two looks at pending signals: at most a few tenths of a second on one slow core.
cdef double WORK_BETWEEN_SIGNALS = 2e9


@cython.final
cdef class _Buffer:
    """Aligned memory, freed with the object."""
    cdef void *base
    cdef char *data

    def __cinit__(self, size_t n_bytes):
        self.base = malloc(n_bytes + SF_ALIGNMENT)
        if self.base == NULL:
            raise MemoryError(f"can't allocate {n_bytes} bytes")
        self.data = <char *>((<uintptr_t>self.base + SF_ALIGNMENT - 1) & ~<uintptr_t>(SF_ALIGNMENT - 1))

    def __dealloc__(self):
        free(self.base)


@cython.final
cdef class Rows:
    """X (n, p) of float32 or float64, its rows or its columns contiguous; a view, never a copy."""
    cdef const float[:, :] f32
    cdef const double[:, :] f64
    cdef sf_rows view
    cdef int real
    cdef readonly object dtype

    def __init__(self, X):
        cdef ptrdiff_t itemsize = X.dtype.itemsize
        self.dtype = X.dtype
        if X.dtype == np.float32:
            self.f32 = X
            self.real = SF_F32
            self.view.data = &self.f32[0, 0]
        else:
            self.f64 = X
            self.real = SF_F64
            self.view.data = &self.f64[0, 0]
        self.view.n_rows, self.view.n_features = X.shape
        self.view.row_stride = X.strides[0] // itemsize
        self.view.feature_stride = X.strides[1] // itemsize
        # The stride along an axis of length 0 or 1 has no meaning: name it as the kernels like it.
        if self.view.n_features <= 1:
            self.view.feature_stride = 1
        elif self.view.n_rows <= 1 and self.view.feature_stride != 1:
            self.view.row_stride = 1
        if self.view.row_stride != 1 and self.view.feature_stride != 1 or X.strides[0] % itemsize \
                or X.strides[1] % itemsize:
            raise ValueError(f"X needs contiguous rows or columns, got strides {X.strides}")

    @property
    def n_rows(self):
        return self.view.n_rows

    @property
    def n_features(self):
        return self.view.n_features


@cython.final
cdef class Targets:
    """Labels (n,) int64, or probabilities (n, K) of the storage type; and weights (n,) float64 or None."""
    cdef const int64_t[::1] labels
    cdef const float[:, :] f32
    cdef const double[:, :] f64
    cdef const double[::1] weight
    cdef sf_targets view
    cdef readonly ptrdiff_t n_rows
    cdef readonly ptrdiff_t n_classes                # 0: any, where the targets are labels
    cdef readonly object dtype                       # of probabilities; None: labels

    def __init__(self, y, weight=None):
        memset(&self.view, 0, sizeof(sf_targets))
        self.n_rows = y.shape[0]
        if y.ndim == 1:
            self.labels = y
            self.view.labels = &self.labels[0]
        else:
            self.dtype = y.dtype
            self.n_classes = y.shape[1]
            self.view.row_stride = y.strides[0] // y.dtype.itemsize
            self.view.class_stride = y.strides[1] // y.dtype.itemsize
            if y.dtype == np.float32:
                self.f32 = y
                self.view.proba = &self.f32[0, 0]
            else:
                self.f64 = y
                self.view.proba = &self.f64[0, 0]
        if weight is not None:
            self.weight = weight
            if self.weight.shape[0] != self.n_rows:
                raise ValueError(f"{self.weight.shape[0]} weights for {self.n_rows} rows")
            self.view.weight = &self.weight[0]

    cdef int check(self, ptrdiff_t n_rows, ptrdiff_t n_classes, object dtype) except -1:
        if self.n_rows != n_rows or self.n_classes not in (0, n_classes) or self.dtype not in (None, dtype):
            raise ValueError(f"targets of {self.n_rows} rows, {self.n_classes} classes, {self.dtype} do not belong to "
                             f"{n_rows} rows, {n_classes} classes, {dtype}")
        return 0


@cython.final
cdef class _Model:
    """Coefficients packed for the kernels: in the arithmetic type, in the layout of sf_model."""
    cdef _Buffer memory
    cdef sf_model view

    def __init__(self, const double[:, ::1] coef, const double[::1] intercept, ptrdiff_t n_classes, int real):
        cdef ptrdiff_t n_outputs = coef.shape[0], n_features = coef.shape[1], itemsize = 4 if real == SF_F32 else 8
        if intercept.shape[0] != n_outputs or not n_classes - 1 <= n_outputs <= n_classes or n_outputs < 1:
            raise ValueError(f"{n_outputs} rows of coef, {intercept.shape[0]} intercepts, {n_classes} classes")
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


cdef inline void put(const void *data, ptrdiff_t index, double value, int real) noexcept nogil:
    if real == SF_F32:
        (<float *>data)[index] = <float>value
    else:
        (<double *>data)[index] = value


cdef ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return (a + b - 1) // b


@cython.final
cdef class Kernels:
    """The kernels of one instruction set over whole batches."""
    cdef const sf_kernels *table

    @property
    def name(self):
        return self.table.name.decode()

    def __repr__(self):
        return f"<softfast kernels: {self.name}>"

    def loss_gradient(self, Rows X not None, Targets targets not None, coef, intercept, ptrdiff_t n_classes, *,
                      arithmetic=np.float64, int n_threads=1):
        """Sums over rows: loss, residual^T X (M, p), residual^T 1 (M,), all float64."""
        cdef int real = SF_F32 if arithmetic == np.float32 else SF_F64
        cdef sf_row_kernels kernels = self.table.rows[X.real][real]
        if kernels.loss_gradient == NULL:
            raise ValueError("float32 arithmetic over float64 rows is not offered")
        cdef _Model model = _Model(coef, intercept, n_classes, real)
        cdef ptrdiff_t n = X.view.n_rows, p = X.view.n_features, n_outputs = model.view.n_outputs
        if coef.shape[1] != p:
            raise ValueError(f"coef has {coef.shape[1]} columns for {p} features")
        targets.check(n, n_classes, X.dtype)

        # Tasks are runs of neighbouring blocks; each adds up its own partial gradient.
        cdef ptrdiff_t block = sf_block_rows(p, n_classes, 4 if real == SF_F32 else 8)
        cdef ptrdiff_t n_blocks = ceil_div(n, block)
        cdef ptrdiff_t coef_size = sf_coef_size(&model.view), size = coef_size + sf_intercept_size(&model.view)
        cdef ptrdiff_t n_tasks = min(n_blocks, max(8, min(256, n // TASK_ROWS, PARTIAL_BYTES // (8 * size))))
        cdef size_t scratch_bytes = sf_scratch_bytes(min(block, n), n_classes)
        cdef double task_work = 4.0 * n_outputs * (p + 8) * ceil_div(n_blocks, max(1, n_tasks)) * block
        cdef ptrdiff_t group = max(<ptrdiff_t>n_threads, <ptrdiff_t>min(256.0, WORK_BETWEEN_SIGNALS / task_work))
        cdef ptrdiff_t first, last, task, k, j, bad = SF_OK
        cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
        cdef _Buffer memory = _Buffer((n_tasks * size) * sizeof(double))
        cdef _Buffer parts = _Buffer(n_tasks * sizeof(sf_gradient))
        cdef _Buffer statuses = _Buffer(n_tasks * sizeof(ptrdiff_t))
        cdef sf_gradient *part = <sf_gradient *>parts.data
        cdef ptrdiff_t *status = <ptrdiff_t *>statuses.data
        cdef double *sums = <double *>memory.data
        for task in range(n_tasks):
            part[task].coef = sums + task * size
            part[task].intercept = part[task].coef + coef_size
        _remember_threads(n_threads)

        with nogil:
            first = 0
            while first < n_tasks and bad == SF_OK:
                last = min(first + group, n_tasks)
                for task in prange(first, last, num_threads=n_threads, schedule='guided'):
                    status[task] = run_loss_gradient(
                        &kernels, &part[task], size, &X.view, &targets.view, &model.view, block,
                        task * n_blocks // n_tasks, (task + 1) * n_blocks // n_tasks,
                        scratch.data + scratch_bytes * threadid())
                for task in range(first, last):
                    if status[task] != SF_OK:
                        bad = status[task]
                        break
                first = last
                with gil:
                    PyErr_CheckSignals()
        if bad != SF_OK:
            raise IndexError(f"label {targets.labels[bad]} of row {bad} is not in 0..{n_classes - 1}")

        grad_coef = np.zeros((n_outputs, p))
        grad_intercept = np.zeros(n_outputs)
        cdef double[:, ::1] coef_out = grad_coef
        cdef double[::1] intercept_out = grad_intercept
        cdef double loss = 0
        if n_tasks:
            with nogil:
                for k in prange(ceil_div(size, SUM_CHUNK), num_threads=n_threads, schedule='static'):
                    add_parts(sums, size, n_tasks, k * SUM_CHUNK, min((k + 1) * SUM_CHUNK, size))
                for task in range(n_tasks):
                    loss += part[task].loss
                for k in range(n_outputs):
                    for j in range(p):
                        coef_out[k, j] = sums[sf_coef_index(&model.view, k, j)]
                    intercept_out[k] = sums[coef_size + sf_intercept_index(&model.view, k)]
        return loss, grad_coef, grad_intercept

    def predict(self, Rows X not None, coef, intercept, ptrdiff_t n_classes, int map, *, int n_threads=1):
        """The map of the logits of every row, in the type of X: (n, K), or with IDENTITY (n, M).

        Also, whether every logit was finite: none is where a row of X holds NaN or infinity.
        """
        cdef sf_map sf = <sf_map>map
        if sf not in (SF_IDENTITY, SF_SOFTMAX, SF_LOG_SOFTMAX):
            raise ValueError(f"no such map: {map}")
        cdef _Model model = _Model(coef, intercept, n_classes, X.real)
        cdef sf_row_kernels kernels = self.table.rows[X.real][X.real]
        cdef ptrdiff_t n = X.view.n_rows, p = X.view.n_features
        if coef.shape[1] != p:
            raise ValueError(f"coef has {coef.shape[1]} columns for {p} features")
        cdef ptrdiff_t columns = model.view.n_outputs if sf == SF_IDENTITY else n_classes
        cdef ptrdiff_t block = sf_block_rows(p, n_classes, X.dtype.itemsize)
        cdef size_t scratch_bytes = sf_scratch_bytes(min(block, n), n_classes)
        cdef ptrdiff_t n_blocks = ceil_div(n, block), i
        cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
        out = np.empty((n, columns), dtype=X.dtype)
        cdef Rows target = Rows(out)
        cdef void *data = <void *>target.view.data
        cdef int n_not_finite = 0
        _remember_threads(n_threads)
        with nogil:
            for i in prange(n_blocks, num_threads=n_threads, schedule='static'):
                n_not_finite += not kernels.predict(
                    data,  columns, sf, &X.view, &model.view, i * block, min((i + 1) * block, n),
                    scratch.data + scratch_bytes * threadid())
        return out, n_not_finite == 0

    def map(self, x, out, int map, *, int n_threads=1):
        """out = the map along axis 1 of x (outer, K, inner), K >= 1; out (outer, 1, inner) with LOGSUMEXP."""
        cdef sf_map sf = <sf_map>map
        if sf not in (SF_SOFTMAX, SF_LOG_SOFTMAX, SF_LOGSUMEXP):
            raise ValueError(f"no such map: {map}")
        cdef int real = SF_F32 if x.dtype == np.float32 else SF_F64
        cdef const float[:, :, :] x32
        cdef const double[:, :, :] x64
        cdef float[:, :, :] out32
        cdef double[:, :, :] out64
        cdef const char *source
        cdef char *sink
        cdef ptrdiff_t outer = x.shape[0], n_classes = x.shape[1], inner = x.shape[2]
        if out.shape != (outer, 1 if sf == SF_LOGSUMEXP else n_classes, inner) or n_classes < 1:
            raise ValueError(f"out of shape {out.shape} does not belong to x of shape {x.shape}")
        if real == SF_F32:
            x32, out32 = x, out
            source, sink = <const char *>&x32[0, 0, 0], <char *>&out32[0, 0, 0]
        else:
            x64, out64 = x, out
            source, sink = <const char *>&x64[0, 0, 0], <char *>&out64[0, 0, 0]
        cdef ptrdiff_t x0, x1, x2, out0, out1, out2
        x0, x1, x2 = x.strides
        out0, out1, out2 = out.strides
        if inner == 1:                               # the rows are the outer axis: one run of them
            outer, inner = 1, outer
            x0, x2 = x2, x0
            out0, out2 = out2, out0
        cdef ptrdiff_t itemsize = x.dtype.itemsize
        cdef ptrdiff_t block = sf_block_rows(0, n_classes, itemsize)
        cdef ptrdiff_t per_outer = ceil_div(inner, block), i
        cdef size_t scratch_bytes = sf_scratch_bytes(min(block, inner), n_classes)
        cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
        cdef const sf_array_kernels *kernels = &self.table.arrays[real]
        cdef int streams = outer * n_classes * inner * itemsize > STREAM_BYTES and source != sink
        _remember_threads(n_threads)
        with nogil:
            for i in prange(outer * per_outer, num_threads=n_threads, schedule='static'):
                run_map(kernels, sink + (i // per_outer) * out0, out2 // itemsize, out1 // itemsize, sf,
                        source + (i // per_outer) * x0, x2 // itemsize, x1 // itemsize, n_classes,
                        (i % per_outer) * block, min((i % per_outer + 1) * block, inner), streams,
                        scratch.data + scratch_bytes * threadid())

    def cross_entropy(self, logits, Targets targets not None, gradient=None, *, int n_threads=1):
        """Weighted losses (n,) float64 of logits (n, K); fills gradient (n, K), C order, where it is given."""
        cdef int real = SF_F32 if logits.dtype == np.float32 else SF_F64
        cdef const float[:, :] x32
        cdef const double[:, :] x64
        cdef float[:, ::1] gradient32
        cdef double[:, ::1] gradient64
        cdef sf_logits view
        cdef void *gradient_data = NULL
        cdef ptrdiff_t n = logits.shape[0], n_classes = logits.shape[1]
        targets.check(n, n_classes, logits.dtype)
        if n_classes < 1 or gradient is not None and gradient.shape != logits.shape:
            raise ValueError(f"logits of shape {logits.shape} and their gradient disagree or have no classes")
        if real == SF_F32:
            x32 = logits
            view.data = &x32[0, 0]
            if gradient is not None:
                gradient32 = gradient
                gradient_data = &gradient32[0, 0]
        else:
            x64 = logits
            view.data = &x64[0, 0]
            if gradient is not None:
                gradient64 = gradient
                gradient_data = &gradient64[0, 0]
        view.row_stride = logits.strides[0] // logits.dtype.itemsize
        view.class_stride = logits.strides[1] // logits.dtype.itemsize
        cdef ptrdiff_t block = sf_block_rows(0, n_classes, logits.dtype.itemsize)
        cdef ptrdiff_t n_blocks = ceil_div(n, block), i
        cdef size_t scratch_bytes = sf_scratch_bytes(min(block, n), n_classes)
        cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
        cdef _Buffer statuses = _Buffer(n_blocks * sizeof(ptrdiff_t))
        cdef ptrdiff_t *status = <ptrdiff_t *>statuses.data
        cdef const sf_array_kernels *kernels = &self.table.arrays[real]
        cdef int streams = n * n_classes * logits.dtype.itemsize > STREAM_BYTES
        losses = np.empty(n)
        cdef double[::1] losses_view = losses
        _remember_threads(n_threads)
        with nogil:
            for i in prange(n_blocks, num_threads=n_threads, schedule='static'):
                status[i] = kernels.cross_entropy(
                    &losses_view[0], gradient_data, &view, &targets.view, n_classes, i * block,
                    min((i + 1) * block, n), streams, scratch.data + scratch_bytes * threadid())
        for i in range(n_blocks):
            if status[i] != SF_OK:
                raise IndexError(
                    f"label {targets.labels[status[i]]} of row {status[i]} is not in 0..{n_classes - 1}")
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


cdef void add_parts(double *sums, ptrdiff_t size, ptrdiff_t n_tasks, ptrdiff_t begin,
                    ptrdiff_t end) noexcept nogil:
    """The elements begin..end of all partial sums to those of the first, in the order of the rows."""
    cdef ptrdiff_t task, j
    cdef const double *part
    for task in range(1, n_tasks):
        part = sums + task * size
        for j in range(begin, end):
            sums[j] += part[j]


cdef ptrdiff_t run_loss_gradient(const sf_row_kernels *kernels, sf_gradient *out, ptrdiff_t size, const sf_rows *x,
                                 const sf_targets *targets, const sf_model *model, ptrdiff_t block,
                                 ptrdiff_t first, ptrdiff_t last, void *scratch) noexcept nogil:
    """The blocks first..last of one task, in order."""
    cdef ptrdiff_t i, status
    out.loss = 0
    memset(out.coef, 0, size * sizeof(double))
    for i in range(first, last):
        status = kernels.loss_gradient(out, x, targets, model, i * block, min((i + 1) * block, x.n_rows), scratch)
        if status != SF_OK:
            return status
    return SF_OK


cdef void run_map(const sf_array_kernels *kernels, void *out, ptrdiff_t out_row_stride, ptrdiff_t out_class_stride,
                  sf_map map, const void *x, ptrdiff_t row_stride, ptrdiff_t class_stride, ptrdiff_t n_classes,
                  ptrdiff_t begin, ptrdiff_t end, int streams, void *scratch) noexcept nogil:
    cdef sf_logits view
    view.data = x
    view.row_stride = row_stride
    view.class_stride = class_stride
    kernels.map(out, out_row_stride, out_class_stride, map, &view, n_classes, begin, end, streams, scratch)


# GNU's OpenMP does not survive a fork: a child of a process that has opened a team hangs when it opens one itself.
cdef bint _threads_started = False


cdef void _remember_threads(int n_threads) noexcept:
    global _threads_started
    if n_threads > 1 and SF_OPENMP:
        _threads_started = True


def threads_started():
    """Whether this process, or the parent it was forked from, has opened a team of threads."""
    return _threads_started


def _load():
    tables = {}
    cdef const sf_kernels *const *entry = sf_available()
    cdef Kernels kernels
    while entry[0] != NULL:
        kernels = Kernels.__new__(Kernels)
        kernels.table = entry[0]
        tables[kernels.name] = kernels
        entry += 1
    return tables


def _choose(tables):
    wanted = os.environ.get("SOFTFAST_ISA")
    if not wanted:
        return next(iter(tables.values()))
    if wanted not in tables:
        raise ImportError(f"SOFTFAST_ISA={wanted!r} is not available here; choose one of: {', '.join(tables)}")
    return tables[wanted]


kernels = _load()                                    # {name: Kernels}, best first; not to be changed
default = _choose(kernels)
