/* rows.tmpl.h: everything that reads X or logits of type STORE and computes in REAL.  Included once for each pair;
 * V(name) adds the pair's suffix, N(name) that of REAL, S(name) that of STORE.
 *
 * Both products are one of two micro-kernels that read the rows of X where they lie, in either order:
 *   outer: C[i, j] += sum_t A[i, t] B[t, j]   j across lanes, A broadcast; B's rows t are contiguous in j;
 *   dot:   C[i, j] += sum_t A[i, t] B[j, t]   t across lanes, then a small transposition sums the lanes.
 * With features contiguous (C order) the forward product W X^T is a dot and the backward R^T X an outer one; with rows
 * contiguous (F order) it is the other way round.  A is always ours (coefficients or residuals: aligned, padded with
 * zeros), B is always X.  Block sums are kept in REAL and added to float64.
 */

#include "load.tmpl.h"

#if SF_MANY_REGISTERS
enum { V(outer_classes) = 14, V(dot_classes) = 6 };
#define SF_FOR_OUTER(m, call) SF_CASES_14(m, call)
#define SF_FOR_DOT(m, call) SF_CASES_6(m, call)
#else
enum { V(outer_classes) = 6, V(dot_classes) = 3 };
#define SF_FOR_OUTER(m, call) SF_CASES_6(m, call)
#define SF_FOR_DOT(m, call) SF_CASES_3(m, call)
#endif

/* Whether rows of B are long enough for the hardware's prefetcher to follow each. */
static int V(is_wide)(ptrdiff_t n) { return n * (ptrdiff_t)sizeof(STORE) >= 2048; }

/* A product's left operand and its destination: a tile of logits (with bias) or float64 sums. */
typedef struct {
    const REAL *a;
    ptrdiff_t a_stride, n_outputs, depth; /* A is (n_outputs, depth) */
    REAL *tile;                           /* written: C = bias + A B, or */
    const REAL *bias;
    double *sums;                         /* added to, where tile is NULL */
    ptrdiff_t c_stride;
} V(product);

/* sum[i][v] += A[first + i, t] b_v for m rows of A and the n_vectors vectors of a row t of B, the last of which has
 * `part` valid lanes where it is `masked`. */
SF_INLINE void V(outer_step)(N(vec) sum[14][2], const REAL *a, ptrdiff_t a_stride, const STORE *b, ptrdiff_t b_stride,
                             const int m, const int n_vectors, const int masked, int part) {
    N(vec) b0, b1 = {0};
    if (n_vectors == 2) {
        b0 = V(load)(b);
        b1 = masked ? V(load_part)(b + N(lanes), part) : V(load)(b + N(lanes));
        SF_IN_REGISTER(b1);
    } else {
        b0 = masked ? V(load_part)(b, part) : V(load)(b);
    }
    SF_IN_REGISTER(b0);
    SF_PREFETCH((const char *)(b + 8 * b_stride));
    if (n_vectors == 2)
        SF_PREFETCH((const char *)(b + 8 * b_stride) + 64);
    SF_UNROLL
    for (int i = 0; i < m; i++) {
        N(vec) a_it = N(broadcast)(a[i * a_stride]);
        if (n_vectors == 2)
            SF_IN_REGISTER(a_it);
        sum[i][0] = sum[i][0] + a_it * b0;
        if (n_vectors == 2)
            sum[i][1] = sum[i][1] + a_it * b1;
    }
}

