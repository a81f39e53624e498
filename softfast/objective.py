"""The penalised softmax regression objective on any source of rows.

With rows x_i in R^p, weights s_i >= 0, S = sum_i s_i, targets q_i in the simplex, offsets o_i in R^K (0 by default) and
logits z_i = W x_i + b + o_i, W (M, p), b (M,), where M = K, or M = K - 1 with W and b zero for class 0 (logistic
regression is K = 2, M = 1):

    F(W, b) = L(W, b) + ridge/2 ||W||^2 + threshold N(W),      L = (1/S) sum_i s_i [logsumexp(z_i) - <q_i, z_i>],

N the sum of the absolute values of the coefficients, or of the norms of the features' columns (penalty.py).
The gradient of all but N: dF/dW = G + ridge W and dF/db = g, with G = (1/S) R^T X, g = (1/S) R^T 1,
R_i = s_i (p_i - q_i).  The duality gap is in certificate.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from softfast import _core, _vectors
from softfast.certificate import EPS, Certificate, Terms
from softfast.interior_point import Rows, interior_point
from softfast.metric import LARGEST_WHOLE, MetricBudget, active_form, active_hessian, intercept_hessian, sampled_inverse
from softfast.penalty import Groups, Penalty, require_size
from softfast.quadratic import Blocks
from softfast.row_model import Columns, RowModel
from softfast.sources import Hard, Matrix, RowSample, Source, Vector
from softfast.sources.dense import DenseSource
from softfast.threads import resolve_threads

_EPS_SINGLE = float(np.finfo(np.float32).eps)
# What a product with the Hessian counts as in `n_passes`: over shapes from (400,000, 10), K = 3 to (5,000, 512),
# K = 100, float32 and float64, it took 1.07 to 1.48 times as long as an evaluation.
_PASSES_A_PRODUCT = 1.5
# Groups that may always join those of `curvature` at once.
_FIRST = 100
_LARGEST_SAMPLE = 20_000
# Its most elements, 256 MiB, in `curvature`.
_SAMPLE_SIZE = 2**25
# The metric's probabilities are (1 - share) p + share q.  Where a label's own probability is nearly 0 the curvature
# p (1 - p) all but vanishes although the gradient does not, and a Newton step overshoots a hundredfold: covtype with
# every column standardised took 397 passes with a share of 0, 188 with 0.02, 110 with 0.1, 80 with 0.3; with only its
# numeric columns standardised 57, 52, 45, 44; shuttle 201, 180, 151, 150.
_LABEL_SHARE = 0.2
# They also get a share of even probabilities, the first metric this one, each further metric a tenth of the last: a row
# whose probabilities are 0 and 1 has no curvature, and far from the minimum a step of Newton's method may carry it
# anywhere.  Shuttle took 122 passes without it, 113 with it; satellite 23 and 25; diamonds 36 and 31; covtype 45, 41.
_EVEN_SHARE = 0.1
# A sample to begin with has one row in so many, no fewer rows than these, nor than this many a coefficient; and no more
# elements than 64 MiB of them: rows that don't fit into memory leave little for it.
_START_FRACTION, _START_ROWS, _START_ROWS_A_COEFFICIENT, _START_SIZE = 10, 5000, 3, 2**23
# Where rounding is that of float32: the fall of F, over the allowance for its worst case, that is still worth an
# iteration; the allowance, relative, up to which a fit begins with it.
_SINGLE_FALL, _SINGLE_ROUNDING = 0.05, 1e-3
# In units of the diagonal, which is near 1: keeps the factorisation possible where features are collinear.
_RIDGE = 1e-8
# The same in `curvature`, where a Newton step on collinear features must not be damped by more than a weak penalty is.
_ACTIVE_RIDGE = 1e-12


@dataclass(frozen=True)
class Point:
    """F, its gradient and its duality gap at one point, `x` in the solver's coordinates."""

    x: Vector
    value: float
    gradient: Vector
    """Of F without N, which has none where coefficients are 0."""
    gap: float
    """Upper bound of F - min F; NaN without penalty, where no certificate exists."""
    balanced_gap: float
    """About what it would be if the residuals added up to zero, as they do for the best intercepts."""
    loss: float
    """L, the mean cross-entropy without the penalty."""
    rounding: float
    """Allowance for the error of `value` by rounding, which the gap, a difference at one point, is nearly free of."""


