/* csr.tmpl.h: rows in CSR.  Included once for each pair and each type INDEX of the column indices, after
 * curvature.tmpl.h; W(name) adds the suffix of both.
 *
 * Coefficients and gradients lie with the classes of a feature next to each other, [p][stride]: an entry (j, x) of a row
 * adds x times one such run to the row's logits, in registers, and x times the row's residuals to another.  Which run
 * that is jumps about, but is known ahead, and fetched.
 */

/* Entries ahead of the one at work whose coefficients are fetched. */
enum { W(csr_ahead) = 8 };

SF_INLINE void W(csr_fetch)(const void *run, const int n_bytes) {
    SF_UNROLL
    for (int byte = 0; byte < n_bytes; byte += 64)
        SF_PREFETCH((const char *)run + byte);
}

/* z[0..n_vectors) += sum_e x[e] coef[index[e]] of n entries; n_known >= n of them may be looked at. */
SF_INLINE void W(csr_score_vectors)(REAL *z, const REAL *coef, ptrdiff_t stride, const INDEX *index, const STORE *x,
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
            const ptrdiff_t next = e + c + W(csr_ahead);
            W(csr_fetch)(coef + (ptrdiff_t)index[next < n_known ? next : e] * stride,
                         n_vectors * (int)sizeof(N(vec)));
            const REAL *run = coef + (ptrdiff_t)index[e + c] * stride;
            N(vec) x_e = N(broadcast)((REAL)x[e + c]);
            SF_UNROLL
            for (int i = 0; i < n_vectors; i++)
                sum[c][i] = sum[c][i] + x_e * N(load)(run + i * N(lanes));
        }
    }
    if (e < n) {
        const REAL *run = coef + (ptrdiff_t)index[e] * stride;
        N(vec) x_e = N(broadcast)((REAL)x[e]);
        SF_UNROLL
        for (int i = 0; i < n_vectors; i++)
            sum[0][i] = sum[0][i] + x_e * N(load)(run + i * N(lanes));
    }
    SF_UNROLL
    for (int i = 0; i < n_vectors; i++)
        N(store)(z + i * N(lanes), n_chains == 2 ? sum[0][i] + sum[1][i] : sum[0][i]);
}

/* The same for a stride below a vector. */
SF_INLINE void W(csr_score_few)(REAL *z, const REAL *coef, const INDEX *index, const STORE *x, ptrdiff_t n,
                                const int stride) {
    REAL sum[4][4] = {{0}};
    ptrdiff_t e = 0;
    for (; e + 4 <= n; e += 4) {
        SF_UNROLL
        for (int c = 0; c < 4; c++) {
            SF_UNROLL
            for (int k = 0; k < stride; k++)
                sum[c][k] += (REAL)x[e + c] * coef[(ptrdiff_t)index[e + c] * stride + k];
        }
    }
    for (; e < n; e++)
        for (int k = 0; k < stride; k++)
            sum[0][k] += (REAL)x[e] * coef[(ptrdiff_t)index[e] * stride + k];
    for (int k = 0; k < stride; k++)
        z[k] += (sum[0][k] + sum[1][k]) + (sum[2][k] + sum[3][k]);
}

/* z [stride] = W x + intercept of row i. */
static void W(csr_score)(REAL *z, const sf_csr *x, const sf_model *model, ptrdiff_t i) {
    const ptrdiff_t n_columns = sf_csr_columns(model->n_outputs, model->n_classes);
    const ptrdiff_t stride = sf_csr_stride(n_columns, sizeof(REAL));
    const ptrdiff_t first = sf_entry(x, i), n = sf_entry(x, i + 1) - first;
    const INDEX *index = (const INDEX *)x->indices + first;
    const STORE *data = (const STORE *)x->data + first;
    const REAL *coef = model->coef;
    memcpy(z, model->intercept, (size_t)stride * sizeof(REAL));
    switch (stride) {
    case 1: W(csr_score_few)(z, coef, index, data, n, 1); return;
    case 2: W(csr_score_few)(z, coef, index, data, n, 2); return;
    case 4: W(csr_score_few)(z, coef, index, data, n, 4); return;
    }
    const ptrdiff_t n_known = sf_entry(x, x->n_rows) - first;
    const sf_split vectors = sf_even_split(sf_ceil_div(n_columns, N(lanes)), SF_MOST_VECTORS);
    for (ptrdiff_t block = 0, at = 0; block < vectors.n_blocks; block++) {
        const int m = vectors.size + (block < vectors.n_larger);
#define SF_CALL(COUNT) W(csr_score_vectors)(z + at, coef + at, stride, index, data, n, n_known, COUNT);
        SF_FOR_VECTORS(m, SF_CALL)
#undef SF_CALL
        at += m * N(lanes);
    }
}

