/* csr.tmpl.h: rows in CSR.  Included once for each pair and each type INDEX of the column indices, after
 * curvature.tmpl.h; W(name) adds the suffix of both.
 *
 * Coefficients and gradients lie with the classes of a feature next to each other, [p][stride], as residuals do with
 * those of a row: an entry (j, x) of a row adds x times one such run to the row's logits.
 */
#define RUN REAL
#define LOAD_RUN(p) N(load)(p)
#include "runs.tmpl.h"

/* z [stride] = W x + intercept of row i. */
static void W(csr_score)(REAL *z, const sf_csr *x, const sf_model *model, ptrdiff_t i) {
    const ptrdiff_t n_columns = sf_csr_columns(model->n_outputs, model->n_classes);
    const ptrdiff_t stride = sf_csr_stride(n_columns, sizeof(REAL));
    memcpy(z, model->intercept, (size_t)stride * sizeof(REAL));
    W(sum_runs)(z, model->coef, stride, n_columns, x, i);
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

/* A row's residuals, z[k * step], to memory, zero in the padding, and to the sums over the rows. */
SF_INLINE void W(csr_write)(REAL *residual, double *sums, const REAL *z, ptrdiff_t step, ptrdiff_t n_columns) {
    for (ptrdiff_t k = 0; k < n_columns; k++)
        residual[k] = z[k * step];
    for (ptrdiff_t k = n_columns; k < sf_csr_stride(n_columns, sizeof(double)); k++)
        residual[k] = 0;
    for (ptrdiff_t k = 0; k < n_columns; k++)
        sums[k] += residual[k];
}

static ptrdiff_t W(csr_residual)(void *residuals, double *sums, double *loss, const sf_csr *x,
                                 const sf_targets *targets, const sf_model *model, ptrdiff_t begin, ptrdiff_t end,
                                 void *scratch) {
    const ptrdiff_t n_classes = model->n_classes, n_rows = end - begin;
    const ptrdiff_t n_columns = sf_csr_columns(model->n_outputs, n_classes);
    const ptrdiff_t spacing = sf_csr_stride(n_columns, sizeof(double));
    REAL *z = scratch, *residual = residuals;
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

static void W(csr_curve)(void *residuals, double *sums, const sf_csr *x, const double *weight, const sf_model *model,
                         const sf_model *direction, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const ptrdiff_t n_classes = model->n_classes, n_rows = end - begin;
    const ptrdiff_t n_columns = sf_csr_columns(model->n_outputs, n_classes);
    const ptrdiff_t spacing = sf_csr_stride(n_columns, sizeof(double));
    REAL *z = scratch, *residual = residuals;
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
#include "csr_backward.tmpl.h"
#endif
#undef RUN
#undef LOAD_RUN
