"""Part of _core.pyx: rows in CSR, and evaluations over them.

A gradient of K x p numbers may be large and is there once only: residuals of a group of rows are computed block by
block, and then each thread adds their product with X to the features that it owns, in the order of the rows.
"""

ctypedef fused index_t:
    int32_t
    int64_t

ctypedef fused real_t:
    float
    double

ctypedef fused source_t:
    float
    double

ctypedef fused bits_t:
    uint32_t
    uint64_t

# Bytes of residuals of a group of rows.
cdef ptrdiff_t RESIDUAL_BYTES = 8 * 1024 * 1024
# Parts of the features with about as much work each, from which threads take their runs.
cdef ptrdiff_t SHARES = 256
# Entries at most that are counted for it: to miss the caches for one in sixteen of 1.8 million, and once more for the
# count of each of 130,107 features, took 3.6 ms of 52.
cdef ptrdiff_t SHARE_ENTRIES = 16384


cdef struct column_sums:
    # A line of the caches: all that an entry changes.
    double weight
    double product
    double size
    double square
    double count
    double value                                     # what the present row has of the feature
    int64_t row                                      # that row, counted from 1; 0 when it has been added
    int64_t unused


@cython.final
cdef class SparseRows:
    """X (n, p) in CSR: a view, never a copy.  Checked here once: nothing in it can make a kernel leave its arrays.

    data (nnz,) float32 or float64, finite; indices (nnz,) and indptr (n + 1,) int32 or int64, contiguous.  Indices may
    be in any order and may repeat.  offset (n, K), C order, or None: what is added to the logits of the rows.
    """
    cdef cnp.ndarray data, indices, indptr, offset   # keep the memory that the view points to
    cdef sf_csr view
    cdef int real
    cdef readonly object dtype
    cdef readonly ptrdiff_t n_entries
    cdef _Buffer shares                              # SHARES + 1 features; None until they are asked for
    cdef dict spare                                  # {bytes: _Buffer} of earlier evaluations

    def __init__(self, cnp.ndarray data not None, cnp.ndarray indices not None, cnp.ndarray indptr not None,
                 ptrdiff_t n_features, cnp.ndarray offset=None):
        for name, array in (("data", data), ("indices", indices), ("indptr", indptr)):
            if cnp.PyArray_NDIM(array) != 1 or not cnp.PyArray_ISCARRAY_RO(array):
                raise ValueError(f"{name} must be contiguous, native and of one dimension, got {describe(array)}")
            if cnp.PyArray_ITEMSIZE(array) not in (4, 8) or not (
                    cnp.PyArray_ISFLOAT(array) if array is data else cnp.PyArray_ISSIGNED(array)):
                accepted = "float32 or float64" if array is data else "int32 or int64"
                raise ValueError(f"{name} must be {accepted}, got {array.dtype}")
        cdef ptrdiff_t n_entries = cnp.PyArray_DIM(data, 0), n_rows = cnp.PyArray_DIM(indptr, 0) - 1
        if cnp.PyArray_DIM(indices, 0) != n_entries:
            raise ValueError(f"indices must be as many as data, {n_entries}, got {len(indices)}")
        if n_rows < 0:
            raise ValueError("indptr must have n + 1 elements, at least 1, got none")
        if n_features < 0:
            raise ValueError(f"n_features must be at least 0, got {n_features}")
        self.data, self.indices, self.indptr, self.n_entries = data, indices, indptr, n_entries
        self.spare = {}
        self.dtype, self.real = data.dtype, real_of(data)
        self.view.data, self.view.indices = cnp.PyArray_DATA(data), cnp.PyArray_DATA(indices)
        self.view.indptr = cnp.PyArray_DATA(indptr)
        self.view.wide_indices = cnp.PyArray_ITEMSIZE(indices) == 8
        self.view.wide_indptr = cnp.PyArray_ITEMSIZE(indptr) == 8
        self.view.n_rows, self.view.n_features = n_rows, n_features
        cdef ptrdiff_t bad
        with nogil:
            bad = bad_pointer(&self.view, n_entries)
        if bad >= 0:
            raise ValueError(f"indptr must rise from 0 to the number of entries, {n_entries}, and never fall, got "
                             f"{indptr[bad]} at {bad}")
        with nogil:
            if self.view.wide_indices:
                bad = bad_index(<const int64_t *>self.view.indices, n_entries, n_features)
            else:
                bad = bad_index(<const int32_t *>self.view.indices, n_entries, n_features)
        if bad >= 0:
            raise ValueError(f"indices must be in 0..{n_features - 1}, got {indices[bad]} at {bad}")
        with nogil:
            if self.real == SF_F32:
                bad = not_finite(<const uint32_t *>self.view.data, n_entries)
            else:
                bad = not_finite(<const uint64_t *>self.view.data, n_entries)
        if bad >= 0:
            raise ValueError(f"data must not hold NaN or infinity, got {data[bad]} at {bad}")
        self.set_offset(offset)

    cdef int set_offset(self, cnp.ndarray offset) except -1:
        self.offset = offset
        self.view.offset, self.view.offset_stride = NULL, 0
        if offset is not None:
            self.view.offset = offset_data(offset, self.view.n_rows)
            self.view.offset_stride = cnp.PyArray_DIM(offset, 1)
        return 0

    @property
    def n_rows(self):
        return self.view.n_rows

    @property
    def n_features(self):
        return self.view.n_features

    def with_offset(self, offset):
        """The same rows, whose entries have been checked already."""
        cdef SparseRows rows = SparseRows.__new__(SparseRows)
        rows.data, rows.indices, rows.indptr, rows.n_entries = self.data, self.indices, self.indptr, self.n_entries
        rows.view, rows.real, rows.dtype, rows.shares, rows.spare = self.view, self.real, self.dtype, self.shares, {}
        rows.set_offset(offset)
        return rows

    cdef int check(self, ptrdiff_t n_features, ptrdiff_t n_classes) except -1:
        return check_columns(self.offset, self.view.n_features, n_features, n_classes)

    def repeats(self):
        """Whether a row has two entries of one feature."""
        cdef int64_t[::1] last = np.zeros(max(1, self.view.n_features), dtype=np.int64)
        cdef bint found
        with nogil:
            if self.view.wide_indices:
                found = comes_twice(&self.view, <const int64_t *>self.view.indices, &last[0])
            else:
                found = comes_twice(&self.view, <const int32_t *>self.view.indices, &last[0])
        return found

    def sums(self, const double[::1] weight, const double[::1] center):
        """Of each feature, over the rows with weights w that have an entry x of it, in float64, (5, p): the sums of w,
        of w x, w abs(x) and w (x - center)^2, and the number of those rows whose weight is not 0.

        weight (n,), or None for all ones; center (p,).  Entries of one feature in one row are one, their sum.
        """
        cdef ptrdiff_t n = self.view.n_rows, p = self.view.n_features, begin = 0, end, step
        if (weight is not None and weight.shape[0] != n) or center.shape[0] != p:
            raise ValueError(f"{n} rows of {p} features, {weight.shape[0] if weight is not None else n} weights, "
                             f"{center.shape[0]} centers")
        cdef _Buffer memory = _Buffer(p * sizeof(column_sums))
        cdef column_sums *columns = <column_sums *>memory.data
        memset(memory.data, 0, p * sizeof(column_sums))
        step = max(<ptrdiff_t>1, <ptrdiff_t>(WORK_BETWEEN_SIGNALS * max(1, n) / (16.0 * (self.n_entries + n + 1))))
        while begin < n:
            end = min(begin + step, n)
            with nogil:
                self.add_rows(columns, NULL if weight is None else &weight[0], &center[0] if p else NULL, begin, end)
            PyErr_CheckSignals()
            begin = end
        return np.ascontiguousarray(memory.matrix(p, 8)[:, :5].T)

    cdef void add_rows(self, column_sums *columns, const double *weight, const double *center, ptrdiff_t begin,
                       ptrdiff_t end) noexcept nogil:
        cdef const sf_csr *x = &self.view
        if self.real == SF_F32 and x.wide_indices:
            add_entries(columns, weight, center, x, <const int64_t *>x.indices, <const float *>x.data, begin, end)
        elif self.real == SF_F32:
            add_entries(columns, weight, center, x, <const int32_t *>x.indices, <const float *>x.data, begin, end)
        elif x.wide_indices:
            add_entries(columns, weight, center, x, <const int64_t *>x.indices, <const double *>x.data, begin, end)
        else:
            add_entries(columns, weight, center, x, <const int32_t *>x.indices, <const double *>x.data, begin, end)

    cdef _Buffer take(self, size_t n_bytes):
        """Memory that an earlier evaluation has given back, or new: fresh pages took a third of an evaluation."""
        buffer = self.spare.pop(n_bytes, None)
        return _Buffer(n_bytes) if buffer is None else buffer

    cdef int give(self, size_t n_bytes, _Buffer buffer) except -1:
        """Back for the next evaluation; of few sizes, those of its coefficients and gradient."""
        if len(self.spare) >= 2 and n_bytes not in self.spare:
            self.spare.clear()
        self.spare[n_bytes] = buffer
        return 0

    cdef _Buffer share(self):
        """The features at which the SHARES parts begin, and the last ends; a feature is as much work as an entry.

        The caller holds them: another thread that asks for them at the same time replaces those kept here.
        """
        cdef _Buffer shares
        if self.shares is None:
            shares = _Buffer((SHARES + 1) * sizeof(ptrdiff_t))
            with nogil:
                if self.view.wide_indices:
                    split(<ptrdiff_t *>shares.data, <const int64_t *>self.view.indices, self.n_entries,
                          self.view.n_features)
                else:
                    split(<ptrdiff_t *>shares.data, <const int32_t *>self.view.indices, self.n_entries,
                          self.view.n_features)
            self.shares = shares
        return self.shares


