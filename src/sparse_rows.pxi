"""Part of _core.pyx: rows in CSR, what is known of their features, and their entries by columns."""

ctypedef fused index_t:
    int32_t
    int64_t

ctypedef fused source_t:
    float
    double

ctypedef fused bits_t:
    uint32_t
    uint64_t

# Bytes of residuals of all rows at most that are gone through feature by feature: they are to come from the caches, for
# each entry looks at another row.  Of 22 MB in float64, 18,000 rows and 150 classes, an evaluation on one thread took
# 1.14 times as long as row by row, of 11 MB in float32 0.90 times; 11,314 rows and 20 classes, 1 MB, 0.8 times.
cdef ptrdiff_t WHOLE_BYTES = 16 * 1024 * 1024
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
cdef class _Columns:
    """X^T in CSR: the entries of X by columns, those of a column in the order of the rows."""
    cdef _Buffer data, indices, indptr
    cdef sf_csr view


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
    cdef _Columns columns                            # None, but for `with_columns`

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
        rows.columns = self.columns
        rows.set_offset(offset)
        return rows

    def with_columns(self, ptrdiff_t n_classes):
        """The same rows with a copy of their entries by columns, or without where residuals would be too many for it.

        To make it takes about as long as an evaluation.
        """
        cdef ptrdiff_t n = self.view.n_rows, p = self.view.n_features, n_entries = self.n_entries, j
        cdef ptrdiff_t itemsize = 4 if self.real == SF_F32 else 8
        if n * sf_csr_stride(n_classes, sizeof(double)) * itemsize > WHOLE_BYTES:
            return self
        cdef SparseRows rows = self.with_offset(self.offset)
        cdef _Columns columns = _Columns.__new__(_Columns)
        columns.data = _Buffer(n_entries * itemsize)
        columns.indices = _Buffer(n_entries * (8 if self.view.wide_indices else 4))
        columns.indptr = _Buffer((p + 2) * sizeof(int64_t))
        columns.view.data, columns.view.indices = columns.data.data, columns.indices.data
        columns.view.indptr, columns.view.wide_indptr = columns.indptr.data, True
        columns.view.wide_indices, columns.view.n_rows, columns.view.n_features = self.view.wide_indices, p, n
        cdef int64_t *ends = <int64_t *>columns.indptr.data
        memset(ends, 0, (p + 2) * sizeof(int64_t))
        self.transpose(columns, False)
        with nogil:
            for j in range(2, p + 2):
                ends[j] += ends[j - 1]
        self.transpose(columns, True)
        rows.columns = columns
        return rows

    cdef int transpose(self, _Columns columns, bint filled) except -1:
        """Counts the entries of the columns or, once it is known where each begins, copies them there."""
        cdef ptrdiff_t begin, step = self.rows_between_signals(16)
        for begin in range(0, self.view.n_rows, step):
            with nogil:
                self.transpose_rows(&columns.view, filled, begin, min(begin + step, self.view.n_rows))
            PyErr_CheckSignals()
        return 0

    cdef void transpose_rows(self, const sf_csr *columns, bint filled, ptrdiff_t begin, ptrdiff_t end) noexcept nogil:
        cdef const sf_csr *x = &self.view
        if self.real == SF_F32 and x.wide_indices:
            move_entries(columns, filled, x, <const int64_t *>x.indices, <const float *>x.data, begin, end)
        elif self.real == SF_F32:
            move_entries(columns, filled, x, <const int32_t *>x.indices, <const float *>x.data, begin, end)
        elif x.wide_indices:
            move_entries(columns, filled, x, <const int64_t *>x.indices, <const double *>x.data, begin, end)
        else:
            move_entries(columns, filled, x, <const int32_t *>x.indices, <const double *>x.data, begin, end)

    cdef ptrdiff_t rows_between_signals(self, double entry_work):
        """How many rows lie between two looks at pending signals, each entry so much work."""
        cdef double n = max(1, self.view.n_rows), work = entry_work * (self.n_entries + n)
        return max(<ptrdiff_t>1, <ptrdiff_t>(WORK_BETWEEN_SIGNALS * n / work))

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
        cdef ptrdiff_t n = self.view.n_rows, p = self.view.n_features, begin, step
        if (weight is not None and weight.shape[0] != n) or center.shape[0] != p:
            raise ValueError(f"{n} rows of {p} features, {weight.shape[0] if weight is not None else n} weights, "
                             f"{center.shape[0]} centers")
        cdef _Buffer memory = _Buffer(p * sizeof(column_sums))
        cdef column_sums *columns = <column_sums *>memory.data
        memset(memory.data, 0, p * sizeof(column_sums))
        step = self.rows_between_signals(16)
        for begin in range(0, n, step):
            with nogil:
                self.add_rows(columns, NULL if weight is None else &weight[0], &center[0] if p else NULL, begin,
                              min(begin + step, n))
            PyErr_CheckSignals()
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


cdef void move_entries(const sf_csr *columns, bint filled, const sf_csr *x, const index_t *indices,
                       const source_t *data, ptrdiff_t begin, ptrdiff_t end) noexcept nogil:
    """The count of a column is kept behind where its end will be; its begin moves on to that, entry by entry."""
    cdef int64_t *ends = <int64_t *>columns.indptr
    cdef index_t *rows = <index_t *>columns.indices
    cdef source_t *entries = <source_t *>columns.data
    cdef ptrdiff_t i, e, j
    for i in range(begin, end):
        for e in range(sf_entry(x, i), sf_entry(x, i + 1)):
            j = indices[e]
            if not filled:
                ends[j + 2] += 1
                continue
            rows[ends[j + 1]] = <index_t>i
            entries[ends[j + 1]] = data[e]
            ends[j + 1] += 1


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
