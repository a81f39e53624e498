/* tile.tmpl.h: from logits to probabilities, losses and residuals, in a tile.  Included once for each REAL.
 *
 * A tile is s (K, stride): class k of row r at s[k * stride + r], stride a multiple of SF_MAX_LANES.  Rows lie across
 * the lanes, so every reduction over classes is vertical; a "column" below is `lanes` neighbouring rows.
 *
 * Infinite logits give the limit where there is one: one +inf in a row makes its class certain.  Where there is none
 * (several +inf, or every logit -inf) the probabilities are NaN; logsumexp is +inf and -inf then.
 */

/* Replaces each logit z of a column by exp(z - m), or by z - m where `shifted`, m the column's maximum.  Returns
 * sum_k exp(z_k - m) - 1 without cancellation: the terms of the maximum itself are counted, the others added, so that
 * log1p of it is accurate however certain the row is. */
SF_INLINE N(vec) N(exp_column)(REAL *s, ptrdiff_t n_classes, ptrdiff_t stride, const int shifted, N(vec) *maximum) {
    N(vec) m = N(load)(s), rest = {0};
    N(vec) others = {0}, one = N(broadcast)(1);
    for (ptrdiff_t k = 1; k < n_classes; k++)
        m = N(max)(m, N(load)(s + k * stride));
    for (ptrdiff_t k = 0; k < n_classes; k++) {
        N(vec) z = N(load)(s + k * stride);
        N(mask) is_other = N(differ)(z, m);
        N(vec) distance = N(keep)(z - m, is_other);
        N(vec) e = N(exp_small)(distance);
        N(store)(s + k * stride, shifted ? distance : e);
        rest = N(add_where)(is_other, rest, e);
        others = N(add_where)(is_other, others, one);
    }
    *maximum = m;
    return rest + ((REAL)(n_classes - 1) - others);
}

/* NaN in the rows whose limit does not exist: an infinite maximum (m - m is NaN there) that is not alone. */
SF_INLINE N(vec) N(without_limit_nan)(N(vec) rest, N(vec) m) {
    return rest + N(keep)(m - m, N(less)(N(broadcast)(0), rest));
}

/* The map of every row of the tile, in place; SF_LOGSUMEXP leaves its value in the first class. */
static void N(map_tile)(REAL *s, ptrdiff_t n_classes, ptrdiff_t stride, sf_map map) {
    N(vec) m, rest;
    for (ptrdiff_t r = 0; r < stride; r += N(lanes)) {
        if (map == SF_SOFTMAX) {
            rest = N(exp_column)(s + r, n_classes, stride, 0, &m);
            N(vec) scale = 1 / (1 + N(without_limit_nan)(rest, m));
            for (ptrdiff_t k = 0; k < n_classes; k++)
                N(store)(s + k * stride + r, N(load)(s + k * stride + r) * scale);
        } else if (map == SF_LOG_SOFTMAX) {
            rest = N(exp_column)(s + r, n_classes, stride, 1, &m);
            N(vec) log_sum = N(log1p)(N(without_limit_nan)(rest, m));
            for (ptrdiff_t k = 0; k < n_classes; k++)
                N(store)(s + k * stride + r, N(load)(s + k * stride + r) - log_sum);
        } else if (map == SF_LOGSUMEXP) {
            rest = N(exp_column)(s + r, n_classes, stride, 0, &m);
            N(store)(s + r, m + N(log1p)(rest));
        }
    }
}

/* out[r * row_stride + k * class_stride] = the tile's first n_classes classes of n_rows rows. */
static void N(scatter_tile)(REAL *out, ptrdiff_t row_stride, ptrdiff_t class_stride, const REAL *s, ptrdiff_t stride,
                            ptrdiff_t n_classes, ptrdiff_t n_rows) {
    ptrdiff_t whole = 0;
    if (row_stride == 1) {
        for (ptrdiff_t k = 0; k < n_classes; k++)
            memcpy(out + k * class_stride, s + k * stride, (size_t)n_rows * sizeof(REAL));
        return;
    }
    if (row_stride < SF_STRIDE_LIMIT && row_stride > -SF_STRIDE_LIMIT) {
        for (; whole + N(lanes) <= n_rows; whole += N(lanes))
            for (ptrdiff_t k = 0; k < n_classes; k++)
                N(store_strided)(out + whole * row_stride + k * class_stride, row_stride,
                                 N(load)(s + k * stride + whole));
    }
    for (ptrdiff_t r = whole; r < n_rows; r++)
        for (ptrdiff_t k = 0; k < n_classes; k++)
            out[r * row_stride + k * class_stride] = s[k * stride + r];
}

