"""The elastic-net penalty of coefficients W (M, p), with its absolute values taken by coefficient or by feature.

    h(W) = strength (1 - l1_ratio)/2 ||W||_F^2 + strength l1_ratio N(W),

N(W) = sum_kj |W_kj|, or, `by_feature`, sum_j ||W_.j||: then a feature is in the model, or out of it, for all classes
(Yuan and Lin 2006; for softmax regression Vincent and Hansen 2014).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softfast.sources import Matrix, Moments, Vector

# Sums of weights, C times them, and features beyond these would have squares that overflow or vanish.
LEAST, GREATEST = 1e-100, 1e100


def penalty_strength(C: float, total_weight: float) -> float:
    """1 / (C S), S the sum of the weights; 0 where C is infinite."""
    accepted = f"a number from {LEAST:.0e} to {GREATEST:.0e}"
    if not LEAST <= total_weight <= GREATEST:
        raise ValueError(f"sample_weight (times class_weight) must have for its sum {accepted}, got {total_weight:.3g}")
    if math.inf == C:
        return 0.0
    try:
        inverse = float(C) * total_weight
    except OverflowError:  # a large integer
        inverse = math.inf
    if not LEAST <= inverse <= GREATEST:
        size = f"C={C!r} and weights that add up to {total_weight:.3g}"
        raise ValueError(f"C times the sum of the weights must be {accepted} (np.inf: no penalty), got {size}")
    return 1 / inverse


def require_size(moments: Moments, strength: float) -> None:
    """An error where squares of features overflow; or vanish and no penalty leaves something to measure them by."""
    root_mean_square = np.sqrt(moments.feature_variance + moments.feature_mean**2)
    large = ~(root_mean_square <= GREATEST)
    if large.any():
        at = int(np.argmax(large))
        seen = f"a root mean square of {root_mean_square[at]:.3g} in feature {at}"
        raise ValueError(f"X must hold numbers of at most {GREATEST:.0e} in absolute value, got {seen}")
    small = (moments.feature_size > 0) & (moments.feature_size < LEAST)
    if strength == 0 and small.any():
        at = int(np.argmax(small))
        seen = f"a mean absolute value of {moments.feature_size[at]:.3g} in feature {at}"
        raise ValueError(f"X must hold numbers of at least {LEAST:.0e} in absolute value for C=inf, got {seen}")


@dataclass(frozen=True)
class Penalty:
    """h of the module's docstring."""

    strength: float
    l1_ratio: float = 0.0
    by_feature: bool = False

    @property
    def ridge(self) -> float:
        """The factor of half the squared norm."""
        return self.strength * (1 - self.l1_ratio)

    @property
    def threshold(self) -> float:
        """The factor of N."""
        return self.strength * self.l1_ratio

    def norms(self, matrix: Matrix) -> Matrix:
        """What N adds up: the absolute values (M, p), or the norms (1, p) of the columns."""
        return np.linalg.norm(matrix, axis=0, keepdims=True) if self.by_feature else np.abs(matrix)


@dataclass(frozen=True)
class Groups:
    """sum_g weight_g ||x_g||, x_g the elements members[starts[g]:starts[g + 1]] of a flat vector, each in one group."""

    members: NDArray[np.int64]
    starts: NDArray[np.int64]
    weight: Vector
