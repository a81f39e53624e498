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

/* A row in whole panels, `spacing` elements apart. */
typedef struct {
    REAL *first;
    ptrdiff_t n_panels, spacing;
} N(row);

/* exp(z - m) or, where `shifted`, z - m to out; returns sum exp(z - m) - 1 as exp_column does.  z and out may be one. */
SF_INLINE REAL N(exp_row)(N(row) out, N(row) z, const int stores, const int shifted, REAL *maximum) {
    N(vec) m0 = N(load)(z.first), m1 = m0;
    for (ptrdiff_t p = 0; p < z.n_panels; p++) {
        const REAL *panel = z.first + p * z.spacing;
        for (int i = 0; i < SF_PANEL; i += 2 * N(lanes)) {
            m0 = N(max)(m0, N(load)(panel + i));
            m1 = N(max)(m1, N(load)(panel + i + N(lanes)));
        }
    }
    const REAL m = N(max_of)(N(max)(m0, m1));
    N(vec) rest0 = {0}, rest1 = {0}, ties0 = {0}, ties1 = {0}, one = N(broadcast)(1), top = N(broadcast)(m);
    for (ptrdiff_t p = 0; p < z.n_panels; p++) {
        const REAL *panel = z.first + p * z.spacing;
        REAL *to = out.first + p * out.spacing;
        for (int i = 0; i < SF_PANEL; i += 2 * N(lanes)) {
            N(vec) z0 = N(load)(panel + i), z1 = N(load)(panel + i + N(lanes));
            N(ivec) is0 = N(equal)(z0, top), is1 = N(equal)(z1, top);
            N(vec) d0 = N(keep)(z0 - top, ~is0), d1 = N(keep)(z1 - top, ~is1);
            N(vec) e0 = N(exp)(d0), e1 = N(exp)(d1);
            if (stores) {
                N(store)(to + i, shifted ? d0 : e0);
                N(store)(to + i + N(lanes), shifted ? d1 : e1);
            }
            rest0 += N(keep)(e0, ~is0);
            rest1 += N(keep)(e1, ~is1);
            ties0 += N(keep)(one, is0);
            ties1 += N(keep)(one, is1);
        }
    }
    *maximum = m;
    return N(sum)(rest0 + rest1) + (N(sum)(ties0 + ties1) - 1);
}

/* As without_limit_nan: NaN where the maximum is infinite and not alone. */
SF_INLINE REAL N(row_rest)(REAL rest, REAL m) { return rest > 0 ? rest + (m - m) : rest; }

/* out = a z + b, panel by panel. */
SF_INLINE void N(scale_row)(N(row) out, REAL factor, REAL offset) {
    for (ptrdiff_t p = 0; p < out.n_panels; p++)
        for (int i = 0; i < SF_PANEL; i += N(lanes)) {
            REAL *at = out.first + p * out.spacing + i;
            N(store)(at, N(load)(at) * factor + offset);
        }
}

/* The map of one row; returns logsumexp, and writes to out with the other maps. */
SF_INLINE REAL N(map_row)(N(row) out, N(row) z, sf_map map) {
    REAL m, rest;
    if (map == SF_SOFTMAX) {
        rest = N(exp_row)(out, z, 1, 0, &m);
        N(scale_row)(out, 1 / (1 + N(row_rest)(rest, m)), 0);
        return 0;
    }
    if (map == SF_LOG_SOFTMAX) {
        rest = N(exp_row)(out, z, 1, 1, &m);
        N(scale_row)(out, 1, -N(first)(N(log1p)(N(broadcast)(N(row_rest)(rest, m)))));
        return 0;
    }
    rest = N(exp_row)(out, z, 0, 0, &m);
    return m + N(first)(N(log1p)(N(broadcast)(rest)));
}

/* Logits to residual weight * (p - q) in place; returns the weighted loss.  The label's class, or the targets q in a
 * row of panels, zero in the padding, where label is negative. */
SF_INLINE REAL N(residual_row)(N(row) z, N(row) q, int64_t label, REAL weight) {
    REAL m, loss = 0;
    if (label >= 0) {
        REAL *at = z.first + label / SF_PANEL * z.spacing + label % SF_PANEL, z_label = *at;
        REAL rest = N(exp_row)(z, z, 1, 0, &m);
        rest = N(row_rest)(rest, m);
        loss = N(first)(N(log1p)(N(broadcast)(rest))) - (z_label == m ? 0 : z_label - m);
        N(scale_row)(z, weight / (1 + rest), 0);
        *at -= weight;
    } else {
        REAL rest = N(exp_row)(z, z, 1, 1, &m);
        N(vec) log_sum = N(log1p)(N(broadcast)(N(row_rest)(rest, m))), losses = {0}, sums = {0};
        for (ptrdiff_t p = 0; p < z.n_panels; p++)
            for (int i = 0; i < SF_PANEL; i += N(lanes)) {
                N(vec) target = N(load)(q.first + p * q.spacing + i);
                N(vec) log_p = N(load)(z.first + p * z.spacing + i) - log_sum;
                losses -= N(keep)(target * log_p, ~N(equal)(target, N(broadcast)(0)));
                sums += target;
            }
        REAL total = N(sum)(sums);
        loss = N(sum)(losses);
        for (ptrdiff_t p = 0; p < z.n_panels; p++)
            for (int i = 0; i < SF_PANEL; i += N(lanes)) {
                REAL *at = z.first + p * z.spacing + i;
                N(vec) target = N(load)(q.first + p * q.spacing + i), log_p = N(load)(at) - log_sum;
                N(store)(at, weight * (total * N(exp)(log_p) - target));
            }
    }
    return weight == 0 ? 0 : weight * loss;
}