class SoftmaxObjective:
    """F as a function of one flat vector, in coordinates in which its curvature is near the identity.

    The vector is (W scaled, b shifted), flat: W_kj = x_kj / scale_kj and b = x_b / scale_b - W x_mean, that is, the
    features are centred (where there is an intercept to take it up) and divided by their spread, and each class is
    measured by its frequency: scale_kj^2 = q_k (1 - q_k) var_j + strength, the diagonal of the Hessian at constant
    probabilities q.  A change of variables, not of the problem: the penalty stays on W.  So a solver that starts with
    the identity as its metric is not disturbed by the units of the features.

    W lies in the vector in F order, the classes of a feature next to each other, which rows in CSR read without a
    transposition. Under L2 the features may be fewer than the caller's, as `Source.merged` has it, or as a `basis`
    already has; only `pack` and `unpack` know of it.
    """

    def __init__(
        self,
        source: Source,
        *,
        strength: float,
        fit_intercept: bool,
        n_outputs: int,
        l1_ratio: float = 0.0,
        by_feature: bool = False,
        basis: csr_array | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._penalty = Penalty(strength, l1_ratio, by_feature and n_outputs > 1)
        self._basis = basis
        merged = source.merged() if self._penalty.threshold == 0 < strength else None
        if merged is not None:
            source, self._basis = merged
        self._source = source
        self._n_threads = n_threads
        self._fit_intercept = fit_intercept
        self._shape = (n_outputs, source.n_features)
        # A dozen operations an element.
        self.vector_threads = resolve_threads(n_threads, 12.0 * n_outputs * source.n_features)
        self.n_passes: float = 0
        with np.errstate(over="ignore", invalid="ignore"):
            moments = source.moments()
            require_size(moments, strength)
        self.moments = moments
        self._first = source.n_classes - n_outputs
        self._center = moments.feature_mean if fit_intercept else np.zeros(source.n_features)
        square = moments.feature_mean**2
        spread = moments.feature_variance + (0 if fit_intercept else square)
        # What is left of a constant column after centring is rounding, not spread.
        self._spread = spread = np.where(spread <= 1e-28 * square, 0, spread)
        frequency = moments.class_mean[self._first :]
        frequency = np.maximum(frequency * (1 - frequency), 1e-6)
        if self._penalty.threshold > 0 and self._penalty.by_feature:
            # One scale for all coefficients of a feature: then N is a weighted sum of norms of x, too.
            frequency = np.full_like(frequency, frequency.mean())
        self._scale = np.empty(self._shape, order="F")
        np.sqrt(np.multiply.outer(frequency, spread, out=self._scale) + strength, out=self._scale)
        self._scale[self._scale == 0] = 1.0
        self._intercept_scale = np.sqrt(frequency)
        self._certificate = Certificate(moments, self._penalty, self._first, self._target_means)
        self._uniform_product: Matrix | None = None
        self._sample: RowSample | None = None
        self._sample_rows = 0
        self._budget = MetricBudget(source.n_rows, n_outputs, source.n_features + fit_intercept)
        self._metric: Callable[[Vector], Vector] | None = None
        self._hard_rows: Rows | None = None
        self.even_share = _EVEN_SHARE
        self._single, self._last_value = False, np.inf

    def on_sample(self) -> "tuple[SoftmaxObjective, float] | None":
        """F estimated from some of the rows, and their share; None where a tenth of them is too few to be worth it."""
        n_outputs, p = self._shape
        n_rows = min(self._source.n_rows // _START_FRACTION, _START_SIZE // (p + 1))
        if n_rows < max(_START_ROWS, _START_ROWS_A_COEFFICIENT * n_outputs * (p + 1)):
            return None
        sample = self._source.sample(n_rows, self.moments)
        targets = sample.targets if sample.targets.ndim == 1 else sample.targets.astype(np.float64)
        source = DenseSource(
            sample.X,
            targets,
            self._source.n_classes,
            sample.weight * self._source.total_weight,
            offset=sample.offset,
            n_threads=self._n_threads,
        )
        part = SoftmaxObjective(
            source,
            strength=self._penalty.strength,
            fit_intercept=self._fit_intercept,
            n_outputs=n_outputs,
            l1_ratio=self._penalty.l1_ratio,
            by_feature=self._penalty.by_feature,
            basis=self._basis,
            n_threads=self._n_threads,
        )
        return part, source.n_rows / self._source.n_rows

    @property
    def has_interior_minimum(self) -> bool:
        """Whether `interior_minimum` can be asked for: an L2 penalty, and a Hessian of all coefficients affordable."""
        n_outputs, p = self._shape
        return self._certificate.smooth and n_outputs * (p + self._fit_intercept) <= LARGEST_WHOLE

    def take_hard_rows(self, points: Sequence[Point], n_rows: int, certain: float) -> None:
        """A sample with rows that are hard at the points: for `interior_minimum`, and from now on `metric`.

        About n_rows, and on top those with residuals from `certain` on, below with a chance in proportion.
        """
        n_outputs, p = self._shape
        hard = Hard(tuple(self._unpack(point.x) for point in points), certain)
        sample = self._source.sample(n_rows, self.moments, hard)
        self.n_passes += len(points) / 2
        spread = np.where(self._spread > 0, np.sqrt(self._spread), 1.0)
        shape = n_outputs, p + self._fit_intercept
        self._hard_rows = Rows.of(sample, self._center, spread, self._penalty.ridge, shape, self._first)
        # From the coordinates of these rows to the solver's.
        self._hard_scale = np.column_stack([self._scale / spread, self._intercept_scale])[:, : shape[1]]
        self._hard_threads = resolve_threads(
            self._n_threads, float(len(self._hard_rows.weight)) * self._hard_scale.size**2
        )

    def drop_hard_rows(self) -> None:
        """Back to what `metric` was before."""
        self._hard_rows = None

    def interior_minimum(self, start: Point | None = None, *, centring: float = 0, tol: float) -> tuple[Vector, float]:
        """Where F's estimate from the hard rows' sample is least, and its value there: as `interior_point` has it."""
        assert self._hard_rows is not None
        begin = None if start is None else self._by_class(start.x) / self._hard_scale
        found = interior_point(self._hard_rows, begin, centring=centring, tol=tol, n_threads=self._hard_threads)
        self.n_passes += found.n_passes * len(self._hard_rows.weight) / self._source.n_rows
        return self._flat(found.coef * self._hard_scale), found.value

    def _hard_metric(self, rows: Rows, point: Point) -> Callable[[Vector], Vector] | None:
        """`metric` from the hard rows' sample: the whole Hessian as it is there."""
        proba = rows.proba(self._by_class(point.x) / self._hard_scale)
        try:
            solve = rows.inverse_hessian(proba, rows.weight, self._hard_threads)
        except np.linalg.LinAlgError:
            return None
        scale = self._hard_scale * np.sqrt(len(rows.weight))
        return lambda vector: self._flat(scale * solve(scale * self._by_class(vector)))

    def _by_class(self, x: Vector) -> Matrix:
        """From the flat layout (coefficients, then intercepts) to one row a class."""
        n_outputs, p = self._shape
        rows = np.empty((n_outputs, p + self._fit_intercept))
        rows[:, :p] = self._matrix(x)
        rows[:, p:] = x[n_outputs * p :].reshape(n_outputs, int(self._fit_intercept))
        return rows

    def _flat(self, rows: Matrix) -> Vector:
        """And back."""
        p = self._shape[1]
        return np.concatenate([rows[:, :p].ravel("F"), rows[:, p:].ravel()])

    def pack(self, coef: Matrix, intercept: Vector) -> Vector:
        """The solver's vector for coef (M, p) and intercept (M,)."""
        if self._basis is not None:
            coef = coef @ self._basis
        x = np.empty(self._scale.size + self._fit_intercept * len(intercept))
        np.multiply(coef, self._scale, out=self._matrix(x))
        if self._fit_intercept:
            x[self.intercepts] = (intercept + coef @ self._center) * self._intercept_scale
        return x

    def unpack(self, x: Vector) -> tuple[Matrix, Vector]:
        """Coefficients (M, p) and intercept (M,) of the solver's vector.

        Without a reference class, adding one vector to every class changes no probability: the representative whose
        classes sum to zero is taken, which has the smallest penalty.  The gradient sums to zero likewise.  N depends on
        the representative; then the coefficients are taken as they are.
        """
        coef, intercept = self._unpack(x)
        coef = coef if self._basis is None else (self._basis @ coef.T).T
        return np.ascontiguousarray(coef), intercept

    def _unpack(self, x: Vector) -> tuple[Matrix, Vector]:
        """The same of the features of the source, coef in F order."""
        by_feature, shift = _vectors.default.unscale(
            self._matrix(x).T,
            self._scale.T,
            self._center,
            self._first == 0 and self._penalty.threshold == 0,
            n_threads=self.vector_threads,
        )
        if not self._fit_intercept:
            return by_feature.T, np.zeros(self._shape[0])
        intercept = x[self._scale.size :] / self._intercept_scale - shift
        return by_feature.T, intercept if self._first else intercept - intercept.mean()

    def _matrix(self, x: Vector) -> Matrix:
        """The part of a vector that is W scaled, (M, p): a view."""
        return x[: self._scale.size].reshape(self._shape, order="F")

    def __call__(self, x: Vector) -> Point:
        """F, gradient and gap at x: one pass over the rows."""
        coef, intercept = self._unpack(x)
        loss, product, residual = self._source.loss_gradient(coef, intercept, single=self._single)
        eps = _EPS_SINGLE if self._single else EPS
        self.n_passes += 1
        total = self._source.total_weight
        loss, residual = loss / total, residual / total
        if self._uniform_product is None and not self._source.has_offset and not x.any():
            self._uniform_product = product / total
        of_intercept = residual if self._fit_intercept else np.zeros_like(residual)
        certificate, flat = self._certificate, np.empty(len(x))
        means = certificate.centred_means if certificate.smooth and self._fit_intercept else None
        sums, (product_mean, coef_mean, logit_size) = self._derive(coef, product, residual, flat, means)
        gradient, linear, size, square, cross = map(float, sums)
        terms = Terms(gradient, linear, size, square, cross, product_mean, coef_mean)
        value = loss + 0.5 * self._penalty.ridge * terms.size
        if self._penalty.threshold > 0:
            value += self._penalty.threshold * float(self._penalty.norms(coef).sum())
            balanced_gap = gap = certificate.sparse_gap(loss, coef, intercept, product / total, of_intercept)
        else:
            gap = certificate.smooth_gap(loss, intercept, of_intercept, terms, eps=eps)
            balanced_gap = certificate.balanced_gap(of_intercept, terms)
        # Large terms of a logit that cancel leave their error in the loss: at most twice that of the worst class.
        largest = float((logit_size + np.abs(intercept)).max())
        rounding = 4 * eps * (2 * value + largest + self.moments.offset_size)
        return Point(x, value, flat, gap, balanced_gap, loss, rounding)

    def precise(self, point: Point) -> Point:
        """The point, evaluated anew in float64 if it was in float32; float64 from now on."""
        return self.precisely(point.x) if self._single else point

    def precisely(self, x: Vector) -> Point:
        """F at x in float64, as all that is evaluated from now on."""
        self._single = False
        return self(x)

    def refine(self, point: Point) -> Point:
        """The next iterate: the point, evaluated anew in float64 where float32 has become too coarse.

        Rows of float32 are computed in float32 until an iteration lowers F by little more than rounding does. Of 60,000
        images of 784 pixels, 10 classes, these are 50 of 69 evaluations; each takes 0.55 of the time, on one thread.
        """
        fall, self._last_value = self._last_value - point.value, point.value
        if self._single:
            return point if fall > _SINGLE_FALL * point.rounding else self.precise(point)
        if fall == np.inf and self._source.dtype == np.float32:
            self._single = point.rounding * (_EPS_SINGLE / EPS) < _SINGLE_ROUNDING * point.value
        return point

    def _derive(
        self, coef: Matrix, product: Matrix, residual: Vector, flat: Vector, means: Matrix | None
    ) -> tuple[Vector, Matrix]:
        """To `flat` the derivatives by the solver's vector; returns the sums of `_vectors.default.derive`.

        `product` is G times the sum of the weights, `residual` g; or the same of the Hessian times a direction `coef`.
        """
        if self._fit_intercept:
            flat[self._scale.size :] = residual / self._intercept_scale
        return _vectors.default.derive(
            coef.T,
            product.T if product.strides[0] == product.itemsize else np.ascontiguousarray(product.T),
            self._source.total_weight,
            self._penalty.ridge,
            self._scale.T,
            self._center,
            residual,
            None if means is None else means.T,
            self.moments.feature_mean,
            self.moments.feature_size,
            self._matrix(flat).T,
            n_threads=self.vector_threads,
        )

    def hessian_vector(self, point: Point, vector: Vector) -> Vector:
        """The Hessian of F without N at a point times a vector, from all rows; counted as 1.5 passes."""
        direction, direction_intercept = self._unpack(vector)
        product, residual = self._source.hessian_vector(*self._unpack(point.x), direction, direction_intercept)
        self.n_passes += _PASSES_A_PRODUCT
        flat = np.empty(len(vector))
        self._derive(direction, product, residual / self._source.total_weight, flat, None)
        return flat

    @property
    def can_balance(self) -> bool:
        """Whether `intercept_hessian` can be asked for: there are intercepts, and a certificate that it may close."""
        return self._fit_intercept and self._certificate.smooth and self._budget.affords_overlaps

    @property
    def intercepts(self) -> slice:
        """Where they are in the solver's vector."""
        return slice(self._scale.size, None)

    def intercept_hessian(self, point: Point) -> Matrix:
        """The Hessian of F by the intercepts, (M, M), from all rows; as `metric.intercept_hessian` has it."""
        overlaps = self._source.overlaps(*self._unpack(point.x)) / self._source.total_weight
        # The forward half of an evaluation, and the products of the classes.
        self.n_passes += 0.5 + len(overlaps) / (4 * (self._shape[1] + 1))
        return intercept_hessian(overlaps, self._intercept_scale)

    def metric(self, point: Point) -> Callable[[Vector], Vector] | None:
        """Multiplication by the inverse of an approximate Hessian at a point, from a sample of the rows.

        The whole Hessian, (1/S) sum_i s_i (diag(p_i) - p_i p_i^T) (x) x_i x_i^T + penalty, where it is affordable;
        else its blocks on the diagonal, one a class; else one block for all classes; else None. The last one again,
        until the passes have paid for another. (Byrd, Chin, Neveitt and Nocedal 2011 sample the Hessian so.)
        """
        n_outputs, p = self._shape
        width = p + self._fit_intercept
        if self._hard_rows is not None:
            return self._hard_metric(self._hard_rows, point)
        plan = self._budget.take(self.n_passes)
        if plan is None:
            return self._metric
        form, n_rows = plan
        sample = self._centred_sample(n_rows)
        proba = self._sample_proba(sample, point)
        sample.blend(proba, _LABEL_SHARE, self.even_share)
        self.even_share /= 10
        scale = np.column_stack([self._scale, self._intercept_scale]) if self._fit_intercept else self._scale
        ridge = np.full((n_outputs, width), _RIDGE)
        ridge[:, :p] += self._penalty.ridge / self._scale**2
        solve = sampled_inverse(
            sample.X[:, :width], proba, sample.weight, scale, ridge, form=form, n_threads=self._n_threads
        )
        if solve is None:
            self._metric = None
            return None

        def product(vector: Vector) -> Vector:
            return self._flat(solve(self._by_class(vector)))

        self._metric = product
        return product

    def groups(self) -> Groups:
        """N times its factor, of the solver's vector; what is not penalised makes groups of weight 0."""
        n_outputs, p = self._shape
        threshold, flat = self._penalty.threshold, np.arange(n_outputs * p + self._fit_intercept * n_outputs)
        if self._penalty.by_feature:
            weight, size = threshold / self._scale[0], n_outputs
        else:
            weight, size = (threshold / self._scale).ravel("F"), 1
        starts = np.concatenate([np.arange(0, n_outputs * p, size), np.arange(n_outputs * p, len(flat) + 1)])
        return Groups(flat, starts, np.concatenate([weight, np.zeros(len(flat) - n_outputs * p)]))

    def curvature(self, point: Point, active: NDArray[np.int64]) -> Blocks | RowModel:
        """F without N, or its Hessian at a point, of the active coordinates alone.

        F itself where rows are sparse and many features make its Hessian large; else the Hessian from at most 20,000
        rows, from all where these are no more; whole where that is affordable; else its blocks on the diagonal, one a
        class; else its diagonal.
        """
        n_outputs, p = self._shape
        is_coef = active < n_outputs * p
        outputs = np.where(is_coef, active % n_outputs, active - n_outputs * p)
        columns = np.where(is_coef, active // n_outputs, p)
        scale = np.concatenate([self._scale.ravel("F"), self._intercept_scale])[active]
        ridge = _ACTIVE_RIDGE + np.where(is_coef, self._penalty.ridge / scale**2, 0)
        if self._by_column is not None:
            center = self._by_column.center[columns]
            of_class = [np.flatnonzero(outputs == k) for k in range(n_outputs)]
            logits = self._by_column.logits(*self._unpack(point.x))
            return RowModel.of(self._by_column, active, of_class, columns, center, scale, ridge, logits)
        n_rows = min(self._source.n_rows, _LARGEST_SAMPLE, max(1, _SAMPLE_SIZE // (p + 1)))
        sample = self._centred_sample(n_rows)
        n_active = np.bincount(outputs, minlength=n_outputs)
        form, step = active_form(len(sample.X), n_active, self._budget.one_pass)
        sample = sample.every(step)
        proba = self._sample_proba(sample, point)
        exact = form == "whole" and len(sample.X) == self._source.n_rows
        if not exact:
            sample.blend(proba, _LABEL_SHARE)
        order, values, sizes = active_hessian(
            sample.X, proba[:, self._first :], sample.weight, outputs, columns, scale, ridge, form
        )
        return Blocks(active[order], values, sizes, exact)

    @cached_property
    def _by_column(self) -> Columns | None:
        """Sparse rows for `curvature`, where their whole Hessian can't be had and numbers a row and class can."""
        source, (n_outputs, p) = self._source, self._shape
        whole = n_outputs * (p + 1) <= LARGEST_WHOLE and source.n_rows * (p + 1) <= _SAMPLE_SIZE
        if self._penalty.by_feature or whole or source.n_rows * source.n_classes > _SAMPLE_SIZE:
            return None
        rows = source.sparse_rows()
        return None if rows is None else Columns(rows, self._center, source.n_classes)

    @property
    def active_limits(self) -> tuple[int, int]:
        """Groups that may join those of `curvature` at once, and coordinates up to which it is at its best."""
        return (_FIRST, LARGEST_WHOLE) if self._by_column is None else (self._scale.size, self._scale.size)

    def _centred_sample(self, n_rows: int) -> RowSample:
        """About n_rows of the rows, centred, in C order, with a column of ones for the intercepts."""
        if self._sample is None or n_rows != self._sample_rows:
            sample, p = self._source.sample(n_rows, self.moments), self._shape[1]
            rows = np.ones((len(sample.X), p + 1))
            np.subtract(sample.X, self._center, out=rows[:, :p])
            self._sample, self._sample_rows = replace(sample, X=rows), n_rows
        return self._sample

    def _sample_proba(self, sample: RowSample, point: Point) -> Matrix:
        """Probabilities (m, K) of the rows of a centred sample."""
        coef, intercept = self._unpack(point.x)
        proba, _ = _core.default.predict(
            _core.Rows(sample.X[:, : self._shape[1]], sample.offset),
            np.ascontiguousarray(coef),
            intercept + coef @ self._center,
            self._source.n_classes,
            _core.SOFTMAX,
            n_threads=1,
        )
        return proba

    def _target_means(self) -> Matrix:
        """(1/S) sum_i s_i q_i x_i^T of the outputs, (M, p).

        At coef = 0 and intercept = 0, without offsets, every probability is 1/K, and G is x_mean / K minus it.
        """
        if self._uniform_product is None:
            n_outputs = self._shape[0]
            zeros = np.zeros(self._shape, order="F")
            _, product, _ = self._source.loss_gradient(zeros, np.zeros(n_outputs), with_offset=False)
            self.n_passes += 1
            self._uniform_product = product / self._source.total_weight
        return np.asarray(self.moments.feature_mean / self._source.n_classes - self._uniform_product, order="F")