cdef ptrdiff_t bad_pointer(const sf_csr *x, ptrdiff_t n_entries) noexcept nogil:
    """The first row where indptr does not rise from 0 to n_entries; -1: none."""
    cdef ptrdiff_t i, before = 0
    if sf_entry(x, 0) != 0:
        return 0
    for i in range(1, x.n_rows + 1):
        if not before <= sf_entry(x, i) <= n_entries:
            return i
        before = sf_entry(x, i)
    return -1 if before == n_entries else x.n_rows


cdef ptrdiff_t bad_index(const index_t *indices, ptrdiff_t n, ptrdiff_t n_features) noexcept nogil:
    """The first entry whose column is not in 0..n_features - 1; -1: none."""
    cdef ptrdiff_t begin, e
    cdef int64_t least, greatest
    for begin in range(0, n, 4096):
        least = greatest = 0
        for e in range(begin, min(begin + 4096, n)):
            least = min(least, <int64_t>indices[e])
            greatest = max(greatest, <int64_t>indices[e])
        if least < 0 or greatest >= n_features:
            for e in range(begin, n):
                if not 0 <= indices[e] < n_features:
                    return e
    return -1


cdef ptrdiff_t not_finite(const bits_t *data, ptrdiff_t n) noexcept nogil:
    """The first entry that is NaN or infinite: all bits of its exponent are 1; -1: none."""
    cdef bits_t exponent = <bits_t>0x7f800000 if bits_t is uint32_t else <bits_t>0x7ff0000000000000
    cdef ptrdiff_t begin, e
    cdef int found
    for begin in range(0, n, 4096):
        found = 0
        for e in range(begin, min(begin + 4096, n)):
            found |= (data[e] & exponent) == exponent
        if found:
            for e in range(begin, n):
                if (data[e] & exponent) == exponent:
                    return e
    return -1


