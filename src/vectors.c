/* vectors.c: one instruction set's table of sums and steps over long vectors, compiled as kernels.c is. */
#include "port.h"
#include "softfast.h"
#include "vectors.h"

#include <math.h>
#include <string.h>

/* Elements of the vectors that are read together: of two lots of float64 half a first-level cache. */
enum { STRIP = 2048 };

#define REAL double
#define INT int64_t
#define UINT uint64_t
#define REAL_BITS 64
#define N(name) SF_PASTE(name, f64)
#include "vec.h"

#define STORE float
#define STORE_IS_REAL 0
#define V(name) SF_PASTE(name, f32_in_f64)
#include "load.tmpl.h"
#include "vectors.tmpl.h"
#undef STORE
#undef STORE_IS_REAL
#undef V

#define STORE double
#define STORE_IS_REAL 1
#define V(name) SF_PASTE(name, f64_in_f64)
#include "load.tmpl.h"
#include "vectors.tmpl.h"

static double largest(const double *x, ptrdiff_t n) {
    N(vec) greatest = N(broadcast)(0);
    for (ptrdiff_t i = 0; i < n; i += N(lanes)) {
        const N(vec) v = n - i < N(lanes) ? N(load_part)(x + i, (int)(n - i)) : N(load)(x + i);
        greatest = N(max)(N(max)(v, -v), greatest);
    }
    return N(max_of)(greatest);
}

static void unscale(double *out, double *sums, const double *x, const double *scale, const double *center,
                    int centre_rows, ptrdiff_t n, ptrdiff_t m) {
    for (ptrdiff_t k = 0; k < m; k++)
        sums[k] = 0;
    for (ptrdiff_t i = 0; i < n; i++, out += m, x += m, scale += m) {
        N(vec) total = N(broadcast)(0);
        for (ptrdiff_t k = 0; k < m; k += N(lanes)) {
            const int rest = m - k < N(lanes) ? (int)(m - k) : N(lanes);
            if (rest == N(lanes)) {
                const N(vec) v = N(load)(x + k) / N(load)(scale + k);
                N(store)(out + k, v);
                total = total + v;
            } else {
                for (ptrdiff_t j = k; j < m; j++)
                    out[j] = x[j] / scale[j];
                total = total + N(load_part)(out + k, rest);
            }
        }
        const double mean = centre_rows ? N(sum)(total) / (double)m : 0, c = center[i];
        for (ptrdiff_t k = 0; k < m; k++) {
            out[k] -= mean;
            sums[k] += out[k] * c;
        }
    }
}

/* Elements (j, k) to (j, k + n) of derive; n = lanes where it can be. */
SF_INLINE void derive_some(const sf_derivatives *job, double *weighted, N(vec) total[5], ptrdiff_t j, ptrdiff_t k,
                           const int n) {
    const ptrdiff_t at = j * job->m + k;
#define GET(p) (n == N(lanes) ? N(load)(p) : N(load_part)(p, n))
#define PUT(p, v) (n == N(lanes) ? N(store)(p, v) : N(store_part)(p, v, n))
    const N(vec) w = GET(job->coef + at);
    const N(vec) g = GET(job->product + j * job->stride + k) * N(broadcast)(1 / job->total);
    const N(vec) d = N(broadcast)(job->ridge) * w + g;
    PUT(job->flat + at, (d - N(broadcast)(job->center[j]) * GET(job->residual + k)) / GET(job->scale + at));
    total[0] = total[0] + d * d;
    total[1] = total[1] + g * w;
    total[2] = total[2] + w * w;
    total[3] = total[3] + g * g;
    if (job->means)
        total[4] = total[4] + g * GET(job->means + at);
    double *of_g = weighted + k, *of_w = of_g + job->m, *of_size = of_w + job->m;
    const N(vec) mean = N(broadcast)(job->mean[j]), size = N(broadcast)(job->size[j]);
    PUT(of_g, GET(of_g) + g * mean);
    PUT(of_w, GET(of_w) + w * mean);
    PUT(of_size, GET(of_size) + N(max)(w, -w) * size);
#undef GET
#undef PUT
}

static void derive(double *sums, const sf_derivatives *job, ptrdiff_t begin, ptrdiff_t end) {
    const ptrdiff_t m = job->m, whole = m / N(lanes) * N(lanes);
    N(vec) total[5];
    for (int t = 0; t < 5; t++)
        total[t] = N(broadcast)(0);
    for (ptrdiff_t k = 0; k < 3 * m; k++)
        sums[5 + k] = 0;
    for (ptrdiff_t j = begin; j < end; j++) {
        for (ptrdiff_t k = 0; k < whole; k += N(lanes))
            derive_some(job, sums + 5, total, j, k, N(lanes));
        if (whole < m)
            derive_some(job, sums + 5, total, j, whole, (int)(m - whole));
    }
    for (int t = 0; t < 5; t++)
        sums[t] = N(sum)(total[t]);
}

extern const sf_vectors SF_PASTE(sf_vectors, SF_ISA);

const sf_vectors SF_PASTE(sf_vectors, SF_ISA) = {
    SF_STRING(SF_ISA),
    largest,
    unscale,
    derive,
    {{dot_f32_in_f64, step_f32_in_f64, combine_f32_in_f64, turn_f32_in_f64},
     {dot_f64_in_f64, step_f64_in_f64, combine_f64_in_f64, turn_f64_in_f64}},
};
