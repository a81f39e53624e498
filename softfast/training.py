"""The rows of a fit, wherever they are: checked, their labels encoded, made a source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils.validation import validate_data

from softfast.sources import Source
from softfast.sources.csr import CsrSource
from softfast.sources.dense import DenseSource
from softfast.sources.parts import PartedSource
from softfast.sources.streamed import StreamedParts, StreamedRows
from softfast.targets import encode, is_soft, weight_of_classes
from softfast.validation import as_offset, as_weight


@dataclass(frozen=True)
class Training:
    """What a fit is to learn from.

    classes : (K,)
    hard : whether each row has one label
    """

    source: Source
    classes: NDArray[Any]
    hard: bool


def validated(estimator: Any, *arrays: Any, reset: bool = True) -> Any:
    """X, or (X, y), as scikit-learn has them: X dense or CSR, float32 or float64, finite."""
    # It looks for NaN in the sum of all values, which may overflow, and at each of them where that is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        return validate_data(estimator, *arrays, reset=reset, dtype=[np.float64, np.float32], accept_sparse="csr")


def training(estimator: Any, X: Any, y: Any, sample_weight: ArrayLike | None, offset: ArrayLike | None) -> Training:
    """The arguments of `fit`; sets what the estimator knows of the features, as scikit-learn has it."""
    if isinstance(X, StreamedRows):
        for name, value in (("y", y), ("sample_weight", sample_weight), ("offset", offset)):
            if value is not None:
                raise ValueError(f"{name} must be None, got {type(value).__name__}: {X!r} brings what it has of it")
        return _streamed(estimator, X)
    if is_soft(y):
        X = validated(estimator, X)
    else:
        X, y = validated(estimator, X, y)
    n_rows = X.shape[0]
    weight = as_weight(sample_weight, n_rows)
    classes, targets, weight = encode(y, n_rows, X.dtype, weight, estimator.class_weight)
    offset = as_offset(offset, n_rows, len(classes), one_logit=len(classes) == 2)
    source_type = CsrSource if issparse(X) else DenseSource
    source = source_type(X, targets, len(classes), weight, offset=offset, n_threads=estimator.n_threads)
    return Training(source, classes, targets.ndim == 1)


def _streamed(estimator: Any, rows: StreamedRows) -> Training:
    survey = rows.survey()
    classes = survey.classes
    by_class = factors_of_classes(estimator.class_weight, classes, survey.mass)
    set_features(estimator, survey.n_features, rows.feature_names)
    return Training(PartedSource(StreamedParts(rows, by_class, estimator.n_threads)), classes, True)


def set_features(estimator: Any, n_features: int, names: Sequence[Any] | None) -> None:
    """As scikit-learn has it: the names only where all of them are strings."""
    estimator.n_features_in_ = n_features
    estimator.__dict__.pop("feature_names_in_", None)
    if names is not None and all(isinstance(name, str) for name in names):
        estimator.feature_names_in_ = np.array(names, dtype=object)


def factors_of_classes(
    class_weight: Any, classes: NDArray[Any], mass: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """(K,), or None for all ones, from the weights in all of each class, (K,)."""
    if len(classes) < 2:
        raise ValueError(f"y must hold at least two classes, got one class: {classes[0]!r}")
    if class_weight is None:
        return None
    by_class = weight_of_classes(class_weight, classes, classes, mass)
    if not by_class @ mass > 0:
        raise ValueError("class_weight must leave some row a weight, got 0 for the classes of all rows with a weight")
    return by_class
