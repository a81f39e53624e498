# cython: language_level=3, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""Block coordinate descent on a quadratic plus weighted Euclidean norms of groups of coordinates."""

from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t

import numpy as np


def descend(const double[::1] values, const int64_t[::1] sizes, const double[:, ::1] low_rank, const double[::1] sign,
            const int64_t[::1] members, const int64_t[::1] starts, const double[::1] weight, const double[::1] bound,
            double[::1] x, double[::1] gradient, double[::1] product, int max_sweeps, double tolerance):
    """Lower q(x) + sum_g weight_g ||x_g||, q quadratic with Hessian B, in place, by steps that are exact for one group.

    B (m, m) is block diagonal plus U diag(sign) U^T. `values` holds the blocks one after the other, each whole and
    symmetric, `sizes` their sizes, which sum to m; `low_rank` is U (m, R). Group g is members[starts[g]:starts[g + 1]],
    and bound_g > 0 at least the largest eigenvalue of B among its members: for one member B's diagonal.

    x (m,) is the point, gradient (m,) of q there, without the part of U that lies in product (R,), diag(sign) U^T of
    the steps taken; all three are kept up to date. Ends after a sweep in which no step, times its bound, was longer
    than `tolerance`, or after max_sweeps; returns the sweeps and the longest such step of the last one. Looks at
    signals after each sweep, with the GIL released within it.
    """
    cdef ptrdiff_t m = x.shape[0], n_ranks = low_rank.shape[1], n_groups = weight.shape[0], n_blocks = sizes.shape[0]
    cdef ptrdiff_t a, b, c, g, i, r, size, offset = 0, begin = 0, widest = 1
    begins, offsets, widths = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m, np.int64)
    cdef int64_t[::1] block_begin = begins, row_offset = offsets, block_size = widths
    for b in range(n_blocks):
        size = sizes[b]
        if size < 0 or size > m - begin:
            raise ValueError(f"blocks of sizes {np.asarray(sizes)} for {m} coordinates")
        for i in range(size):
            block_begin[begin + i] = begin
            block_size[begin + i] = size
            row_offset[begin + i] = offset + i * size
        begin += size
        offset += size * size
    if begin != m or offset != values.shape[0] or low_rank.shape[0] != m or gradient.shape[0] != m \
            or sign.shape[0] != n_ranks or product.shape[0] != n_ranks or bound.shape[0] != n_groups \
            or starts.shape[0] != n_groups + 1 or starts[0] != 0 or starts[n_groups] != members.shape[0]:
        raise ValueError("the arrays of the quadratic and of the groups do not belong together")
    for g in range(n_groups):
        if starts[g + 1] <= starts[g] or starts[g + 1] > members.shape[0] or not bound[g] > 0:
            raise ValueError(f"group {g} is empty or has the bound {bound[g]}")
        widest = max(widest, <ptrdiff_t>(starts[g + 1] - starts[g]))
    for i in range(members.shape[0]):
        if not 0 <= members[i] < m:
            raise ValueError(f"there is no coordinate {members[i]} among {m}")

    cdef double[::1] trial = np.empty(widest)
    cdef double length, shrink, step, moved, longest = 0, slope
    cdef int sweep = 0
    cdef const double *row
    while sweep < max_sweeps:
        sweep += 1
        longest = 0
        with nogil:
            for g in range(n_groups):
                size = starts[g + 1] - starts[g]
                length = 0
                for c in range(size):
                    a = members[starts[g] + c]
                    slope = gradient[a]
                    for r in range(n_ranks):
                        slope = slope + low_rank[a, r] * product[r]
                    trial[c] = x[a] - slope / bound[g]
                    length += trial[c] * trial[c]
                length = sqrt(length)
                shrink = 0 if length * bound[g] <= weight[g] else 1 - weight[g] / (bound[g] * length)
                moved = 0
                for c in range(size):
                    a = members[starts[g] + c]
                    step = shrink * trial[c] - x[a]
                    if step == 0:
                        continue
                    x[a] = shrink * trial[c]
                    moved += step * step
                    row = &values[row_offset[a]]
                    for i in range(block_size[a]):
                        gradient[block_begin[a] + i] += step * row[i]
                    for r in range(n_ranks):
                        product[r] += step * sign[r] * low_rank[a, r]
                longest = max(longest, bound[g] * sqrt(moved))
        PyErr_CheckSignals()
        if longest <= tolerance:
            break
    return sweep, longest
