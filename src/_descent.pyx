# cython: language_level=3, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""Coordinate descent: on a quadratic plus weighted norms of groups, and on softmax regression with sparse features."""

from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport copysign, exp, expm1, fabs, log, log1p, sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t

import numpy as np

# Of the logit of a row, by a Newton step of its own.
cdef double LONGEST_MOVE = 5

ctypedef fused real_t:
    float
    double


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


cdef struct row_state:
    double slope        # s_i (p_i - p0_i), linear in what has been moved since the class's turn began
    double curvature    # s_i p_i (1 - p_i), or more
    double moved        # of the logit


cdef double log_sum_exp(const double[:, ::1] logits, ptrdiff_t i) noexcept nogil:
    """Of row i; logits (K, n)."""
    cdef ptrdiff_t k
    cdef double largest = logits[0, i], total = 0
    for k in range(1, logits.shape[0]):
        largest = max(largest, logits[k, i])
    for k in range(logits.shape[0]):
        total += exp(logits[k, i] - largest)
    return largest + log(total)


cdef double class_sweep(const real_t[::1] data, const int32_t[::1] rows, const int64_t[::1] begins,
                        const int64_t[::1] columns, ptrdiff_t begin, ptrdiff_t end, const double[::1] center,
                        const double[::1] scale, row_state *state, ptrdiff_t n, const double[::1] ridge,
                        const double[::1] weight, const double[::1] gradient, const double[::1] start,
                        double[::1] x) noexcept nogil:
    """One sweep of coordinate descent on the quadratic model of one class; the longest step times its curvature."""
    cdef ptrdiff_t a, e, i, first, last
    cdef row_state *row
    cdef double all_curvature = 0, all_slopes = 0, shift = 0, longest = 0
    cdef double own, square, from_center, bound, slope, trial, step
    for i in range(n):
        all_curvature += state[i].curvature
        all_slopes += state[i].slope
    for a in range(begin, end):
        first, last = begins[columns[a]], begins[columns[a] + 1]
        own = square = slope = 0
        for e in range(first, last):
            row = &state[rows[e]]
            slope = slope + data[e] * row.slope
            own += data[e] * row.curvature
            square += data[e] * data[e] * row.curvature
        # What the center takes from all rows is one number, `shift`, until the end: columns stay sparse.
        from_center = own - center[a] * all_curvature
        bound = (square - center[a] * (own + from_center)) / (scale[a] * scale[a]) + ridge[a]
        # No row may have curvature left.
        bound = max(bound, 1e-12)
        slope = (slope + shift * own - center[a] * all_slopes) / scale[a]
        slope = slope + gradient[a] + ridge[a] * (x[a] - start[a])
        trial = x[a] - slope / bound
        trial = copysign(fabs(trial) - weight[a] / bound, trial) if fabs(trial) * bound > weight[a] else 0
        step = trial - x[a]
        if step == 0:
            continue
        longest = max(longest, bound * fabs(step))
        x[a] = trial
        step = step / scale[a]
        for e in range(first, last):
            row = &state[rows[e]]
            row.slope += step * data[e] * row.curvature
            row.moved += step * data[e]
        shift -= step * center[a]
        all_slopes += step * from_center
    for i in range(n):
        state[i].moved += shift
    return longest


