# cython: language_level=3, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""What a fit does with vectors as long as its coefficients, in one reading of memory where NumPy would take several.

Sums are made of parts of the vectors that do not depend on the number of threads, and are added up in their order: so
they have the same bits for any number.  Besides, a checksum of rows.
"""

from cython.parallel cimport prange
from libc.math cimport fabs
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

import numpy as np

# Elements of a part.
cdef ptrdiff_t PART = 8192

ctypedef fused real_t:
    float
    double

ctypedef fused other_t:
    float
    double

# GNU's OpenMP does not survive a fork: see _core.
cdef bint _threads_started = False


def threads_started():
    """Whether this process, or the parent it was forked from, has opened a team of threads here."""
    return _threads_started


cdef int _remember_threads(int n_threads) except -1:
    global _threads_started
    if n_threads < 1:
        raise ValueError(f"n_threads must be at least 1, got {n_threads}")
    if n_threads > 1:
        _threads_started = True
    return 0


cdef double dot_part(const real_t *x, const other_t *y, ptrdiff_t n) noexcept nogil:
    # Eight sums fill vectors, and need not wait for each other.
    cdef double[8] sums
    cdef double total = 0
    cdef ptrdiff_t i, lane, whole = n // 8 * 8
    for lane in range(8):
        sums[lane] = 0
    for i in range(0, whole, 8):
        for lane in range(8):
            sums[lane] += <double>x[i + lane] * y[i + lane]
    for i in range(whole, n):
        sums[i - whole] += <double>x[i] * y[i]
    for lane in range(8):
        total += sums[lane]
    return total


def dot(const real_t[::1] x, const double[::1] y, *, int n_threads=1):
    """<x, y>"""
    cdef ptrdiff_t n = y.shape[0], n_parts = (n + PART - 1) // PART, i
    if x.shape[0] != n:
        raise ValueError(f"vectors of {x.shape[0]} and {n} elements")
    _remember_threads(n_threads)
    cdef double[::1] sums = np.zeros(n_parts)
    cdef double total = 0
    with nogil:
        for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
            sums[i] = dot_part(&x[i * PART], &y[i * PART], min(PART, n - i * PART))
        for i in range(n_parts):
            total += sums[i]
    return total


cdef double largest_part(const double *x, ptrdiff_t n) noexcept nogil:
    cdef double[8] greatest
    cdef double result = 0
    cdef ptrdiff_t i, lane
    for lane in range(8):
        greatest[lane] = 0
    for i in range(0, n // 8 * 8, 8):
        for lane in range(8):
            greatest[lane] = fabs(x[i + lane]) if fabs(x[i + lane]) > greatest[lane] else greatest[lane]
    for i in range(n // 8 * 8, n):
        result = max(result, fabs(x[i]))
    for lane in range(8):
        result = max(result, greatest[lane])
    return result


def largest(const double[::1] x, *, int n_threads=1):
    """The largest absolute value; 0 of no elements. NaN is passed over."""
    cdef ptrdiff_t n = x.shape[0], n_parts = (n + PART - 1) // PART, i
    _remember_threads(n_threads)
    cdef double[::1] of_part = np.zeros(n_parts)
    cdef double result = 0
    with nogil:
        for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
            of_part[i] = largest_part(&x[i * PART], min(PART, n - i * PART))
        for i in range(n_parts):
            result = max(result, of_part[i])
    return result


cdef void step_part(double *out, const double *x, double factor, const real_t *direction, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(n):
        out[i] = x[i] + factor * direction[i]


def step(const double[::1] x, double factor, const real_t[::1] direction, *, int n_threads=1):
    """x + factor direction."""
    cdef ptrdiff_t n = x.shape[0], n_parts = (n + PART - 1) // PART, i
    if direction.shape[0] != n:
        raise ValueError(f"vectors of {n} and {direction.shape[0]} elements")
    _remember_threads(n_threads)
    result = np.empty(n)
    cdef double[::1] out = result
    with nogil:
        for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
            step_part(&out[i * PART], &x[i * PART], factor, &direction[i * PART], min(PART, n - i * PART))
    return result


cdef void add_four(double *sums, const real_t *a, const real_t *b, const real_t *c, const real_t *d,
                   const double *factors, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t i
    cdef double f = factors[0], g = factors[1], h = factors[2], k = factors[3]
    for i in range(n):
        sums[i] += (f * a[i] + g * b[i]) + (h * c[i] + k * d[i])


cdef void combine_part(other_t *out, const real_t *vectors, ptrdiff_t size, const ptrdiff_t *rows,
                       const double *factors, ptrdiff_t n_rows, const double *other, double factor,
                       ptrdiff_t n) noexcept nogil:
    # vectors, other and out begin at the part; sums of 2048 elements at a time stay in the first-level cache.
    cdef double[2048] sums
    cdef double[4] four
    cdef const real_t *x[4]
    cdef ptrdiff_t begin, m, i, k, r
    for begin in range(0, n, 2048):
        m = min(2048, n - begin)
        for i in range(m):
            sums[i] = factor * other[begin + i]
        for k in range(0, n_rows, 4):
            for r in range(4):
                four[r] = factors[k + r] if k + r < n_rows else 0
                x[r] = vectors + rows[min(k + r, n_rows - 1)] * size + begin
            add_four(sums, x[0], x[1], x[2], x[3], four, m)
        for i in range(m):
            out[begin + i] = <other_t>sums[i]


def combine(const real_t[:, ::1] vectors, const ptrdiff_t[::1] rows, const double[::1] factors, const double[::1] other,
            double factor, other_t[::1] out, *, int n_threads=1):
    """out = factors @ vectors[rows] + factor other; out may be one of the vectors, if it is not among the rows."""
    cdef ptrdiff_t n = vectors.shape[1], n_parts = (n + PART - 1) // PART, i
    if other.shape[0] != n or out.shape[0] != n or factors.shape[0] != rows.shape[0]:
        raise ValueError(f"vectors of {n}, {other.shape[0]} and {out.shape[0]} elements, {len(rows)} rows")
    check_rows(rows, vectors.shape[0])
    _remember_threads(n_threads)
    cdef const ptrdiff_t *row = &rows[0] if rows.shape[0] else NULL
    cdef const double *factor_of = &factors[0] if rows.shape[0] else NULL
    with nogil:
        for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
            combine_part(&out[i * PART], &vectors[0, i * PART], n, row, factor_of, rows.shape[0], &other[i * PART],
                         factor, min(PART, n - i * PART))


cdef int check_rows(const ptrdiff_t[::1] rows, ptrdiff_t n) except -1:
    cdef ptrdiff_t k
    for k in range(rows.shape[0]):
        if not 0 <= rows[k] < n:
            raise ValueError(f"row {rows[k]} of {n} vectors")
    return 0


def products(const real_t[:, ::1] vectors, const ptrdiff_t[::1] rows, const double[::1] x, *, int n_threads=1):
    """vectors[rows] @ x"""
    cdef ptrdiff_t n = vectors.shape[1], n_rows = rows.shape[0], n_parts = (n + PART - 1) // PART, i, k, at
    if x.shape[0] != n:
        raise ValueError(f"vectors of {n} and {x.shape[0]} elements")
    check_rows(rows, vectors.shape[0])
    _remember_threads(n_threads)
    parts = np.zeros((n_parts, n_rows))
    cdef double[:, ::1] sums = parts
    with nogil:
        for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
            at = i * PART
            for k in range(n_rows):
                sums[i, k] = dot_part(&vectors[rows[k], at], &x[at], min(PART, n - at))
    return parts.sum(axis=0)


cdef void turn_part(real_t *vectors, ptrdiff_t size, const ptrdiff_t *rows, ptrdiff_t n_rows, ptrdiff_t turned,
                    double *sums, const double *after, const double *before, double divisor,
                    ptrdiff_t n) noexcept nogil:
    # sums (n_rows + 1,)
    cdef real_t *out
    cdef ptrdiff_t begin, m, i, k
    for k in range(n_rows + 1):
        sums[k] = 0
    for begin in range(0, n, 2048):
        m, out = min(2048, n - begin), vectors + turned * size + begin
        for i in range(m):
            out[i] = <real_t>((after[begin + i] - before[begin + i]) / divisor)
        for k in range(n_rows):
            sums[k] += dot_part(<const real_t *>vectors + rows[k] * size + begin, after + begin, m)
        sums[n_rows] += dot_part(<const real_t *>out, <const real_t *>out, m)


def turn(real_t[:, ::1] vectors, const ptrdiff_t[::1] rows, ptrdiff_t turned, const double[::1] after,
         const double[::1] before, double divisor, *, int n_threads=1):
    """vectors[turned] = (after - before) / divisor; returns vectors[rows] @ after, and the square of the new vector."""
    cdef ptrdiff_t n = vectors.shape[1], n_rows = rows.shape[0], n_parts = (n + PART - 1) // PART, i
    if after.shape[0] != n or before.shape[0] != n:
        raise ValueError(f"vectors of {n}, {after.shape[0]} and {before.shape[0]} elements")
    check_rows(rows, vectors.shape[0])
    if not 0 <= turned < vectors.shape[0]:
        raise ValueError(f"row {turned} of {vectors.shape[0]} vectors")
    _remember_threads(n_threads)
    parts = np.zeros((n_parts, n_rows + 1))
    cdef double[:, ::1] sums = parts
    cdef const ptrdiff_t *row = &rows[0] if n_rows else NULL
    with nogil:
        for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
            turn_part(&vectors[0, i * PART], n, row, n_rows, turned, &sums[i, 0], &after[i * PART], &before[i * PART],
                      divisor, min(PART, n - i * PART))
    total = parts.sum(axis=0)
    return total[:n_rows], float(total[n_rows])


cdef void unscale_part(double *out, double *sums, const double *x, const double *scale, const double *center,
                       bint centre_rows, ptrdiff_t n, ptrdiff_t m) noexcept nogil:
    cdef ptrdiff_t i, k
    cdef double mean
    for k in range(m):
        sums[k] = 0
    for i in range(n):
        for k in range(m):
            out[k] = x[k] / scale[k]
        if centre_rows:
            mean = 0
            for k in range(m):
                mean += out[k]
            mean /= m
            for k in range(m):
                out[k] -= mean
        for k in range(m):
            sums[k] += out[k] * center[i]
        out += m
        x += m
        scale += m


def unscale(const double[:, ::1] x, const double[:, ::1] scale, const double[::1] center, bint centre_rows, *,
            int n_threads=1):
    """x / scale (n, m), minus its rows' means if `centre_rows`, and its product with center, (m,)."""
    cdef ptrdiff_t n = x.shape[0], m = x.shape[1], step = max(1, PART // max(1, m)), n_parts = (n + step - 1) // step, i
    if scale.shape[0] != n or scale.shape[1] != m or center.shape[0] != n:
        raise ValueError(f"{n} x {m} elements, a scale of {scale.shape[0]} x {scale.shape[1]}, {len(center)} centers")
    _remember_threads(n_threads)
    result, parts = np.empty((n, m)), np.empty((n_parts, m))
    cdef double[:, ::1] out = result, sums = parts
    if m:
        with nogil:
            for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
                unscale_part(&out[i * step, 0], &sums[i, 0], &x[i * step, 0], &scale[i * step, 0], &center[i * step],
                             centre_rows, min(step, n - i * step), m)
    return result, parts.sum(axis=0)


cdef struct derivatives:
    const double *coef
    const double *product
    const double *means                              # or NULL
    const double *scale
    const double *center
    const double *mean
    const double *size
    const double *residual
    double *flat
    ptrdiff_t m, stride
    double total, ridge


cdef void derive_part(const derivatives *job, double *sums, double *rows, ptrdiff_t begin,
                      ptrdiff_t end) noexcept nogil:
    # sums (5 + 3 m): five of squares and products, three weighted ones of each column; rows [2][m].
    cdef ptrdiff_t m = job.m, j, k
    cdef double *g = rows
    cdef double *d = rows + m
    cdef double *out
    cdef const double *w
    cdef const double *other
    cdef double *weighted = sums + 5
    cdef double factor = 1 / job.total
    for k in range(5 + 3 * m):
        sums[k] = 0
    for j in range(begin, end):
        w, other, out = job.coef + j * m, job.product + j * job.stride, job.flat + j * m
        for k in range(m):
            g[k] = other[k] * factor
        for k in range(m):
            d[k] = job.ridge * w[k] + g[k]
        other = job.scale + j * m
        for k in range(m):
            out[k] = (d[k] - job.center[j] * job.residual[k]) / other[k]
        sums[0] += dot_part(<const double *>d, <const double *>d, m)
        sums[1] += dot_part(<const double *>g, w, m)
        sums[2] += dot_part(w, w, m)
        sums[3] += dot_part(<const double *>g, <const double *>g, m)
        if job.means != NULL:
            sums[4] += dot_part(<const double *>g, job.means + j * m, m)
        for k in range(m):
            weighted[k] += g[k] * job.mean[j]
        for k in range(m):
            weighted[m + k] += w[k] * job.mean[j]
        for k in range(m):
            weighted[2 * m + k] += fabs(w[k]) * job.size[j]


def derive(const double[:, ::1] coef, const double[:, :] product, double total, double ridge,
           const double[:, ::1] scale, const double[::1] center, const double[::1] residual, means,
           const double[::1] mean, const double[::1] size, double[:, ::1] out, *, int n_threads=1):
    """Of a ridge regression's gradient D = G + ridge W, G = product / total, W = coef, all (p, m): in one reading

    out = (D - outer(center, residual)) / scale, and sums: over all, of D^2, G W, W^2, G^2 and G means (0 for None),
    (5,); over the features, of G mean, W mean and abs(W) size, (3, m).
    """
    cdef ptrdiff_t p = coef.shape[0], m = coef.shape[1], step = max(1, PART // max(1, m)), i
    cdef ptrdiff_t n_parts = (p + step - 1) // step
    cdef const double[:, ::1] given = coef if means is None else means
    if (product.shape[0], scale.shape[0], given.shape[0], out.shape[0]) != (p, p, p, p) \
            or (product.shape[1], scale.shape[1], given.shape[1], out.shape[1]) != (m, m, m, m):
        raise ValueError("matrices of different shapes")
    if center.shape[0] != p or mean.shape[0] != p or size.shape[0] != p or residual.shape[0] != m:
        raise ValueError(f"vectors do not belong to {p} features and {m} columns")
    if m > 1 and product.strides[1] != sizeof(double) or product.strides[0] % sizeof(double):
        raise ValueError("the columns of the product must lie next to each other")
    _remember_threads(n_threads)
    parts, scratch = np.zeros((n_parts, 5 + 3 * m)), np.empty((n_parts, 2 * m))
    cdef double[:, ::1] sums = parts, rows = scratch
    cdef derivatives job
    if p and m:
        job.coef, job.product, job.scale, job.flat = &coef[0, 0], &product[0, 0], &scale[0, 0], &out[0, 0]
        job.means = NULL if means is None else &given[0, 0]
        job.center, job.mean, job.size, job.residual = &center[0], &mean[0], &size[0], &residual[0]
        job.m, job.stride, job.total, job.ridge = m, product.strides[0] // sizeof(double), total, ridge
        with nogil:
            for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
                derive_part(&job, &sums[i, 0], &rows[i, 0], i * step, min((i + 1) * step, p))
    total_sums = parts.sum(axis=0)
    return total_sums[:5], total_sums[5:].reshape(3, m)


cdef inline uint64_t mix(uint64_t sum, uint64_t word) noexcept nogil:
    # A product carries bits upwards only, the rotation brings the highest, which are signs, down again.  Both can be
    # undone: two words that differ in one place leave different sums.
    sum = (sum ^ word) * 0x9E3779B97F4A7C15ULL
    return sum << 29 | sum >> 35


def checksum(const unsigned char[::1] data not None):
    """64 bits that tell bytes from others, and from the same in another order; no guard against who means to deceive.

    7.5 to 8.6 GB/s on one core, where zlib's CRC-32 had 2.5 to 3.0, and a pass over 54 features and 7 classes 1.8.
    """
    cdef uint64_t[8] sums
    cdef uint64_t word, total = data.shape[0]
    cdef ptrdiff_t n = data.shape[0], whole = n // 64 * 64, i, lane
    with nogil:
        # Eight sums need not wait for each other.
        for lane in range(8):
            sums[lane] = 0
        for i in range(0, whole, 64):
            for lane in range(8):
                memcpy(&word, &data[i + 8 * lane], 8)
                sums[lane] = mix(sums[lane], word)
        for lane in range(8):
            total = mix(total, sums[lane])
        for i in range(whole, n):
            total = mix(total, data[i])
    return total
