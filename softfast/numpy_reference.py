"""Loss and gradient of softmax regression in plain NumPy: the yardstick of the demonstration and the benchmarks.

It is what a competent NumPy user writes: two matrix products, everything between them in place, all in the dtype of X.
It makes one (n, K) array and reads X twice.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def loss_gradient(
    X: NDArray[Any],
    y: NDArray[np.integer],
    coef: NDArray[Any],
    intercept: NDArray[Any],
    sample_weight: NDArray[Any] | None = None,
) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """Mean cross-entropy of softmax regression and its gradient, as `softfast.loss_gradient` defines them.

    Parameters
    ----------
    X : ndarray of shape (n, p), float32 or float64
    y : ndarray of shape (n,)
        Integer labels 0..K-1.
    coef : ndarray of shape (K, p)
    intercept : ndarray of shape (K,)
    sample_weight : ndarray of shape (n,), optional
        Weights >= 0, not all zero; all 1 by default.

    Returns
    -------
    loss : float
    grad_coef : ndarray of shape (K, p), of the dtype of X
    grad_intercept : ndarray of shape (K,), of the dtype of X

    Examples
    --------
    >>> import numpy as np
    >>> from softfast.numpy_reference import loss_gradient
    >>> X, y = np.array([[1.0], [-1.0]]), np.array([0, 1])
    >>> loss_gradient(X, y, np.zeros((2, 1)), np.zeros(2))
    (0.6931471805599453, array([[-0.5],
           [ 0.5]]), array([0., 0.]))
    """
    rows = np.arange(len(X))
    logits = X @ coef.astype(X.dtype, copy=False).T
    logits += intercept.astype(X.dtype, copy=False)
    logits -= logits.max(axis=1, keepdims=True)
    at_label = logits[rows, y]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1)
    losses = np.log(total) - at_label
    residual = np.divide(logits, total[:, None], out=logits)
    residual[rows, y] -= 1
    if sample_weight is None:
        residual /= len(X)
        loss = losses.mean()
    else:
        weight = (sample_weight / sample_weight.sum()).astype(X.dtype, copy=False)
        residual *= weight[:, None]
        loss = weight @ losses
    return float(loss), residual.T @ X, residual.sum(axis=0)
