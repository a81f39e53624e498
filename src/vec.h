/* vec.h: the vector type of (instruction set, REAL), and the few operations that operators do not give.
 *
 * Included once for each REAL.  With GNU vector extensions + - * / and comparisons work on vectors as on scalars and
 * a * b + c contracts to one FMA; elsewhere a vector is one plain REAL, and the same source is scalar code.
 * Expects REAL, INT and UINT (as wide as REAL), REAL_BITS (32 or 64) and N(name), which adds the type's suffix.
 */
#if SF_VECTORS
typedef REAL N(vec) __attribute__((vector_size(SF_VECTOR_BYTES)));
typedef INT N(ivec) __attribute__((vector_size(SF_VECTOR_BYTES)));
typedef UINT N(uvec) __attribute__((vector_size(SF_VECTOR_BYTES)));
typedef REAL N(vec_unaligned) __attribute__((vector_size(SF_VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
enum { N(lanes) = SF_VECTOR_BYTES / sizeof(REAL) };
#else
typedef REAL N(vec);
typedef INT N(ivec);
typedef UINT N(uvec);
typedef REAL N(vec_unaligned);
enum { N(lanes) = 1 };
#endif

SF_INLINE N(vec) N(load)(const REAL *p) { return *(const N(vec_unaligned) *)p; }
SF_INLINE void N(store)(REAL *p, N(vec) v) { *(N(vec_unaligned) *)p = v; }
SF_INLINE N(ivec) N(load_int)(const INT *p) { N(ivec) v; memcpy(&v, p, sizeof v); return v; }
SF_INLINE N(vec) N(broadcast)(REAL x) { return x - (N(vec)){0}; }
SF_INLINE N(ivec) N(bits)(N(vec) v) { N(ivec) i; memcpy(&i, &v, sizeof i); return i; }
SF_INLINE N(vec) N(from_bits)(N(ivec) i) { N(vec) v; memcpy(&v, &i, sizeof v); return v; }

/* The first n lanes from memory (0 < n <= lanes), zeros in the rest; reads nothing behind them. */
SF_INLINE N(vec) N(load_part)(const REAL *p, int n) {
#if defined(__AVX512F__) && REAL_BITS == 32
    return (N(vec))_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif defined(__AVX512F__)
    return (N(vec))_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#elif defined(__AVX2__) && REAL_BITS == 32
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (N(vec))_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
#elif defined(__AVX2__)
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return (N(vec))_mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), lane));
#else
    N(vec) v = {0};
    memcpy(&v, p, (size_t)n * sizeof(REAL));
    return v;
#endif
}

/* The first n lanes to memory (0 < n <= lanes). */
SF_INLINE void N(store_part)(REAL *p, N(vec) v, int n) {
#if defined(__AVX512F__) && REAL_BITS == 32
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#elif defined(__AVX512F__)
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
#else
    memcpy(p, &v, (size_t)n * sizeof(REAL));
#endif
}

/* p[0], p[stride], ...: how a tile of contiguous rows is transposed.  |stride| < SF_STRIDE_LIMIT. */
SF_INLINE N(vec) N(load_strided)(const REAL *p, ptrdiff_t stride) {
#if defined(__AVX512F__) && REAL_BITS == 32
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return (N(vec))_mm512_i32gather_ps(_mm512_mullo_epi32(lane, _mm512_set1_epi32((int)stride)), p, 4);
#elif defined(__AVX512F__)
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (N(vec))_mm512_i32gather_pd(_mm256_mullo_epi32(lane, _mm256_set1_epi32((int)stride)), p, 8);
#elif defined(__AVX2__) && REAL_BITS == 32
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (N(vec))_mm256_i32gather_ps(p, _mm256_mullo_epi32(lane, _mm256_set1_epi32((int)stride)), 4);
#elif defined(__AVX2__)
    const __m128i lane = _mm_setr_epi32(0, 1, 2, 3);
    return (N(vec))_mm256_i32gather_pd(p, _mm_mullo_epi32(lane, _mm_set1_epi32((int)stride)), 8);
#else
    REAL lane[N(lanes)];
    for (int i = 0; i < N(lanes); i++)
        lane[i] = p[i * stride];
    return N(load)(lane);
#endif
}

SF_INLINE void N(store_strided)(REAL *p, ptrdiff_t stride, N(vec) v) {
#if defined(__AVX512F__) && REAL_BITS == 32
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_i32scatter_ps(p, _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)stride)), (__m512)v, 4);
#elif defined(__AVX512F__)
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm512_i32scatter_pd(p, _mm256_mullo_epi32(lane, _mm256_set1_epi32((int)stride)), (__m512d)v, 8);
#else
    REAL lane[N(lanes)];
    N(store)(lane, v);
    for (int i = 0; i < N(lanes); i++)
        p[i * stride] = lane[i];
#endif
}

