"""Part of _core.pyx: evaluations over the rows of X, by tasks, with an ordered reduction."""

# Partial gradients: at most this many bytes in all, but never fewer than MIN_TASKS of them nor more than 256.
cdef ptrdiff_t PARTIAL_BYTES = 64 * 1024 * 1024
cdef ptrdiff_t MIN_TASKS = 4
# Rows of a task at least, beyond MIN_TASKS: below, setting partial gradients up and adding them shows.
cdef ptrdiff_t TASK_ROWS = 1024
# Elements of partial gradients that a thread adds at a time: they stay in its first-level cache.
cdef ptrdiff_t SUM_CHUNK = 2048


cdef int arithmetic_of(dtype) except -1:
    real = np.dtype(dtype)
    if real not in (np.float32, np.float64):
        raise ValueError(f"arithmetic is float32 or float64, not {real}")
    return SF_F32 if real == np.float32 else SF_F64


cdef struct evaluation:
    # One of those that share a reading of the rows; direction NULL: loss and gradient, else Hessian times direction.
    const sf_targets *targets
    const sf_model *model
    const sf_model *direction


cdef object evaluate(const sf_kernels *table, Rows X, list targets, list models, list directions, int n_threads):
    """Sums over rows of S evaluations: losses (S,), products with X (S, M, p), products with 1 (S, M)."""
    _remember_threads(n_threads)
    cdef ptrdiff_t n_evaluations = len(models), q
    cdef _Model model = models[0], other
    cdef Targets of_rows
    cdef ptrdiff_t n = X.view.n_rows, p = X.view.n_features
    cdef ptrdiff_t n_outputs = model.view.n_outputs, n_classes = model.view.n_classes
    cdef sf_row_kernels kernels = table.rows[X.real][model.real]
    if kernels.loss_gradient == NULL:
        raise ValueError("float32 arithmetic over float64 rows is not offered")
    cdef _Buffer memory = _Buffer(n_evaluations * sizeof(evaluation))
    cdef evaluation *evaluations = <evaluation *>memory.data
    for q in range(n_evaluations):
        model, of_rows, other = models[q], targets[q], models[q] if directions is None else directions[q]
        if of_rows is None:
            raise TypeError("targets must not hold None")
        for one in (model, other):
            X.check((<_Model>one).view.n_features, n_classes)
            if (<_Model>one).view.n_outputs != n_outputs:
                raise ValueError(f"{(<_Model>one).view.n_outputs} and {n_outputs} rows of coef")
        of_rows.check(n, n_classes, X.real)
        evaluations[q].targets = &of_rows.view
        evaluations[q].model = &model.view
        evaluations[q].direction = NULL if directions is None else &other.view

    # Tasks are runs of neighbouring blocks; each adds up its own partial sums.
    cdef ptrdiff_t block = sf_block_rows(p, n_classes, 4 if model.real == SF_F32 else 8)
    cdef ptrdiff_t n_blocks = ceil_div(n, block)
    cdef ptrdiff_t coef_size = sf_coef_size(&model.view), size = coef_size + sf_intercept_size(&model.view)
    cdef ptrdiff_t n_tasks = min(n_blocks, max(MIN_TASKS, min(256, n // TASK_ROWS,
                                                              PARTIAL_BYTES // (8 * size * n_evaluations))))
    cdef size_t scratch_bytes = sf_scratch_bytes(min(block, n), n_classes)
    cdef double task_work = 4.0 * n_evaluations * n_outputs * (p + 8) * ceil_div(n_blocks, max(1, n_tasks)) * block
    cdef ptrdiff_t group = between_signals(task_work, n_threads)
    cdef ptrdiff_t first, last, task, k, j, bad = SF_OK
    cdef _Buffer scratch = _Buffer(scratch_bytes * n_threads)
    cdef _Buffer partial = _Buffer((n_tasks * n_evaluations * size) * sizeof(double))
    cdef _Buffer parts = _Buffer(n_tasks * n_evaluations * sizeof(sf_gradient))
    cdef _Buffer statuses = _Buffer(n_tasks * sizeof(ptrdiff_t))
    cdef sf_gradient *part = <sf_gradient *>parts.data
    cdef ptrdiff_t *status = <ptrdiff_t *>statuses.data
    cdef double *sums = <double *>partial.data
    for k in range(n_tasks * n_evaluations):
        part[k].coef = sums + k * size
        part[k].intercept = part[k].coef + coef_size

    with nogil:
        first = 0
        while first < n_tasks and bad == SF_OK:
            last = min(first + group, n_tasks)
            # Guided: long runs of neighbouring tasks, for a block fetches the next one ahead.
            for task in prange(first, last, num_threads=n_threads, schedule='guided'):
                status[task] = run_task(&kernels, evaluations, n_evaluations, part + task * n_evaluations, size,
                                        &X.view, block, task * n_blocks // n_tasks, (task + 1) * n_blocks // n_tasks,
                                        scratch.data + scratch_bytes * threadid())
            for task in range(first, last):
                if status[task] != SF_OK:
                    bad = status[task]
                    break
            first = last
            with gil:
                PyErr_CheckSignals()
    if bad != SF_OK:
        raise IndexError(label_error(targets, bad, n_classes))

    losses, products = np.zeros(n_evaluations), np.zeros((n_evaluations, n_outputs, p))
    residuals = np.zeros((n_evaluations, n_outputs))
    cdef double[::1] loss_out = losses
    cdef double[:, :, ::1] coef_out = products
    cdef double[:, ::1] intercept_out = residuals
    if n_tasks:
        with nogil:
            for k in prange(ceil_div(n_evaluations * size, SUM_CHUNK), num_threads=n_threads, schedule='static'):
                add_parts(sums, n_evaluations * size, n_tasks, k * SUM_CHUNK,
                          min((k + 1) * SUM_CHUNK, n_evaluations * size))
            for q in range(n_evaluations):
                for task in range(n_tasks):
                    loss_out[q] += part[task * n_evaluations + q].loss
                for k in range(n_outputs):
                    for j in range(p):
                        coef_out[q, k, j] = sums[q * size + sf_coef_index(&model.view, k, j)]
                    intercept_out[q, k] = sums[q * size + coef_size + sf_intercept_index(&model.view, k)]
    return losses, products, residuals


cdef object label_error(list targets, ptrdiff_t row, ptrdiff_t n_classes):
    """What a kernel that stopped at a row has found there."""
    cdef Targets of_rows
    for of_rows in targets:
        if of_rows.view.labels != NULL and not 0 <= of_rows.view.labels[row] < n_classes:
            return f"label {of_rows.view.labels[row]} of row {row} is not in 0..{n_classes - 1}"
    return f"the labels changed while they were read, about row {row}"


cdef ptrdiff_t run_task(const sf_row_kernels *kernels, const evaluation *evaluations, ptrdiff_t n_evaluations,
                        sf_gradient *out, ptrdiff_t size, const sf_rows *x, ptrdiff_t block, ptrdiff_t first,
                        ptrdiff_t last, void *scratch) noexcept nogil:
    """The blocks first..last of one task, in order, each for all evaluations while its rows are in the cache."""
    cdef ptrdiff_t i, q, end, status
    for q in range(n_evaluations):
        out[q].loss = 0
        memset(out[q].coef, 0, size * sizeof(double))
    for i in range(first, last):
        end = min((i + 1) * block, x.n_rows)
        for q in range(n_evaluations):
            if evaluations[q].direction != NULL:
                kernels.hessian_vector(&out[q], x, evaluations[q].targets.weight, evaluations[q].model,
                                       evaluations[q].direction, i * block, end, scratch)
                continue
            status = kernels.loss_gradient(&out[q], x, evaluations[q].targets, evaluations[q].model, i * block, end,
                                           scratch)
            if status != SF_OK:
                return status
    return SF_OK


cdef void run_gram(sf_gram gram, double *out, const double *weight, ptrdiff_t n_weights, ptrdiff_t chunk,
                   ptrdiff_t n_chunks, const sf_rows *x, void *scratch) noexcept nogil:
    """One of n_chunks parts of all matrices: some of the matrices, or some columns of each where they are few."""
    cdef ptrdiff_t n = x.n_rows, p = x.n_features, stride = sf_coef_stride(p), begin = 0, end = n_weights
    cdef ptrdiff_t first = 0, last = p, i, q, j
    if n_weights >= n_chunks:
        begin, end = chunk * n_weights // n_chunks, (chunk + 1) * n_weights // n_chunks
    else:
        first, last = columns_before(p, chunk, n_chunks), columns_before(p, chunk + 1, n_chunks)
    for i in range(ceil_div(n, SF_GRAM_ROWS)):
        gram(out + begin * p * stride, end - begin, weight + begin * n, n, x, i * SF_GRAM_ROWS,
             min((i + 1) * SF_GRAM_ROWS, n), first, last, scratch)
    for q in range(begin, end):
        for i in range(last):
            for j in range(max(first, i + 1), last):
                out[(q * p + j) * stride + i] = out[(q * p + i) * stride + j]


cdef ptrdiff_t columns_before(ptrdiff_t p, ptrdiff_t chunk, ptrdiff_t n_chunks) noexcept nogil:
    """Where columns are cut so that n_chunks parts of an upper triangle are about equal."""
    cdef ptrdiff_t column = <ptrdiff_t>(p * sqrt(<double>chunk / n_chunks)) // SF_GRAM_COLUMNS * SF_GRAM_COLUMNS
    return p if chunk == n_chunks else column


cdef void add_parts(double *sums, ptrdiff_t size, ptrdiff_t n_tasks, ptrdiff_t begin,
                    ptrdiff_t end) noexcept nogil:
    """The elements begin..end of all partial sums to those of the first, in the order of the rows."""
    cdef ptrdiff_t task, j
    cdef const double *part
    for task in range(1, n_tasks):
        part = sums + task * size
        for j in range(begin, end):
            sums[j] += part[j]
