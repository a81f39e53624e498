/* gram.tmpl.h: weighted Gram matrices, in float64.  Included once for each STORE whose arithmetic is that, after
 * rows.tmpl.h.
 *
 * The rows of a block, plain and times their weights, lie in panels: `lanes` columns of X each, row after row, so that
 * both operands of the product are read in the order of memory, whole lines at a time.  Panel v holds the elements
 * (r, v * lanes + l) at (v * SF_GRAM_ROWS + r) * lanes + l, zeros beyond the last column.  One thread, AVX-512, against
 * reading rows where they lie: 28 weights of 20,000 rows of 55 features in 50 ms for 71, one of 4,000 rows of 785 in
 * 55 for 155.
 */

/* Rows and vectors of columns of the product that are held in registers. */
enum { V(gram_height) = SF_MANY_REGISTERS ? 8 : 4, V(gram_vectors) = 3, V(gram_panel) = SF_GRAM_ROWS * N(lanes) };

static void V(gram_pack)(REAL *panels, const sf_rows *x, ptrdiff_t begin, ptrdiff_t end) {
    const ptrdiff_t p = x->n_features, n_rows = end - begin;
    for (ptrdiff_t j = 0; j < sf_gram_columns(p); j += N(lanes), panels += V(gram_panel)) {
        const STORE *from = (const STORE *)x->data + begin * x->row_stride + j * x->feature_stride;
        if (x->feature_stride == 1 && j + N(lanes) <= p) {
            for (ptrdiff_t r = 0; r < n_rows; r++)
                N(store)(panels + r * N(lanes), V(load)(from + r * x->row_stride));
            continue;
        }
        for (ptrdiff_t l = 0; l < N(lanes); l++)
            for (ptrdiff_t r = 0; r < n_rows; r++)
                panels[r * N(lanes) + l] = j + l < p ? from[l * x->feature_stride + r * x->row_stride] : 0;
    }
}

/* out [n_valid of the height][c_stride] += A^T B of n_rows rows, A the height's columns and B n_vectors' columns. */
SF_INLINE void V(gram_micro)(double *out, ptrdiff_t c_stride, ptrdiff_t n_valid, const REAL *a, const REAL *b,
                             ptrdiff_t n_rows, const int n_vectors) {
    N(vec) sum[8][3];
    SF_UNROLL
    for (int i = 0; i < V(gram_height); i++)
        for (int v = 0; v < n_vectors; v++)
            sum[i][v] = N(broadcast)(0);
    for (ptrdiff_t r = 0; r < n_rows; r++, a += N(lanes), b += N(lanes)) {
        N(vec) b_r[3];
        SF_UNROLL
        for (int v = 0; v < n_vectors; v++) {
            b_r[v] = N(load)(b + v * V(gram_panel));
            SF_IN_REGISTER(b_r[v]);
        }
        SF_UNROLL
        for (int i = 0; i < V(gram_height); i++) {
            N(vec) a_ir = N(broadcast)(a[i / N(lanes) * V(gram_panel) + i % N(lanes)]);
            SF_IN_REGISTER(a_ir);
            SF_UNROLL
            for (int v = 0; v < n_vectors; v++)
                sum[i][v] = sum[i][v] + a_ir * b_r[v];
        }
    }
    SF_UNROLL
    for (int i = 0; i < V(gram_height); i++)
        for (int v = 0; i < n_valid && v < n_vectors; v++)
            N(add_to)(out + i * c_stride + v * N(lanes), sum[i][v]);
}

/* out [n_weights][p][sf_coef_stride(p)] += sum over the rows [begin, end) of weight[q * weight_stride + i] x_i x_i^T:
 * of the columns [first, last), which are multiples of SF_GRAM_COLUMNS or p, the upper triangle at least. */
static void V(gram)(double *out, ptrdiff_t n_weights, const double *weight, ptrdiff_t weight_stride, const sf_rows *x,
                    ptrdiff_t begin, ptrdiff_t end, ptrdiff_t first, ptrdiff_t last, void *scratch) {
    const ptrdiff_t p = x->n_features, n_rows = end - begin, c_stride = sf_coef_stride(p);
    REAL *plain = scratch, *scaled = plain + sf_gram_columns(p) * SF_GRAM_ROWS;
    V(gram_pack)(plain, x, begin, end);
    for (ptrdiff_t q = 0; q < n_weights; q++, out += p * c_stride) {
        REAL h[SF_GRAM_ROWS];
        for (ptrdiff_t r = 0; r < n_rows; r++) {
            /* Products of two small probabilities: as not_negligible. */
            const REAL h_r = weight[q * weight_stride + begin + r];
            h[r] = h_r > -SF_NEGLIGIBLE && h_r < SF_NEGLIGIBLE ? 0 : h_r;
        }
        for (ptrdiff_t j = 0; j < sf_gram_columns(last); j += N(lanes))
            for (ptrdiff_t r = 0; r < n_rows; r++) {
                const ptrdiff_t at = j * SF_GRAM_ROWS + r * N(lanes);
                N(store)(scaled + at, N(broadcast)(h[r]) * N(load)(plain + at));
            }
        /* A vector of columns stays in the first-level cache while the rows above the diagonal pass by. */
        for (ptrdiff_t j = first; j < last; j += V(gram_vectors) * N(lanes)) {
            const ptrdiff_t column_end = j + V(gram_vectors) * N(lanes) < last ? j + V(gram_vectors) * N(lanes) : last;
            for (ptrdiff_t i = 0; i < column_end; i += V(gram_height)) {
                const ptrdiff_t from = i < j ? j : i;
                double *c = out + i * c_stride + from;
                const REAL *a = scaled + i * SF_GRAM_ROWS, *b = plain + from * SF_GRAM_ROWS;
                switch (sf_ceil_div(column_end - from, N(lanes))) {
                case 1: V(gram_micro)(c, c_stride, p - i, a, b, n_rows, 1); break;
                case 2: V(gram_micro)(c, c_stride, p - i, a, b, n_rows, 2); break;
                default: V(gram_micro)(c, c_stride, p - i, a, b, n_rows, 3);
                }
            }
        }
    }
}
