/* curvature.tmpl.h: products with the Hessian.  Included once for each pair, after
 * rows.tmpl.h, whose tiles and products it uses.
 *
 * The Hessian of the loss is sum_i w_i (diag(p_i) - p_i p_i^T) (x) x_i x_i^T.  On a direction V with d_i = V x_i it
 * gives sum_i w_i p_i o (d_i - <p_i, d_i>) x_i^T: the gradient's backward product with another residual.
 */

/* Probabilities p and direction's logits d of one column of classes to residuals w p (d - <p, d>), in p. */
SF_INLINE void V(curve_column)(REAL *p, const REAL *d, ptrdiff_t n_classes, ptrdiff_t stride, N(vec) weight) {
    N(vec) mean = {0};
    for (ptrdiff_t k = 0; k < n_classes; k++)
        mean += N(load)(p + k * stride) * N(load)(d + k * stride);
    for (ptrdiff_t k = 0; k < n_classes; k++)
        N(store)(p + k * stride,
                 weight * N(not_negligible)(N(load)(p + k * stride)) * (N(load)(d + k * stride) - mean));
}

/* The same from logits p and d (K, stride), in p; weight of the n_rows <= stride rows, or NULL.  w: scratch (stride,). */
static void V(curve_tile)(REAL *p, REAL *d, ptrdiff_t n_classes, ptrdiff_t stride, const double *weight,
                          ptrdiff_t n_rows, REAL *w) {
    for (ptrdiff_t k = 0; k < n_classes; k++)
        for (ptrdiff_t r = n_rows; r < stride; r++)
            p[k * stride + r] = d[k * stride + r] = 0;
    for (ptrdiff_t r = 0; r < stride; r++)
        w[r] = r >= n_rows ? 0 : weight ? (REAL)weight[r] : 1;
    N(map_tile)(p, n_classes, stride, SF_SOFTMAX);
    for (ptrdiff_t r = 0; r < stride; r += N(lanes))
        V(curve_column)(p + r, d + r, n_classes, stride, N(load)(w + r));
}

/* The same for one row in panels. */
SF_INLINE void V(curve_row)(N(row) p, N(row) d, ptrdiff_t n_classes, REAL weight) {
    REAL factor, offset;
    N(map_row)(p, p, SF_SOFTMAX, &factor, &offset);
    N(scale_row)(p, factor);
    /* The padding of d may be -inf: 0 there keeps the sum over the panels finite. */
    for (ptrdiff_t k = n_classes; k < p.n_panels * SF_PANEL; k++)
        N(panel)(d, k / SF_PANEL)[k % SF_PANEL] = 0;
    N(vec) sum = {0};
    for (ptrdiff_t q = 0; q < p.n_panels; q++)
        for (int i = 0; i < SF_PANEL; i += N(lanes))
            sum += N(load)(N(panel)(p, q) + i) * N(load)(N(panel)(d, q) + i);
    const N(vec) mean = N(broadcast)(N(sum)(sum)), scale = N(broadcast)(weight);
    for (ptrdiff_t q = 0; q < p.n_panels; q++)
        for (int i = 0; i < SF_PANEL; i += N(lanes)) {
            REAL *at = N(panel)(p, q) + i;
            N(store)(at, scale * N(load)(at) * (N(load)(N(panel)(d, q) + i) - mean));
        }
}

static void V(panel_hessian_vector)(sf_gradient *out, const sf_rows *x, const double *weight, const sf_model *model,
                                    const sf_model *direction, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const ptrdiff_t n_classes = model->n_classes, n_rows = end - begin;
    REAL *tile = scratch, *turned = tile + sf_panels(n_classes) * SF_PANEL * n_rows;
    V(panel_logits)(tile, x, model, begin, end);
    V(panel_scores)(turned, x, direction, begin, end);
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        N(row) p = V(tile_row)(tile, r, n_rows, n_classes), d = V(tile_row)(turned, r, n_rows, n_classes);
        V(curve_row)(p, d, n_classes, weight ? (REAL)weight[begin + r] : 1);
    }
    V(panel_add_gradient)(out, x, tile, n_classes, begin, end);
}

/* out += H V for the rows [begin, end), H the Hessian at the model and V the direction's coefficients. */
static void V(hessian_vector)(sf_gradient *out, const sf_rows *x, const double *weight, const sf_model *model,
                              const sf_model *direction, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const ptrdiff_t n_classes = model->n_classes, n_rows = end - begin, stride = sf_padded(n_rows);
    if (sf_many_classes(n_classes)) {
        V(panel_hessian_vector)(out, x, weight, model, direction, begin, end, scratch);
        return;
    }
    REAL *tile = scratch, *turned = tile + n_classes * stride, *w = turned + n_classes * stride;
    V(logits_tile)(tile, stride, x, model, begin, end, w + 4 * stride);
    V(scores_tile)(turned, stride, x, direction, begin, end, w + 4 * stride);
    V(curve_tile)(tile, turned, n_classes, stride, weight ? weight + begin : NULL, n_rows, w);
    V(add_gradient)(out, x, tile, stride, n_classes, model->n_outputs, begin, end);
}

#undef SF_FOR_OUTER
#undef SF_FOR_DOT