/* tile (K, stride) = scores of the rows [begin, end), plus their offsets where they are asked for; a reference class
 * leads with zeros. */
static void W(csr_tile)(REAL *tile, ptrdiff_t stride, const sf_csr *x, const sf_model *model, ptrdiff_t begin,
                        ptrdiff_t end, int with_offset) {
    const ptrdiff_t n_reference = model->n_classes - model->n_outputs;
    REAL z[SF_PANEL];
    memset(tile, 0, (size_t)(n_reference * stride) * sizeof(REAL));
    for (ptrdiff_t r = 0; r < end - begin; r++) {
        W(csr_score)(z, x, model, begin + r);
        for (ptrdiff_t k = 0; k < model->n_outputs; k++)
            tile[(n_reference + k) * stride + r] = z[k];
    }
    if (with_offset)
        V(add_offset)(tile, stride, x->offset, x->offset_stride, model->n_classes, begin, end);
}

/* z, in panels, = logits of row i, of many classes; the padding becomes -inf. */
static void W(csr_logits)(REAL *z, const sf_csr *x, const sf_model *model, ptrdiff_t i, int with_offset) {
    W(csr_score)(z, x, model, i);
    for (ptrdiff_t k = 0; with_offset && x->offset && k < model->n_classes; k++)
        z[k] += (REAL)x->offset[i * x->offset_stride + k];
    for (ptrdiff_t k = model->n_classes; k < sf_panels(model->n_classes) * SF_PANEL; k++)
        z[k] = -(REAL)INFINITY;
}

/* A row's residuals, z[k * step], to float64, zero in the padding, and to the sums over the rows. */
SF_INLINE void W(csr_write)(double *residual, double *sums, const REAL *z, ptrdiff_t step, ptrdiff_t n_columns) {
    for (ptrdiff_t k = 0; k < n_columns; k++)
        residual[k] = z[k * step];
    for (ptrdiff_t k = n_columns; k < sf_csr_stride(n_columns, sizeof(double)); k++)
        residual[k] = 0;
    for (ptrdiff_t k = 0; k < n_columns; k++)
        sums[k] += residual[k];
}

static ptrdiff_t W(csr_residual)(double *residual, double *sums, double *loss, const sf_csr *x,
                                 const sf_targets *targets, const sf_model *model, ptrdiff_t begin, ptrdiff_t end,
                                 void *scratch) {
    const ptrdiff_t n_classes = model->n_classes, n_rows = end - begin;
    const ptrdiff_t n_columns = sf_csr_columns(model->n_outputs, n_classes);
    const ptrdiff_t spacing = sf_csr_stride(n_columns, sizeof(double));
    REAL *z = scratch;
    *loss = 0;
    memset(sums, 0, (size_t)spacing * sizeof(double));
    if (sf_many_classes(n_classes)) {
        const N(row) row = N(make_row)(z, sf_panels(n_classes), SF_PANEL);
        for (ptrdiff_t r = 0; r < n_rows; r++) {
            REAL loss_r = 0;
            W(csr_logits)(z, x, model, begin + r, 1);
            if (V(residual_of_row)(row, row, targets, n_classes, begin + r, z + row.n_panels * SF_PANEL, &loss_r)
                != SF_OK)
                return begin + r;
            *loss += loss_r;
            W(csr_write)(residual + r * spacing, sums, z, 1, n_columns);
        }
        return SF_OK;
    }
    const ptrdiff_t stride = sf_padded(n_rows);
    const REAL *losses;
    W(csr_tile)(z, stride, x, model, begin, end, 1);
    ptrdiff_t status = V(residual)(z, stride, targets, n_classes, begin, end, &losses);
    if (status != SF_OK)
        return status;
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        *loss += losses[r];
        W(csr_write)(residual + r * spacing, sums, z + (n_classes - n_columns) * stride + r, stride, n_columns);
    }
    return SF_OK;
}

