"""Rows without end, learned a batch at a time, each batch once.

With A_0 the penalty's 1/C for each coefficient, a batch with the summed loss L_t moves the parameters v (M, p + 1) to

    v_t = argmin L_t(v) + (v - v_{t-1})^T A_{t-1} (v - v_{t-1}) / 2,        A_t = A_{t-1} + Hessian of L_t at v_t.

A_{t-1} stands for all batches before: the first batch gets what a fit to it gets, and each one after that the weight
that it has among all. Where A, which has (M (p + 1))^2 elements, would be too large, there is AdaGrad in its place.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if

from softfast import _core
from softfast.metric import whole_hessian
from softfast.parameters import check_parameters
from softfast.penalty import GREATEST, penalty_strength
from softfast.solvers.lbfgs import lbfgs
from softfast.sources import Matrix, Vector
from softfast.sources.csr import CsrSource
from softfast.sources.dense import DenseSource
from softfast.sources.in_memory import InMemorySource
from softfast.sources.streamed import StreamedRows
from softfast.targets import weight_of_classes, with_class_weight
from softfast.threads import single_threaded_blas
from softfast.training import validated
from softfast.validation import as_weight

# The largest size of A: 32 MB.
_LARGEST_CURVATURE = 2000
# The Hessian of a batch is that of as many rows as this times the size of A.
_ROWS_A_COEFFICIENT = 4
# In units of the diagonal: directions in which no row and no penalty has a say.
_RIDGE = 1e-8
# AdaGrad: the first step in units of a feature's size, and rows a step. Held-out losses of Fashion-MNIST after two
# passes, and of 20 newsgroups: 0.46 and 0.68 with 0.03; 0.46 and 0.50 with 0.1; 0.75 and 0.94 with 0.3.
_STEP, _ROWS_A_STEP = 0.1, 256
# Attributes of a fit to all rows, which say nothing of what comes after.
_OF_FIT = ("converged_", "duality_gap_", "objective_", "n_iter_", "n_passes_", "solver_", "history_")


@dataclass(frozen=True)
class Learned:
    """What has been learned of all batches so far.

    parameters : (M, p + 1), the coefficients and in the last column the intercepts
    curvature : A, square; or (M, p + 1), the sums of the squares of AdaGrad's gradients
    squares, counts : (p,), for AdaGrad: the sums of the squares of each feature, and how many of its values were not 0
    """

    parameters: Matrix
    curvature: Matrix
    squares: Vector
    counts: Vector

    @classmethod
    def nothing(cls, parameters: Matrix, strength: float) -> Self:
        """Before the first batch; the penalty pulls to the parameters."""
        none = np.zeros(parameters.shape[1] - 1)
        if parameters.size > _LARGEST_CURVATURE:
            return cls(parameters, np.zeros_like(parameters), none, none)
        penalty = np.full_like(parameters, strength)
        penalty[:, -1] = 0
        return cls(parameters, np.diag(penalty.ravel()), none, none)


@dataclass(frozen=True)
class _Point:
    x: Vector
    value: float
    gradient: Vector
    rounding: float = 0.0


def _split(parameters: Matrix) -> tuple[Matrix, Vector]:
    """Coefficients (M, p) and intercepts (M,)."""
    return parameters[:, :-1].copy(), parameters[:, -1].copy()


def _by_newton(source: InMemorySource, before: Learned, tol: float, max_iter: int, *, fit_intercept: bool) -> Learned:
    """The step of the module's docstring, to `tol` of the batch's loss.

    By L-BFGS from the inverse of A plus the Hessian of some rows: a first batch of 77,672 rows of covtype takes 36
    iterations and 5 Hessians, and with Newton's method 68 of each.
    """
    shape, center = before.parameters.shape, before.parameters.ravel()
    rows, weight = source.every(max(1, source.n_rows // (_ROWS_A_COEFFICIENT * center.size)))
    features = np.column_stack([rows, np.full(len(rows), float(fit_intercept))])

    def objective(x: Vector) -> _Point:
        parameters = x.reshape(shape)
        loss, product, residual = source.loss_gradient(*_split(parameters))
        pull = before.curvature @ (x - center)
        gradient = np.column_stack([product, fit_intercept * residual]).ravel() + pull
        return _Point(x, loss + 0.5 * float(pull @ (x - center)), gradient)

    def curvature(x: Vector) -> Matrix:
        parameters = x.reshape(shape)
        proba, _ = _core.default.predict(
            _core.Rows(rows), *_split(parameters), source.n_classes, _core.SOFTMAX, n_threads=1
        )
        of_batch = whole_hessian(features, proba, weight, shape[0], n_threads=source.n_threads)
        return before.curvature + of_batch

    def metric(point: _Point) -> Callable[[Vector], Vector]:
        total = curvature(point.x)
        scale = np.sqrt(np.where(total.diagonal() > 0, total.diagonal(), 1))
        total /= np.outer(scale, scale)
        total[np.diag_indices(len(total))] += _RIDGE
        factor = cho_factor(total, overwrite_a=True)
        return lambda v: np.asarray(cho_solve(factor, v / scale) / scale)

    start = objective(center)
    inverse = metric(start)

    def stop(point: _Point) -> bool:
        """Whether half the squared Newton decrement, what a Newton step would gain, is small."""
        return float(point.gradient @ inverse(point.gradient)) <= 2 * tol * max(source.total_weight, point.value)

    point, _, status = lbfgs(
        objective,
        start,
        max_iter=max_iter,
        stop=stop,
        metric=lambda point: inverse if point is start else metric(point),
    )
    if status == "max_iter":
        message = f"partial_fit stopped at max_iter={max_iter}, before the batch's loss was minimised to tol={tol:.2g}"
        warnings.warn(message, ConvergenceWarning, stacklevel=4)
    return Learned(point.x.reshape(shape), curvature(point.x), before.squares, before.counts)


def _by_adagrad(source_of: Any, X: Any, before: Learned, *, fit_intercept: bool) -> Learned:
    """Some rows a step, each parameter by its share of the root of the sum of its squared gradients so far."""
    if issparse(X):
        squares = before.squares + np.bincount(X.indices, np.square(X.data, dtype=np.float64), X.shape[1])
        counts = before.counts + np.bincount(X.indices, X.data != 0, X.shape[1])
    else:
        squares = before.squares + np.einsum("ij,ij->j", X, X, dtype=np.float64)
        counts = before.counts + np.count_nonzero(X, axis=0)
    size = np.sqrt(squares / np.maximum(counts, 1))
    # Of a feature where it is not 0: one that few rows have is as large there as one that all have.
    step = _STEP / np.append(np.where(size > 0, size, np.inf), 1.0)
    parameters, sums = before.parameters.copy(), before.curvature.copy()
    for begin in range(0, X.shape[0], _ROWS_A_STEP):
        source = source_of(slice(begin, begin + _ROWS_A_STEP))
        if source.total_weight > 0:
            _, product, residual = source.loss_gradient(*_split(parameters))
            gradient = np.column_stack([product, fit_intercept * residual]) / source.total_weight
            sums += np.square(gradient)
            parameters -= step * np.divide(gradient, np.sqrt(sums), out=np.zeros_like(sums), where=sums > 0)
    return Learned(parameters, sums, squares, counts)


def _declared(classes: ArrayLike) -> NDArray[Any]:
    """The labels in order."""
    given = np.asarray(classes)
    try:
        labels = np.unique(given)
    except TypeError as error:
        raise ValueError(f"classes must be labels that can be compared, got {classes!r} ({error})") from error
    missing = labels.dtype.kind in "fc" and np.isnan(labels).any()
    mixed = given.dtype.kind in "US" and not all(
        isinstance(label, str | bytes) for label in np.array(classes, object).ravel()
    )
    if given.ndim != 1 or len(labels) < 2 or missing or mixed:
        raise ValueError(f"classes must be two labels at least, of one kind and shape (K,), got {classes!r}")
    return labels


def _positions(classes: NDArray[Any], y: NDArray[Any]) -> NDArray[np.int64]:
    """Of the labels (n,) in the classes; an error for one that is not among them."""
    try:
        positions = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
        strange = classes[positions] != y
    except TypeError:
        # Labels of several kinds in an array of objects have no order.
        known = classes.tolist()
        strange = np.array([label not in known for label in y.tolist()])
    if strange.any():
        seen = y[strange][0]
        raise ValueError(f"y must hold labels that are among the classes, {classes}, got {seen!r}")
    return positions


def _require_size(X: Any) -> None:
    """An error where squares of features may overflow."""
    values = X.data if issparse(X) else X
    largest = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    if largest > GREATEST:
        raise ValueError(f"X must hold numbers of at most {GREATEST:.0e} in absolute value, got {largest:.3g}")


def _for_rows_without_end(estimator: Any) -> bool:
    """Whether the parameters are such that the rows to come need not be known; the error says which is not."""
    for name, fine, accepted in (
        ("C", math.inf != estimator.C, "finite"),
        ("l1_ratio", not estimator.l1_ratio, "0"),
        ("class_weight", not isinstance(estimator.class_weight, str), "a dict or None"),
    ):
        if not fine:
            raise AttributeError(f"{name} must be {accepted} for partial_fit, got {getattr(estimator, name)!r}")
    return True


class PartialFit:
    """The method `partial_fit` of the estimator."""

    @available_if(_for_rows_without_end)  # type: ignore[untyped-decorator] # scikit-learn has no types
    def partial_fit(
        self, X: Any, y: Any, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn from one more batch of rows, in time and memory that do not grow with the rows before.

        Parameters
        ----------
        X : array_like or sparse matrix or array of shape (n, p)
            As in `fit`. Any number of rows; larger batches cost less a row.
        y : array_like of shape (n,)
            Labels.
        classes : array_like of shape (K,), optional
            All labels that will ever come. The first call needs them, unless the estimator is fitted.
        sample_weight : array_like of shape (n,), optional
            Weights >= 0, not all zero.

        Returns
        -------
        self
            With `classes_`, `coef_` and `intercept_`. The first call after `fit` goes on from its coefficients: it is
            to them, and not to 0, that the penalty pulls from then on.

        Raises
        ------
        ValueError
            If an argument is out of range, or `classes` are missing or others than before.
        AttributeError
            If the parameters are none for rows without end: `C` must be finite, `l1_ratio` 0, and `class_weight` not
            "balanced".

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If `max_iter` iterations do not minimise the batch's loss to `tol`.

        Notes
        -----
        Each batch is one implicit step of a stochastic Newton method: its loss is minimised to `tol` together with a
        quadratic that stands for all rows before, their summed Hessians at the coefficients of their time, and for the
        penalty, which counts once. The first batch gets the coefficients that `fit` gives it. There is no learning
        rate, the result has the same bits each time, and rows that come again count again.

        For independent rows of one distribution the explicit form of that step converges almost surely to the minimiser
        of the expected loss, and its error is asymptotically normal with the covariance of a fit to all n rows at once:
        the expected loss exceeds its minimum by O(1/n) (Bercu, Godichon and Portier 2020 for two classes; Boyer and
        Godichon-Baggioni 2023 for softmax regression). Toulis and Airoldi (2017) show that the implicit step has the
        same limit, and is the more stable one before it.

        With more than 2,000 coefficients and intercepts the summed Hessian would be too large. Then it is AdaGrad in
        steps of 256 rows, without the penalty, whose regret after T steps is O(sqrt(T)) (Duchi, Hazan and Singer 2011).

        References
        ----------
        Bercu, B., Godichon, A. and Portier, B. (2020). An efficient stochastic Newton algorithm for parameter
        estimation in logistic regressions. SIAM Journal on Control and Optimization 58, 348-367.
        Boyer, C. and Godichon-Baggioni, A. (2023). On the asymptotic rate of convergence of stochastic Newton
        algorithms and their weighted averaged versions. Computational Optimization and Applications 84, 921-972.
        Duchi, J., Hazan, E. and Singer, Y. (2011). Adaptive subgradient methods for online learning and stochastic
        optimization. Journal of Machine Learning Research 12, 2121-2159.
        Toulis, P. and Airoldi, E. M. (2017). Asymptotic and finite-sample properties of estimators based on stochastic
        gradients. Annals of Statistics 45, 1694-1727.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from softfast import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> model = SoftmaxRegression()
        >>> for begin in range(0, 50, 10):
        ...     batch = [*range(begin, begin + 10), *range(begin + 50, begin + 60), *range(begin + 100, begin + 110)]
        ...     model = model.partial_fit(X[batch], y[batch], classes=[0, 1, 2])
        >>> model.predict(X[[0, 60, 120]])
        array([0, 1, 2])
        """
        before = dict(self.__dict__)
        try:
            check_parameters(self)  # type: ignore[arg-type] # what it asks for is the estimator's
            with single_threaded_blas():
                self._learn(X, y, classes, sample_weight)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _learn(self: Any, X: Any, y: Any, classes: ArrayLike | None, sample_weight: ArrayLike | None) -> None:
        declared = None if classes is None else _declared(classes)
        fitted = "coef_" in self.__dict__
        if not fitted:
            if declared is None:
                raise ValueError("classes must be two labels at least in the first partial_fit, got None")
            self.classes_ = declared
        elif declared is not None and not np.array_equal(declared, self.classes_):
            raise ValueError(f"classes must be those that are known, {self.classes_}, got {declared}")
        if isinstance(X, StreamedRows):
            raise ValueError(f"X must be the rows of one batch, got {X!r}; iterating over it yields (X, y, weight)")
        X, y = validated(self, X, y, reset=not fitted)
        _require_size(X)
        n_classes = len(self.classes_)
        labels = _positions(self.classes_, y)
        weight = as_weight(sample_weight, len(y))
        if self.class_weight is not None:
            by_class = weight_of_classes(self.class_weight, self.classes_, self.classes_, None)
            weight = with_class_weight(by_class[labels], weight)
        n_outputs = 1 if n_classes == 2 else n_classes
        # None after a fit, too.
        learned = self.__dict__.get("_learned")
        if learned is None:
            start = (
                np.column_stack([self._dense_coef(), self.intercept_])
                if fitted
                else np.zeros((n_outputs, X.shape[1] + 1))
            )
            learned = Learned.nothing(start, penalty_strength(self.C, 1.0))
        kind = CsrSource if issparse(X) else DenseSource

        def source(rows: slice) -> InMemorySource:
            of_rows = None if weight is None else weight[rows]
            return kind(X[rows], labels[rows], n_classes, of_rows, n_threads=self.n_threads)

        fit_intercept = bool(self.fit_intercept)
        if len(learned.curvature) == learned.parameters.size:
            learned = _by_newton(source(slice(None)), learned, self.tol, self.max_iter, fit_intercept=fit_intercept)
        else:
            learned = _by_adagrad(source, X, learned, fit_intercept=fit_intercept)
        for name in _OF_FIT:
            self.__dict__.pop(name, None)
        self._learned = learned
        coef, intercept = _split(learned.parameters)
        if n_outputs > 1:
            # The representative that `fit` gives.
            coef, intercept = coef - coef.mean(axis=0), intercept - intercept.mean()
        self.coef_, self.intercept_ = coef, intercept
