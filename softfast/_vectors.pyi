from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

def threads_started() -> bool: ...
def add_and_dot(y: Vector, factor: float, x: NDArray[Any], w: NDArray[Any], *, n_threads: int = 1) -> float: ...
def scale_and_dot(y: Vector, factor: float, w: NDArray[Any], *, n_threads: int = 1) -> float: ...
def differences(
    out: NDArray[Any], other: NDArray[Any], a: Vector, b: Vector, c: Vector, d: Vector, *, n_threads: int = 1
) -> tuple[float, float]: ...
def unscale(
    x: Vector, scale: Vector, center: Vector, centre_rows: bool, *, n_threads: int = 1
) -> tuple[Vector, Vector]: ...
def derive(
    coef: Vector,
    product: Vector,
    total: float,
    ridge: float,
    scale: Vector,
    center: Vector,
    residual: Vector,
    means: Vector | None,
    mean: Vector,
    size: Vector,
    out: Vector,
    *,
    n_threads: int = 1,
) -> Vector: ...