cdef bint comes_twice(const sf_csr *x, const index_t *indices, int64_t *last) noexcept nogil:
    """`last`, zeros, gets the last row with an entry of each feature, counted from 1."""
    cdef ptrdiff_t i, e
    for i in range(x.n_rows):
        for e in range(sf_entry(x, i), sf_entry(x, i + 1)):
            if last[indices[e]] == i + 1:
                return True
            last[indices[e]] = i + 1
    return False


cdef void add_entries(column_sums *columns, const double *weight, const double *center, const sf_csr *x,
                      const index_t *indices, const source_t *data, ptrdiff_t begin, ptrdiff_t end) noexcept nogil:
    """Adds rows to the sums of their features."""
    cdef ptrdiff_t i, e
    cdef double w, value, difference
    cdef column_sums *column
    for i in range(begin, end):
        w = 1 if weight == NULL else weight[i]
        for e in range(sf_entry(x, i), sf_entry(x, i + 1)):
            column = columns + indices[e]
            column.value = data[e] if column.row != i + 1 else column.value + data[e]
            column.row = i + 1
        for e in range(sf_entry(x, i), sf_entry(x, i + 1)):
            column = columns + indices[e]
            if column.row == i + 1:
                value = column.value
                difference = value - center[indices[e]]
                column.row = 0
                column.weight += w
                column.product += w * value
                column.size += w * abs(value)
                column.square += w * (difference * difference)
                column.count += w != 0


