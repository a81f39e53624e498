"""The penalised softmax regression objective on any source of rows, and its certificate.

With rows x_i in R^p, weights s_i >= 0, S = sum_i s_i, targets q_i in the simplex and logits z_i = W x_i + b, W (M, p),
b (M,), where M = K, or M = K - 1 with the logit of class 0 fixed at 0 (logistic regression is K = 2, M = 1):

    F(W, b) = L(W, b) + penalty/2 ||W||^2,      L = (1/S) sum_i s_i [logsumexp(z_i) - <q_i, z_i>].

Gradient: dF/dW = G + penalty W and dF/db = g, with G = (1/S) R^T X, g = (1/S) R^T 1, R_i = s_i (p_i - q_i).

**Certificate.**  logsumexp(z) = <p, z> + H(p) at p = softmax(z), and >= <t, z> + H(t) for every t in the simplex
(Fenchel-Young).  So for any probabilities t_i with sum_i s_i (t_i - q_i) = 0 (the intercept is not penalised),

    min F >= D = (1/S) sum_i s_i H(t_i) - ||T||^2 / (2 penalty),     T = (1/S) sum_i s_i (t_i - q_i) x_i^T,

and F - D is a duality gap.  t_i = p_i gives F - D = ||G + penalty W||^2 / (2 penalty), but is feasible only where
g = 0.  Therefore t_i = (1 - e) p_i + e u with one u for all rows, u = q_mean - g (1 - e)/e, and e the smallest number
that keeps u in the simplex: e = 1 / (1 + min_{g_k > 0} q_mean_k / g_k).  The entropy is concave, so
sum s_i H(t_i)/S >= (1 - e) A + e H(u) with A = (1/S) sum_i s_i H(p_i) = L - <G, W> - <g, b>, and
T = (1 - e) G + e B with B = u x_mean^T - (1/S) sum_i s_i q_i x_i^T.  Written without cancellation,

    F - D <= ||G + penalty W||^2 / (2 penalty)
             + <g, b> + e (A - H(u)) + (2 e <G, B - G> + e^2 ||B - G||^2) / (2 penalty).

It costs no pass over the rows.  An allowance for rounding is added.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from softfast import _core
from softfast.metric import sampled_inverse
from softfast.sources import Matrix, RowSample, Source, Vector

# Floating-point operations that a metric may always cost, its largest size (d x d floats), and sample.
_METRIC_WORK = 3e9
_LARGEST_METRIC = 4000
_LARGEST_SAMPLE = 20_000
# The metric's probabilities are (1 - share) p + share q.  Where a label's own probability is nearly 0 the curvature
# p (1 - p) all but vanishes although the gradient does not, and a Newton step overshoots a hundredfold: covtype with
# every column standardised took 397 passes with a share of 0, 188 with 0.02, 110 with 0.1, 80 with 0.3; with only its
# numeric columns standardised 57, 52, 45, 44; shuttle 201, 180, 151, 150.
_LABEL_SHARE = 0.2
# In units of the diagonal, which is near 1: keeps the factorisation possible where features are collinear.
_RIDGE = 1e-8


@dataclass(frozen=True)
class Point:
    """F, its gradient and its duality gap at one point, `x` in the solver's coordinates."""

    x: Vector
    value: float
    gradient: Vector
    gap: float
    """Upper bound of F - min F; NaN without penalty, where no certificate exists."""
    loss: float
    """L, the mean cross-entropy without the penalty."""


