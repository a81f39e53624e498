/* panel_rows.tmpl.h: loss and gradient, and prediction, for many classes.  Included once for each pair, as
 * rows.tmpl.h is, which has the same for few classes and describes STORE, REAL, V and N.
 *
 * Both products are C[i, k] += sum_t A[i, t] B[t, k] with single elements of X broadcast as A and panels of classes
 * as B: forward, i is a row and t a feature; backward, i is a feature and t a row.  One of X's two indices is
 * contiguous, whichever the order of X.
 */

typedef struct {
    const STORE *a;
    ptrdiff_t a_stride, a_step;       /* A[i, t] = a[i * a_stride + t * a_step]; one of the two is 1 */
    ptrdiff_t n, depth, n_classes;    /* A is (n, depth) */
    const REAL *b;                    /* [panel][depth][SF_PANEL] */
    REAL *tile;                       /* [panel][n][SF_PANEL], written: C = bias + A B, or */
    const REAL *bias;                 /* [panel][SF_PANEL] */
    double *sums;                     /* added to, where tile is NULL */
} V(panel_product);

SF_INLINE void V(panel_micro)(const V(panel_product) *product, ptrdiff_t first, ptrdiff_t panel, int lane, const int m,
                              const int n_vectors, const int unit_stride) {
    const ptrdiff_t depth = product->depth, stride = unit_stride ? 1 : product->a_stride;
    const ptrdiff_t step = unit_stride ? product->a_step : 1, triple = 3 * stride;
    const REAL *b = product->b + panel * depth * SF_PANEL + lane;
    /* Three pointers and the scales of one stride reach 14 rows: one pointer a row would not fit the registers. */
    const STORE *a0 = product->a + first * stride, *a5 = a0 + 5 * stride, *a10 = a5 + 5 * stride;
    N(vec) sum[14][2];
    SF_UNROLL
    for (int i = 0; i < m; i++)
        sum[i][0] = sum[i][1] = N(broadcast)(0);
    for (ptrdiff_t t = 0; t < depth; t++) {
        N(vec) b0 = N(load)(b), b1 = {0};
        if (n_vectors == 2)
            b1 = N(load)(b + N(lanes));
        SF_IN_REGISTER(b0);
        if (n_vectors == 2)
            SF_IN_REGISTER(b1);
        if (unit_stride)
            SF_PREFETCH(a0 + 8 * step);
        SF_UNROLL
        for (int i = 0; i < m; i++) {
            const STORE *group = i < 5 ? a0 : i < 10 ? a5 : a10;
            N(vec) a_it = N(broadcast)((REAL)group[i % 5 == 3 ? triple : (i % 5) * stride]);
            if (n_vectors == 2)
                SF_IN_REGISTER(a_it);
            sum[i][0] = sum[i][0] + a_it * b0;
            if (n_vectors == 2)
                sum[i][1] = sum[i][1] + a_it * b1;
        }
        a0 += step;
        a5 += step;
        a10 += step;
        b += SF_PANEL;
    }
    const ptrdiff_t c = (panel * product->n + first) * SF_PANEL + lane;
    SF_UNROLL
    for (int i = 0; i < m; i++) {
        SF_UNROLL
        for (int v = 0; v < n_vectors; v++) {
            const int column = lane + v * N(lanes);
            if (product->tile)
                N(store)(product->tile + c + i * SF_PANEL + v * N(lanes),
                         sum[i][v] + N(load)(product->bias + panel * SF_PANEL + column));
            else
                N(add_to)(product->sums + c + i * SF_PANEL + v * N(lanes), sum[i][v]);
        }
    }
}

static void V(panel_multiply)(const V(panel_product) *product) {
#if SF_MANY_REGISTERS
    enum { most = 14 };
#else
    enum { most = 6 };
#endif
    const ptrdiff_t n_vectors = sf_ceil_div(product->n_classes, N(lanes));
    for (ptrdiff_t vector = 0; vector < n_vectors; vector += 2) {
        const ptrdiff_t panel = vector * N(lanes) / SF_PANEL;
        const int lane = (int)(vector * N(lanes) % SF_PANEL), pair = vector + 1 < n_vectors;
        for (ptrdiff_t first = 0; first < product->n;) {
            ptrdiff_t left = product->n - first;
            int m = left >= most ? most : left >= 8 && most > 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
#define SF_CALL(M)                                                                                                     \
    if (product->a_stride == 1)                                                                                        \
        pair ? V(panel_micro)(product, first, panel, lane, M, 2, 1)                                                    \
             : V(panel_micro)(product, first, panel, lane, M, 1, 1);                                                   \
    else                                                                                                               \
        pair ? V(panel_micro)(product, first, panel, lane, M, 2, 0)                                                    \
             : V(panel_micro)(product, first, panel, lane, M, 1, 0);
            switch (m) {
            case 1: SF_CALL(1) break;
            case 2: SF_CALL(2) break;
            case 4: SF_CALL(4) break;
#if SF_MANY_REGISTERS
            case 8: SF_CALL(8) break;
#endif
            case most: SF_CALL(most) break;
            }
#undef SF_CALL
            first += m;
        }
    }
}