cdef void split(ptrdiff_t *shares, const index_t *indices, ptrdiff_t n, ptrdiff_t p) noexcept nogil:
    # Counted are runs of features, in some of the entries, which say enough of how much work there is.
    cdef ptrdiff_t[4096] counts
    cdef ptrdiff_t shift = 0, n_runs, width, step = n // SHARE_ENTRIES + 1, e = 0, j, share = 1
    cdef double work = 0, total
    while p >> shift >= 4096:
        shift += 1
    n_runs, width = (p >> shift) + 1, 1 << shift
    for j in range(n_runs):
        counts[j] = 0
    while e < n:
        counts[indices[e] >> shift] += step
        e += step
    total = (n + step - 1) // step * step + n_runs * width
    shares[0] = 0
    for j in range(n_runs):
        work += counts[j] + width
        while share < SHARES and work * SHARES >= total * share:
            shares[share] = min((j + 1) * width, p)
            share += 1
    while share <= SHARES:
        shares[share] = p
        share += 1


# Copies between a matrix (M, p) and runs [p][stride], column k + first of a run for row k of the matrix.  A matrix in F
# order has the classes of a feature next to each other, as runs have.  One in C order is transposed by tiles: whole
# lines of the runs, and parts of the matrix's rows that are long enough for the hardware's prefetcher.  Back to
# (150, 35165) on one thread took 12.4 ms with 256 features and 8 classes, 16.3 with 64 features, 18.7 with 16 features
# and all classes.
cdef struct transposition:
    void *matrix
    void *runs
    ptrdiff_t n_features, n_outputs, stride, first
    bint by_feature                                  # F order
    bint narrow                                      # the matrix is float32, not float64


cdef void pack_runs(const transposition *job, const source_t *matrix, real_t *runs, ptrdiff_t begin,
                    ptrdiff_t end) noexcept nogil:
    """To the runs of the features begin..end, zero where the matrix has no row."""
    cdef ptrdiff_t j0, k0, j, k, m = job.n_outputs, used = job.first + m
    cdef real_t *run
    cdef const source_t *column
    for j0 in range(begin, end, 256):
        if not job.by_feature:
            for k0 in range(0, m, 16):
                for k in range(k0, min(k0 + 16, m)):
                    for j in range(j0, min(j0 + 256, end)):
                        runs[j * job.stride + k + job.first] = <real_t>matrix[k * job.n_features + j]
        for j in range(j0, min(j0 + 256, end)):
            run = runs + j * job.stride
            if job.by_feature:
                column = matrix + j * m
                for k in range(m):
                    run[k + job.first] = <real_t>column[k]
            if job.first:
                run[0] = 0
            for k in range(used, job.stride):
                run[k] = 0