static void W(csr_curve)(double *residual, double *sums, const sf_csr *x, const double *weight, const sf_model *model,
                         const sf_model *direction, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const ptrdiff_t n_classes = model->n_classes, n_rows = end - begin;
    const ptrdiff_t n_columns = sf_csr_columns(model->n_outputs, n_classes);
    const ptrdiff_t spacing = sf_csr_stride(n_columns, sizeof(double));
    REAL *z = scratch;
    memset(sums, 0, (size_t)spacing * sizeof(double));
    if (sf_many_classes(n_classes)) {
        const ptrdiff_t n_panels = sf_panels(n_classes);
        REAL *turned = z + n_panels * SF_PANEL;
        for (ptrdiff_t r = 0; r < n_rows; r++) {
            W(csr_logits)(z, x, model, begin + r, 1);
            W(csr_logits)(turned, x, direction, begin + r, 0);
            V(curve_row)(N(make_row)(z, n_panels, SF_PANEL), N(make_row)(turned, n_panels, SF_PANEL), n_classes,
                         weight ? (REAL)weight[begin + r] : 1);
            W(csr_write)(residual + r * spacing, sums, z, 1, n_columns);
        }
        return;
    }
    const ptrdiff_t stride = sf_padded(n_rows);
    REAL *turned = z + n_classes * stride;
    W(csr_tile)(z, stride, x, model, begin, end, 1);
    W(csr_tile)(turned, stride, x, direction, begin, end, 0);
    V(curve_tile)(z, turned, n_classes, stride, weight ? weight + begin : NULL, n_rows, turned + n_classes * stride);
    for (ptrdiff_t r = 0; r < n_rows; r++)
        W(csr_write)(residual + r * spacing, sums, z + (n_classes - n_columns) * stride + r, stride, n_columns);
}

static int W(csr_predict)(void *out, ptrdiff_t out_stride, sf_map map, const sf_csr *x, const sf_model *model,
                          ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    REAL *z = scratch, *to = (REAL *)out + begin * out_stride;
    if (!sf_many_classes(model->n_classes)) {
        const ptrdiff_t stride = sf_padded(end - begin);
        W(csr_tile)(z, stride, x, model, begin, end, 1);
        return V(predict_tile)(to, out_stride, map, z, stride, model, end - begin);
    }
    int finite = 1;
    for (ptrdiff_t i = begin; i < end; i++, to += out_stride) {
        W(csr_logits)(z, x, model, i, 1);
        finite &= V(predict_row)(to, map, N(make_row)(z, sf_panels(model->n_classes), SF_PANEL), model);
    }
    return finite;
}

#if REAL_BITS == 64
/* gradient[index[e]] += x[e] residual [n_columns] of n entries, in their order. */
SF_INLINE void W(csr_add_vectors)(double *gradient, ptrdiff_t stride, const double *residual, const INDEX *index,
                                  const STORE *x, ptrdiff_t n, ptrdiff_t n_known, const int n_vectors) {
    N(vec) r[SF_MOST_VECTORS];
    SF_UNROLL
    for (int i = 0; i < n_vectors; i++)
        r[i] = N(load)(residual + i * N(lanes));
    for (ptrdiff_t e = 0; e < n; e++) {
        const ptrdiff_t next = e + W(csr_ahead);
        W(csr_fetch)(gradient + (ptrdiff_t)index[next < n_known ? next : e] * stride, n_vectors * (int)sizeof(N(vec)));
        double *run = gradient + (ptrdiff_t)index[e] * stride;
        N(vec) x_e = N(broadcast)(x[e]);
        SF_UNROLL
        for (int i = 0; i < n_vectors; i++)
            N(store)(run + i * N(lanes), N(load)(run + i * N(lanes)) + x_e * r[i]);
    }
}

SF_INLINE void W(csr_add_few)(double *gradient, const double *residual, const INDEX *index, const STORE *x,
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

static void W(csr_add_row)(double *gradient, const double *residual, ptrdiff_t n_columns, const INDEX *index,
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

static void W(csr_add)(double *gradient, const double *residual, ptrdiff_t n_columns, const sf_csr *x, ptrdiff_t begin,
                       ptrdiff_t end, ptrdiff_t first, ptrdiff_t last) {
    enum { limit = 512 };
    INDEX own_index[limit];
    STORE own[limit];
    const INDEX *index = x->indices;
    const STORE *data = x->data;
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
#endif