/* W x of the rows [begin, end), plus intercept, into a panel tile; the padding of the last panel becomes -inf. */
static void V(panel_scores)(REAL *tile, const sf_rows *x, const sf_model *model, ptrdiff_t begin,
                            ptrdiff_t end) {
    const V(panel_product) forward = {
        (const STORE *)x->data + begin * x->row_stride, x->row_stride, x->feature_stride, end - begin, x->n_features,
        model->n_classes, model->coef, tile, model->intercept, NULL};
    V(panel_multiply)(&forward);
    /* Vectors beyond the last class are not computed. */
    const ptrdiff_t n_rows = end - begin, computed = sf_ceil_div(model->n_classes, N(lanes)) * N(lanes);
    const ptrdiff_t last = sf_panels(model->n_classes) - 1;
    for (ptrdiff_t r = 0; r < n_rows; r++)
        for (ptrdiff_t k = computed - last * SF_PANEL; k < SF_PANEL; k++)
            tile[(last * n_rows + r) * SF_PANEL + k] = -(REAL)INFINITY;
}

/* Row r of a panel tile of n_rows rows. */
SF_INLINE N(row) V(tile_row)(REAL *tile, ptrdiff_t r, ptrdiff_t n_rows, ptrdiff_t n_classes) {
    return N(make_row)(tile + r * SF_PANEL, sf_panels(n_classes), n_rows * SF_PANEL);
}

/* The same plus the rows' offsets: logits. */
static void V(panel_logits)(REAL *tile, const sf_rows *x, const sf_model *model, ptrdiff_t begin, ptrdiff_t end) {
    V(panel_scores)(tile, x, model, begin, end);
    for (ptrdiff_t r = 0; x->offset && r < end - begin; r++) {
        N(row) z = V(tile_row)(tile, r, end - begin, model->n_classes);
        for (ptrdiff_t k = 0; k < model->n_classes; k++)
            N(panel)(z, k / SF_PANEL)[k % SF_PANEL] += (REAL)x->offset[(begin + r) * x->offset_stride + k];
    }
}

/* Logits z of row i to residuals in out.  target: scratch of one row.  Returns SF_OK, or i for a bad label. */
SF_INLINE ptrdiff_t V(residual_of_row)(N(row) out, N(row) z, const sf_targets *targets, ptrdiff_t n_classes,
                                       ptrdiff_t i, REAL *target, REAL *loss) {
    const REAL weight = targets->weight ? (REAL)targets->weight[i] : 1;
    const int64_t label = targets->labels ? targets->labels[i] : -1;
    N(row) q = N(make_row)(target, z.n_panels, SF_PANEL);
    if (targets->labels) {
        if (label < 0 || label >= n_classes)
            return i;
    } else {
        const STORE *proba = (const STORE *)targets->proba + i * targets->row_stride;
        for (ptrdiff_t k = 0; k < z.n_panels * SF_PANEL; k++)
            target[k] = k < n_classes ? (REAL)proba[k * targets->class_stride] : 0;
    }
    *loss = N(residual_row)(out, z, q, label, weight);
    return SF_OK;
}

/* out += residual^T X and residual^T 1 of the rows [begin, end), residuals in a panel tile. */
static void V(panel_add_gradient)(sf_gradient *out, const sf_rows *x, REAL *tile, ptrdiff_t n_classes, ptrdiff_t begin,
                                  ptrdiff_t end) {
    const ptrdiff_t n_rows = end - begin;
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        N(row) z = V(tile_row)(tile, r, n_rows, n_classes);
        for (ptrdiff_t p = 0; p < z.n_panels; p++)
            for (int k = 0; k < SF_PANEL; k += N(lanes))
                N(add_to)(out->intercept + p * SF_PANEL + k, N(load)(N(panel)(z, p) + k));
    }
    const V(panel_product) backward = {
        (const STORE *)x->data + begin * x->row_stride, x->feature_stride, x->row_stride, x->n_features, n_rows,
        n_classes, tile, NULL, NULL, out->coef};
    V(panel_multiply)(&backward);
}