cdef void unpack_runs(const transposition *job, ptrdiff_t begin, ptrdiff_t end) noexcept nogil:
    """The same back, from float64 to float64 in C order."""
    cdef ptrdiff_t j0, k0, j, k
    cdef const double *runs = <const double *>job.runs
    cdef double *matrix = <double *>job.matrix
    for j0 in range(begin, end, 256):
        for k0 in range(0, job.n_outputs, 8):
            for k in range(k0, min(k0 + 8, job.n_outputs)):
                for j in range(j0, min(j0 + 256, end)):
                    matrix[k * job.n_features + j] = runs[j * job.stride + k + job.first]


cdef void pack_part(const transposition *job, int real, ptrdiff_t begin, ptrdiff_t end) noexcept nogil:
    if real == SF_F32 and job.narrow:
        pack_runs(job, <const float *>job.matrix, <float *>job.runs, begin, end)
    elif real == SF_F32:
        pack_runs(job, <const double *>job.matrix, <float *>job.runs, begin, end)
    elif job.narrow:
        pack_runs(job, <const float *>job.matrix, <double *>job.runs, begin, end)
    else:
        pack_runs(job, <const double *>job.matrix, <double *>job.runs, begin, end)


cdef void pack_present(const transposition *job, int real, const index_t *indices, ptrdiff_t n) noexcept nogil:
    """The runs of the features that occur."""
    cdef ptrdiff_t e
    for e in range(n):
        pack_part(job, real, indices[e], indices[e] + 1)


