# cython: language_level=3, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""What a fit does with vectors as long as its coefficients, in one reading of memory where NumPy would take several.

Sums are made of parts of the vectors that do not depend on the number of threads, and are added up in their order: so
they have the same bits for any number.  Besides, a checksum of rows.
"""

cimport cython
from cython.parallel cimport prange
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

import numpy as np

include "module.pxi"

cdef extern from "vectors.h" nogil:
    ctypedef struct sf_derivatives:
        const double *coef
        const double *product
        const double *means
        const double *scale
        const double *center
        const double *mean
        const double *size
        const double *residual
        double *flat
        ptrdiff_t m, stride
        double total, ridge
    ctypedef struct sf_real_vectors:
        double (*dot)(const void *, const double *, ptrdiff_t) noexcept nogil
        void (*step)(double *, const double *, double, const void *, ptrdiff_t) noexcept nogil
        void (*combine)(void *, int, const void *, ptrdiff_t, const ptrdiff_t *, const double *, ptrdiff_t,
                        const double *, double, ptrdiff_t) noexcept nogil
        void (*turn)(void *, ptrdiff_t, const ptrdiff_t *, ptrdiff_t, ptrdiff_t, double *, const double *,
                     const double *, double, ptrdiff_t) noexcept nogil
    ctypedef struct sf_vectors:
        const char *name
        double (*largest)(const double *, ptrdiff_t) noexcept nogil
        void (*unscale)(double *, double *, const double *, const double *, const double *, int, ptrdiff_t,
                        ptrdiff_t) noexcept nogil
        void (*derive)(double *, const sf_derivatives *, ptrdiff_t, ptrdiff_t) noexcept nogil
        sf_real_vectors of[2]
    const sf_vectors *const *sf_vectors_available()

# Elements of a part.
cdef ptrdiff_t PART = 32768

ctypedef fused real_t:
    float
    double

ctypedef fused other_t:
    float
    double


cdef int check_rows(const ptrdiff_t[::1] rows, ptrdiff_t n) except -1:
    cdef ptrdiff_t k
    for k in range(rows.shape[0]):
        if not 0 <= rows[k] < n:
            raise ValueError(f"row {rows[k]} of {n} vectors")
    return 0


@cython.final
cdef class Vectors:
    """The functions of one instruction set."""
    cdef const sf_vectors *table

    def __cinit__(self):
        self.table = sf_vectors_available()[0]

    @property
    def name(self):
        return self.table.name.decode()

    def __repr__(self):
        return f"<softfast vectors: {self.name}>"

    def dot(self, const real_t[::1] x, const double[::1] y, *, int n_threads=1):
        """<x, y>"""
        cdef ptrdiff_t n = y.shape[0], n_parts = (n + PART - 1) // PART, i
        cdef const sf_real_vectors *of = &self.table.of[real_t is double]
        if x.shape[0] != n:
            raise ValueError(f"vectors of {x.shape[0]} and {n} elements")
        _remember_threads(n_threads)
        cdef double[::1] sums = np.zeros(n_parts)
        cdef double total = 0
        with nogil:
            for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
                sums[i] = of.dot(&x[i * PART], &y[i * PART], min(PART, n - i * PART))
            for i in range(n_parts):
                total += sums[i]
        return total

    def largest(self, const double[::1] x, *, int n_threads=1):
        """The largest absolute value; 0 of no elements. NaN is passed over."""
        cdef ptrdiff_t n = x.shape[0], n_parts = (n + PART - 1) // PART, i
        cdef const sf_vectors *table = self.table
        _remember_threads(n_threads)
        cdef double[::1] of_part = np.zeros(n_parts)
        cdef double result = 0
        with nogil:
            for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
                of_part[i] = table.largest(&x[i * PART], min(PART, n - i * PART))
            for i in range(n_parts):
                result = max(result, of_part[i])
        return result

    def step(self, const double[::1] x, double factor, const real_t[::1] direction, *, int n_threads=1):
        """x + factor direction."""
        cdef ptrdiff_t n = x.shape[0], n_parts = (n + PART - 1) // PART, i
        cdef const sf_real_vectors *of = &self.table.of[real_t is double]
        if direction.shape[0] != n:
            raise ValueError(f"vectors of {n} and {direction.shape[0]} elements")
        _remember_threads(n_threads)
        result = np.empty(n)
        cdef double[::1] out = result
        with nogil:
            for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
                of.step(&out[i * PART], &x[i * PART], factor, &direction[i * PART], min(PART, n - i * PART))
        return result

    def combine(self, const real_t[:, ::1] vectors, const ptrdiff_t[::1] rows, const double[::1] factors,
                const double[::1] other, double factor, other_t[::1] out, *, int n_threads=1):
        """out = factors @ vectors[rows] + factor other; out may be one of the vectors, if it is not among the rows."""
        cdef ptrdiff_t n = vectors.shape[1], n_parts = (n + PART - 1) // PART, i
        cdef const sf_real_vectors *of = &self.table.of[real_t is double]
        if other.shape[0] != n or out.shape[0] != n or factors.shape[0] != rows.shape[0]:
            raise ValueError(f"vectors of {n}, {other.shape[0]} and {out.shape[0]} elements, {len(rows)} rows")
        check_rows(rows, vectors.shape[0])
        _remember_threads(n_threads)
        cdef const ptrdiff_t *row = &rows[0] if rows.shape[0] else NULL
        cdef const double *factor_of = &factors[0] if rows.shape[0] else NULL
        with nogil:
            for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
                of.combine(&out[i * PART], other_t is float, &vectors[0, i * PART], n, row, factor_of, rows.shape[0],
                           &other[i * PART], factor, min(PART, n - i * PART))

    def products(self, const real_t[:, ::1] vectors, const ptrdiff_t[::1] rows, const double[::1] x, *,
                 int n_threads=1):
        """vectors[rows] @ x"""
        cdef ptrdiff_t n = vectors.shape[1], n_rows = rows.shape[0], n_parts = (n + PART - 1) // PART, i, k, at
        cdef const sf_real_vectors *of = &self.table.of[real_t is double]
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
                    sums[i, k] = of.dot(&vectors[rows[k], at], &x[at], min(PART, n - at))
        return parts.sum(axis=0)

    def turn(self, real_t[:, ::1] vectors, const ptrdiff_t[::1] rows, ptrdiff_t turned, const double[::1] after,
             const double[::1] before, double divisor, *, int n_threads=1):
        """vectors[turned] = (after - before) / divisor; returns vectors[rows] @ after, and the new vector's square."""
        cdef ptrdiff_t n = vectors.shape[1], n_rows = rows.shape[0], n_parts = (n + PART - 1) // PART, i
        cdef const sf_real_vectors *of = &self.table.of[real_t is double]
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
                of.turn(&vectors[0, i * PART], n, row, n_rows, turned, &sums[i, 0], &after[i * PART],
                        &before[i * PART], divisor, min(PART, n - i * PART))
        total = parts.sum(axis=0)
        return total[:n_rows], float(total[n_rows])

    def unscale(self, const double[:, ::1] x, const double[:, ::1] scale, const double[::1] center, bint centre_rows,
                *, int n_threads=1):
        """x / scale (n, m), minus its rows' means if `centre_rows`, and its product with center, (m,)."""
        cdef ptrdiff_t n = x.shape[0], m = x.shape[1], step = max(1, PART // max(1, m)), i
        cdef ptrdiff_t n_parts = (n + step - 1) // step
        cdef const sf_vectors *table = self.table
        if scale.shape[0] != n or scale.shape[1] != m or center.shape[0] != n:
            raise ValueError(
                f"{n} x {m} elements, a scale of {scale.shape[0]} x {scale.shape[1]}, {len(center)} centers"
            )
        _remember_threads(n_threads)
        result, parts = np.empty((n, m)), np.empty((n_parts, m))
        cdef double[:, ::1] out = result, sums = parts
        if m:
            with nogil:
                for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
                    table.unscale(&out[i * step, 0], &sums[i, 0], &x[i * step, 0], &scale[i * step, 0],
                                  &center[i * step], centre_rows, min(step, n - i * step), m)
        return result, parts.sum(axis=0)

    def derive(self, const double[:, ::1] coef, const double[:, :] product, double total, double ridge,
               const double[:, ::1] scale, const double[::1] center, const double[::1] residual, means,
               const double[::1] mean, const double[::1] size, double[:, ::1] out, *, int n_threads=1):
        """Of a ridge regression's gradient D = G + ridge W, G = product / total, W = coef, all (p, m): in one reading

        out = (D - outer(center, residual)) / scale, and sums: over all, of D^2, G W, W^2, G^2 and G means (0 for None),
        (5,); over the features, of G mean, W mean and abs(W) size, (3, m).
        """
        cdef ptrdiff_t p = coef.shape[0], m = coef.shape[1], step = max(1, PART // max(1, m)), i
        cdef ptrdiff_t n_parts = (p + step - 1) // step
        cdef const sf_vectors *table = self.table
        cdef const double[:, ::1] given = coef if means is None else means
        if (product.shape[0], scale.shape[0], given.shape[0], out.shape[0]) != (p, p, p, p) \
                or (product.shape[1], scale.shape[1], given.shape[1], out.shape[1]) != (m, m, m, m):
            raise ValueError("matrices of different shapes")
        if center.shape[0] != p or mean.shape[0] != p or size.shape[0] != p or residual.shape[0] != m:
            raise ValueError(f"vectors do not belong to {p} features and {m} columns")
        if m > 1 and product.strides[1] != sizeof(double) or product.strides[0] % sizeof(double):
            raise ValueError("the columns of the product must lie next to each other")
        _remember_threads(n_threads)
        parts = np.zeros((n_parts, 5 + 3 * m))
        cdef double[:, ::1] sums = parts
        cdef sf_derivatives job
        if p and m:
            job.coef, job.product, job.scale, job.flat = &coef[0, 0], &product[0, 0], &scale[0, 0], &out[0, 0]
            job.means = NULL if means is None else &given[0, 0]
            job.center, job.mean, job.size, job.residual = &center[0], &mean[0], &size[0], &residual[0]
            job.m, job.stride, job.total, job.ridge = m, product.strides[0] // sizeof(double), total, ridge
            with nogil:
                for i in prange(n_parts, num_threads=n_threads, schedule='dynamic'):
                    table.derive(&sums[i, 0], &job, i * step, min((i + 1) * step, p))
        total_sums = parts.sum(axis=0)
        return total_sums[:5], total_sums[5:].reshape(3, m)


def _load():
    tables = {}
    cdef const sf_vectors *const *entry = sf_vectors_available()
    cdef Vectors vectors
    while entry[0] != NULL:
        vectors = Vectors.__new__(Vectors)
        vectors.table = entry[0]
        tables[vectors.name] = vectors
        entry += 1
    return tables


vectors = _load()                                    # {name: Vectors}, best first; not to be changed
default = _choose(vectors)


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