/* Logits to residual weight * (probability - target), in place, for n_rows <= stride rows; the padding becomes zero.
 * Hard labels where target is NULL, else target (K, stride).  rows: scratch (3, stride); its first row receives the
 * weighted losses.  Returns SF_OK or the first row, counted from 0, whose label is outside 0..K-1. */
static ptrdiff_t N(residual_tile)(REAL *s, const REAL *target, const int64_t *labels, const double *weight,
                                  ptrdiff_t n_rows, ptrdiff_t n_classes, ptrdiff_t stride, REAL *rows) {
    REAL *loss = rows, *w = rows + stride;
    INT *label = (INT *)(rows + 2 * stride);
    for (ptrdiff_t r = 0; r < n_rows; r++)
        w[r] = weight ? (REAL)weight[r] : 1;
    if (!target) {
        int outside = 0;
        for (ptrdiff_t r = 0; r < n_rows; r++) {
            outside |= (uint64_t)labels[r] >= (uint64_t)n_classes;
            label[r] = (INT)labels[r];
        }
        /* Bounded, for the caller's labels may have changed meanwhile. */
        for (ptrdiff_t r = 0; outside && r < n_rows; r++)
            if (labels[r] < 0 || labels[r] >= n_classes)
                return r;
    }
    for (ptrdiff_t r = n_rows; r < stride; r++) {
        for (ptrdiff_t k = 0; k < n_classes; k++)
            s[k * stride + r] = 0;
        w[r] = 0;
        label[r] = 0;
    }
    for (ptrdiff_t r = 0; r < stride; r += N(lanes)) {
        N(vec) m, weight_r = N(load)(w + r), loss_r = {0};
        if (target) {
            /* Here s must keep z - m for the loss: sum_k q_k (log_sum - (z_k - m)); a class with q_k = 0 adds
             * nothing, be its logit -inf. */
            N(vec) rest = N(exp_column)(s + r, n_classes, stride, 1, &m), q_sum = {0};
            N(vec) log_sum = N(log1p)(N(without_limit_nan)(rest, m));
            for (ptrdiff_t k = 0; k < n_classes; k++) {
                N(vec) q = N(load)(target + k * stride + r), log_p = N(load)(s + k * stride + r) - log_sum;
                loss_r -= N(keep)(q * log_p, N(differ)(q, N(broadcast)(0)));
                q_sum += q;
            }
            for (ptrdiff_t k = 0; k < n_classes; k++) {
                N(vec) q = N(load)(target + k * stride + r), log_p = N(load)(s + k * stride + r) - log_sum;
                N(store)(s + k * stride + r, weight_r * (q_sum * N(not_negligible)(N(exp_small)(log_p)) - q));
            }
        } else {
            const N(ivec) label_r = N(load_int)(label + r);
            N(vec) z = N(load)(s + r);
            for (ptrdiff_t k = 1; k < n_classes; k++)
                z = N(select)(N(same)(label_r, (N(ivec)){0} + (INT)k), N(load)(s + k * stride + r), z);
            N(vec) rest = N(exp_column)(s + r, n_classes, stride, 0, &m);
            rest = N(without_limit_nan)(rest, m);
            loss_r = N(log1p)(rest) - N(keep)(z - m, N(differ)(z, m));
            N(vec) scale = weight_r / (1 + rest);
            for (ptrdiff_t k = 0; k < n_classes; k++)
                N(store)(s + k * stride + r, N(not_negligible)(N(load)(s + k * stride + r)) * scale
                                                 - N(keep)(weight_r, N(same)(label_r, (N(ivec)){0} + (INT)k)));
        }
        N(store)(loss + r, N(keep)(weight_r * loss_r, N(differ)(weight_r, N(broadcast)(0))));
    }
    return SF_OK;
}

static void N(exp_array)(void *out, const void *x, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += N(lanes)) {
        int part = (int)(n - i < N(lanes) ? n - i : N(lanes));
        N(vec) y = N(exp)(N(load_part)((const REAL *)x + i, part));
        memcpy((REAL *)out + i, &y, (size_t)part * sizeof(REAL));
    }
}

static void N(log_array)(void *out, const void *x, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += N(lanes)) {
        int part = (int)(n - i < N(lanes) ? n - i : N(lanes));
        N(vec) y = N(log)(N(load_part)((const REAL *)x + i, part));
        memcpy((REAL *)out + i, &y, (size_t)part * sizeof(REAL));
    }
}