class SoftmaxObjective:
    """F as a function of one flat vector, in coordinates in which its curvature is near the identity.

    The vector is (W scaled, b shifted), flat: W_kj = x_kj / scale_kj and b = x_b / scale_b - W x_mean, that is, the
    features are centred (where there is an intercept to take it up) and divided by their spread, and each class is
    measured by its frequency: scale_kj^2 = q_k (1 - q_k) var_j + penalty, the diagonal of the Hessian at constant
    probabilities q.  A change of variables, not of the problem: the penalty stays on W.  So a solver that starts with
    the identity as its metric is not disturbed by the units of the features.
    """

    def __init__(self, source: Source, *, penalty: float, fit_intercept: bool, n_outputs: int) -> None:
        self._source = source
        self._penalty = penalty
        self._fit_intercept = fit_intercept
        self._shape = (n_outputs, source.n_features)
        self.n_passes = 0
        moments = source.moments()
        self._moments = moments
        self._first = source.n_classes - n_outputs
        self._center = moments.feature_mean if fit_intercept else np.zeros(source.n_features)
        square = moments.feature_mean**2
        spread = moments.feature_variance + (0 if fit_intercept else square)
        # What is left of a constant column after centring is rounding, not spread.
        spread = np.where(spread <= 1e-28 * square, 0, spread)
        frequency = moments.class_mean[self._first :]
        frequency = np.maximum(frequency * (1 - frequency), 1e-6)
        scale = np.sqrt(np.outer(frequency, spread) + penalty)
        self._scale = np.where(scale > 0, scale, 1.0)
        self._intercept_scale = np.sqrt(frequency)
        self._uniform_product: Matrix | None = None
        self._sample: RowSample | None = None
        self._whole = False

    def pack(self, coef: Matrix, intercept: Vector) -> Vector:
        """The solver's vector for coef (M, p) and intercept (M,)."""
        flat = (coef * self._scale).ravel()
        if not self._fit_intercept:
            return flat
        return np.concatenate([flat, (intercept + coef @ self._center) * self._intercept_scale])

    def unpack(self, x: Vector) -> tuple[Matrix, Vector]:
        """Coefficients (M, p) and intercept (M,) of the solver's vector.

        Without a reference class, adding one vector to every class changes no probability: the representative whose
        classes sum to zero is taken, which has the smallest penalty.  The gradient sums to zero likewise.
        """
        size = self._scale.size
        coef = x[:size].reshape(self._shape) / self._scale
        if self._first == 0:
            coef -= coef.mean(axis=0)
        if not self._fit_intercept:
            return coef, np.zeros(self._shape[0])
        intercept = x[size:] / self._intercept_scale - coef @ self._center
        return coef, intercept if self._first else intercept - intercept.mean()

    def __call__(self, x: Vector) -> Point:
        """F, gradient and gap at x: one pass over the rows."""
        coef, intercept = self.unpack(x)
        loss, product, residual = self._source.loss_gradient(coef, intercept)
        self.n_passes += 1
        total = self._source.total_weight
        loss, product, residual = loss / total, product / total, residual / total
        if not x.any():
            self._uniform_product = product
        gradient = product + self._penalty * coef
        value = loss + 0.5 * self._penalty * float(np.vdot(coef, coef))
        if self._fit_intercept:
            gap = self._gap(loss, coef, intercept, product, residual)
            centred = gradient - np.outer(residual, self._center)
            flat = np.concatenate([(centred / self._scale).ravel(), residual / self._intercept_scale])
        else:
            gap = self._gap(loss, coef, intercept, product, np.zeros_like(residual))
            flat = (gradient / self._scale).ravel()
        return Point(x, value, flat, gap, loss)

    def metric(self, point: Point) -> Callable[[Vector], Vector] | None:
        """Multiplication by the inverse of an approximate Hessian at a point, from a sample of the rows.

        The whole Hessian, (1/S) sum_i s_i (diag(p_i) - p_i p_i^T) (x) x_i x_i^T + penalty, where it is affordable;
        else its blocks on the diagonal, one a class; None where these are too large as well. (Byrd, Chin, Neveitt and
        Nocedal 2011 sample the Hessian so.)
        """
        n_outputs, p = self._shape
        width = p + self._fit_intercept
        if self._sample is None:
            # As much work as twenty passes over the rows, or a tenth of a second.
            budget = max(_METRIC_WORK, 80.0 * self._source.n_rows * n_outputs * width)
            enough = min(self._source.n_rows, 5 * width)
            whole, blocks = budget / (n_outputs * width) ** 2, budget / (n_outputs * width**2)
            self._whole = whole >= enough and n_outputs * width <= _LARGEST_METRIC
            n_rows = whole if self._whole else blocks
            if n_rows < enough or width > _LARGEST_METRIC:
                return None
            self._sample = self._source.sample(int(min(n_rows, _LARGEST_SAMPLE)), self._moments)
        sample = self._sample
        coef, intercept = self.unpack(point.x)
        proba, _ = _core.default.predict(
            _core.Rows(sample.X), coef, intercept, self._source.n_classes, _core.SOFTMAX, n_threads=1
        )
        proba *= 1 - _LABEL_SHARE
        proba[np.arange(len(proba)), sample.labels] += _LABEL_SHARE
        features, scale = sample.X - self._center, self._scale
        if self._fit_intercept:
            features = np.column_stack([features, np.ones(len(features))])
            scale = np.column_stack([scale, self._intercept_scale])
        ridge = np.full((n_outputs, width), _RIDGE)
        ridge[:, :p] += self._penalty / self._scale**2
        solve = sampled_inverse(features, proba[:, self._first :], sample.weight, scale, ridge, whole=self._whole)
        if solve is None:
            return None

        def product(vector: Vector) -> Vector:
            # From the flat layout (coefficients, then intercepts) to one row a class, and back.
            rows = np.empty((n_outputs, width))
            rows[:, :p] = vector[: n_outputs * p].reshape(n_outputs, p)
            rows[:, p:] = vector[n_outputs * p :].reshape(n_outputs, width - p)
            rows = solve(rows)
            return np.concatenate([rows[:, :p].ravel(), rows[:, p:].ravel()])

        return product

    def _gap(self, loss: float, coef: Matrix, intercept: Vector, product: Matrix, residual: Vector) -> float:
        """The bound of the module's docstring; `product` is G, `residual` is g (zero without an intercept)."""
        if self._penalty == 0:
            return float("nan")
        eps = np.finfo(np.float64).eps
        gradient = product + self._penalty * coef
        linear = float(np.vdot(product, coef)) + float(residual @ intercept)
        # Rounding: of the scalar terms, and of the sums that make the gradient (abs(residual) <= 1 row by row).
        noise = 8 * eps * float(np.sqrt(coef.shape[0])) * float(np.linalg.norm(self._moments.feature_size))
        scalar = 8 * eps * (loss + abs(linear) + 0.5 * self._penalty * float(np.vdot(coef, coef)))
        gap = (float(np.linalg.norm(gradient)) + noise) ** 2 / (2 * self._penalty) + scalar

        full = residual if self._first == 0 else np.concatenate([[-residual.sum()], residual])
        rising = full > 0
        if rising.any():
            moments = self._moments
            ratio = float(np.min(moments.class_mean[rising] / full[rising]))
            mix = 1 / (1 + ratio)
            u = np.maximum(moments.class_mean - full * ratio, 0)
            entropy = -float(np.sum(u[u > 0] * np.log(u[u > 0])))
            step = np.outer(u[self._first :], moments.feature_mean) - self._target_means() - product
            gap += float(residual @ intercept) + mix * (loss - linear - entropy)
            gap += (2 * mix * float(np.vdot(product, step)) + mix**2 * float(np.vdot(step, step))) / (2 * self._penalty)
        return gap

    def _target_means(self) -> Matrix:
        """(1/S) sum_i s_i q_i x_i^T of the outputs, (M, p).

        At coef = 0 and intercept = 0 every probability is 1/K, and G is x_mean / K minus it.
        """
        if self._uniform_product is None:
            n_outputs = self._shape[0]
            _, product, _ = self._source.loss_gradient(np.zeros(self._shape), np.zeros(n_outputs))
            self.n_passes += 1
            self._uniform_product = product / self._source.total_weight
        return self._moments.feature_mean / self._source.n_classes - self._uniform_product