/* Past the caches, without reading the line first; p is aligned to the vector. */
SF_INLINE void N(store_stream)(REAL *p, N(vec) v) {
#if defined(__AVX512F__) && REAL_BITS == 32
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX512F__)
    _mm512_stream_pd(p, (__m512d)v);
#elif defined(__AVX2__) && REAL_BITS == 32
    _mm256_stream_ps(p, (__m256)v);
#elif defined(__AVX2__)
    _mm256_stream_pd(p, (__m256d)v);
#else
    N(store)(p, v);
#endif
}

/* Comparisons give masks: bits of a register of their own with AVX-512, vectors of all ones or zeros elsewhere.  differ
 * is true where either operand is NaN. */
#if defined(__AVX512F__) && REAL_BITS == 32
typedef __mmask16 N(mask);
SF_INLINE N(mask) N(equal)(N(vec) a, N(vec) b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
SF_INLINE N(mask) N(differ)(N(vec) a, N(vec) b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NEQ_UQ); }
SF_INLINE N(mask) N(less)(N(vec) a, N(vec) b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
SF_INLINE N(mask) N(same)(N(ivec) a, N(ivec) b) { return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b); }
SF_INLINE N(vec) N(keep)(N(vec) a, N(mask) mask) { return (N(vec))_mm512_maskz_mov_ps(mask, (__m512)a); }
SF_INLINE N(vec) N(select)(N(mask) mask, N(vec) a, N(vec) b) {
    return (N(vec))_mm512_mask_mov_ps((__m512)b, mask, (__m512)a);
}
SF_INLINE N(vec) N(add_where)(N(mask) mask, N(vec) a, N(vec) b) {
    return (N(vec))_mm512_mask_add_ps((__m512)a, mask, (__m512)a, (__m512)b);
}
#elif defined(__AVX512F__)
typedef __mmask8 N(mask);
SF_INLINE N(mask) N(equal)(N(vec) a, N(vec) b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ); }
SF_INLINE N(mask) N(differ)(N(vec) a, N(vec) b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NEQ_UQ); }
SF_INLINE N(mask) N(less)(N(vec) a, N(vec) b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ); }
SF_INLINE N(mask) N(same)(N(ivec) a, N(ivec) b) { return _mm512_cmpeq_epi64_mask((__m512i)a, (__m512i)b); }
SF_INLINE N(vec) N(keep)(N(vec) a, N(mask) mask) { return (N(vec))_mm512_maskz_mov_pd(mask, (__m512d)a); }
SF_INLINE N(vec) N(select)(N(mask) mask, N(vec) a, N(vec) b) {
    return (N(vec))_mm512_mask_mov_pd((__m512d)b, mask, (__m512d)a);
}
SF_INLINE N(vec) N(add_where)(N(mask) mask, N(vec) a, N(vec) b) {
    return (N(vec))_mm512_mask_add_pd((__m512d)a, mask, (__m512d)a, (__m512d)b);
}
#else
typedef N(ivec) N(mask);
#if SF_VECTORS
#define SF_MASK(comparison) ((N(ivec))(comparison))
#else
#define SF_MASK(comparison) (-(INT)(comparison))
#endif
SF_INLINE N(mask) N(equal)(N(vec) a, N(vec) b) { return SF_MASK(a == b); }
SF_INLINE N(mask) N(differ)(N(vec) a, N(vec) b) { return SF_MASK(a != b); }
SF_INLINE N(mask) N(less)(N(vec) a, N(vec) b) { return SF_MASK(a < b); }
SF_INLINE N(mask) N(same)(N(ivec) a, N(ivec) b) { return SF_MASK(a == b); }
#undef SF_MASK
SF_INLINE N(vec) N(keep)(N(vec) a, N(mask) mask) { return N(from_bits)(N(bits)(a) & mask); }
SF_INLINE N(vec) N(select)(N(mask) mask, N(vec) a, N(vec) b) {
    return N(from_bits)((N(bits)(a) & mask) | (N(bits)(b) & ~mask));
}
SF_INLINE N(vec) N(add_where)(N(mask) mask, N(vec) a, N(vec) b) { return a + N(keep)(b, mask); }
#endif

/* Where either operand is NaN the result is b: a running maximum max(m, x) may forget an earlier NaN. */
SF_INLINE N(vec) N(max)(N(vec) a, N(vec) b) {
#if defined(__AVX512F__) && REAL_BITS == 32
    return (N(vec))_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX512F__)
    return (N(vec))_mm512_max_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__) && REAL_BITS == 32
    return (N(vec))_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__AVX2__)
    return (N(vec))_mm256_max_pd((__m256d)a, (__m256d)b);
#else
    return N(select)(N(less)(b, a), a, b);
#endif
}

/* Over the lanes, as a tree. */
SF_INLINE REAL N(sum)(N(vec) v) {
#if defined(__AVX512F__) && REAL_BITS == 32
    return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX512F__)
    return _mm512_reduce_add_pd((__m512d)v);
#else
    REAL lane[N(lanes)];
    N(store)(lane, v);
    for (int width = N(lanes) / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
#endif
}