/* m rows of A by n_vectors vectors of columns of B.  next: what to fetch meanwhile, half as many rows. */
SF_INLINE void V(outer_micro)(const V(product) *product, ptrdiff_t first, ptrdiff_t column, const STORE *b,
                              ptrdiff_t b_stride, const STORE *next, const int m, const int n_vectors,
                              const int masked, int part) {
    const REAL *a = product->a + first * product->a_stride;
    const ptrdiff_t a_stride = product->a_stride, depth = product->depth;
    N(vec) sum[14][2];
    SF_UNROLL
    for (int i = 0; i < m; i++)
        sum[i][0] = sum[i][1] = N(broadcast)(0);
    ptrdiff_t t = 0;
    for (; t + 2 <= depth; t += 2, b += 2 * b_stride, next += b_stride) {
        SF_PREFETCH_L2(next);
        SF_PREFETCH_L2(next + N(lanes));
        V(outer_step)(sum, a + t, a_stride, b, b_stride, m, n_vectors, masked, part);
        V(outer_step)(sum, a + t + 1, a_stride, b + b_stride, b_stride, m, n_vectors, masked, part);
    }
    if (t < depth)
        V(outer_step)(sum, a + t, a_stride, b, b_stride, m, n_vectors, masked, part);
    SF_UNROLL
    for (int i = 0; i < m; i++) {
        ptrdiff_t c = (first + i) * product->c_stride + column;
        SF_UNROLL
        for (int v = 0; v < n_vectors; v++) {
            if (product->tile)
                N(store)(product->tile + c + v * N(lanes), sum[i][v] + product->bias[first + i]);
            else
                N(add_to)(product->sums + c + v * N(lanes), sum[i][v]);
        }
    }
}

/* C (n_outputs, n_columns); C's rows have room up to a whole vector. */
static void V(outer)(const V(product) *product, const STORE *b, ptrdiff_t b_stride, ptrdiff_t n_columns,
                     ptrdiff_t ahead) {
    const sf_split classes = sf_even_split(product->n_outputs, V(outer_classes));
    for (ptrdiff_t column = 0; column < n_columns; column += 2 * N(lanes)) {
        ptrdiff_t left = n_columns - column;
        int n_vectors = left > N(lanes) ? 2 : 1, part = (int)(left - (n_vectors - 1) * N(lanes));
        const STORE *b_column = b + column, *next = b_column + ahead + (ahead ? product->depth / 2 * b_stride : 0);
        for (ptrdiff_t first = 0, i = 0; i < classes.n_blocks; i++) {
            int m = classes.size + (i < classes.n_larger);
#define SF_CALL(M)                                                                                                     \
    if (n_vectors == 1)                                                                                                \
        V(outer_micro)(product, first, column, b_column, b_stride, next, M, 1, 1, part);                                     \
    else if (part < N(lanes))                                                                                          \
        V(outer_micro)(product, first, column, b_column, b_stride, next, M, 2, 1, part);                                     \
    else                                                                                                               \
        V(outer_micro)(product, first, column, b_column, b_stride, next, M, 2, 0, 0);
            SF_FOR_OUTER(m, SF_CALL)
#undef SF_CALL
            first += m;
        }
    }
}

/* sum[i][q] += A[first + i, t...] b_q for m rows of A and vectors b_0..b_3 of B's rows. */
SF_INLINE void V(dot_step)(N(vec) sum[6][4], const REAL *a, ptrdiff_t a_stride, N(vec) b0, N(vec) b1, N(vec) b2,
                           N(vec) b3, const int m) {
    SF_IN_REGISTER(b0);
    SF_IN_REGISTER(b1);
    SF_IN_REGISTER(b2);
    SF_IN_REGISTER(b3);
    SF_UNROLL
    for (int i = 0; i < m; i++) {
        N(vec) a_it = N(load)(a + i * a_stride);
        SF_IN_REGISTER(a_it);
        sum[i][0] = sum[i][0] + a_it * b0;
        sum[i][1] = sum[i][1] + a_it * b1;
        sum[i][2] = sum[i][2] + a_it * b2;
        sum[i][3] = sum[i][3] + a_it * b3;
    }
}

