# cython: language_level=3, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""What a fit does with vectors as long as its coefficients, in one reading of memory where NumPy would take several.

Sums are made of parts of the vectors that do not depend on the number of threads, and are added up in their order: so
they have the same bits for any number.
"""

from cython.parallel cimport prange
from libc.math cimport fabs
from libc.stddef cimport ptrdiff_t

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


cdef double add_part(double *y, double factor, const real_t *x, const real_t *w, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(n):
        y[i] += factor * x[i]
    return dot_part(w, y, n)


def add_and_dot(double[::1] y, double factor, const real_t[::1] x, const real_t[::1] w, *, int n_threads=1):
    """y += factor x in place; returns <w, y> then."""
    cdef ptrdiff_t n = y.shape[0], n_parts = (n + PART - 1) // PART, i
    if x.shape[0] != n or w.shape[0] != n:
        raise ValueError(f"vectors of {n}, {x.shape[0]} and {w.shape[0]} elements")
    _remember_threads(n_threads)
    cdef double[::1] sums = np.zeros(n_parts)
    cdef double total = 0
    with nogil:
        for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
            sums[i] = add_part(&y[i * PART], factor, &x[i * PART], &w[i * PART], min(PART, n - i * PART))
        for i in range(n_parts):
            total += sums[i]
    return total


cdef double scale_part(double *y, double factor, const real_t *w, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(n):
        y[i] *= factor
    return dot_part(w, y, n)


def scale_and_dot(double[::1] y, double factor, const real_t[::1] w, *, int n_threads=1):
    """y *= factor in place; returns <w, y> then."""
    cdef ptrdiff_t n = y.shape[0], n_parts = (n + PART - 1) // PART, i
    if w.shape[0] != n:
        raise ValueError(f"vectors of {n} and {w.shape[0]} elements")
    _remember_threads(n_threads)
    cdef double[::1] sums = np.zeros(n_parts)
    cdef double total = 0
    with nogil:
        for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
            sums[i] = scale_part(&y[i * PART], factor, &w[i * PART], min(PART, n - i * PART))
        for i in range(n_parts):
            total += sums[i]
    return total


cdef void differ_part(real_t *out, double *sums, const double *a, const double *b, const double *c, const double *d,
                      real_t *other, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(n):
        out[i] = <real_t>(a[i] - b[i])
        other[i] = <real_t>(c[i] - d[i])
    sums[0], sums[1] = dot_part(out, other, n), dot_part(other, other, n)


def differences(real_t[::1] out, real_t[::1] other, const double[::1] a, const double[::1] b, const double[::1] c,
                const double[::1] d, *, int n_threads=1):
    """out = a - b and other = c - d; returns <out, other> and <other, other>."""
    cdef ptrdiff_t n = out.shape[0], n_parts = (n + PART - 1) // PART, i
    if other.shape[0] != n or a.shape[0] != n or b.shape[0] != n or c.shape[0] != n or d.shape[0] != n:
        raise ValueError("vectors of different lengths")
    _remember_threads(n_threads)
    cdef double[:, ::1] sums = np.zeros((n_parts, 2))
    cdef double product = 0, square = 0
    with nogil:
        for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
            differ_part(&out[i * PART], &sums[i, 0], &a[i * PART], &b[i * PART], &c[i * PART], &d[i * PART],
                        &other[i * PART], min(PART, n - i * PART))
        for i in range(n_parts):
            product += sums[i, 0]
            square += sums[i, 1]
    return product, square


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
    # sums [8][m]: five of squares and products, three weighted ones; rows [2][m].
    cdef ptrdiff_t m = job.m, j, k
    cdef double *g = rows
    cdef double *d = rows + m
    cdef double *out
    cdef const double *w
    cdef const double *other
    for k in range(8 * m):
        sums[k] = 0
    for j in range(begin, end):
        w, other, out = job.coef + j * m, job.product + j * job.stride, job.flat + j * m
        for k in range(m):
            g[k] = other[k] / job.total
        for k in range(m):
            d[k] = job.ridge * w[k] + g[k]
        other = job.scale + j * m
        for k in range(m):
            out[k] = (d[k] - job.center[j] * job.residual[k]) / other[k]
        for k in range(m):
            sums[k] += d[k] * d[k]
        for k in range(m):
            sums[m + k] += g[k] * w[k]
        for k in range(m):
            sums[2 * m + k] += w[k] * w[k]
        for k in range(m):
            sums[3 * m + k] += g[k] * g[k]
        if job.means != NULL:
            other = job.means + j * m
            for k in range(m):
                sums[4 * m + k] += g[k] * other[k]
        for k in range(m):
            sums[5 * m + k] += g[k] * job.mean[j]
        for k in range(m):
            sums[6 * m + k] += w[k] * job.mean[j]
        for k in range(m):
            sums[7 * m + k] += fabs(w[k]) * job.size[j]


def derive(const double[:, ::1] coef, const double[:, :] product, double total, double ridge,
           const double[:, ::1] scale, const double[::1] center, const double[::1] residual, means,
           const double[::1] mean, const double[::1] size, double[:, ::1] out, *, int n_threads=1):
    """Of a ridge regression's gradient D = G + ridge W, G = product / total, W = coef, all (p, m): in one reading

    out = (D - outer(center, residual)) / scale, and the sums over the features, for each column, (8, m): of D^2, G W,
    W^2, G^2, G means (0 for None), G mean, W mean and abs(W) size.
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
    parts, scratch = np.empty((n_parts, 8 * m)), np.empty((n_parts, 2 * m))
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
    return parts.sum(axis=0).reshape(8, m)
