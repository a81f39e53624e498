"""What a fit is to predict: labels of any kind, or probabilities of the classes 0..K-1 (soft labels)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from softfast.validation import as_targets, as_weight

Vector = NDArray[np.float64]


def is_soft(y: Any) -> bool:
    """Whether y is a matrix of two columns or more."""
    shape = _shape(y)
    return len(shape) == 2 and shape[1] >= 2


def _shape(y: Any) -> tuple[int, ...]:
    return tuple(y.shape if hasattr(y, "shape") else np.asarray(y).shape)


def encode(
    y: Any, n_rows: int, dtype: np.dtype[Any], weight: Vector | None, class_weight: Any
) -> tuple[NDArray[Any], NDArray[Any], Vector | None]:
    """The classes; labels (n,) in 0..K-1 or probabilities (n, K) of the dtype; weights of the rows, or None.

    Weights of the classes become weights of the rows.
    """
    if is_soft(y):
        return _encode_soft(y, n_rows, dtype, weight, class_weight)
    try:
        check_classification_targets(y)
        classes, labels = np.unique(column_or_1d(y), return_inverse=True)
    except TypeError as error:
        raise ValueError(f"y must hold labels that can be compared ({error})") from error
    if len(classes) < 2:
        raise ValueError(f"y must hold at least two classes, got one class: {classes[0]!r}")
    if class_weight is not None:
        weight = with_class_weight(weight_of_classes(class_weight, classes, y, weight)[labels], weight)
    return classes, labels, weight


def _encode_soft(
    y: Any, n_rows: int, dtype: np.dtype[Any], weight: Vector | None, class_weight: Any
) -> tuple[NDArray[Any], NDArray[Any], Vector | None]:
    """A row counts as K rows with the labels 0..K-1 and its probabilities as weights, before those of the classes."""
    n_classes = _shape(y)[1]
    classes = np.arange(n_classes)
    proba = as_targets(y, n_rows, n_classes, dtype)
    largest = proba.max(axis=0)
    if not largest.all():
        empty = int(np.argmin(largest))
        raise ValueError(f"y as probabilities must give each class a share, but class {empty} has 0 in all rows")
    if class_weight is not None:
        # einsum converts float32 a little at a time; a product of matrices would copy the whole.
        mass = np.einsum("i,ik->k", np.ones(n_rows) if weight is None else weight, proba)
        by_class = weight_of_classes(class_weight, classes, classes, mass)
        by_row = np.einsum("ik,k->i", proba, by_class)
        # A row that is left without weight keeps its probabilities.
        counts = by_row > 0
        weighted = proba * (by_class / np.where(counts, by_row, 1.0)[:, None])
        proba = np.where(counts[:, None], weighted, proba).astype(dtype)
        weight = with_class_weight(by_row, weight)
    if np.isin(proba, (0, 1)).all():
        return classes, proba.argmax(axis=1), weight
    return classes, proba, weight


def weight_of_classes(class_weight: Any, classes: NDArray[Any], y: Any, weight: Vector | None) -> Vector:
    """(K,); "balanced" gives a class without any weight an infinite factor: its rows still count for nothing."""
    with np.errstate(divide="ignore"):
        by_class = compute_class_weight(class_weight, classes=classes, y=y, sample_weight=weight)
    if isinstance(class_weight, str):
        return np.asarray(np.where(np.isinf(by_class), 0.0, by_class))
    fine = (by_class >= 0) & np.isfinite(by_class)
    if not fine.all():
        at = int(np.argmin(fine))
        seen = f"{by_class[at]} for the class {classes[at]!r}"
        raise ValueError(f"class_weight must not be negative, infinite or NaN, got {seen}")
    return np.asarray(by_class)


def with_class_weight(by_row: Vector, weight: Vector | None) -> Vector:
    """The weights of rows, or None, times those of their classes, (n,)."""
    product = by_row if weight is None else by_row * weight
    if not product.any():
        raise ValueError("class_weight must leave some row a weight, got 0 for the classes of all rows with a weight")
    as_weight(product, len(product))
    return product


def count_right(predicted: NDArray[Any], labels: NDArray[Any], weight: Vector | None) -> tuple[float, float]:
    """The sums of the weights of the rows whose label is predicted, and of all rows."""
    right = predicted == labels
    if weight is None:
        return float(np.count_nonzero(right)), float(len(right))
    return float(right @ weight), float(weight.sum())
