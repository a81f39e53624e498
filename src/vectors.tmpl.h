/* vectors.tmpl.h: the functions of vectors of type STORE, in float64.  Included once for each, after load.tmpl.h.
 *
 * Where many vectors are read they are read a strip after another, so that sums stay in the first-level cache. Strips
 * are too short for the hardware to foresee the next one, which is asked for by hand: five pairs of float32 vectors of
 * 3.4 million elements are combined in 10.5 ms instead of 17, on two threads.
 */

SF_INLINE void V(prefetch_strip)(const STORE *x) {
    for (size_t line = 0; line < 4 * N(lanes) * sizeof(STORE); line += SF_ALIGNMENT)
        SF_PREFETCH_L2((const char *)(x + STRIP) + line);
}

/* <x, y>; strips: the next strip of x is read soon. */
SF_INLINE double V(product)(const STORE *x, const double *y, ptrdiff_t n, const int strips) {
    /* Four sums need not wait for each other. */
    N(vec) sum[4];
    SF_UNROLL
    for (int v = 0; v < 4; v++)
        sum[v] = N(broadcast)(0);
    ptrdiff_t i = 0;
    for (; i + 4 * N(lanes) <= n; i += 4 * N(lanes)) {
        if (strips)
            V(prefetch_strip)(x + i);
        SF_UNROLL
        for (int v = 0; v < 4; v++)
            sum[v] = sum[v] + V(load)(x + i + v * N(lanes)) * N(load)(y + i + v * N(lanes));
    }
    for (; i < n; i += N(lanes)) {
        const int rest = n - i < N(lanes) ? (int)(n - i) : N(lanes);
        sum[0] = sum[0] + V(load_part)(x + i, rest) * N(load_part)(y + i, rest);
    }
    return N(sum)((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static double V(dot)(const void *x, const double *y, ptrdiff_t n) { return V(product)(x, y, n, 0); }

static void V(step)(double *out, const double *x, double factor, const void *direction, ptrdiff_t n) {
    const STORE *d = direction;
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = x[i] + factor * d[i];
}

/* sums (n,) += f[0] x[0] + ... + f[3] x[3] */
static void V(add_four)(double *sums, const STORE *const x[4], const double f[4], ptrdiff_t n) {
    const STORE *a = x[0], *b = x[1], *c = x[2], *d = x[3];
    ptrdiff_t i = 0;
    for (; i + 4 * N(lanes) <= n; i += 4 * N(lanes)) {
        V(prefetch_strip)(a + i);
        V(prefetch_strip)(b + i);
        V(prefetch_strip)(c + i);
        V(prefetch_strip)(d + i);
        SF_UNROLL
        for (int v = 0; v < 4; v++) {
            const ptrdiff_t at = i + v * N(lanes);
            const N(vec) ab = N(broadcast)(f[0]) * V(load)(a + at) + N(broadcast)(f[1]) * V(load)(b + at);
            const N(vec) cd = N(broadcast)(f[2]) * V(load)(c + at) + N(broadcast)(f[3]) * V(load)(d + at);
            N(store)(sums + at, N(load)(sums + at) + (ab + cd));
        }
    }
    for (; i < n; i++)
        sums[i] += (f[0] * a[i] + f[1] * b[i]) + (f[2] * c[i] + f[3] * d[i]);
}

static void V(combine)(void *out, int narrow, const void *vectors, ptrdiff_t size, const ptrdiff_t *rows,
                       const double *factors, ptrdiff_t n_rows, const double *other, double factor, ptrdiff_t n) {
    double sums[STRIP];
    for (ptrdiff_t begin = 0; begin < n; begin += STRIP) {
        const ptrdiff_t m = n - begin < STRIP ? n - begin : STRIP;
        for (ptrdiff_t i = 0; i < m; i++)
            sums[i] = factor * other[begin + i];
        for (ptrdiff_t k = 0; k < n_rows; k += 4) {
            const STORE *x[4];
            double four[4];
            for (int r = 0; r < 4; r++) {
                const ptrdiff_t row = k + r < n_rows ? k + r : n_rows - 1;
                four[r] = k + r < n_rows ? factors[row] : 0;
                x[r] = (const STORE *)vectors + rows[row] * size + begin;
            }
            V(add_four)(sums, x, four, m);
        }
        if (narrow)
            for (ptrdiff_t i = 0; i < m; i++)
                ((float *)out)[begin + i] = (float)sums[i];
        else
            memcpy((double *)out + begin, sums, (size_t)m * sizeof(double));
    }
}

static void V(turn)(void *vectors, ptrdiff_t size, const ptrdiff_t *rows, ptrdiff_t n_rows, ptrdiff_t turned,
                    double *sums, const double *after, const double *before, double divisor, ptrdiff_t n) {
    for (ptrdiff_t k = 0; k <= n_rows; k++)
        sums[k] = 0;
    for (ptrdiff_t begin = 0; begin < n; begin += STRIP) {
        const ptrdiff_t m = n - begin < STRIP ? n - begin : STRIP;
        STORE *out = (STORE *)vectors + turned * size + begin;
        /* As it is kept. */
        double own[STRIP];
        for (ptrdiff_t i = 0; i < m; i++)
            own[i] = out[i] = (STORE)((after[begin + i] - before[begin + i]) / divisor);
        for (ptrdiff_t k = 0; k < n_rows; k++)
            sums[k] += V(product)((const STORE *)vectors + rows[k] * size + begin, after + begin, m, 1);
        sums[n_rows] += V(product)(out, own, m, 0);
    }
}