cdef _Model csr_model(SparseRows X, cnp.ndarray coef, const double[::1] intercept, ptrdiff_t n_classes,
                      int real, int n_threads):
    """Coefficients in the layout for rows in CSR; where X has fewer entries than features, of those that occur.

    coef (M, p), float32 or float64, in C or F order.
    """
    _remember_threads(n_threads)
    if cnp.PyArray_NDIM(coef) != 2 or not (cnp.PyArray_IS_C_CONTIGUOUS(coef) or cnp.PyArray_IS_F_CONTIGUOUS(coef)):
        raise ValueError(f"coef must be a contiguous matrix, got {describe(coef)}")
    cdef ptrdiff_t n_outputs = cnp.PyArray_DIM(coef, 0), p = cnp.PyArray_DIM(coef, 1), share
    cdef ptrdiff_t n_shares = min(p, SHARES)
    cdef ptrdiff_t itemsize = 4 if real == SF_F32 else 8
    check_model(n_outputs, intercept, n_classes)
    X.check(p, n_classes)
    cdef _Model model = _Model.__new__(_Model)
    cdef transposition job
    job.stride = sf_csr_stride(sf_csr_columns(n_outputs, n_classes), itemsize)
    job.first = sf_csr_columns(n_outputs, n_classes) - n_outputs
    job.n_features, job.n_outputs = p, n_outputs
    job.by_feature, job.narrow = not cnp.PyArray_IS_C_CONTIGUOUS(coef), real_of(coef) == SF_F32
    cdef ptrdiff_t offset = ceil_div(p * job.stride * itemsize, SF_ALIGNMENT) * SF_ALIGNMENT
    model.n_bytes = offset + job.stride * itemsize
    model.memory = X.take(model.n_bytes)
    model.real = real
    model.view.n_features, model.view.n_outputs, model.view.n_classes = p, n_outputs, n_classes
    model.view.coef, model.view.intercept = model.memory.data, model.memory.data + offset
    if p:
        job.matrix, job.runs = cnp.PyArray_DATA(coef), model.memory.data
        with nogil:
            if X.n_entries >= p:
                # Dynamic, for another process may hold up a core.
                for share in prange(n_shares, num_threads=n_threads, schedule='dynamic'):
                    pack_part(&job, real, share * p // n_shares, (share + 1) * p // n_shares)
            elif X.view.wide_indices:
                pack_present(&job, real, <const int64_t *>X.view.indices, X.n_entries)
            else:
                pack_present(&job, real, <const int32_t *>X.view.indices, X.n_entries)
    job.matrix, job.runs, job.n_features = <void *>&intercept[0], <void *>model.view.intercept, 1
    job.by_feature, job.narrow = True, False
    pack_part(&job, real, 0, 1)
    return model


cdef object evaluate_csr(const sf_kernels *table, SparseRows X, Targets targets, _Model model, _Model direction,
                         bint by_feature, int n_threads):
    """Sums over rows: loss, product with X (M, p), product with 1 (M,); with a direction, of the Hessian times it.

    by_feature: the product is a view of the runs, the classes of a feature next to each other; else it is in C order.
    """
    cdef ptrdiff_t n = X.view.n_rows, p = X.view.n_features
    cdef ptrdiff_t n_outputs = model.view.n_outputs, n_classes = model.view.n_classes
    cdef const sf_csr_kernels *kernels = &table.csr[X.real][model.real][X.view.wide_indices]
    if kernels.residual == NULL:
        raise ValueError("float32 arithmetic over float64 rows is not offered")
    if direction is not None and direction.view.n_outputs != n_outputs:
        raise ValueError(f"{direction.view.n_outputs} and {n_outputs} rows of coef")
    targets.check(n, n_classes, X.real)
    cdef ptrdiff_t n_columns = sf_csr_columns(n_outputs, n_classes), stride = sf_csr_stride(n_columns, 8)
    cdef ptrdiff_t block = sf_csr_block_rows(n_classes), row_bytes = stride * sizeof(double)
    # Rows of a group: their residuals stay in the caches, and signals are looked at in between.
    cdef double row_work = 4.0 * n_columns * (<double>X.n_entries / max(1, n) + 8)
    cdef ptrdiff_t group_blocks = max(<ptrdiff_t>1, min(
        RESIDUAL_BYTES // (row_bytes * block), <ptrdiff_t>(WORK_BETWEEN_SIGNALS / row_work) // block,
        ceil_div(n, block)))
    cdef ptrdiff_t n_runs = min(<ptrdiff_t>n_threads, SHARES), n_shares = min(p, SHARES)
    cdef ptrdiff_t begin, end, i, k, run, share, first, last, bad = SF_OK
    cdef _Buffer features = X.share()
    cdef const ptrdiff_t *shares = <const ptrdiff_t *>features.data
    cdef size_t scratch_bytes = sf_csr_scratch_bytes(n_classes)
    cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
    cdef _Buffer residual = _Buffer(group_blocks * block * row_bytes)
    cdef _Buffer block_sums = _Buffer(group_blocks * row_bytes), losses = _Buffer(group_blocks * sizeof(double))
    cdef _Buffer statuses = _Buffer(group_blocks * sizeof(ptrdiff_t))
    cdef ptrdiff_t *status = <ptrdiff_t *>statuses.data
    cdef double *loss_of = <double *>losses.data
    cdef double *sums_of = <double *>block_sums.data
    cdef double *residuals = <double *>residual.data
    cdef double loss = 0
    residual_sums = np.zeros(n_outputs)
    cdef double[::1] sums_out = residual_sums
    # One column is its own transpose.
    cdef bint transposed = not by_feature and stride > 1
    cdef size_t gradient_bytes = p * row_bytes
    cdef _Buffer memory = X.take(gradient_bytes) if transposed else _Buffer(gradient_bytes)
    cdef double *gradient = <double *>memory.data
    cdef cnp.ndarray product
    cdef transposition job
    job.runs, job.stride, job.first = gradient, stride, n_columns - n_outputs
    job.n_features, job.n_outputs = p, n_outputs
    if transposed:
        product = np.empty((n_outputs, p))
    else:
        product = memory.matrix(p, stride)[:, n_columns - n_outputs:n_columns].T
    job.matrix = cnp.PyArray_DATA(product)
    with nogil:
        for run in prange(n_runs, num_threads=n_threads, schedule='static'):
            first = shares[run * SHARES // n_runs]
            last = shares[(run + 1) * SHARES // n_runs]
            memset(gradient + first * stride, 0, (last - first) * row_bytes)
        begin = 0
        while begin < n and bad == SF_OK:
            end = min(begin + group_blocks * block, n)
            for i in prange(ceil_div(end - begin, block), num_threads=n_threads, schedule='dynamic'):
                status[i] = residual_block(kernels, residuals + i * block * stride, sums_of + i * stride, loss_of + i,
                                           &X.view, &targets.view, &model.view,
                                           NULL if direction is None else &direction.view, begin + i * block,
                                           min(begin + (i + 1) * block, end),
                                           scratch.data + scratch_bytes * threadid())
            for i in range(ceil_div(end - begin, block)):
                if status[i] != SF_OK:
                    bad = status[i]
                    break
                loss += loss_of[i]
                for k in range(n_outputs):
                    sums_out[k] += sums_of[i * stride + k + n_columns - n_outputs]
            if bad == SF_OK:
                for run in prange(n_runs, num_threads=n_threads, schedule='static'):
                    first = shares[run * SHARES // n_runs]
                    last = shares[(run + 1) * SHARES // n_runs]
                    kernels.add(gradient, residuals, n_columns, &X.view, begin, end, first, last)
            begin = end
            with gil:
                PyErr_CheckSignals()
        if transposed and bad == SF_OK:
            for share in prange(n_shares, num_threads=n_threads, schedule='dynamic'):
                unpack_runs(&job, share * p // n_shares, (share + 1) * p // n_shares)
    if transposed:
        X.give(gradient_bytes, memory)
    X.give(model.n_bytes, model.memory)
    if bad != SF_OK:
        raise IndexError(label_error([targets], bad, n_classes))
    return loss, product, residual_sums


cdef ptrdiff_t residual_block(const sf_csr_kernels *kernels, double *residual, double *sums, double *loss,
                              const sf_csr *x, const sf_targets *targets, const sf_model *model,
                              const sf_model *direction, ptrdiff_t begin, ptrdiff_t end, void *scratch) noexcept nogil:
    if direction == NULL:
        return kernels.residual(residual, sums, loss, x, targets, model, begin, end, scratch)
    loss[0] = 0
    kernels.curve(residual, sums, x, targets.weight, model, direction, begin, end, scratch)
    return SF_OK


cdef object predict_csr(const sf_kernels *table, SparseRows X, _Model model, sf_map map, int n_threads):
    cdef const sf_csr_kernels *kernels = &table.csr[X.real][X.real][X.view.wide_indices]
    cdef ptrdiff_t n = X.view.n_rows, n_classes = model.view.n_classes, i
    cdef ptrdiff_t columns = model.view.n_outputs if map == SF_IDENTITY else n_classes
    cdef ptrdiff_t block = sf_csr_block_rows(n_classes), n_blocks = ceil_div(n, block), first = 0, last
    cdef double row_work = n_classes * (2.0 * X.n_entries / max(1, n) + WORK_PER_LOGIT)
    cdef ptrdiff_t group = between_signals(row_work * block, n_threads)
    cdef size_t scratch_bytes = sf_csr_scratch_bytes(n_classes)
    cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
    cdef cnp.ndarray out = np.empty((n, columns), dtype=X.dtype)
    cdef void *data = cnp.PyArray_DATA(out)
    cdef int n_not_finite = 0
    with nogil:
        while first < n_blocks:
            last = min(first + group, n_blocks)
            for i in prange(first, last, num_threads=n_threads, schedule='dynamic'):
                n_not_finite += not kernels.predict(data, columns, map, &X.view, &model.view, i * block,
                                                    min((i + 1) * block, n), scratch.data + scratch_bytes * threadid())
            first = last
            if first < n_blocks:
                with gil:
                    PyErr_CheckSignals()
    return out, n_not_finite == 0
