"""Part of _core.pyx: evaluations over rows in CSR.

A gradient of K x p numbers may be large and is there once only: residuals of a group of rows are computed block by
block, and then each thread adds their product with X to the features that it owns, in the order of the rows.  Where the
entries are there by columns, too, residuals of all rows are kept, and each feature's part of the gradient is one sum.
"""

ctypedef fused real_t:
    float
    double

# Bytes of residuals of a group of rows.
cdef ptrdiff_t RESIDUAL_BYTES = 8 * 1024 * 1024


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
    cdef ptrdiff_t block = sf_csr_block_rows(n_classes), run_bytes = stride * sizeof(double)
    cdef ptrdiff_t row_bytes = stride * (4 if model.real == SF_F32 else 8)
    cdef bint whole = X.columns is not None and n * row_bytes <= WHOLE_BYTES
    # Rows of a group: their residuals stay in the caches, and signals are looked at in between.
    cdef double row_work = 4.0 * n_columns * (<double>X.n_entries / max(1, n) + 8)
    cdef ptrdiff_t group_blocks = max(<ptrdiff_t>1, min(
        RESIDUAL_BYTES // (row_bytes * block), <ptrdiff_t>(WORK_BETWEEN_SIGNALS / row_work) // block,
        ceil_div(n, block)))
    cdef ptrdiff_t n_runs = min(<ptrdiff_t>n_threads, SHARES), n_shares = min(p, SHARES)
    cdef ptrdiff_t group_shares = between_signals(row_work * n / SHARES, n_threads)
    cdef ptrdiff_t begin, end, i, k, run, share, first, last, bad = SF_OK
    cdef _Buffer features = X.share()
    cdef const ptrdiff_t *shares = <const ptrdiff_t *>features.data
    cdef size_t scratch_bytes = sf_csr_scratch_bytes(n_classes)
    cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
    cdef _Buffer residual = _Buffer((n if whole else group_blocks * block) * row_bytes)
    cdef _Buffer block_sums = _Buffer(group_blocks * run_bytes), losses = _Buffer(group_blocks * sizeof(double))
    cdef _Buffer statuses = _Buffer(group_blocks * sizeof(ptrdiff_t))
    cdef ptrdiff_t *status = <ptrdiff_t *>statuses.data
    cdef double *loss_of = <double *>losses.data
    cdef double *sums_of = <double *>block_sums.data
    cdef char *residuals = residual.data             # of the group
    cdef double loss = 0
    residual_sums = np.zeros(n_outputs)
    cdef double[::1] sums_out = residual_sums
    # One column is its own transpose.
    cdef bint transposed = not by_feature and stride > 1
    cdef size_t gradient_bytes = p * run_bytes
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
        if not whole:
            for run in prange(n_runs, num_threads=n_threads, schedule='static'):
                first = shares[run * SHARES // n_runs]
                last = shares[(run + 1) * SHARES // n_runs]
                memset(gradient + first * stride, 0, (last - first) * run_bytes)
        begin = 0
        while begin < n and bad == SF_OK:
            end = min(begin + group_blocks * block, n)
            for i in prange(ceil_div(end - begin, block), num_threads=n_threads, schedule='dynamic'):
                status[i] = residual_block(kernels, residuals + i * block * row_bytes, sums_of + i * stride,
                                           loss_of + i, &X.view, &targets.view, &model.view,
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
            if whole:
                residuals += (end - begin) * row_bytes
            elif bad == SF_OK:
                for run in prange(n_runs, num_threads=n_threads, schedule='static'):
                    first = shares[run * SHARES // n_runs]
                    last = shares[(run + 1) * SHARES // n_runs]
                    kernels.add(gradient, residuals, n_columns, &X.view, begin, end, first, last)
            begin = end
            with gil:
                PyErr_CheckSignals()
        begin = 0
        while whole and begin < SHARES and bad == SF_OK:
            end = min(begin + group_shares, SHARES)
            for share in prange(begin, end, num_threads=n_threads, schedule='dynamic'):
                kernels.add_columns(gradient, residual.data, n_columns, &X.columns.view, shares[share],
                                    shares[share + 1])
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


cdef ptrdiff_t residual_block(const sf_csr_kernels *kernels, void *residual, double *sums, double *loss,
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
