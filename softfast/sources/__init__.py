"""Where rows live.  Every source offers the operations of `Source`, and nothing above knows which one it has."""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Weighted means over the rows: one pass, once for a fit.

    n_rows, total_weight : over how many rows, and the sum of their weights
    feature_mean, feature_variance, feature_size : (p,), of x the mean and the variance, and the mean of abs(x)
    class_mean : (K,), the mean of the targets q
    offset_mean, offset_size, target_offset : of the offsets o, (K,) the mean, and the means of max |o_k| and of <q, o>
    """

    n_rows: int
    total_weight: float
    feature_mean: Vector
    feature_variance: Vector
    feature_size: Vector
    class_mean: Vector
    offset_mean: Vector
    offset_size: float
    target_offset: float


@dataclass(frozen=True)
class RowSample:
    """Some of the rows: X (m, p) float64, and weights (m,) with which their sums estimate means over all rows.

    targets : labels (m,) or probabilities (m, K)
    offset : (m, K), C order, or None
    """

    X: Matrix
    targets: NDArray[Any]
    weight: Vector
    offset: Matrix | None

    def __sizeof__(self) -> int:
        # What moves objects between processes decides and counts by it.
        return sum(a.nbytes for a in (self.X, self.targets, self.weight, self.offset) if a is not None)

    def every(self, step: int) -> Self:
        """Every step-th row, with weights for as many."""
        offset = None if self.offset is None else np.ascontiguousarray(self.offset[::step])
        return type(self)(self.X[::step], self.targets[::step], step * self.weight[::step], offset)

    def blend(self, proba: NDArray[Any], share: float, even_share: float = 0.0) -> None:
        """Replace p (m, K) by (1 - even_share) ((1 - share) p + share q) + even_share / K, q the targets."""
        proba *= (1 - even_share) * (1 - share)
        if self.targets.ndim == 1:
            proba[np.arange(len(proba)), self.targets] += (1 - even_share) * share
        else:
            proba += (1 - even_share) * share * self.targets
        proba += even_share / proba.shape[1]


@dataclass(frozen=True)
class SparseRows:
    """All rows: X (n, p), targets, weights (n,) with which their sums are means, offsets (n, K) or None."""

    X: csr_array
    targets: NDArray[Any]
    weight: Vector
    offset: Matrix | None


@dataclass(frozen=True)
class Hard:
    """What makes rows hard: of the residuals q - p at some points, (coef, intercept), the sum of the positive parts.

    From `certain` on, at one point, a row is in a sample; below with a chance in proportion.
    """

    points: tuple[tuple[Matrix, Vector], ...]
    certain: float


@dataclass(frozen=True)
class Margins:
    """Of rows with a weight, margins z_label - z_k over the sum of the absolute values of their terms, k not the label.

    lowest, highest : (K, K), of the rows with each label, towards each class k; inf, -inf where there are none
    least : (m,), the lowest of all, in no order, with X (m, p) float64, labels (m,) and `others` (m,), the k
    """

    lowest: Matrix
    highest: Matrix
    least: Vector
    X: Matrix
    labels: NDArray[np.int64]
    others: NDArray[np.int64]


class Source(Protocol):
    """n rows with p features, targets over K classes, and weights whose sum is `total_weight`; maybe offsets."""

    n_rows: int
    n_features: int
    n_classes: int
    total_weight: float
    has_offset: bool
    dtype: np.dtype[Any]
    """Of the rows: float32 or float64."""

    def merged(self) -> "tuple[Source, csr_array] | None":
        """Rows of fewer features, X Q with Q (p, fewer) of orthonormal columns and every x_i in their span, and Q.

        With coef = other Q^T logits and norms are those of the others, and nothing orthogonal to the span helps: under
        a ridge both are one problem. None where few features would go.
        """
        ...

    def sparse_rows(self) -> SparseRows | None:
        """The rows themselves, where they are sparse and in memory."""
        ...

    def moments(self) -> Moments:
        """Weighted means over the rows."""
        ...

    def sample(self, n_rows: int, moments: Moments, hard: Hard | None = None) -> RowSample:
        """A random sample of about n_rows rows, always the same one, for estimates of second moments.

        A row's chance grows with its weight, with the rarity of its class and with its distance from the mean in units
        of the features' spread, and its weight in the sample makes up for it: a sample that misses the few rows with a
        rare class or a rarely used feature knows nothing of the curvature there.  Hard rows may come on top.
        """
        ...

    def loss_gradient(
        self, coef: Matrix, intercept: Vector, *, with_offset: bool = True, single: bool = False
    ) -> tuple[float, Matrix, Vector]:
        """Weighted sums over the rows: loss, residual^T X (M, p), residual^T 1 (M,).

        In float64 arithmetic; `single`, for rows of float32: each block of rows in float32.

        coef (M, p) in C or F order, with M = K, or M = K - 1 where class 0 is the reference class, whose logits are 0
        but for the offsets.
        """
        ...

    def hessian_vector(
        self, coef: Matrix, intercept: Vector, direction: Matrix, direction_intercept: Vector
    ) -> tuple[Matrix, Vector]:
        """Weighted sums over the rows: the loss's Hessian at coef and intercept times a direction, shaped like them."""
        ...

    def overlaps(self, coef: Matrix, intercept: Vector) -> Matrix:
        """The weighted sum over the rows of p p^T, (K, K)."""
        ...

    def extremes(self) -> tuple[Matrix, Matrix]:
        """Least and greatest value of each feature in each class, (K, p), of rows with a weight; inf, -inf if none."""
        ...

    def margins(self, coef: Matrix, intercept: Vector, center: Vector, n_least: int) -> Margins:
        """Margins of the logits z = coef (x - center) + intercept, coef (K, p), and the n_least lowest."""
        ...
