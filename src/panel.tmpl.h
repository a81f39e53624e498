/* panel.tmpl.h: many classes.  Classes lie across the lanes, in panels of SF_PANEL.  Included once for each REAL.
 *
 * With few classes rows lie across the lanes (tile.tmpl.h) and no lane is idle.  With many, the classes fill the lanes,
 * and then both products broadcast single elements of X against our own packed panels: X needs no transposition, the
 * products no sums over lanes and no masks.
 *
 * A panel tile z (rows, K) is [panel][row][SF_PANEL]; class k of row r at z[((k / SF_PANEL) * n_rows + r) * SF_PANEL +
 * k % SF_PANEL].  The padding of the last panel holds -inf as a logit, hence 0 as a probability and a residual.
 * A plain contiguous row of logits is the same thing with panels SF_PANEL apart, and serves the array functions.
 * Infinities and NaN as in tile.tmpl.h.
 */

/* A row in whole panels, `spacing` elements apart but for the last, which may lie elsewhere, padded. */
typedef struct {
    REAL *first, *last;
    ptrdiff_t n_panels, spacing;
} N(row);

SF_INLINE REAL *N(panel)(N(row) row, ptrdiff_t p) { return p + 1 < row.n_panels ? row.first + p * row.spacing : row.last; }

SF_INLINE N(row) N(make_row)(REAL *first, ptrdiff_t n_panels, ptrdiff_t spacing) {
    return (N(row)){first, first + (n_panels - 1) * spacing, n_panels, spacing};
}

/* exp(z - m) or, where `shifted`, z - m to out; returns sum exp(z - m) - 1 as exp_column does.  z and out may be one. */
SF_INLINE REAL N(exp_row)(N(row) out, N(row) z, const int stores, const int shifted, REAL *maximum) {
    N(vec) m0 = N(load)(z.first), m1 = m0;
    for (ptrdiff_t p = 0; p < z.n_panels; p++) {
        const REAL *panel = N(panel)(z, p);
        for (int i = 0; i < SF_PANEL; i += 2 * N(lanes)) {
            m0 = N(max)(m0, N(load)(panel + i));
            m1 = N(max)(m1, N(load)(panel + i + N(lanes)));
        }
    }
    const REAL m = N(max_of)(N(max)(m0, m1));
    N(vec) rest0 = {0}, rest1 = {0}, others0 = {0}, others1 = {0}, one = N(broadcast)(1), top = N(broadcast)(m);
    for (ptrdiff_t p = 0; p < z.n_panels; p++) {
        const REAL *panel = N(panel)(z, p);
        REAL *to = N(panel)(out, p);
        for (int i = 0; i < SF_PANEL; i += 2 * N(lanes)) {
            N(vec) z0 = N(load)(panel + i), z1 = N(load)(panel + i + N(lanes));
            N(mask) other0 = N(differ)(z0, top), other1 = N(differ)(z1, top);
            N(vec) d0 = N(keep)(z0 - top, other0), d1 = N(keep)(z1 - top, other1);
            N(vec) e0 = N(exp_small)(d0), e1 = N(exp_small)(d1);
            if (stores) {
                N(store)(to + i, shifted ? d0 : e0);
                N(store)(to + i + N(lanes), shifted ? d1 : e1);
            }
            rest0 = N(add_where)(other0, rest0, e0);
            rest1 = N(add_where)(other1, rest1, e1);
            others0 = N(add_where)(other0, others0, one);
            others1 = N(add_where)(other1, others1, one);
        }
    }
    *maximum = m;
    return N(sum)(rest0 + rest1) + ((REAL)(z.n_panels * SF_PANEL - 1) - N(sum)(others0 + others1));
}

/* As without_limit_nan: NaN where the maximum is infinite and not alone. */
SF_INLINE REAL N(row_rest)(REAL rest, REAL m) { return rest > 0 ? rest + (m - m) : rest; }

/* Exponentials, at most 1, to probabilities times a factor. */
SF_INLINE void N(scale_row)(N(row) out, REAL factor) {
    for (ptrdiff_t p = 0; p < out.n_panels; p++)
        for (int i = 0; i < SF_PANEL; i += N(lanes)) {
            REAL *at = N(panel)(out, p) + i;
            N(store)(at, N(not_negligible)(N(load)(at)) * factor);
        }
}

