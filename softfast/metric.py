"""An approximate Hessian of softmax regression from a sample of rows: its inverse as a function, or parts of it."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, eigh
from scipy.linalg.blas import dtrsv

from softfast import _core
from softfast.sources import Matrix, Vector
from softfast.threads import resolve_threads

Form = Literal["whole", "blocks", "diagonal"]
Approximation = Literal["whole", "blocks", "shared"]
# Rows whose products with all classes, (rows, M p), are held at once.
_CHUNK = 1024
# Weights of rows, and elements of the blocks that they give, that are held at once: 32 MiB.
_WHOLE_CHUNK = 2**22
# The work that a metric may always cost, in floating-point operations: some hundredths of a second. 3e9 for the whole
# took twice as long as 1e9 on 20,000 rows, 26 classes, and 1e9 half as long as 2e8 on 1,797 rows of 64 features, 10
# classes.
_WHOLE_WORK, _BLOCK_WORK = 1e9, 3e9
# Passes over the rows that metrics may cost beyond those made so far.
_PASSES = 8
# Rows of a sample at most; and at least so many a feature, or a coefficient where classes have blocks of their own, if
# there are. Blocks from 5 rows a feature were worse than the shared one: 10,000 rows of 256 features, 300 classes, 37
# passes to a gap of 1e-4 and 18; 20,000 of 64 features, 30 classes, 36 and 13.
_LARGEST_SAMPLE, _ROWS_A_FEATURE, _ROWS_A_COEFFICIENT = 20_000, 5, 0.5
# Of what may be spent, the share that goes for more rows for the shared block than these.
_SHARED_PART = 0.25
# Rows by which the mean of a class is as uncertain as it differs from the others'. On 20,000 rows of 256 features, 500
# classes, a sample of 5,120: passes to a gap of 1e-4 with 0, 2, 5 and 20: 33, 29, 29, 29.
_MEAN_ROWS = 5.0
# The size (d x d) of a matrix at most, the elements of all blocks, 256 MiB, and of a sample's probabilities, 64 MiB.
_LARGEST_MATRIX, _LARGEST_BLOCKS, _LARGEST_PROBA = 4000, 2**25, 2**23
# Of `active_hessian`: floating-point operations, or those of so many passes, that it may always cost; and the
# coordinates up to which it is whole.
_ACTIVE_WORK, _ACTIVE_PASSES = 3e9, 50
LARGEST_WHOLE = 3000
# Classes of `intercept_hessian` at most; classes a feature, and products p_ik p_il, that it may always cost.
_LARGEST_OVERLAPS, _OVERLAPS_A_FEATURE, _OVERLAP_WORK = 4000, 16, 1e9


class MetricBudget:
    """Which metric to make next, and of how many rows, so that all of them cost no more than the passes over all rows.

    n_rows in all; coefficients and intercepts of n_outputs classes, each of a width. 10,000 images of 784 pixels, 10
    classes, where 640 passes without a metric were not enough, take 265: one block for all classes is affordable early,
    their own from the hundredth pass on.
    """

    def __init__(self, n_rows: int, n_outputs: int, width: int) -> None:
        self.one_pass = 4.0 * n_rows * n_outputs * width
        size = n_outputs * width
        self._fewest = min(n_rows, _ROWS_A_FEATURE * width)
        enough = min(n_rows, max(self._fewest, int(_ROWS_A_COEFFICIENT * size)))
        # The rows that are enough, the work that is always allowed, that of a metric, and of each row of its sample.
        # The eigenvectors of the shared block take about ten times the cube of its width.
        self._forms: list[tuple[Approximation, int, float, float, float]] = []
        if size <= _LARGEST_MATRIX:
            self._forms.append(("whole", enough, _WHOLE_WORK, 0.0, float(size) ** 2))
        if width <= _LARGEST_MATRIX and size * width <= _LARGEST_BLOCKS:
            self._forms.append(("blocks", enough, _BLOCK_WORK, 0.0, float(size) * width))
        if width <= _LARGEST_MATRIX and n_outputs * self._fewest <= _LARGEST_PROBA:
            self._forms.append(
                ("shared", self._fewest, _BLOCK_WORK, 10.0 * width**3, float(3 * n_outputs + width) * width)
            )
        self._most_rows = min(n_rows, _LARGEST_SAMPLE, max(self._fewest, _LARGEST_PROBA // n_outputs))
        self._spent = 0.0
        # Of `intercept_hessian`, from all rows.
        small = n_outputs <= _OVERLAPS_A_FEATURE * width or float(n_rows) * n_outputs**2 <= _OVERLAP_WORK
        self.affords_overlaps = n_outputs <= _LARGEST_OVERLAPS and small

    def take(self, n_passes: float) -> tuple[Approximation, int] | None:
        """Form and rows of the next metric, whose work counts as done; None: it is not yet, or never, time for one.

        The best form counts that would be affordable if nothing had been spent so far: what is left is saved for it.
        """
        total = self.one_pass * (_PASSES + n_passes)
        for form, enough, always, fixed, of_row in self._forms:
            enough = min(enough, self._most_rows)
            least = fixed + of_row * enough
            if least > max(always, total):
                continue
            left = max(always, total - self._spent)
            if least > left:
                return None
            if form == "shared":
                left *= _SHARED_PART
            n_rows = max(enough, min(self._most_rows, int((left - fixed) / of_row)))
            self._spent += fixed + of_row * n_rows
            return form, n_rows
        return None


def sampled_inverse(
    features: Matrix,
    proba: Matrix,
    weight: Vector,
    scale: Matrix,
    ridge: Matrix,
    *,
    form: Approximation,
    n_threads: int | None = None,
) -> Callable[[Matrix], Matrix] | None:
    """Multiplication by H^-1, H = sum_i w_i (diag(p_i) - p_i p_i^T) (x) x_i x_i^T in scaled coordinates, plus a ridge.

    features (m, p), proba (m, K), weight (m,), scale and ridge (M, p): H's element (kj, lj') is divided by
    scale_kj scale_lj'; where M < K, the first class is the reference, without coefficients. The function takes and
    returns (M, p). "blocks": only the blocks k = l; "shared": one matrix stands for them, times the curvature of each
    class, but for the mean of its rows. None where rounding leaves no positive definite matrix.
    """
    invert = {"whole": _whole_inverse, "blocks": _block_inverse, "shared": _shared_inverse}[form]
    width = {"whole": scale.size, "blocks": scale.shape[1], "shared": scale.shape[1] / len(scale)}[form]
    work = float(len(features)) * scale.size * width
    try:
        return invert(features, np.ascontiguousarray(proba.T), weight, scale, ridge, resolve_threads(n_threads, work))
    except np.linalg.LinAlgError:
        return None


def _block_inverse(
    features: Matrix, proba: Matrix, weight: Vector, scale: Matrix, ridge: Matrix, n_threads: int
) -> Callable[[Matrix], Matrix]:
    """The blocks k = l; proba (K, m)."""
    solves, rows = [], _core.Rows(features)
    proba = proba[-len(scale) :]
    # One matrix a thread: all at once could be large.
    for first in range(0, len(scale), n_threads):
        some = proba[first : first + n_threads]
        for k, block in enumerate(_core.default.gram(rows, weight * some * (1 - some), n_threads=n_threads), first):
            block /= np.outer(scale[k], scale[k])
            block[np.diag_indices(len(block))] += ridge[k]
            solves.append(_cholesky_solve(block))
    return lambda v: np.stack([solve(row) for solve, row in zip(solves, v, strict=True)])


def _whole_inverse(
    features: Matrix, proba: Matrix, weight: Vector, scale: Matrix, ridge: Matrix, n_threads: int
) -> Callable[[Matrix], Matrix]:
    """All of H; proba (K, m)."""
    matrix = _whole(_core.Rows(features), proba, weight, scale.shape, n_threads)
    matrix /= np.outer(scale, scale)
    matrix[np.diag_indices(scale.size)] += ridge.ravel()
    solve = _cholesky_solve(matrix)
    return lambda v: solve(v.ravel()).reshape(v.shape)


def _cholesky_solve(matrix: Matrix) -> Callable[[Vector], Vector]:
    """Multiplication by the inverse of a positive definite matrix, which is overwritten.

    By the triangles, one after the other: LAPACK's function for both takes 43 microseconds for 222 numbers, they 18.
    """
    factor, _ = cho_factor(matrix, overwrite_a=True)
    return lambda v: dtrsv(factor, dtrsv(factor, v, trans=1), overwrite_x=True)


def whole_hessian(features: Matrix, proba: Matrix, weight: Vector, n_outputs: int, *, n_threads: int = 1) -> Matrix:
    """H of `sampled_inverse` itself, (M p, M p), without scale and ridge; proba (m, K), n_outputs M."""
    shape = n_outputs, features.shape[1]
    return _whole(_core.Rows(features), np.ascontiguousarray(proba.T), weight, shape, n_threads)


def _whole(rows: _core.Rows, proba: Matrix, weight: Vector, shape: tuple[int, ...], n_threads: int) -> Matrix:
    """H of coefficients of a shape (M, p); proba (K, m)."""
    (n_outputs, width), n_classes = shape, len(proba)
    hessian = np.zeros((n_classes, width, n_classes, width))
    first, second = np.triu_indices(n_classes, 1)
    at_once = max(n_threads, _WHOLE_CHUNK // (len(weight) + width**2))
    for begin in range(0, len(first), at_once):
        k, other = first[begin : begin + at_once], second[begin : begin + at_once]
        blocks = _core.default.gram(rows, weight * proba[k] * proba[other], n_threads=n_threads)
        hessian[k, :, other] = hessian[other, :, k] = -blocks
    # p_k (1 - p_k) is the sum of p_k p_l over the other classes, without a cancellation where p_k is near 1.
    classes = np.arange(n_classes)
    hessian[classes, :, classes] = -hessian.sum(axis=2)
    own = slice(n_classes - n_outputs, None)
    return hessian[own, :, own].reshape(n_outputs * width, n_outputs * width)


def _shared_inverse(
    features: Matrix, proba: Matrix, weight: Vector, scale: Matrix, ridge: Matrix, n_threads: int
) -> Callable[[Matrix], Matrix]:
    """The block of class k is f_k (B + m_k m_k^T).

    f_k = sum_i w_ik is its curvature, w_ik = w_i p_ik (1 - p_ik); m_k the mean of the rows with these weights, drawn to
    that of all where they are few; and B, one matrix for all, is what is left.
    """
    proba = proba[-len(scale) :]
    curvature = weight * proba * (1 - proba)
    mass = curvature.sum(axis=1)
    tiny = float(np.finfo(np.float64).tiny)
    mean = curvature @ features / np.maximum(mass, tiny)[:, None]
    # Of n rows that count alike, n / (n + _MEAN_ROWS) of the way from the mean of all; and this is the one with which
    # B, what is left of all curvature, can't become indefinite.
    squares = np.maximum(np.square(curvature).sum(axis=1), tiny)
    drawn = _MEAN_ROWS / (np.square(mass) / squares + _MEAN_ROWS)
    mean -= drawn[:, None] * (mean - (mass * drawn) @ mean / max(float(mass @ drawn), tiny))
    gram = _core.default.gram(_core.Rows(features), curvature.sum(axis=0)[None], n_threads=n_threads)[0]
    gram -= (mean.T * mass) @ mean
    gram /= max(float(mass.sum()), tiny)
    # The ridge in the units of the features, least squares of its logarithm over the classes; then, in coordinates in
    # which it is 1, one orthogonal basis serves all classes.
    unit = np.exp(-np.log(ridge * scale**2).mean(axis=0) / 2)
    gram *= np.outer(unit, unit)
    eigenvalues, basis = eigh(gram, overwrite_a=True, driver="evd")
    denominator = np.outer(mass, np.maximum(eigenvalues, 0)) + 1
    mean = (mean * unit) @ basis
    pull = mean / denominator
    share = mass / (1 + mass * np.einsum("kj,kj->k", mean, pull))
    factor = scale * unit

    def solve(v: Matrix) -> Matrix:
        # By Sherman and Morrison's formula.
        v = (factor * v) @ basis
        along = share * np.einsum("kj,kj->k", pull, v)
        v /= denominator
        v -= along[:, None] * pull
        return np.asarray(factor * (v @ basis.T))

    return solve


def intercept_hessian(overlaps: Matrix, scale: Vector) -> Matrix:
    """The block of H for the intercepts, (M, M), its element kl divided by scale_k scale_l, scale (M,).

    overlaps : (K, K), sum_i w_i p_i p_i^T

    Positive definite unless a class is saturated: where M = K, the direction that changes no probability, in which F is
    constant, is as curved as the others are in the mean.
    """
    n_classes, n_outputs = len(overlaps), len(scale)
    hessian, diagonal = -overlaps, np.diag_indices(n_classes)
    # p_k (1 - p_k) as the sum of p_k p_l over the other classes: nothing cancels where p_k is near 1.
    hessian[diagonal] = 0
    hessian[diagonal] = -hessian.sum(axis=1)
    hessian = hessian[n_classes - n_outputs :, n_classes - n_outputs :] / np.outer(scale, scale)
    if n_outputs == n_classes:
        hessian += np.outer(scale, scale) * (np.trace(hessian) / n_classes / float(scale @ scale))
    return hessian


def active_form(n_rows: int, n_active: NDArray[np.int64], one_pass: float) -> tuple[Form, int]:
    """What of `active_hessian` is affordable from a sample of n_rows, and from every how many-th row of it.

    n_active (M,) counts the coordinates of each class; one_pass is the work of one over all rows.
    """
    # As much as fifty passes, or a tenth of a second.
    work = max(_ACTIVE_WORK, _ACTIVE_PASSES * one_pass)
    size, widest = int(n_active.sum()), int(n_active.max())
    # Eight rows a coordinate cost no more than the factorisations of the solver, and the Hessian itself, where these
    # are all rows, saves most iterations: 10,000 images of 784 pixels with 1,900 coefficients, C = 1, reached a gap of
    # 3e-3 in two steps with all rows, and needed sixty more to 1e-6 with half of them.
    if size <= LARGEST_WHOLE:
        return "whole", max(1, int(n_rows / max(work / size**2, 8 * size)))
    if widest <= _LARGEST_MATRIX:
        return "blocks", max(1, int(n_rows / max(work / int(np.square(n_active).sum()), 8 * widest)))
    return "diagonal", 1


def active_hessian(
    features: Matrix,
    proba: Matrix,
    weight: Vector,
    outputs: NDArray[np.int64],
    columns: NDArray[np.int64],
    scale: Vector,
    ridge: Vector,
    form: Form,
) -> tuple[NDArray[np.int64], Vector, NDArray[np.int64]]:
    """Some rows and columns of H = sum_i w_i (diag(p_i) - p_i p_i^T) (x) x_i x_i^T: those of (outputs[a], columns[a]).

    features (m, p), proba (m, M), weight (m,). The element (a, b) is divided by scale_a scale_b, then ridge_a is added
    to the diagonal. `form` "whole"; "blocks": only products within a class; "diagonal".
    Returns the order in which the coordinates a follow each other in the blocks, the blocks' values, their sizes.
    """
    n_outputs, size = proba.shape[1], len(outputs)
    if form == "diagonal":
        curvature = weight[:, None] * proba * (1 - proba)
        values = (np.square(features).T @ curvature)[columns, outputs] / scale**2 + ridge
        return np.arange(size), values, np.ones(size, dtype=np.int64)
    of_class = [np.flatnonzero(outputs == k) for k in range(n_outputs)]
    if form == "blocks":
        blocks = []
        for k, own in enumerate(of_class):
            block = features[:, columns[own]] / scale[own]
            square = block.T @ ((weight * proba[:, k] * (1 - proba[:, k]))[:, None] * block)
            square[np.diag_indices(len(own))] += ridge[own]
            blocks.append(square.ravel())
        return np.concatenate(of_class), np.concatenate(blocks), np.array([len(own) for own in of_class])
    hessian = np.diag(ridge)
    for begin in range(0, len(features), _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        products = features[chunk][:, columns] / scale
        # Within a class p (1 - p): p minus p^2 cancels where p is near 1, and can leave a diagonal below 0.
        within = [products[:, own] for own in of_class]
        products *= (np.sqrt(weight[chunk])[:, None] * proba[chunk])[:, outputs]
        between = products.T @ products
        for k, own in enumerate(of_class):
            variance = weight[chunk] * proba[chunk, k] * (1 - proba[chunk, k])
            between[np.ix_(own, own)] = -within[k].T @ (variance[:, None] * within[k])
        hessian -= between
    return np.arange(size), hessian.ravel(), np.array([size])