/* m rows of A by four columns of C, whose rows of B are b[0..3]. */
SF_INLINE void V(dot_micro)(const V(product) *product, ptrdiff_t first, ptrdiff_t column, const STORE *const b[4],
                            const STORE *const next[4], int n_valid, const int m) {
    const REAL *a = product->a + first * product->a_stride;
    const ptrdiff_t a_stride = product->a_stride, depth = product->depth;
    const STORE *b0 = b[0], *b1 = b[1], *b2 = b[2], *b3 = b[3];
    const STORE *next0 = next[0], *next1 = next[1], *next2 = next[2], *next3 = next[3];
    N(vec) sum[6][4];
    SF_UNROLL
    for (int i = 0; i < m; i++)
        sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = N(broadcast)(0);
    ptrdiff_t t = 0;
    for (; t + N(lanes) <= depth; t += N(lanes)) {
        SF_PREFETCH_L2(next0 + t);
        SF_PREFETCH_L2(next1 + t);
        V(dot_step)(sum, a + t, a_stride, V(load)(b0 + t), V(load)(b1 + t), V(load)(b2 + t), V(load)(b3 + t), m);
        const STORE *const swap0 = next0, *const swap1 = next1;
        next0 = next2;
        next1 = next3;
        next2 = swap0;
        next3 = swap1;
    }
    if (t < depth) {
        int part = (int)(depth - t);
        V(dot_step)(sum, a + t, a_stride, V(load_part)(b0 + t, part), V(load_part)(b1 + t, part),
                    V(load_part)(b2 + t, part), V(load_part)(b3 + t, part), m);
    }
    SF_UNROLL
    for (int i = 0; i < m; i++) {
        ptrdiff_t c = (first + i) * product->c_stride + column;
        if (product->tile) {
            N(sum4)(product->tile + c, product->bias[first + i], sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
        } else {
            REAL four[4];
            N(sum4)(four, 0, sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
            for (int q = 0; q < n_valid; q++)
                product->sums[c + q] += four[q];
        }
    }
}

/* C (n_outputs, n_columns); in a tile, columns up to a multiple of four are written (the excess repeats the last). */
static void V(dot)(const V(product) *product, const STORE *b, ptrdiff_t b_stride, ptrdiff_t n_columns,
                   ptrdiff_t ahead) {
    const int wide = V(is_wide)(product->depth);
    /* A is visited in slices that stay in the second-level cache while the columns pass by. */
    ptrdiff_t slice = 128 * 1024 / (ptrdiff_t)sizeof(REAL) / (product->a_stride + 1) / V(dot_classes);
    slice = (slice < 1 ? 1 : slice) * V(dot_classes);
    for (ptrdiff_t begin = 0; begin < product->n_outputs; begin += slice) {
        ptrdiff_t count = product->n_outputs - begin < slice ? product->n_outputs - begin : slice;
        const sf_split classes = sf_even_split(count, V(dot_classes));
        for (ptrdiff_t column = 0; column < n_columns; column += 4) {
            int n_valid = (int)(n_columns - column < 4 ? n_columns - column : 4);
            const STORE *b_rows[4];
            for (int q = 0; q < 4; q++)
                b_rows[q] = b + (column + (q < n_valid ? q : n_valid - 1)) * b_stride;
            const STORE *next[4];
            for (int q = 0; q < 4; q++)
                next[q] = wide ? b_rows[q] + 4 * b_stride : b + ahead + (column / 2 + q % 2) * b_stride;
            for (ptrdiff_t first = 0, i = 0; i < classes.n_blocks; i++) {
                int m = classes.size + (i < classes.n_larger);
#define SF_CALL(M) V(dot_micro)(product, begin + first, column, b_rows, begin + first ? b_rows : next, n_valid, M);
                SF_FOR_DOT(m, SF_CALL)
#undef SF_CALL
                first += m;
            }
        }
    }
}

/* A product with the rows [begin, end) of X.  columns_are_rows: C's columns are rows of X (forward), else features.
 *
 * Meanwhile the next block is fetched into the second-level cache, half by the forward product and half by the
 * backward one: the hardware's own prefetcher sleeps through the softmax and the columns of X, and memory with it.
 * B's first rows are fetched by dot, its last ones by outer, a line or two a step.  Wide rows are fetched by dot alone,
 * four rows ahead and every other line, whose neighbour the hardware adds: fetches from memory occupy the buffers that
 * lines on their way from the second-level cache need too (60,000 rows of 784 features, 10 classes, float32, one
 * thread: 629 ns a row for next blocks, 580 without, 530 so). */
static void V(multiply)(const V(product) *product, const sf_rows *x, ptrdiff_t begin, ptrdiff_t end,
                        int columns_are_rows) {
    ptrdiff_t n_columns = columns_are_rows ? end - begin : x->n_features;
    const STORE *b = (const STORE *)x->data + begin * x->row_stride;
    const int fetches = 2 * end - begin <= x->n_rows && !(x->feature_stride == 1 && V(is_wide)(x->n_features));
    const ptrdiff_t ahead = fetches ? (end - begin) * x->row_stride : 0;
    if (x->feature_stride == 1) {
        if (columns_are_rows)
            V(dot)(product, b, x->row_stride, n_columns, ahead);
        else
            V(outer)(product, b, x->row_stride, n_columns, ahead);
    } else {
        if (columns_are_rows)
            V(outer)(product, b, x->feature_stride, n_columns, ahead);
        else
            V(dot)(product, b, x->feature_stride, n_columns, ahead);
    }
}

/* The forward product with rows [begin, end) of contiguous features, SF_PACK_ROWS transposed at a time; packed is
 * scratch.  As V(multiply), it fetches half of the next block meanwhile. */
#if defined(__AVX2__)
static void V(multiply_packed)(const V(product) *product, const sf_rows *x, ptrdiff_t begin, ptrdiff_t end,
                               STORE *packed) {
    const ptrdiff_t p = x->n_features, row_stride = x->row_stride;
    const ptrdiff_t ahead = 2 * end - begin <= x->n_rows ? (end - begin) * row_stride : 0;
    const STORE *rows = (const STORE *)x->data + begin * row_stride, *next = rows + ahead;
    V(product) part = *product;
    for (ptrdiff_t r = 0; r < end - begin; r += SF_PACK_ROWS) {
        const ptrdiff_t n_rows = end - begin - r < SF_PACK_ROWS ? end - begin - r : SF_PACK_ROWS;
        for (ptrdiff_t q = 0; q < n_rows / 2; q++, next += row_stride)
            for (ptrdiff_t j = 0; j < p; j += 64 / (ptrdiff_t)sizeof(STORE))
                SF_PREFETCH_L2(next + j);
        S(pack)(packed, rows + r * row_stride, row_stride, n_rows, p);
        part.tile = product->tile + r;
        V(outer)(&part, packed, SF_PACK_ROWS, n_rows, 0);
    }
}
#endif

/* tile (K, stride) = W x of the rows [begin, end), plus intercept; a reference class leads with zeros. */
static void V(scores_tile)(REAL *tile, ptrdiff_t stride, const sf_rows *x, const sf_model *model, ptrdiff_t begin,
                           ptrdiff_t end, void *packed) {
    ptrdiff_t n_reference = model->n_classes - model->n_outputs;
    memset(tile, 0, (size_t)(n_reference * stride) * sizeof(REAL));
    V(product) forward = {model->coef, sf_coef_stride(x->n_features), model->n_outputs, x->n_features,
                          tile + n_reference * stride, model->intercept, NULL, stride};
#if defined(__AVX2__)
    if (x->feature_stride == 1 && S(packs)(x->n_features, model->n_outputs)) {
        V(multiply_packed)(&forward, x, begin, end, packed);
        return;
    }
#else
    (void)packed;
#endif
    V(multiply)(&forward, x, begin, end, 1);
}

/* tile (K, stride) += the offsets of the rows [begin, end), where there are any. */
static void V(add_offset)(REAL *tile, ptrdiff_t stride, const double *offset, ptrdiff_t offset_stride,
                          ptrdiff_t n_classes, ptrdiff_t begin, ptrdiff_t end) {
    for (ptrdiff_t r = 0; offset && r < end - begin; r++)
        for (ptrdiff_t k = 0; k < n_classes; k++)
            tile[k * stride + r] += (REAL)offset[(begin + r) * offset_stride + k];
}

/* The same plus the rows' offsets: logits.  packed: scratch for transposed rows. */
static void V(logits_tile)(REAL *tile, ptrdiff_t stride, const sf_rows *x, const sf_model *model, ptrdiff_t begin,
                           ptrdiff_t end, void *packed) {
    V(scores_tile)(tile, stride, x, model, begin, end, packed);
    V(add_offset)(tile, stride, x->offset, x->offset_stride, model->n_classes, begin, end);
}

/* tile (K, stride) = x[begin..end), whatever its strides. */
static void V(gather_tile)(REAL *tile, ptrdiff_t stride, const void *data, ptrdiff_t row_stride, ptrdiff_t class_stride,
                           ptrdiff_t n_classes, ptrdiff_t begin, ptrdiff_t end) {
    const STORE *x = (const STORE *)data + begin * row_stride;
    ptrdiff_t whole = 0;
#if STORE_IS_REAL
    if (row_stride == 1) {
        for (ptrdiff_t k = 0; k < n_classes; k++)
            memcpy(tile + k * stride, x + k * class_stride, (size_t)(end - begin) * sizeof(REAL));
        return;
    }
    if (row_stride < SF_STRIDE_LIMIT && row_stride > -SF_STRIDE_LIMIT) {
        for (; whole + N(lanes) <= end - begin; whole += N(lanes))
            for (ptrdiff_t k = 0; k < n_classes; k++)
                N(store)(tile + k * stride + whole,
                         N(load_strided)(x + whole * row_stride + k * class_stride, row_stride));
    }
#endif
    for (ptrdiff_t r = whole; r < end - begin; r++)
        for (ptrdiff_t k = 0; k < n_classes; k++)
            tile[k * stride + r] = x[r * row_stride + k * class_stride];
}

/* The tile's logits of the rows [begin, end) to residuals; *loss receives their weighted losses.  Scratch behind the
 * tile: the targets' tile and three values a row.  Returns SF_OK or the offending row. */
static ptrdiff_t V(residual)(REAL *tile, ptrdiff_t stride, const sf_targets *targets, ptrdiff_t n_classes,
                             ptrdiff_t begin, ptrdiff_t end, const REAL **loss) {
    REAL *target = NULL, *rows = tile + 2 * n_classes * stride;
    if (!targets->labels) {
        target = tile + n_classes * stride;
        memset(target, 0, (size_t)(n_classes * stride) * sizeof(REAL));
        V(gather_tile)(target, stride, targets->proba, targets->row_stride, targets->class_stride, n_classes, begin,
                       end);
    }
    ptrdiff_t status = N(residual_tile)(tile, target, targets->labels ? targets->labels + begin : NULL,
                                        targets->weight ? targets->weight + begin : NULL, end - begin, n_classes,
                                        stride, rows);
    *loss = rows;
    return status == SF_OK ? SF_OK : begin + status;
}

/* out += residual^T X and residual^T 1 of the rows [begin, end), residuals (K, stride) in a tile. */
static void V(add_gradient)(sf_gradient *out, const sf_rows *x, const REAL *tile, ptrdiff_t stride,
                            ptrdiff_t n_classes, ptrdiff_t n_outputs, ptrdiff_t begin, ptrdiff_t end) {
    const REAL *residual = tile + (n_classes - n_outputs) * stride;
    for (ptrdiff_t k = 0; k < n_outputs; k++) {
        N(vec) sum = {0};
        for (ptrdiff_t r = 0; r < stride; r += N(lanes))
            sum += N(load)(residual + k * stride + r);
        out->intercept[k] += N(sum)(sum);
    }
    V(product) backward = {residual, stride, n_outputs, end - begin, NULL, NULL, out->coef,
                           sf_coef_stride(x->n_features)};
    V(multiply)(&backward, x, begin, end, 0);
}

static ptrdiff_t V(loss_gradient)(sf_gradient *out, const sf_rows *x, const sf_targets *targets, const sf_model *model,
                                  ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    if (sf_many_classes(model->n_classes))
        return V(panel_loss_gradient)(out, x, targets, model, begin, end, scratch);
    const ptrdiff_t n_rows = end - begin, stride = sf_padded(n_rows);
    REAL *tile = scratch;
    const REAL *loss;
    V(logits_tile)(tile, stride, x, model, begin, end, tile + (2 * model->n_classes + 4) * stride);
    ptrdiff_t status = V(residual)(tile, stride, targets, model->n_classes, begin, end, &loss);
    if (status != SF_OK)
        return status;
    for (ptrdiff_t r = 0; r < n_rows; r++)
        out->loss += loss[r];
    V(add_gradient)(out, x, tile, stride, model->n_classes, model->n_outputs, begin, end);
    return SF_OK;
}

/* out = the map of a tile of logits (K, stride) of n_rows rows, which it overwrites.  Returns whether all were finite. */
static int V(predict_tile)(REAL *out, ptrdiff_t out_stride, sf_map map, REAL *tile, ptrdiff_t stride,
                           const sf_model *model, ptrdiff_t n_rows) {
    /* z - z is 0 or, where z is not finite, NaN. */
    N(vec) zero_or_nan = {0};
    for (ptrdiff_t k = 0; k < model->n_classes; k++) {
        for (ptrdiff_t r = n_rows; r < stride; r++)
            tile[k * stride + r] = 0;
        for (ptrdiff_t r = 0; r < stride; r += N(lanes))
            zero_or_nan += N(load)(tile + k * stride + r) - N(load)(tile + k * stride + r);
    }
    N(map_tile)(tile, model->n_classes, stride, map);
    ptrdiff_t first = map == SF_IDENTITY ? model->n_classes - model->n_outputs : 0;
    N(scatter_tile)(out, out_stride, 1, tile + first * stride, stride, model->n_classes - first, n_rows);
    return N(sum)(zero_or_nan) == 0;
}

static int V(predict)(void *out, ptrdiff_t out_stride, sf_map map, const sf_rows *x, const sf_model *model,
                       ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    if (sf_many_classes(model->n_classes))
        return V(panel_predict)(out, out_stride, map, x, model, begin, end, scratch);
    const ptrdiff_t n_rows = end - begin, stride = sf_padded(n_rows);
    REAL *tile = scratch;
    V(logits_tile)(tile, stride, x, model, begin, end, tile + (2 * model->n_classes + 4) * stride);
    return V(predict_tile)((REAL *)out + begin * out_stride, out_stride, map, tile, stride, model, n_rows);
}

#if STORE_IS_REAL
static void V(map)(void *out, ptrdiff_t out_row_stride, ptrdiff_t out_class_stride, sf_map map, const sf_logits *x,
                   ptrdiff_t n_classes, ptrdiff_t begin, ptrdiff_t end, int streams, void *scratch) {
    if (sf_row_by_row(n_classes, x->class_stride == 1 ? out_class_stride : x->class_stride)) {
        V(panel_map)(out, out_row_stride, map, x, n_classes, begin, end, streams, scratch);
        return;
    }
    const ptrdiff_t n_rows = end - begin, stride = sf_padded(n_rows);
    REAL *tile = scratch;
    V(gather_tile)(tile, stride, x->data, x->row_stride, x->class_stride, n_classes, begin, end);
    N(map_tile)(tile, n_classes, stride, map);
    N(scatter_tile)((REAL *)out + begin * out_row_stride, out_row_stride, out_class_stride, tile, stride,
                    map == SF_LOGSUMEXP ? 1 : n_classes, n_rows);
}

static ptrdiff_t V(cross_entropy)(double *losses, void *gradient, const sf_logits *x, const sf_targets *targets,
                                  ptrdiff_t n_classes, ptrdiff_t begin, ptrdiff_t end, int streams,
                                  void *scratch) {
    if (sf_row_by_row(n_classes, x->class_stride))
        return V(panel_cross_entropy)(losses, gradient, x, targets, n_classes, begin, end, streams, scratch);
    const ptrdiff_t n_rows = end - begin, stride = sf_padded(n_rows);
    REAL *tile = scratch;
    const REAL *loss;
    V(gather_tile)(tile, stride, x->data, x->row_stride, x->class_stride, n_classes, begin, end);
    ptrdiff_t status = V(residual)(tile, stride, targets, n_classes, begin, end, &loss);
    if (status != SF_OK)
        return status;
    for (ptrdiff_t r = 0; r < n_rows; r++)
        losses[begin + r] = loss[r];
    if (gradient)
        N(scatter_tile)((REAL *)gradient + begin * n_classes, n_classes, 1, tile, stride, n_classes, n_rows);
    return SF_OK;
}
#endif
