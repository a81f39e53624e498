/* runs.tmpl.h: sums of runs, each times an entry of a sparse vector.  Included once for each type STORE of the entries,
 * INDEX of their places, RUN of what is summed and REAL of the sums; W(name) adds the suffix of all.  LOAD_RUN(p) are
 * `lanes` elements of a run as REAL.
 *
 * A sum is held in registers.  Which run is the next one jumps about, but is known ahead, and fetched.
 */

/* Entries ahead of the one at work whose run is fetched. */
enum { W(ahead) = 8 };

SF_INLINE void W(fetch)(const void *run, const int n_bytes) {
    SF_UNROLL
    for (int byte = 0; byte < n_bytes; byte += 64)
        SF_PREFETCH((const char *)run + byte);
}

/* z[0..n_vectors) += sum_e x[e] runs[index[e]] of n entries; n_known >= n of them may be looked at. */
SF_INLINE void W(sum_vectors)(REAL *z, const RUN *runs, ptrdiff_t stride, const INDEX *index, const STORE *x,
                              ptrdiff_t n, ptrdiff_t n_known, const int n_vectors) {
    /* Two sums each where one would wait for itself. */
    const int n_chains = n_vectors <= 4 ? 2 : 1;
    N(vec) sum[2][SF_MOST_VECTORS];
    SF_UNROLL
    for (int i = 0; i < n_vectors; i++) {
        sum[0][i] = N(load)(z + i * N(lanes));
        sum[1][i] = N(broadcast)(0);
    }
    ptrdiff_t e = 0;
    for (; e + n_chains <= n; e += n_chains) {
        SF_UNROLL
        for (int c = 0; c < n_chains; c++) {
            const ptrdiff_t next = e + c + W(ahead);
            W(fetch)(runs + (ptrdiff_t)index[next < n_known ? next : e] * stride,
                     n_vectors * N(lanes) * (int)sizeof(RUN));
            const RUN *run = runs + (ptrdiff_t)index[e + c] * stride;
            N(vec) x_e = N(broadcast)((REAL)x[e + c]);
            SF_UNROLL
            for (int i = 0; i < n_vectors; i++)
                sum[c][i] = sum[c][i] + x_e * LOAD_RUN(run + i * N(lanes));
        }
    }
    if (e < n) {
        const RUN *run = runs + (ptrdiff_t)index[e] * stride;
        N(vec) x_e = N(broadcast)((REAL)x[e]);
        SF_UNROLL
        for (int i = 0; i < n_vectors; i++)
            sum[0][i] = sum[0][i] + x_e * LOAD_RUN(run + i * N(lanes));
    }
    SF_UNROLL
    for (int i = 0; i < n_vectors; i++)
        N(store)(z + i * N(lanes), n_chains == 2 ? sum[0][i] + sum[1][i] : sum[0][i]);
}

/* The same for a stride below a vector. */
SF_INLINE void W(sum_few)(REAL *z, const RUN *runs, const INDEX *index, const STORE *x, ptrdiff_t n,
                          const int stride) {
    REAL sum[4][4] = {{0}};
    ptrdiff_t e = 0;
    for (; e + 4 <= n; e += 4) {
        SF_UNROLL
        for (int c = 0; c < 4; c++) {
            SF_UNROLL
            for (int k = 0; k < stride; k++)
                sum[c][k] += (REAL)x[e + c] * runs[(ptrdiff_t)index[e + c] * stride + k];
        }
    }
    for (; e < n; e++)
        for (int k = 0; k < stride; k++)
            sum[0][k] += (REAL)x[e] * runs[(ptrdiff_t)index[e] * stride + k];
    for (int k = 0; k < stride; k++)
        z[k] += (sum[0][k] + sum[1][k]) + (sum[2][k] + sum[3][k]);
}

/* z [stride] += sum_e x[e] runs[index[e]], over the entries of row i of x. */
SF_INLINE void W(sum_runs)(REAL *z, const RUN *runs, ptrdiff_t stride, ptrdiff_t n_columns, const sf_csr *x,
                           ptrdiff_t i) {
    const ptrdiff_t first = sf_entry(x, i), n = sf_entry(x, i + 1) - first;
    const INDEX *index = (const INDEX *)x->indices + first;
    const STORE *data = (const STORE *)x->data + first;
    switch (stride) {
    case 1: W(sum_few)(z, runs, index, data, n, 1); return;
    case 2: W(sum_few)(z, runs, index, data, n, 2); return;
    case 4: W(sum_few)(z, runs, index, data, n, 4); return;
    }
    const ptrdiff_t n_known = sf_entry(x, x->n_rows) - first;
    const sf_split vectors = sf_even_split(sf_ceil_div(n_columns, N(lanes)), SF_MOST_VECTORS);
    for (ptrdiff_t block = 0, at = 0; block < vectors.n_blocks; block++) {
        const int m = vectors.size + (block < vectors.n_larger);
#define SF_CALL(COUNT) W(sum_vectors)(z + at, runs + at, stride, index, data, n, n_known, COUNT);
        SF_FOR_VECTORS(m, SF_CALL)
#undef SF_CALL
        at += m * N(lanes);
    }
}
