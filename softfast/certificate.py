"""The duality gap of penalised softmax regression, from what an evaluation of F and its gradient leaves at hand.

With rows x_i in R^p, weights s_i >= 0, S = sum_i s_i, targets q_i in the simplex, offsets o_i in R^K and logits
z_i = W x_i + b + o_i:

    F(W, b) = L(W, b) + h(W),      L = (1/S) sum_i s_i [logsumexp(z_i) - <q_i, z_i>],

h(W) = ridge/2 ||W||^2 + threshold N(W), N the sum of the absolute values of the coefficients or of the norms of the
columns (penalty.py). G = (1/S) R^T X and g = (1/S) R^T 1, R_i = s_i (p_i - q_i), p_i = softmax(z_i), is the gradient
of L.

**Weak duality.**  logsumexp(z) = <p, z> + H(p) at p = softmax(z), and >= <t, z> + H(t) for every t in the simplex
(Fenchel-Young).  So for any probabilities t_i with sum_i s_i (t_i - q_i) = 0 (the intercept is not penalised),

    min F >= D = (1/S) sum_i s_i [H(t_i) + <t_i - q_i, o_i>] - h*(-T),     T = (1/S) sum_i s_i (t_i - q_i) x_i^T,

and F - D is a duality gap.  h* is the conjugate of h.

**The intercept.**  p_i is feasible only where g = 0.  Therefore p'_i = (1 - e) p_i + e u with one u for all rows,
u = q_mean - g (1 - e)/e, and e the smallest number that keeps u in the simplex:
e = 1 / (1 + min_{g_k > 0} q_mean_k / g_k).  The entropy is concave and the offsets' term is linear, so

    (1/S) sum_i s_i [H(p'_i) + <p'_i - q_i, o_i>] >= E = (1 - e) A + e Q,
    A = (1/S) sum_i s_i [H(p_i) + <p_i - q_i, o_i>] = L - <G, W> - <g, b>,
    Q = H(u) + <u, o_mean> - (1/S) sum_i s_i <q_i, o_i>,

and T' = (1 - e) G + e B with B = u x_mean^T - (1/S) sum_i s_i q_i x_i^T.  Without intercept e = 0.

**Threshold 0** (L2).  h*(V) = ||V||^2 / (2 ridge), t_i = p'_i, and written without cancellation

    F - D <= ||G + ridge W||^2 / (2 ridge)
             + <g, b> + e (A - Q) + (2 e <G, B - G> + e^2 ||B - G||^2) / (2 ridge).

**Threshold above 0.**  With S(V) the soft threshold (of coefficients, or of whole columns) and C(V) = V - S(V), whose
absolute values or column norms are at most the threshold, h*(V) = ||S(V)||^2 / (2 ridge); with ridge = 0 it is 0
where S(V) = 0 and infinite elsewhere.  So t_i may have to be nearer to q_i: t_i = q_i + a (p'_i - q_i) with 0 < a <= 1
gives T = a T', keeps the constraint of the intercept, and with H(t_i) >= a H(p'_i) + (1 - a) H(q_i) >= a H(p'_i) the
sum over the rows is at least a E.  Then with V = a T' and c = a (1 - e)

    F - D <= (1 - c) L + c <g, b> - a e (Q + <B, W>) + [h(W) + h*(-V) + <V, W>],
    [...] = ||ridge W + S(V)||^2 / (2 ridge) + sum (threshold |W| + C(V) W),

a sum of terms >= 0.  Of the a taken, 1 (where ridge > 0) and the largest for which S(V) = 0, the better one counts:
the first has an error that is quadratic in that of the gradient, the second does without the ridge.  The dual point
is that of gap-safe screening (Ndiaye, Fercoq, Gramfort and Salmon 2017), moved for the intercept.

It costs no pass over the rows.  Allowances for rounding are added.
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from softfast.penalty import Penalty
from softfast.sources import Matrix, Moments, Vector

EPS = float(np.finfo(np.float64).eps)


class Terms(NamedTuple):
    """Sums over features that the bound for threshold 0 is made of."""

    gradient: float
    """||G + ridge W||^2"""
    linear: float
    """<G, W>"""
    size: float
    """||W||^2"""
    product: float
    """||G||^2"""
    cross: float
    """<G, centred_means>; 0 where there is no intercept"""
    product_mean: Vector
    """G x_mean"""
    coef_mean: Vector
    """W x_mean"""


def _inner(a: Matrix, b: Matrix) -> float:
    """The sum of the products of elements, in whatever order they lie in memory."""
    return float(np.einsum("kj,kj->", a, b))


class Certificate:
    """The bound of the module's docstring for one problem.

    `first` is the number of classes without coefficients of their own (0, or 1: class 0 is the reference class);
    `target_means()` gives (1/S) sum_i s_i q_i x_i^T of the others, (M, p).
    """

    def __init__(self, moments: Moments, penalty: Penalty, first: int, target_means: Callable[[], Matrix]) -> None:
        self._moments = moments
        self._penalty = penalty
        self._first = first
        self._target_means = target_means

    @property
    def smooth(self) -> bool:
        """Whether `smooth_gap` bounds anything, and not `sparse_gap`, or nothing without a penalty."""
        return self._penalty.threshold == 0 < self._penalty.strength

    @cached_property
    def centred_means(self) -> Matrix:
        """(1/S) sum_i s_i (q_i - q_mean) x_i^T of the classes with coefficients, (M, p)."""
        means = self._target_means()
        means -= np.multiply.outer(self._moments.feature_mean, self._moments.class_mean[self._first :]).T
        return means

    def smooth_gap(self, loss: float, intercept: Vector, residual: Vector, terms: Terms, *, eps: float = EPS) -> float:
        """Upper bound of F - min F for threshold 0; `loss` is L, `residual` is g (zero without an intercept).

        `eps` is the precision of the arithmetic that they come from.

        NaN without penalty, where there is no bound.
        """
        if not self.smooth:
            return float("nan")
        ridge = self._penalty.ridge
        linear = terms.linear + float(residual @ intercept)
        # Rounding: of the scalar terms, and of the sums that make the gradient (abs(residual) <= 1 row by row). An
        # error of g counts by the intercept of centred features: what it moves there by the mean, G's moves back.
        noise = 8 * eps * float(np.sqrt(len(intercept))) * float(np.linalg.norm(self._moments.feature_size))
        centred = float(np.abs(intercept + terms.coef_mean).max())
        scalar = loss + abs(linear) + centred + 0.5 * ridge * terms.size + self._moments.offset_size
        scalar *= 8 * eps
        gap = (float(np.sqrt(terms.gradient)) + noise) ** 2 / (2 * ridge) + scalar

        mix, u = self._mixture(residual)
        if mix > 0:
            gap += float(residual @ intercept) + mix * (loss - linear - self._mixture_value(u))
            # B - G multiplied out, which need not be made.
            moved = (u - self._moments.class_mean)[self._first :]
            mean_square, means_mean, means_square = self._mean_products
            cross = float(moved @ terms.product_mean) - terms.cross
            apart = float(moved @ moved) * mean_square - 2 * float(moved @ means_mean)
            apart += means_square - 2 * cross + terms.product
            gap += (2 * mix * (cross - terms.product) + mix**2 * apart) / (2 * ridge)
        return gap

    def balanced_gap(self, residual: Vector, terms: Terms) -> float:
        """About what `smooth_gap` would be at the best intercepts, where the residual is 0; NaN without penalty.

        ||G - g x_mean^T + ridge W||^2 / (2 ridge): G but for what goes with the residual.
        """
        if not self.smooth:
            return float("nan")
        ridge, mean = self._penalty.ridge, self._moments.feature_mean
        along = float(residual @ (terms.product_mean + ridge * terms.coef_mean))
        square = terms.gradient - 2 * along + float(residual @ residual) * float(mean @ mean)
        return max(square, 0.0) / (2 * ridge)

    @cached_property
    def _mean_products(self) -> tuple[float, Vector, float]:
        """||x_mean||^2, and of `centred_means` the product with x_mean and the square."""
        mean, means = self._moments.feature_mean, self.centred_means
        return float(mean @ mean), means @ mean, _inner(means, means)

    def sparse_gap(self, loss: float, coef: Matrix, intercept: Vector, product: Matrix, residual: Vector) -> float:
        """Upper bound of F - min F for a threshold above 0; `loss` is L, `product` is G, `residual` is g."""
        penalty = self._penalty
        mix, u = self._mixture(residual)
        moved, constant = product, 0.0
        if mix > 0:
            target = self._moved_product(u)
            moved = (1 - mix) * product + mix * target
            constant = self._mixture_value(u) + _inner(target, coef)
        linear = float(residual @ intercept)
        # Rounding of the sums that make G and g: abs(residual) <= 1 row by row.
        noise = 8 * EPS * np.broadcast_to(self._moments.feature_size, coef.shape)
        scalar = loss + abs(linear) + float(np.abs(intercept).sum()) + mix * abs(constant) + self._moments.offset_size
        scalar *= 8 * EPS
        largest = float((penalty.norms(moved) + penalty.norms(noise)).max(initial=0.0))
        feasible = min(1.0, penalty.threshold / largest * (1 - 4 * EPS)) if largest > 0 else 1.0
        gaps = []
        for factor in {1.0, feasible} if penalty.ridge > 0 else {feasible}:
            share = factor * (1 - mix)
            gap = (1 - share) * loss + share * linear - factor * mix * constant + scalar
            gaps.append(gap + self._fenchel_young(coef, factor * moved, noise, exact=factor == feasible))
        return min(gaps)

    def _fenchel_young(self, coef: Matrix, v: Matrix, noise: Matrix, *, exact: bool) -> float:
        """h(W) + h*(-V) + <V, W>, with an allowance for an error of V; `exact`: S(V) is known to be 0."""
        ridge, threshold = self._penalty.ridge, self._penalty.threshold
        if exact:
            kept, clipped = np.zeros_like(v), v
        else:
            norms = self._penalty.norms(v)
            kept = v * np.divide(np.maximum(norms - threshold, 0), norms, out=np.zeros_like(norms), where=norms > 0)
            clipped = v - kept
        size = threshold * float(self._penalty.norms(coef).sum())
        slack = size + _inner(clipped, coef)
        result = max(slack, 0.0) + 8 * EPS * size + _inner(noise, np.abs(coef))
        if ridge > 0:
            result += (1 + 8 * EPS) * float(np.square(np.abs(ridge * coef + kept) + noise).sum()) / (2 * ridge)
        return result

    def _mixture(self, residual: Vector) -> tuple[float, Vector]:
        """The docstring's e and u (K,), which make the dual point feasible for the intercept; 0 where it is."""
        full = residual if self._first == 0 else np.concatenate([[-residual.sum()], residual])
        rising = full > 0
        if not rising.any():
            return 0.0, np.empty(0)
        class_mean = self._moments.class_mean
        ratio = float(np.min(class_mean[rising] / full[rising]))
        return 1 / (1 + ratio), np.maximum(class_mean - full * ratio, 0)

    def _moved_product(self, u: Vector) -> Matrix:
        """B, (M, p)."""
        moved = (u - self._moments.class_mean)[self._first :]
        return np.multiply.outer(self._moments.feature_mean, moved).T - self.centred_means

    def _mixture_value(self, u: Vector) -> float:
        """Q."""
        entropy = -float(np.sum(u[u > 0] * np.log(u[u > 0])))
        return entropy + float(u @ self._moments.offset_mean) - self._moments.target_offset
