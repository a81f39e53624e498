from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

VERSION: str
COMPILER: str
OPENMP: int
SOFTMAX: int
LOG_SOFTMAX: int
LOGSUMEXP: int
IDENTITY: int
kernels: Mapping[str, Kernels]
default: Kernels

def threads_started() -> bool: ...

@final
class Rows:
    dtype: np.dtype[Any]
    def __init__(self, X: NDArray[Any], offset: NDArray[np.float64] | None = None) -> None: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_features(self) -> int: ...
    @property
    def n_entries(self) -> int: ...
    def with_offset(self, offset: NDArray[np.float64] | None) -> Rows: ...

@final
class SparseRows:
    dtype: np.dtype[Any]
    n_entries: int
    def __init__(
        self,
        data: NDArray[Any],
        indices: NDArray[Any],
        indptr: NDArray[Any],
        n_features: int,
        offset: NDArray[np.float64] | None = None,
    ) -> None: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_features(self) -> int: ...
    def with_offset(self, offset: NDArray[np.float64] | None) -> SparseRows: ...
    def with_columns(self, n_classes: int) -> SparseRows: ...
    def repeats(self) -> bool: ...
    def sums(self, weight: NDArray[np.float64] | None, center: NDArray[np.float64]) -> NDArray[np.float64]: ...

@final
class Targets:
    n_rows: int
    n_classes: int
    dtype: np.dtype[Any] | None
    def __init__(self, y: NDArray[Any], weight: NDArray[np.float64] | float | None = None) -> None: ...

@final
class Kernels:
    @property
    def name(self) -> str: ...
    def loss_gradient(
        self,
        X: Rows | SparseRows,
        targets: Targets,
        coef: NDArray[Any],
        intercept: NDArray[np.float64],
        n_classes: int,
        *,
        arithmetic: DTypeLike = ...,
        by_feature: bool = ...,
        n_threads: int = 1,
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]: ...
    def loss_gradient_stack(
        self,
        X: Rows,
        targets: list[Targets],
        coef: NDArray[np.float64],
        intercept: NDArray[np.float64],
        n_classes: int,
        *,
        arithmetic: DTypeLike = ...,
        n_threads: int = 1,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
    def hessian_vector(
        self,
        X: Rows | SparseRows,
        targets: Targets,
        coef: NDArray[np.float64],
        intercept: NDArray[np.float64],
        direction: NDArray[np.float64],
        direction_intercept: NDArray[np.float64],
        n_classes: int,
        *,
        arithmetic: DTypeLike = ...,
        by_feature: bool = ...,
        n_threads: int = 1,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
    def gram(self, X: Rows, weight: NDArray[np.float64], *, n_threads: int = 1) -> NDArray[np.float64]: ...
    def predict(
        self,
        X: Rows | SparseRows,
        coef: NDArray[np.float64],
        intercept: NDArray[np.float64],
        n_classes: int,
        map: int,
        *,
        n_threads: int = 1,
    ) -> tuple[NDArray[Any], bool]: ...
    def map(self, x: NDArray[Any], out: NDArray[Any], map: int, *, n_threads: int = 1) -> None: ...
    def map_small(
        self, x: object, axis: object, out: object, map: int, keepdims: bool = ...
    ) -> NDArray[Any] | None: ...
    def cross_entropy(
        self, logits: NDArray[Any], targets: Targets, gradient: NDArray[Any] | None = None, *, n_threads: int = 1
    ) -> NDArray[np.float64]: ...
    def exp(self, x: NDArray[Any]) -> NDArray[Any]: ...
    def log(self, x: NDArray[Any]) -> NDArray[Any]: ...
