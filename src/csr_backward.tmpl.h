/* csr_backward.tmpl.h: products of residuals, runs of type RUN, with rows in CSR, in float64.  Included once for each
 * RUN, after the runs.tmpl.h of it whose REAL is double.
 *
 * Row by row each entry changes a run of the gradient, in memory.  By columns each run of the gradient is one sum, in
 * registers, and written once.
 */

/* gradient[index[e]] += x[e] residual [n_columns] of n entries, in their order. */
SF_INLINE void W(csr_add_vectors)(double *gradient, ptrdiff_t stride, const RUN *residual, const INDEX *index,
                                  const STORE *x, ptrdiff_t n, ptrdiff_t n_known, const int n_vectors) {
    N(vec) r[SF_MOST_VECTORS];
    SF_UNROLL
    for (int i = 0; i < n_vectors; i++)
        r[i] = LOAD_RUN(residual + i * N(lanes));
    for (ptrdiff_t e = 0; e < n; e++) {
        const ptrdiff_t next = e + W(ahead);
        W(fetch)(gradient + (ptrdiff_t)index[next < n_known ? next : e] * stride, n_vectors * (int)sizeof(N(vec)));
        double *run = gradient + (ptrdiff_t)index[e] * stride;
        N(vec) x_e = N(broadcast)(x[e]);
        SF_UNROLL
        for (int i = 0; i < n_vectors; i++)
            N(store)(run + i * N(lanes), N(load)(run + i * N(lanes)) + x_e * r[i]);
    }
}

SF_INLINE void W(csr_add_few)(double *gradient, const RUN *residual, const INDEX *index, const STORE *x,
                              ptrdiff_t n, const int stride) {
    double r[4];
    for (int k = 0; k < stride; k++)
        r[k] = residual[k];
    for (ptrdiff_t e = 0; e < n; e++) {
        double *run = gradient + (ptrdiff_t)index[e] * stride;
        SF_UNROLL
        for (int k = 0; k < stride; k++)
            run[k] += x[e] * r[k];
    }
}

static void W(csr_add_row)(double *gradient, const RUN *residual, ptrdiff_t n_columns, const INDEX *index,
                           const STORE *x, ptrdiff_t n, ptrdiff_t n_known) {
    const ptrdiff_t stride = sf_csr_stride(n_columns, sizeof(double));
    switch (stride) {
    case 1: W(csr_add_few)(gradient, residual, index, x, n, 1); return;
    case 2: W(csr_add_few)(gradient, residual, index, x, n, 2); return;
    case 4: W(csr_add_few)(gradient, residual, index, x, n, 4); return;
    }
    const sf_split vectors = sf_even_split(sf_ceil_div(n_columns, N(lanes)), SF_MOST_VECTORS);
    for (ptrdiff_t block = 0, at = 0; block < vectors.n_blocks; block++) {
        const int m = vectors.size + (block < vectors.n_larger);
#define SF_CALL(COUNT) W(csr_add_vectors)(gradient + at, stride, residual + at, index, x, n, n_known, COUNT);
        SF_FOR_VECTORS(m, SF_CALL)
#undef SF_CALL
        at += m * N(lanes);
    }
}

static void W(csr_add)(double *gradient, const void *residuals, ptrdiff_t n_columns, const sf_csr *x, ptrdiff_t begin,
                       ptrdiff_t end, ptrdiff_t first, ptrdiff_t last) {
    enum { limit = 512 };
    INDEX own_index[limit];
    STORE own[limit];
    const INDEX *index = x->indices;
    const STORE *data = x->data;
    const RUN *residual = residuals;
    const ptrdiff_t spacing = sf_csr_stride(n_columns, sizeof(double)), n_entries = sf_entry(x, x->n_rows);
    for (ptrdiff_t i = begin; i < end; i++, residual += spacing) {
        const ptrdiff_t row_end = sf_entry(x, i + 1);
        ptrdiff_t e = sf_entry(x, i);
        if (first == 0 && last == x->n_features) {
            W(csr_add_row)(gradient, residual, n_columns, index + e, data + e, row_end - e, n_entries - e);
            continue;
        }
        while (e < row_end) {
            const ptrdiff_t stop = row_end - e < limit ? row_end : e + limit;
            ptrdiff_t n = 0;
            /* Without a branch, which would be guessed wrong every other time. */
            for (; e < stop; e++) {
                own_index[n] = index[e];
                own[n] = data[e];
                n += (uint64_t)(index[e] - first) < (uint64_t)(last - first);
            }
            W(csr_add_row)(gradient, residual, n_columns, own_index, own, n, n);
        }
    }
}

static void W(csr_add_columns)(double *gradient, const void *residual, ptrdiff_t n_columns, const sf_csr *columns,
                               ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t stride = sf_csr_stride(n_columns, sizeof(double));
    memset(gradient + first * stride, 0, (size_t)((last - first) * stride) * sizeof(double));
    for (ptrdiff_t j = first; j < last; j++)
        W(sum_runs)(gradient + j * stride, residual, stride, n_columns, columns, j);
}