static ptrdiff_t V(panel_loss_gradient)(sf_gradient *out, const sf_rows *x, const sf_targets *targets,
                                        const sf_model *model, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const ptrdiff_t n_classes = model->n_classes, n_rows = end - begin;
    REAL *tile = scratch, *target = tile + sf_panels(n_classes) * SF_PANEL * n_rows;
    V(panel_logits)(tile, x, model, begin, end);
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        N(row) z = V(tile_row)(tile, r, n_rows, n_classes);
        REAL loss = 0;
        if (V(residual_of_row)(z, z, targets, n_classes, begin + r, target, &loss) != SF_OK)
            return begin + r;
        out->loss += loss;
    }
    V(panel_add_gradient)(out, x, tile, n_classes, begin, end);
    return SF_OK;
}

/* out = the map of a row of logits, which it overwrites.  Returns whether the first was finite: whatever is not in a
 * row of X reaches the logits of every class. */
SF_INLINE int V(predict_row)(REAL *out, sf_map map, N(row) z, const sf_model *model) {
    const ptrdiff_t n_reference = model->n_classes - model->n_outputs, first = map == SF_IDENTITY ? n_reference : 0;
    const int finite = N(panel)(z, 0)[n_reference] * 0 == 0;
    REAL factor = 1, offset = 0;
    if (map != SF_IDENTITY)
        N(map_row)(z, z, map, &factor, &offset);
    for (ptrdiff_t k = first; k < model->n_classes; k++)
        out[k - first] = N(panel)(z, k / SF_PANEL)[k % SF_PANEL] * factor + offset;
    return finite;
}

static int V(panel_predict)(void *out, ptrdiff_t out_stride, sf_map map, const sf_rows *x, const sf_model *model,
                            ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const ptrdiff_t n_rows = end - begin;
    REAL *tile = scratch;
    int finite = 1;
    V(panel_logits)(tile, x, model, begin, end);
    for (ptrdiff_t r = 0; r < n_rows; r++)
        finite &= V(predict_row)((REAL *)out + (begin + r) * out_stride, map,
                                 V(tile_row)(tile, r, n_rows, model->n_classes), model);
    return finite;
}

#if STORE_IS_REAL
/* The array functions on rows whose classes are contiguous. */
static void V(panel_map)(REAL *out, ptrdiff_t out_row_stride, sf_map map, const sf_logits *x, ptrdiff_t n_classes,
                         ptrdiff_t begin, ptrdiff_t end, int streams, REAL *scratch) {
    REAL *last = scratch, *result = scratch + SF_PANEL;
    for (ptrdiff_t r = begin; r < end; r++) {
        N(row) z = N(padded_row)((const REAL *)x->data + r * x->row_stride, n_classes, last);
        REAL factor, offset, value;
        value = N(map_row)(N(make_row)(result, z.n_panels, SF_PANEL), z, map, &factor, &offset);
        if (map == SF_LOGSUMEXP)
            out[r * out_row_stride] = value;
        else
            N(write_row)(out + r * out_row_stride, result, n_classes, factor, offset, streams);
    }
    SF_STREAM_FENCE();
}

static ptrdiff_t V(panel_cross_entropy)(double *losses, REAL *gradient, const sf_logits *x, const sf_targets *targets,
                                        ptrdiff_t n_classes, ptrdiff_t begin, ptrdiff_t end, int streams,
                                        REAL *scratch) {
    const ptrdiff_t padded = sf_panels(n_classes) * SF_PANEL;
    REAL *last = scratch, *result = scratch + SF_PANEL, *target = result + padded;
    for (ptrdiff_t r = begin; r < end; r++) {
        N(row) z = N(padded_row)((const REAL *)x->data + r * x->row_stride, n_classes, last);
        REAL loss = 0;
        if (V(residual_of_row)(N(make_row)(result, z.n_panels, SF_PANEL), z, targets, n_classes, r, target, &loss)
            != SF_OK)
            return r;
        losses[r] = loss;
        if (gradient)
            N(write_row)(gradient + r * n_classes, result, n_classes, 1, 0, streams);
    }
    SF_STREAM_FENCE();
    return SF_OK;
}
#endif
