/* load.tmpl.h: elements of type STORE as vectors of REAL.  Included once for each pair; V(name) adds the pair's suffix,
 * N(name) that of REAL.
 */
#if STORE_IS_REAL
SF_INLINE N(vec) V(load)(const STORE *p) { return N(load)(p); }
SF_INLINE N(vec) V(load_part)(const STORE *p, int n) { return N(load_part)(p, n); }
#else
SF_INLINE N(vec) V(load)(const STORE *p) {
    /* One instruction, where GCC 12 converts halves and joins them. */
#if defined(__AVX512F__)
    return (N(vec))_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(__AVX2__)
    return (N(vec))_mm256_cvtps_pd(_mm_loadu_ps(p));
#elif SF_VECTORS
    typedef STORE part __attribute__((vector_size(SF_VECTOR_BYTES / 2)));
    part v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, N(vec));
#else
    return *p;
#endif
}
SF_INLINE N(vec) V(load_part)(const STORE *p, int n) {
    STORE lane[N(lanes)] = {0};
    memcpy(lane, p, (size_t)n * sizeof(STORE));
    return V(load)(lane);
}
#endif
