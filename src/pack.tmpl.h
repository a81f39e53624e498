/* pack.tmpl.h: rows of X to columns, a few rows at a time.  Included once for each REAL, where it is a storage type.
 *
 * A packed tile is (p, SF_PACK_ROWS): feature j of row r at tile[j * SF_PACK_ROWS + r].  On it the forward product
 * needs no sums over lanes: with 54 features and 7 classes they cost the dot form as much as its multiplications
 * (54 features, 7 classes, float32, AVX-512: the forward product takes 0.64 of the time).
 */
#if defined(__AVX2__)
/* Rows of a 128-bit lane's transposition, and so the features of one step. */
enum { N(pack_step) = 16 / sizeof(REAL) };

/* Whether packing pays: the sums over lanes that it saves grow with the classes, its own cost with the features. */
static int N(packs)(ptrdiff_t n_features, ptrdiff_t n_outputs) {
    return n_features >= N(pack_step) && n_features * SF_PACK_ROWS * (ptrdiff_t)sizeof(REAL) <= SF_PACK_BYTES
           && (n_features <= 32 || n_outputs >= 6);
}

/* From each of `lanes / pack_step` rows, stride apart, the first pack_step features: one row a 128-bit lane. */
SF_INLINE N(vec) N(load_lanes)(const REAL *x, ptrdiff_t stride) {
#if defined(__AVX512F__) && REAL_BITS == 32
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(x));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(x + stride), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(x + 2 * stride), 2);
    return (N(vec))_mm512_insertf32x4(v, _mm_loadu_ps(x + 3 * stride), 3);
#elif defined(__AVX512F__)
    __m512d v = _mm512_castpd128_pd512(_mm_loadu_pd(x));
    v = _mm512_insertf64x2(v, _mm_loadu_pd(x + stride), 1);
    v = _mm512_insertf64x2(v, _mm_loadu_pd(x + 2 * stride), 2);
    return (N(vec))_mm512_insertf64x2(v, _mm_loadu_pd(x + 3 * stride), 3);
#elif REAL_BITS == 32
    return (N(vec))_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x)), _mm_loadu_ps(x + stride), 1);
#else
    return (N(vec))_mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(x)), _mm_loadu_pd(x + stride), 1);
#endif
}

#if defined(__AVX512F__)
#define SF_UNPACK(half, type, a, b) _mm512_unpack##half##_##type(a, b)
typedef __m512 N(pack_single);
typedef __m512d N(pack_double);
#else
#define SF_UNPACK(half, type, a, b) _mm256_unpack##half##_##type(a, b)
typedef __m256 N(pack_single);
typedef __m256d N(pack_double);
#endif
/* pack_step features of `lanes` rows: a transposition in each 128-bit lane. */
SF_INLINE void N(pack_columns)(REAL *tile, const REAL *x, ptrdiff_t stride) {
#if REAL_BITS == 32
    N(pack_single) a = (N(pack_single))N(load_lanes)(x, 4 * stride);
    N(pack_single) b = (N(pack_single))N(load_lanes)(x + stride, 4 * stride);
    N(pack_single) c = (N(pack_single))N(load_lanes)(x + 2 * stride, 4 * stride);
    N(pack_single) d = (N(pack_single))N(load_lanes)(x + 3 * stride, 4 * stride);
    N(pack_double) ab0 = (N(pack_double))SF_UNPACK(lo, ps, a, b), ab1 = (N(pack_double))SF_UNPACK(hi, ps, a, b);
    N(pack_double) cd0 = (N(pack_double))SF_UNPACK(lo, ps, c, d), cd1 = (N(pack_double))SF_UNPACK(hi, ps, c, d);
    N(store)(tile, (N(vec))SF_UNPACK(lo, pd, ab0, cd0));
    N(store)(tile + SF_PACK_ROWS, (N(vec))SF_UNPACK(hi, pd, ab0, cd0));
    N(store)(tile + 2 * SF_PACK_ROWS, (N(vec))SF_UNPACK(lo, pd, ab1, cd1));
    N(store)(tile + 3 * SF_PACK_ROWS, (N(vec))SF_UNPACK(hi, pd, ab1, cd1));
#else
    N(pack_double) a = (N(pack_double))N(load_lanes)(x, 2 * stride);
    N(pack_double) b = (N(pack_double))N(load_lanes)(x + stride, 2 * stride);
    N(store)(tile, (N(vec))SF_UNPACK(lo, pd, a, b));
    N(store)(tile + SF_PACK_ROWS, (N(vec))SF_UNPACK(hi, pd, a, b));
#endif
}
#undef SF_UNPACK

/* tile (p, SF_PACK_ROWS) = n_rows <= SF_PACK_ROWS rows of x, features contiguous. */
static void N(pack)(REAL *tile, const REAL *x, ptrdiff_t row_stride, ptrdiff_t n_rows, ptrdiff_t n_features) {
    ptrdiff_t r = 0;
    for (; r + N(lanes) <= n_rows; r += N(lanes)) {
        const REAL *row = x + r * row_stride;
        ptrdiff_t j = 0;
        for (; j + N(pack_step) <= n_features; j += N(pack_step))
            N(pack_columns)(tile + j * SF_PACK_ROWS + r, row + j, row_stride);
        /* The last step may repeat some features. */
        if (j < n_features)
            N(pack_columns)(tile + (n_features - N(pack_step)) * SF_PACK_ROWS + r, row + n_features - N(pack_step),
                            row_stride);
    }
    for (; r < n_rows; r++)
        for (ptrdiff_t j = 0; j < n_features; j++)
            tile[j * SF_PACK_ROWS + r] = x[r * row_stride + j];
}
#endif