def descend_rows(const real_t[::1] data, const int32_t[::1] rows, const int64_t[::1] begins,
                 const int64_t[::1] columns, const int64_t[::1] classes, const double[::1] center,
                 const double[::1] scale, double[:, ::1] logits, const double[:, ::1] proba,
                 const int64_t[::1] labels, const double[::1] row_weight, const double[::1] ridge,
                 const double[::1] weight, const double[::1] gradient, const double[::1] start, double[::1] x,
                 int max_sweeps, double tolerance):
    """Lower f(x) + sum_a weight_a |x_a|, f softmax regression over rows with sparse features, in place.

    f(x) = sum_i s_i [logsumexp(z_i) - <p_i, z_i>] + <gradient, x - start> + 0.5 (x - start)^T diag(ridge) (x - start),
    where z (K, n), `logits`, is kept up to date with x, and p (M, n), `proba`, are the probabilities at `start`, so
    that `gradient` is f's there. Coordinate a is one of class k's where classes[k] <= a < classes[k + 1], and adds
    x_a (x_ij - center_a) / scale_a to z_ik, j = columns[a]; where M < K, the first class has no coordinates. `data` and
    `rows` hold the entries of the columns one after the other, those of column j from begins[j] to begins[j + 1].
    row_weight (n,) is s, labels (n,) the likeliest class of each row in 0..K-1; center, scale, ridge, weight, gradient,
    start, x (m,).

    Class by class, coordinate descent goes once over the quadratic model of f in the class's coordinates (Friedman,
    Hastie and Tibshirani 2010), and a line search along the step, for which few numbers a row are enough, makes sure
    that f falls (Yuan, Chang, Hsieh and Lin 2010). Ends like `descend`, and returns the same.
    """
    cdef ptrdiff_t m = x.shape[0], n = row_weight.shape[0], n_outputs = proba.shape[0], n_classes = logits.shape[0]
    cdef ptrdiff_t n_columns = begins.shape[0] - 1, a, i, k
    if classes.shape[0] != n_outputs + 1 or not 0 <= n_classes - n_outputs <= 1 or logits.shape[1] != n \
            or proba.shape[1] != n or labels.shape[0] != n or columns.shape[0] != m or center.shape[0] != m \
            or scale.shape[0] != m or ridge.shape[0] != m or weight.shape[0] != m or gradient.shape[0] != m \
            or start.shape[0] != m or n_columns < 0 or begins[0] != 0 or begins[n_columns] != data.shape[0] \
            or rows.shape[0] != data.shape[0] or classes[0] != 0 or classes[n_outputs] != m:
        raise ValueError("the arrays of the rows and of the coordinates do not belong together")
    for i in range(n_columns):
        if begins[i + 1] < begins[i]:
            raise ValueError(f"column {i} ends before it begins")
    for i in range(rows.shape[0]):
        if not 0 <= rows[i] < n:
            raise ValueError(f"there is no row {rows[i]} among {n}")
    for k in range(n_outputs):
        if classes[k + 1] < classes[k]:
            raise ValueError(f"class {k} ends before it begins")
    for a in range(m):
        if not 0 <= columns[a] < n_columns:
            raise ValueError(f"there is no column {columns[a]} among {n_columns}")

    cdef double[::1] before = np.empty(m), logsum = np.empty(n), present = np.empty(n), memory = np.empty(3 * max(n, 1))
    cdef row_state *state = <row_state *>&memory[0]
    cdef double longest = 0, slope, linear, square, change, step, share, growth, error
    cdef int sweep = 0, attempt
    while sweep < max_sweeps:
        sweep += 1
        longest = 0
        with nogil:
            for i in range(n):
                logsum[i] = log_sum_exp(logits, i)
        for k in range(n_outputs):
            with nogil:
                for i in range(n):
                    present[i] = exp(logits[n_classes - n_outputs + k, i] - logsum[i])
                    state[i].slope = row_weight[i] * (present[i] - proba[k, i])
                    # Without more curvature a row far on the wrong side would be moved by 1 / p, hundreds, in one step.
                    error = 1 - present[i] if labels[i] == n_classes - n_outputs + k else present[i]
                    state[i].curvature = row_weight[i] * max(present[i] * (1 - present[i]), error / LONGEST_MOVE)
                    state[i].moved = 0
                for a in range(classes[k], classes[k + 1]):
                    before[a] = x[a]
                step = class_sweep(data, rows, begins, columns, classes[k], classes[k + 1], center, scale, state, n,
                                   ridge, weight, gradient, start, x)
                longest = max(longest, step)
                # f along the step t: t linear + t^2 square + sum_i s_i log(1 + p_i (exp(t moved_i) - 1)).
                linear = square = 0
                for a in range(classes[k], classes[k + 1]):
                    step = x[a] - before[a]
                    linear += (gradient[a] + ridge[a] * (before[a] - start[a])) * step
                    square += 0.5 * ridge[a] * step * step
                slope = linear
                for i in range(n):
                    linear -= row_weight[i] * proba[k, i] * state[i].moved
                    slope = slope + row_weight[i] * (present[i] - proba[k, i]) * state[i].moved
                for a in range(classes[k], classes[k + 1]):
                    slope = slope + weight[a] * (fabs(x[a]) - fabs(before[a]))
                share = 1
                for attempt in range(40):
                    change = share * linear + share * share * square
                    for a in range(classes[k], classes[k + 1]):
                        step = x[a] - before[a]
                        change = change + weight[a] * (fabs(before[a] + share * step) - fabs(before[a]))
                    for i in range(n):
                        change = change + row_weight[i] * log1p(present[i] * expm1(share * state[i].moved))
                    # Near the minimum the change drowns in the rounding of its terms.
                    if change <= 1e-4 * share * slope + 1e-15 * fabs(linear):
                        break
                    share = 0 if attempt == 38 else share / 2
                if share < 1:
                    for a in range(classes[k], classes[k + 1]):
                        x[a] = before[a] + share * (x[a] - before[a])
                for i in range(n):
                    logits[n_classes - n_outputs + k, i] += share * state[i].moved
                    growth = present[i] * expm1(share * state[i].moved)
                    # Below, the sum of what is left is lost.
                    logsum[i] = logsum[i] + log1p(growth) if growth > -0.999 else log_sum_exp(logits, i)
            PyErr_CheckSignals()
        if longest <= tolerance:
            break
    return sweep, longest