SF_INLINE REAL N(max_of)(N(vec) v) {
#if defined(__AVX512F__) && REAL_BITS == 32
    return _mm512_reduce_max_ps((__m512)v);
#elif defined(__AVX512F__)
    return _mm512_reduce_max_pd((__m512d)v);
#else
    REAL lane[N(lanes)];
    N(store)(lane, v);
    for (int i = 1; i < N(lanes); i++)
        lane[0] = lane[i] > lane[0] ? lane[i] : lane[0];
    return lane[0];
#endif
}

SF_INLINE REAL N(first)(N(vec) v) {
    REAL lane[N(lanes)];
    N(store)(lane, v);
    return lane[0];
}

/* out[0..3] = add + the sums over the lanes of a, b, c, d: a small transposition, two shuffles a sum. */
SF_INLINE void N(sum4)(REAL *out, REAL add, N(vec) a, N(vec) b, N(vec) c, N(vec) d) {
#if defined(__AVX2__) && REAL_BITS == 32
#if defined(__AVX512F__)
    __m512 ab = _mm512_unpacklo_ps((__m512)a, (__m512)b) + _mm512_unpackhi_ps((__m512)a, (__m512)b);
    __m512 cd = _mm512_unpacklo_ps((__m512)c, (__m512)d) + _mm512_unpackhi_ps((__m512)c, (__m512)d);
    __m512 abcd = _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xee);
    __m256 half = _mm512_castps512_ps256(abcd) + _mm512_extractf32x8_ps(abcd, 1);
#else
    __m256 ab = _mm256_unpacklo_ps((__m256)a, (__m256)b) + _mm256_unpackhi_ps((__m256)a, (__m256)b);
    __m256 cd = _mm256_unpacklo_ps((__m256)c, (__m256)d) + _mm256_unpackhi_ps((__m256)c, (__m256)d);
    __m256 half = _mm256_shuffle_ps(ab, cd, 0x44) + _mm256_shuffle_ps(ab, cd, 0xee);
#endif
    _mm_storeu_ps(out, _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1) + add);
#elif defined(__AVX2__)
#if defined(__AVX512F__)
    __m512d ab8 = _mm512_unpacklo_pd((__m512d)a, (__m512d)b) + _mm512_unpackhi_pd((__m512d)a, (__m512d)b);
    __m512d cd8 = _mm512_unpacklo_pd((__m512d)c, (__m512d)d) + _mm512_unpackhi_pd((__m512d)c, (__m512d)d);
    __m256d ab = _mm512_castpd512_pd256(ab8) + _mm512_extractf64x4_pd(ab8, 1);
    __m256d cd = _mm512_castpd512_pd256(cd8) + _mm512_extractf64x4_pd(cd8, 1);
#else
    __m256d ab = _mm256_unpacklo_pd((__m256d)a, (__m256d)b) + _mm256_unpackhi_pd((__m256d)a, (__m256d)b);
    __m256d cd = _mm256_unpacklo_pd((__m256d)c, (__m256d)d) + _mm256_unpackhi_pd((__m256d)c, (__m256d)d);
#endif
    _mm256_storeu_pd(out, _mm256_permute2f128_pd(ab, cd, 0x20) + _mm256_permute2f128_pd(ab, cd, 0x31) + add);
#elif defined(__aarch64__) && REAL_BITS == 32
    float32x4_t ab = vpaddq_f32((float32x4_t)a, (float32x4_t)b), cd = vpaddq_f32((float32x4_t)c, (float32x4_t)d);
    vst1q_f32(out, vpaddq_f32(ab, cd) + add);
#elif defined(__aarch64__)
    vst1q_f64(out, vpaddq_f64((float64x2_t)a, (float64x2_t)b) + add);
    vst1q_f64(out + 2, vpaddq_f64((float64x2_t)c, (float64x2_t)d) + add);
#else
    N(vec) v[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        REAL lane[N(lanes)], total = add;
        N(store)(lane, v[i]);
        for (int j = 0; j < N(lanes); j++)
            total += lane[j];
        out[i] = total;
    }
#endif
}

/* sums[0..lanes-1] += v, in float64. */
SF_INLINE void N(add_to)(double *sums, N(vec) v) {
#if REAL_BITS == 64
    N(store)(sums, N(load)(sums) + v);
#elif defined(__AVX512F__)
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
    _mm512_storeu_pd(sums, _mm512_loadu_pd(sums) + low);
    _mm512_storeu_pd(sums + 8, _mm512_loadu_pd(sums + 8) + high);
#elif defined(__AVX2__)
    __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
    __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
    _mm256_storeu_pd(sums, _mm256_loadu_pd(sums) + low);
    _mm256_storeu_pd(sums + 4, _mm256_loadu_pd(sums + 4) + high);
#else
    REAL lane[N(lanes)];
    N(store)(lane, v);
    for (int i = 0; i < N(lanes); i++)
        sums[i] += lane[i];
#endif
}
