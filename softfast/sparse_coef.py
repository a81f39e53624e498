"""Coefficients that are kept sparse: the estimator's `sparsify` and `densify`, and predictions from them."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.utils.validation import check_is_fitted

from softfast import _core
from softfast.validation import require_finite


class SparseCoef:
    """What a linear classifier offers for `coef_`, as in scikit-learn."""

    coef_: Any

    def sparsify(self) -> Self:
        """Convert `coef_` to a sparse array, CSR.

        For fits with an L1 penalty: where most coefficients are 0, models take less memory and smaller files. Sparse
        coefficients take 12 bytes for each that is not 0, dense ones 8 bytes for each; predictions are the same up to
        rounding. A later `fit` makes dense ones.

        Returns
        -------
        self : SoftmaxRegression

        Examples
        --------
        >>> from softfast import SoftmaxRegression
        >>> X, y = [[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]], [0, 0, 1, 1]
        >>> model = SoftmaxRegression(l1_ratio=1.0).fit(X, y).sparsify()
        >>> model.coef_.nnz, model.coef_.shape
        (1, (1, 2))
        >>> model.predict([[0.0, 0.0], [3.0, 0.0]]).tolist()
        [0, 1]
        """
        check_is_fitted(self)
        if not issparse(self.coef_):
            self.coef_ = csr_array(self.coef_)
        return self

    def densify(self) -> Self:
        """Convert `coef_` back to an array, (K, p), as a fit leaves it.

        Returns
        -------
        self : SoftmaxRegression
        """
        check_is_fitted(self)
        self.coef_ = self._dense_coef()
        return self

    def _dense_coef(self) -> NDArray[np.float64]:
        """`coef_` as an array, whatever it is."""
        return np.asarray(self.coef_.toarray() if issparse(self.coef_) else self.coef_)


def predict_sparse(
    X: Any,
    coef: csr_array,
    intercept: NDArray[np.float64],
    n_classes: int,
    code: int,
    offset: NDArray[np.float64] | None,
    n_threads: int,
) -> NDArray[Any]:
    """The map of the logits of rows X (n, p): (n, K), or with IDENTITY (n, M), coef (M, p).

    Computed in float64 and returned in the type of X, infinite where it can't hold them, as the kernels do. The entries
    of sparse rows are known to be finite.
    """
    if isinstance(X, np.ndarray):
        # A product with coefficients that are all 0 for a feature would not show it.
        require_finite("X", X)
    product = X @ coef.T
    z = np.zeros((X.shape[0], n_classes))
    # A reference class has the logit 0 and no coefficients.
    own = z[:, n_classes - len(intercept) :]
    own += product.toarray() if issparse(product) else product
    own += intercept
    if offset is not None:
        z += offset
    out = own
    if code != _core.IDENTITY:
        out = np.empty_like(z)
        _core.default.map(z[:, :, None], out[:, :, None], code, n_threads=n_threads)
    with np.errstate(over="ignore"):
        return out.astype(X.dtype)