/* The map of one row but for the last step: the map is out * factor + offset.  Returns logsumexp where asked for. */
SF_INLINE REAL N(map_row)(N(row) out, N(row) z, sf_map map, REAL *factor, REAL *offset) {
    REAL m, rest;
    *factor = 1;
    *offset = 0;
    if (map == SF_SOFTMAX) {
        rest = N(exp_row)(out, z, 1, 0, &m);
        *factor = 1 / (1 + N(row_rest)(rest, m));
        return 0;
    }
    if (map == SF_LOG_SOFTMAX) {
        rest = N(exp_row)(out, z, 1, 1, &m);
        *offset = -N(first)(N(log1p)(N(broadcast)(N(row_rest)(rest, m))));
        return 0;
    }
    rest = N(exp_row)(out, z, 0, 0, &m);
    return m + N(first)(N(log1p)(N(broadcast)(rest)));
}

/* out (n) = z factor + offset, z padded to whole panels.  `streams`: out will not be read again soon. */
static void N(write_row)(REAL *out, const REAL *z, ptrdiff_t n, REAL factor, REAL offset, int streams) {
    ptrdiff_t k = 0;
    if (streams)
        for (; k < n && ((uintptr_t)(out + k) & (sizeof(N(vec)) - 1)); k++)
            out[k] = z[k] * factor + offset;
    for (; k + N(lanes) <= n; k += N(lanes)) {
        N(vec) v = N(load)(z + k) * factor + offset;
        if (streams)
            N(store_stream)(out + k, v);
        else
            N(store)(out + k, v);
    }
    for (; k < n; k++)
        out[k] = z[k] * factor + offset;
}

/* A contiguous row of n logits as panels: in place but for the last, which is copied to `last` and padded. */
SF_INLINE N(row) N(padded_row)(const REAL *z, ptrdiff_t n, REAL *last) {
    const ptrdiff_t n_panels = sf_panels(n), whole = (n_panels - 1) * SF_PANEL;
    for (ptrdiff_t k = 0; k < SF_PANEL; k++)
        last[k] = whole + k < n ? z[whole + k] : -(REAL)INFINITY;
    return (N(row)){(REAL *)z, last, n_panels, SF_PANEL};
}

/* Logits z to residual weight * (p - q) in out, which may be z; returns the weighted loss.  The label's class, or the
 * targets q in a row of panels, zero in the padding, where label is negative. */
SF_INLINE REAL N(residual_row)(N(row) out, N(row) z, N(row) q, int64_t label, REAL weight) {
    REAL m, loss = 0;
    if (label >= 0) {
        const REAL z_label = N(panel)(z, label / SF_PANEL)[label % SF_PANEL];
        REAL rest = N(exp_row)(out, z, 1, 0, &m);
        rest = N(row_rest)(rest, m);
        loss = N(first)(N(log1p)(N(broadcast)(rest))) - (z_label == m ? 0 : z_label - m);
        N(scale_row)(out, weight / (1 + rest));
        N(panel)(out, label / SF_PANEL)[label % SF_PANEL] -= weight;
    } else {
        REAL rest = N(exp_row)(out, z, 1, 1, &m);
        N(vec) log_sum = N(log1p)(N(broadcast)(N(row_rest)(rest, m))), losses = {0}, sums = {0};
        for (ptrdiff_t p = 0; p < out.n_panels; p++)
            for (int i = 0; i < SF_PANEL; i += N(lanes)) {
                N(vec) target = N(load)(N(panel)(q, p) + i), log_p = N(load)(N(panel)(out, p) + i) - log_sum;
                losses -= N(keep)(target * log_p, N(differ)(target, N(broadcast)(0)));
                sums += target;
            }
        REAL total = N(sum)(sums);
        loss = N(sum)(losses);
        for (ptrdiff_t p = 0; p < out.n_panels; p++)
            for (int i = 0; i < SF_PANEL; i += N(lanes)) {
                REAL *at = N(panel)(out, p) + i;
                N(vec) target = N(load)(N(panel)(q, p) + i), log_p = N(load)(at) - log_sum;
                N(store)(at, weight * (total * N(not_negligible)(N(exp_small)(log_p)) - target));
            }
    }
    return weight == 0 ? 0 : weight * loss;
}
