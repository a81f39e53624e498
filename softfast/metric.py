"""An approximate Hessian of softmax regression from a sample of rows, and its inverse as a function."""

from collections.abc import Callable

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from softfast.sources import Matrix, Vector

# Rows whose products with all classes, (rows, M p), are held at once.
_CHUNK = 1024


def sampled_inverse(
    features: Matrix, proba: Matrix, weight: Vector, scale: Matrix, ridge: Matrix, *, whole: bool
) -> Callable[[Matrix], Matrix] | None:
    """Multiplication by H^-1, H = sum_i w_i (diag(p_i) - p_i p_i^T) (x) x_i x_i^T in scaled coordinates, plus a ridge.

    features (m, p), proba (m, M), weight (m,), scale and ridge (M, p): H's element (kj, lj') is divided by
    scale_kj scale_lj'. The function takes and returns (M, p). Not `whole`: only the blocks k = l. None where rounding
    leaves no positive definite matrix.
    """
    try:
        return (
            _whole_inverse(features, proba, weight, scale, ridge)
            if whole
            else _block_inverse(features, proba, weight, scale, ridge)
        )
    except np.linalg.LinAlgError:
        return None


def _block_inverse(
    features: Matrix, proba: Matrix, weight: Vector, scale: Matrix, ridge: Matrix
) -> Callable[[Matrix], Matrix]:
    n_outputs, width = scale.shape
    factors = []
    for k in range(n_outputs):
        curvature = weight * proba[:, k] * (1 - proba[:, k])
        block = features.T @ (curvature[:, None] * features) / np.outer(scale[k], scale[k])
        block[np.diag_indices(width)] += ridge[k]
        factors.append(cho_factor(block, overwrite_a=True))
    return lambda v: np.stack([cho_solve(factor, row) for factor, row in zip(factors, v, strict=True)])


def _whole_inverse(
    features: Matrix, proba: Matrix, weight: Vector, scale: Matrix, ridge: Matrix
) -> Callable[[Matrix], Matrix]:
    n_outputs, width = scale.shape
    size = n_outputs * width
    hessian = np.zeros((size, size))
    for begin in range(0, len(features), _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        root = np.sqrt(weight[chunk])[:, None] * proba[chunk]
        products = (root[:, :, None] * features[chunk, None, :]).reshape(-1, size)
        hessian -= products.T @ products
    for k in range(n_outputs):
        own = slice(k * width, (k + 1) * width)
        hessian[own, own] += features.T @ ((weight * proba[:, k])[:, None] * features)
    flat = scale.ravel()
    hessian /= flat[:, None]
    hessian /= flat
    hessian[np.diag_indices(size)] += ridge.ravel()
    factor = cho_factor(hessian, overwrite_a=True)
    return lambda v: np.asarray(cho_solve(factor, v.ravel())).reshape(v.shape)
