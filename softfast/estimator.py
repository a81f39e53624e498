"""Softmax regression as a scikit-learn estimator."""

import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from softfast import _core
from softfast.checkpoint import Checkpoint, State
from softfast.files import require_writable
from softfast.minimise import minimise
from softfast.monitor import Monitor
from softfast.objective import SoftmaxObjective
from softfast.parameters import check_parameters, has_l1
from softfast.penalty import penalty_strength
from softfast.progress import Iteration
from softfast.separation import describe_absent, find_separation
from softfast.sources import Vector
from softfast.sources.streamed import StreamedRows
from softfast.sparse_coef import SparseCoef, predict_sparse
from softfast.streaming import PartialFit
from softfast.targets import count_right, is_soft
from softfast.threads import resolve_threads, single_threaded_blas
from softfast.training import Training, training, validated
from softfast.validation import as_offset, as_rows, require_finite


class SoftmaxRegression(SparseCoef, PartialFit, ClassifierMixin, BaseEstimator):  # type: ignore[misc] # untyped
    """Softmax regression (multinomial logistic regression), with a certificate of optimality.

    Minimises the weighted mean cross-entropy plus ``||coef||^2 / (2 C S)``, S the sum of the weights, or an elastic
    net: the minimiser that ``sklearn.linear_model.LogisticRegression`` has for the same `C` and `l1_ratio`. The
    intercept is not penalised. With two classes it is logistic regression, with one row of coefficients.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty, > 0; ``np.inf`` is maximum likelihood.
    l1_ratio : float, default 0.0
        The share of absolute values in the penalty, from 0 to 1: it is
        ``((1 - l1_ratio)/2 ||coef||^2 + l1_ratio sum |coef|) / (C S)``, and above 0 it sets coefficients to zero.
    sparsity : {"coefficient", "feature"}, default "coefficient"
        What becomes zero with an `l1_ratio` above 0: single coefficients; or features, for all classes at once, with
        the sum of the norms of the columns of `coef_` in place of that of the absolute values.
    fit_intercept : bool, default True
        Whether the logits have an intercept.
    class_weight : dict, "balanced" or None, default None
        Weights of the classes, {label: weight}; "balanced" weighs every class inversely to its frequency. They
        multiply `sample_weight`; a row of soft labels counts as K rows, weighted with its probabilities.
    solver : {"auto", "lbfgs", "newton-cg", "proximal-newton"}, default "auto"
        The algorithm; "auto" chooses. "lbfgs", its choice, and "newton-cg" are for an `l1_ratio` of 0;
        "proximal-newton" is for those above 0 with a finite `C`.
    tol : float, default 1e-6
        The fit has converged when the objective is proved to be within ``tol * max(1, objective)`` of the optimum;
        without penalty, when no component of the gradient, in units of the features' spread, exceeds `tol`.
    max_iter : int, default 1000
        Iterations at most.
    warm_start : bool, default False
        Start from the coefficients of the previous fit where their shape allows it.
    n_threads : int or None, default None
        Threads; None takes those the process may use, one for small data. The fit has the same bits for any number.
    verbose : int, default 0
        Above 0, progress: with rich a bar in a terminal or notebook, else records of the logger "softfast".
    callback : callable or None, default None
        Called as ``callback(it)`` at the start, before each round of the interior-point method (Notes) and after every
        iteration, in the thread that fits. `it` has ``iteration``, ``n_passes`` ("pass" in `history_`), ``time``,
        ``objective`` and ``gap``, and ``coef`` and ``intercept``, which are computed when asked for. The fit stops
        there if it returns a true value; an exception ends the fit and leaves the estimator as it was.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
        The labels, sorted; 0..K-1 for soft labels.
    coef_ : ndarray of shape (K, p), or (1, p) with two classes, float64
    intercept_ : ndarray of shape (K,) or (1,), float64
    converged_ : bool
        Whether the fit has converged as `tol` says; never where separation was found.
    duality_gap_ : float
        The objective exceeds the optimum by at most this much; NaN without penalty, where no certificate exists.
    objective_ : float
        Mean cross-entropy plus penalty at the solution.
    n_iter_ : int
        Iterations.
    n_passes_ : float
        Evaluations of loss and gradient over all rows, those over a sample in part, plus 1.5 for each product with the
        Hessian, which takes 1.1 to 1.5 times as long.
    solver_ : str
        The algorithm used.
    history_ : dict of str to ndarray
        Of all that `callback` hears of: "pass", "time" (seconds since the start), "objective" and "gap".
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    float32 data stay float32 in memory; fits begin in float32 arithmetic and end in float64. No array is n times K; of
    sparse rows one is, where it takes less than 16 MiB.

    Fitted coefficients with two classes have the penalty on the one row, as scikit-learn has it.

    The solver is L-BFGS that starts from the inverse of the Hessian of a sample of the rows, taken anew as the fit
    proceeds. With "auto" and 50,000 rows or more, a fit that is no `warm_start` begins near the minimum for a tenth of
    them, which an interior-point method finds if L-BFGS is slow to; any fit with "auto" tries it after 200 iterations.
    With an `l1_ratio` above 0 it is proximal Newton on a working set of coefficients. "newton-cg" is a truncated Newton
    method: its steps solve the Newton system of all rows by conjugate gradients, preconditioned with that same inverse,
    the more closely the nearer the minimum is.

    With three or more classes, adding one number to a feature's coefficients of all classes changes no probability. L2
    makes their mean zero; with `l1_ratio` 1 and ``sparsity="coefficient"`` their median is zero, and with an even
    number of classes several such solutions can be equally good, of which the fit finds one.

    References
    ----------
    Albert, A. and Anderson, J. A. (1984). On the existence of maximum likelihood estimates in logistic regression
    models. Biometrika 71, 1-10.
    Byrd, R. H., Chin, G. M., Neveitt, W. and Nocedal, J. (2011). On the use of stochastic Hessian information in
    optimization methods for machine learning. SIAM Journal on Optimization 21, 977-995.
    Byrd, R. H., Chin, G. M., Nocedal, J. and Wu, Y. (2012). Sample size selection in optimization methods for machine
    learning. Mathematical Programming 134, 127-155.
    Eisenstat, S. C. and Walker, H. F. (1996). Choosing the forcing terms in an inexact Newton method. SIAM Journal on
    Scientific Computing 17, 16-32.
    Lee, J. D., Sun, Y. and Saunders, M. A. (2014). Proximal Newton-type methods for minimizing composite functions.
    SIAM Journal on Optimization 24, 1420-1443.
    Ndiaye, E., Fercoq, O., Gramfort, A. and Salmon, J. (2017). Gap safe screening rules for sparsity enforcing
    penalties. Journal of Machine Learning Research 18 (128), 1-33.
    Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, 2nd ed., sections 7.1, 7.2 and 19. Springer.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from softfast import SoftmaxRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SoftmaxRegression().fit(X, y)
    >>> model.converged_
    True
    >>> model.predict_proba(X[:1]).round(3)
    array([[0.982, 0.018, 0.   ]])
    >>> sparse = SoftmaxRegression(l1_ratio=1.0).fit(X, y)
    >>> int((sparse.coef_ == 0).sum()), sparse.coef_.size
    (8, 12)
    """

    classes_: NDArray[Any]
    coef_: NDArray[np.float64]
    intercept_: Vector

    def __init__(
        self,
        C: float = 1.0,
        *,
        l1_ratio: float = 0.0,
        sparsity: str = "coefficient",
        fit_intercept: bool = True,
        class_weight: Any = None,
        solver: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 1000,
        warm_start: bool = False,
        n_threads: int | None = None,
        verbose: int = 0,
        callback: Callable[[Iteration], object] | None = None,
    ) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.sparsity = sparsity
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.n_threads = n_threads
        self.verbose = verbose
        self.callback = callback

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        offset: ArrayLike | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array_like or sparse matrix or array of shape (n, p), or StreamedRows
            Finite numbers; float32 and float64 are read where they lie, in C or F order or CSR. Data frames are
            accepted, and other sparse formats, which are converted to CSR once. Or rows from `from_npy`, `from_parquet`
            or `from_batches`, which need not fit in memory and bring labels and weights: then `y`, `sample_weight` and
            `offset` are None.
        y : array_like of shape (n,) or (n, K)
            Labels of any kind, at least two different ones; or soft labels, K >= 2 probabilities whose rows sum to 1,
            each class above 0 in some row: then the classes are 0..K-1.
        sample_weight : array_like of shape (n,), optional
            Weights >= 0, not all zero.
        offset : array_like of shape (n, K), optional
            Known parts of the logits, finite, which are added to ``X @ coef_.T + intercept_`` in the order of
            ``classes_``. With two classes also of shape (n,), of the logit of ``classes_[1]``. Not remembered:
            predictions take their own.
        checkpoint : path_like, optional
            A file for the state of the fit, written every half minute and at the end. If it exists, the fit, which must
            be of the same rows and penalty, goes on from there.

        Returns
        -------
        self
            If the fit is interrupted or fails, the estimator is left as it was.

        Raises
        ------
        ValueError
            If a parameter or an argument is out of range or of the wrong shape; the message names it.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If the fit stops before it has converged; the message says so where the reason is a class without a row with
            a weight, whose intercept falls without limit. Or if, without penalty, the classes are separated, completely
            or quasi-completely, so that there is no optimum: the message names classes and features.
        """
        before = dict(self.__dict__)
        try:
            check_parameters(self)
            if checkpoint is not None:
                require_writable(checkpoint)
            with single_threaded_blas():
                return self._fit(self._training(X, y, sample_weight, offset), checkpoint)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _training(self, X: Any, y: Any, sample_weight: ArrayLike | None, offset: ArrayLike | None) -> Training:
        return training(self, X, y, sample_weight, offset)

    def _fit(self, rows: Training, checkpoint: str | os.PathLike[str] | None) -> Self:
        source, classes = rows.source, rows.classes
        n_outputs = 1 if len(classes) == 2 else len(classes)
        strength = penalty_strength(self.C, source.total_weight)
        objective = SoftmaxObjective(
            source,
            strength=strength,
            fit_intercept=bool(self.fit_intercept),
            n_outputs=n_outputs,
            l1_ratio=float(self.l1_ratio),
            by_feature=self.sparsity == "feature",
            n_threads=self.n_threads,
        )
        coef, intercept = np.zeros((n_outputs, source.n_features)), np.zeros(n_outputs)
        if self.warm_start and hasattr(self, "coef_") and self.coef_.shape == coef.shape:
            coef[:], intercept[:] = self._dense_coef(), self.intercept_
        keeper, resumed = None, None
        if checkpoint is not None:
            keeper = Checkpoint(checkpoint, self.get_params(), classes, objective.moments, coef.shape)
            resumed = keeper.read()
            coef, intercept, objective.n_passes = resumed or (coef, intercept, 0)
        with Monitor(
            objective, self.tol, certified=strength > 0, verbose=self.verbose, callback=self.callback, checkpoint=keeper
        ) as monitor:
            start = objective(objective.pack(coef, intercept))
            point, n_iter, status = minimise(
                objective,
                start,
                monitor.stop,
                solver=self.solver,
                with_l1=has_l1(self),
                from_zero=not (self.warm_start or resumed),
                tol=self.tol,
                max_iter=self.max_iter,
            )
        self.coef_, self.intercept_ = objective.unpack(point.x)
        if keeper is not None:
            keeper.write(State(self.coef_, self.intercept_, objective.n_passes))
        self.objective_, self.duality_gap_ = point.value, monitor.gap
        self.classes_, self.n_iter_, self.n_passes_ = classes, n_iter, objective.n_passes
        self.solver_ = self.solver if self.solver != "auto" else "proximal-newton" if has_l1(self) else "lbfgs"
        self.history_ = {name: np.array(values, dtype=float) for name, values in monitor.history.items()}
        self.__dict__.pop("_learned", None)
        separation = None
        if strength == 0 and rows.hard:
            separation = find_separation(source, self.coef_, self.intercept_, fit_intercept=bool(self.fit_intercept))
        self.converged_ = status == "stopped" and not monitor.cancelled and separation is None
        if not self.converged_:
            absent = classes[objective.moments.class_mean == 0]
            if self.fit_intercept and len(absent) and not monitor.cancelled:
                reason = describe_absent(absent)
            elif separation is not None:
                reason = separation.describe(classes, getattr(self, "feature_names_in_", None))
            else:
                reason = monitor.shortfall(status, n_iter, self.max_iter)
            warnings.warn(reason, ConvergenceWarning, stacklevel=3)
        return self

    def decision_function(self, X: Any, *, offset: ArrayLike | None = None) -> NDArray[Any]:
        """Logits of the rows.

        Parameters
        ----------
        X : array_like or sparse matrix or array of shape (n, p), or StreamedRows
        offset : array_like of shape (n, K), optional
            As in `fit`.

        Returns
        -------
        ndarray of shape (n, K), or (n,) with two classes (the logit of ``classes_[1]``), of the dtype of X
        """
        logits = self._predict(X, _core.IDENTITY, offset)
        return logits.ravel() if logits.shape[1] == 1 else logits

    def predict_proba(self, X: Any, *, offset: ArrayLike | None = None) -> NDArray[Any]:
        """Probabilities of the classes, in the order of ``classes_``.

        Parameters
        ----------
        X : array_like or sparse matrix or array of shape (n, p), or StreamedRows
        offset : array_like of shape (n, K), optional
            As in `fit`.

        Returns
        -------
        ndarray of shape (n, K), of the dtype of X
        """
        return self._predict(X, _core.SOFTMAX, offset)

    def predict_log_proba(self, X: Any, *, offset: ArrayLike | None = None) -> NDArray[Any]:
        """Logarithms of the probabilities, accurate where a probability is near 0 or 1.

        Parameters
        ----------
        X : array_like or sparse matrix or array of shape (n, p), or StreamedRows
        offset : array_like of shape (n, K), optional
            As in `fit`.

        Returns
        -------
        ndarray of shape (n, K), of the dtype of X
        """
        return self._predict(X, _core.LOG_SOFTMAX, offset)

    def predict(self, X: Any, *, offset: ArrayLike | None = None) -> NDArray[Any]:
        """Most probable label of each row.

        Parameters
        ----------
        X : array_like or sparse matrix or array of shape (n, p), or StreamedRows
        offset : array_like of shape (n, K), optional
            As in `fit`.

        Returns
        -------
        ndarray of shape (n,), of the dtype of ``classes_``
        """
        if isinstance(X, StreamedRows):
            return np.concatenate([self._most_probable(z) for z, _, _ in self._streamed(X, _core.IDENTITY, offset)])
        return self._most_probable(self._predict(X, _core.IDENTITY, offset))

    def score(
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None, *, offset: ArrayLike | None = None
    ) -> float:
        """Share of the rows whose label is predicted.

        Parameters
        ----------
        X : array_like or sparse matrix or array of shape (n, p), or StreamedRows
            The latter bring labels and weights: then `y` and `sample_weight` are None.
        y : array_like of shape (n,)
            Labels. For probabilities the cross-entropy is
            ``softfast.cross_entropy(model.predict_log_proba(X), y)``.
        sample_weight : array_like of shape (n,), optional
        offset : array_like of shape (n, K), optional
            As in `fit`.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If `y` holds probabilities.
        """
        if isinstance(X, StreamedRows):
            if y is not None or sample_weight is not None:
                raise ValueError(f"y and sample_weight must be None: {X!r} brings what it has of them")
            right = total = 0.0
            for logits, labels, weight in self._streamed(X, _core.IDENTITY, offset):
                if labels is None:
                    raise ValueError(f"{X!r} has no labels to compare with")
                of_chunk = count_right(self._most_probable(logits), labels, weight)
                right, total = right + of_chunk[0], total + of_chunk[1]
            return right / total
        if is_soft(y):
            raise ValueError(
                "y must hold labels, shape (n,), to count the right ones, got a matrix; for probabilities take "
                "softfast.cross_entropy(model.predict_log_proba(X), y)"
            )
        return float(accuracy_score(y, self.predict(X, offset=offset), sample_weight=sample_weight))

    def _predict(self, X: Any, code: int, offset: ArrayLike | None) -> NDArray[Any]:
        if isinstance(X, StreamedRows):
            return np.concatenate([result for result, _, _ in self._streamed(X, code, offset)])
        if not self._is_plain(X):
            check_is_fitted(self)
            X = validated(self, X, reset=False)
        return self._map(X, code, as_offset(offset, X.shape[0], len(self.classes_), one_logit=len(self.classes_) == 2))

    def _map(self, X: Any, code: int, offset: NDArray[np.float64] | None) -> NDArray[Any]:
        """The map of the logits of rows (n, p) that have been looked at, but for the search for NaN."""
        n_classes = len(self.classes_)
        rows = as_rows("X", X)
        if offset is not None:
            rows = rows.with_offset(offset)
        n_threads = resolve_threads(self.n_threads, 2.0 * (rows.n_entries + 20 * rows.n_rows) * n_classes)
        if not isinstance(self.coef_, np.ndarray):
            return predict_sparse(X, self.coef_, self.intercept_, n_classes, code, offset, n_threads)
        # An unpickled array lies anywhere, as what Dask has moved, and kernels take what is aligned.
        coef, intercept = (np.require(array, requirements="A") for array in (self.coef_, self.intercept_))
        result, finite = _core.default.predict(rows, coef, intercept, n_classes, code, n_threads=n_threads)
        if not finite and isinstance(rows, _core.Rows):
            require_finite("X", X)
        return result

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _streamed(
        self, rows: StreamedRows, code: int, offset: ArrayLike | None
    ) -> Iterator[tuple[NDArray[Any], NDArray[Any] | None, Vector | None]]:
        """Chunk by chunk the map of the logits, labels and weights."""
        check_is_fitted(self)
        if offset is not None:
            raise ValueError("offset must be None for streamed rows")
        if rows.feature_names not in (None, list(getattr(self, "feature_names_in_", rows.feature_names or []))):
            raise ValueError(f"{rows!r} must have the features of the fit, feature_names_in_, in their order")
        for X, y, weight in rows:
            if X.shape[1] != self.n_features_in_:
                raise ValueError(f"{rows!r} has {X.shape[1]} features, the fit had {self.n_features_in_}")
            yield self._map(X, code, None), y, weight

    def _most_probable(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Labels (n,) of logits (n, K), or (n, 1) with two classes."""
        chosen = (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(axis=1)
        return np.asarray(self.classes_[chosen])

    def _is_plain(self, X: Any) -> bool:
        """Whether X is what scikit-learn's validation would return as it is, but for the search for NaN.

        That validation takes 200 microseconds for a single row, the prediction 6; NaN is found by the kernel.
        """
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype.char in "fd"
            and X.dtype.isnative
            and X.shape[0] > 0
            and X.shape[1] == self.__dict__.get("n_features_in_")
            and "coef_" in self.__dict__
            and "feature_names_in_" not in self.__dict__
        )
