"""The minimum of penalised softmax regression on some rows, where Newton's method finds no way: an interior point.

A row whose probabilities are 0 and 1 has no curvature, and Newton's model knows nothing of it. Where such rows are
hundreds of standard deviations from the mean, steps of full length throw them to the wrong side, and the line search
leaves a thousandth or a millionth of each. The cure is to give every probability a variable of its own. With logits
z_i = W x_i + o_i, weights w_i, targets t_i in the simplex and a ridge r_j a column, W is the minimum exactly if

    sum_i w_i (q_i - t_i) x_i^T + r W = 0,    sum_k q_ik = 1,    log q_ik = z_ik + c_i + l_ik,    q_ik l_ik = 0

with slacks l of the bounds q >= 0, all of them 0 since the logarithm keeps q > 0 by itself. With q_ik l_ik = m_i > 0
instead, a probability near 0 goes with 1 / |z| and not with exp(-|z|), so that Newton's method, on all four equations
at once, sees what a step does to rows far away. m falls from step to step: the primal-dual method (Wright 1997), with
Mehrotra's (1992) predictor and Gondzio's (1996) correctors, and lengths of their own for q and for W, c and l.
Without q, c and l, the system for the step of W is a weighted least-squares problem, whose matrix is the Hessian at
the probabilities d_ik / sum_k d_ik, d = q / (1 + l).

What differs from the textbook, measured on samples of network connections, 23 classes, whose bytes go up to 7e8:
- m_i is in proportion to max(1, |x_i|) / sqrt(w_i), |x_i| the root mean square of the row: 44 iterations to a gap of 1
  on 3,177 rows of 45 features, 49 without the weights, which go from 1 to 1e5.
- Pairs (i, k) whose product is a hundred times too small or large, or whose third equation is off by more than 1, get
  q and l anew from z and c: the logarithm of a small q that must grow is far from linear. Without it, none of the two
  after 69 iterations.
- But no q moves the gradient by more than some of m so: else 3,147 rows of 118 features came to no end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from softfast.metric import whole_hessian
from softfast.sources import Matrix, RowSample, Vector

_MAX_ITER, _CORRECTORS = 60, 4
# m falls by no less than this from one iteration to the next; a step ends at this share of the way to a bound.
_LEAST_FALL, _TO_BOUND, _MOST_TO_BOUND = 0.3, 0.95, 0.9999
# Products farther than this from m are clipped by correctors, and are set anew.
_NEAR, _FAR = 0.1, 0.01
# How much the gradient may change where one q is set anew, in units of m.
_MOVE = 0.1
# m of the first iterate, where there is none: slacks of l = _START max(1, |x_i|) / sqrt(w_i).
_START = 1.0
# In units of the diagonal, which is 1: what a factorisation may need.
_RIDGES = (1e-15, 1e-13, 1e-11, 1e-9)


@dataclass(frozen=True)
class Rows:
    """features (m, p), targets (m, K), weight (m,) of mean 1, offset (m, K) or None, ridge (p,); no two rows are equal.

    The classes before `first` have no coefficients.
    """

    features: Matrix
    targets: Matrix
    weight: Vector
    offset: Matrix | None
    ridge: Vector
    first: int

    @classmethod
    def of(
        cls, sample: RowSample, center: Vector, scale: Vector, strength: float, shape: tuple[int, int], first: int
    ) -> Self:
        """Equal rows made one; features centred and divided by `scale`, after them, if shape (M, p) has it, a one."""
        parts = [sample.X, sample.targets.reshape(len(sample.X), -1)]
        parts += [] if sample.offset is None else [sample.offset]
        keys = np.column_stack([part.astype(np.float64) for part in parts])
        whole = keys.view(np.dtype((np.void, keys.dtype.itemsize * keys.shape[1]))).ravel()
        _, kept, group = np.unique(whole, return_index=True, return_inverse=True)
        weight = np.bincount(group, sample.weight)
        features = np.ones((len(kept), shape[1]))
        features[:, : len(center)] = (sample.X[kept] - center) / scale
        targets = sample.targets[kept]
        targets = np.eye(shape[0] + first)[targets] if targets.ndim == 1 else targets.astype(np.float64)
        ridge = np.zeros(shape[1])
        # The sum over rows of mean weight 1, not a mean.
        ridge[: len(center)] = strength / scale**2 / weight.mean()
        offset = None if sample.offset is None else sample.offset[kept]
        return cls(features, targets, weight / weight.mean(), offset, ridge, first)

    def logits(self, coef: Matrix) -> Matrix:
        """X W^T, (m, K)."""
        product = np.zeros(self.targets.shape)
        np.matmul(self.features, coef.T, out=product[:, self.first :])
        return product

    def sums(self, values: Matrix) -> Matrix:
        """sum_i w_i v_i x_i^T of values (m, K), (M, p)."""
        return (self.weight[:, None] * values[:, self.first :]).T @ self.features

    def inverse_hessian(self, proba: Matrix, weight: Vector, n_threads: int) -> Callable[[Matrix], Matrix]:
        """Multiplication of (M, p) by the inverse of sum_i w_i (diag(p_i) - p_i p_i^T) (x) x_i x_i^T + ridge.

        In units of its own diagonal: next to rows hundreds of standard deviations away, saturated, all that makes the
        minimum unique in some coefficient may be 1e-15 of what their variance stands for.
        """
        n_outputs, width = proba.shape[1] - self.first, self.features.shape[1]
        matrix = whole_hessian(self.features, proba, weight, n_outputs, n_threads=n_threads)
        diagonal = np.diag_indices(len(matrix))
        matrix[diagonal] += np.tile(self.ridge, n_outputs)
        if self.first == 0:
            # Nothing but the ridge tells the sum over the classes, which no step changes: any curvature will do.
            mean = matrix[diagonal].reshape(n_outputs, width).mean(axis=0) / n_outputs
            columns = np.arange(width)
            matrix.reshape(n_outputs, width, n_outputs, width)[:, columns, :, columns] += mean[:, None, None]
        scale = 1 / np.sqrt(matrix[diagonal])
        matrix *= scale[:, None]
        matrix *= scale
        factor = _factor(matrix)
        return lambda v: np.asarray(scale * cho_solve(factor, scale * v.ravel(), check_finite=False)).reshape(v.shape)

    def proba(self, coef: Matrix) -> Matrix:
        """Probabilities, (m, K)."""
        logits = self.logits(coef) + (0.0 if self.offset is None else self.offset)
        proba = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(proba / proba.sum(axis=1, keepdims=True))

    def value(self, coef: Matrix, logits: Matrix) -> float:
        """The objective, of offsets and all, over the sum of the weights."""
        largest = logits.max(axis=1)
        loss = np.log(np.exp(logits - largest[:, None]).sum(axis=1)) + largest - (self.targets * logits).sum(axis=1)
        return float(self.weight @ loss + 0.5 * (self.ridge * coef**2).sum()) / len(self.weight)


class Minimum(NamedTuple):
    """coef (M, p), the value there, and evaluations of all rows that it took, products with coef and sums over rows."""

    coef: Matrix
    value: float
    n_passes: int


class _Step(NamedTuple):
    """Of W (M, p), q (m, K), c (m, 1), l (m, K)."""

    coef: Matrix
    proba: Matrix
    level: Matrix
    slack: Matrix


@np.errstate(all="ignore")
def interior_point(
    rows: Rows, start: Matrix | None = None, *, centring: float = 0.0, tol: float, n_threads: int = 1
) -> Minimum:
    """The minimum over the rows, to where the mean product m is `tol` times the value.

    From `start` (M, p), near the minimum, with m = `centring`; or from far, without one.
    Raises LinAlgError where rounding leaves no step.
    """
    weight = rows.weight[:, None]
    n_rows, n_classes = rows.targets.shape
    offset = 0.0 if rows.offset is None else rows.offset
    share = np.maximum(1, np.sqrt(np.square(rows.features).mean(axis=1, keepdims=True))) / np.sqrt(weight)
    aims = share / float((weight * share).mean())
    if start is None:
        coef = np.zeros((n_classes - rows.first, rows.features.shape[1]))
        proba = np.full((n_rows, n_classes), 1 / n_classes)
        slack = _START * np.repeat(share, n_classes, axis=1)
        level = -np.log(n_classes) - slack[:, :1]
    else:
        coef = start
        proba, level = _centre(rows.logits(coef) + offset, centring * aims)
        slack = centring * aims / proba
    reach = weight * np.abs(rows.features).max(axis=1, keepdims=True)
    n_passes = 1
    for _ in range(_MAX_ITER):
        logits = rows.logits(coef) + offset
        product = float((weight * proba * slack).sum()) / (n_rows * n_classes)
        n_passes += 1
        if product <= tol * rows.value(coef, logits):
            break
        newton = _Newton(rows, proba, slack, n_threads)
        stationary = -(rows.ridge * coef + rows.sums(proba - rows.targets))
        link = logits + level + slack - np.log(proba)
        simplex = 1 - proba.sum(axis=1, keepdims=True)

        # Where to: the step that aims at 0 tells how far m may fall.
        step = newton.step(-proba * slack, stationary, link, simplex)
        along, across = _length(proba, step.proba), _length(slack, step.slack)
        left = (weight * (proba + along * step.proba) * (slack + across * step.slack)).sum() / (n_rows * n_classes)
        aim = min(_LEAST_FALL, max((left / product) ** 3, 1e-6)) * product * aims
        second = np.clip(along * across * step.proba * step.slack, -10 * product * aims, 10 * product * aims)
        log_second = 0.5 * np.square(np.clip(along * step.proba / proba, -1, 1))
        step = newton.step(aim - proba * slack - second, stationary, link + log_second, simplex)
        n_passes += 2
        along, across = _length(proba, step.proba), _length(slack, step.slack)
        for _ in range(_CORRECTORS):
            if min(along, across) > _TO_BOUND:
                break
            wanted = (proba + min(1, 1.5 * along + 0.1) * step.proba) * (
                slack + min(1, 1.5 * across + 0.1) * step.slack
            )
            change = np.maximum(np.clip(wanted, _NEAR * aim, aim / _NEAR) - wanted, -aim / _NEAR)
            corrector = newton.step(change, np.zeros_like(coef), np.zeros_like(link), np.zeros_like(simplex))
            n_passes += 1
            longer = _Step(*(a + b for a, b in zip(step, corrector, strict=True)))
            lengths = _length(proba, longer.proba), _length(slack, longer.slack)
            if sum(lengths) < along + across + 0.02:
                break
            step, (along, across) = longer, lengths
        keep = min(max(_TO_BOUND, 1 - product), _MOST_TO_BOUND)
        along, across = (1.0 if a == 1 else keep * a for a in (along, across))
        coef, level = coef + across * step.coef, level + across * step.level
        proba, slack = proba + along * step.proba, slack + across * step.slack
        _recentre(proba, slack, rows.logits(coef) + offset + level, weight, product * aims, reach)
        n_passes += 1
    return Minimum(coef, rows.value(coef, rows.logits(coef) + offset), n_passes)


class _Newton:
    """Steps from one iterate for any right-hand sides."""

    def __init__(self, rows: Rows, proba: Matrix, slack: Matrix, n_threads: int) -> None:
        self._rows, self._proba, self._slack = rows, proba, slack
        self._d = proba / (1 + slack)
        self._sum = self._d.sum(axis=1, keepdims=True)
        self._solve = rows.inverse_hessian(self._d / self._sum, rows.weight * self._sum.ravel(), n_threads)

    def step(self, products: Matrix, stationary: Matrix, link: Matrix, simplex: Matrix) -> _Step:
        """The step by which, in the linear model, q l, the gradient, log q - z - c - l and sum q change by so much."""
        rows, d, total = self._rows, self._d, self._sum
        known = link + products / self._proba
        level = (simplex - (d * known).sum(axis=1, keepdims=True)) / total
        coef = self._solve(stationary - rows.sums(d * (known + level)))
        known += rows.logits(coef)
        level = (simplex - (d * known).sum(axis=1, keepdims=True)) / total
        proba = d * (known + level)
        return _Step(coef, proba, level, (products - self._slack * proba) / self._proba)


def _factor(matrix: Matrix) -> Any:
    """The Cholesky factor of a matrix whose diagonal is 1, with the least ridge that it takes."""
    diagonal = np.diag_indices(len(matrix))
    for ridge in _RIDGES if np.isfinite(matrix).all() else ():
        matrix[diagonal] = 1 + ridge
        try:
            return cho_factor(matrix, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
    raise np.linalg.LinAlgError("the Hessian is not positive definite")


def _length(values: Matrix, step: Matrix) -> float:
    """How far, up to 1, values > 0 stay so."""
    steepest = float((step / values).min())
    return min(1.0, -1 / steepest) if steepest < 0 else 1.0


def _recentre(proba: Matrix, slack: Matrix, shifted: Matrix, weight: Matrix, most: Matrix, reach: Matrix) -> None:
    """Sets q and l anew where they are far from l = log q - z - c and q l = m; shifted is z + c.

    most : (m, 1), m of the iterate before, which none exceeds
    reach : (m, 1), what a q changes the gradient by, at most: no q may change it by more than some of m
    """
    products = proba * slack
    share = float((weight * np.minimum(products, most)).sum()) / float((weight * most).sum()) / proba.shape[1]
    ratio = products / (share * most)
    at = np.nonzero((ratio < _FAR) | (ratio > 1 / _FAR) | (np.abs(np.log(proba) - shifted - slack) > 1))
    aim = share * most[at[0], 0]
    most_change = _MOVE * share * float((weight * most).sum()) / reach[at[0], 0]
    proba[at] += np.clip(_barred_exp(shifted[at], aim) - proba[at], -most_change, most_change)
    slack[at] = aim / proba[at]


def _barred_exp(x: Matrix, m: Matrix) -> Matrix:
    """The q > 0 with log q - m / q = x; exp(x) for m = 0.  By Newton's method for log q."""
    # From below, where the left-hand side as a function of log q is concave: no step goes too far.
    log = np.where(x < -1e-3, np.maximum(x, np.log(m / np.maximum(-x, 1e-300))), x)
    for _ in range(8):
        ratio = m * np.exp(-log)
        log += (x - log + ratio) / (1 + ratio)
    return np.exp(log)


def _centre(logits: Matrix, m: Matrix) -> tuple[Matrix, Matrix]:
    """The q (m, K) and c (m, 1) with log q - m / q = z + c and sum_k q_k = 1, row by row."""
    level = -logits.max(axis=1, keepdims=True) - m
    proba = _barred_exp(logits + level, m)
    for _ in range(60):
        total = proba.sum(axis=1, keepdims=True)
        off = np.flatnonzero(np.abs(total - 1) > 1e-12)
        if len(off) == 0:
            break
        # Newton's method for log sum_k q_k = 0.
        slope = (proba[off] ** 2 / (proba[off] + m[off])).sum(axis=1, keepdims=True)
        level[off] -= np.log(total[off]) * total[off] / slope
        proba[off] = _barred_exp(logits[off] + level[off], m[off])
    return proba, level
