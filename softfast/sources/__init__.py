"""Where rows live.  Every source offers the operations of `Source`, and nothing above knows which one it has."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Weighted means over the rows: one pass, once for a fit.

    feature_mean, feature_square, feature_size : (p,), the means of x, x^2 and abs(x)
    class_mean : (K,), the mean of the targets q
    """

    feature_mean: Vector
    feature_square: Vector
    feature_size: Vector
    class_mean: Vector


class Source(Protocol):
    """n rows with p features, targets over K classes, and weights whose sum is `total_weight`."""

    n_rows: int
    n_features: int
    n_classes: int
    total_weight: float

    def moments(self) -> Moments:
        """Weighted means over the rows."""
        ...

    def loss_gradient(self, coef: Matrix, intercept: Vector) -> tuple[float, Matrix, Vector]:
        """Weighted sums over the rows, in float64 arithmetic: loss, residual^T X (M, p), residual^T 1 (M,).

        coef (M, p) with M = K, or M = K - 1 where class 0 is the reference class, whose logits are 0.
        """
        ...
