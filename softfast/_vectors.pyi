from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

class Vectors:
    @property
    def name(self) -> str: ...
    def dot(self, x: NDArray[Any], y: Vector, *, n_threads: int = 1) -> float: ...
    def largest(self, x: Vector, *, n_threads: int = 1) -> float: ...
    def step(self, x: Vector, factor: float, direction: NDArray[Any], *, n_threads: int = 1) -> Vector: ...
    def combine(
        self,
        vectors: NDArray[Any],
        rows: NDArray[np.intp],
        factors: Vector,
        other: Vector,
        factor: float,
        out: NDArray[Any],
        *,
        n_threads: int = 1,
    ) -> None: ...
    def products(self, vectors: NDArray[Any], rows: NDArray[np.intp], x: Vector, *, n_threads: int = 1) -> Vector: ...
    def turn(
        self,
        vectors: NDArray[Any],
        rows: NDArray[np.intp],
        turned: int,
        after: Vector,
        before: Vector,
        divisor: float,
        *,
        n_threads: int = 1,
    ) -> tuple[Vector, float]: ...
    def unscale(
        self, x: Vector, scale: Vector, center: Vector, centre_rows: bool, *, n_threads: int = 1
    ) -> tuple[Vector, Vector]: ...
    def derive(
        self,
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
    ) -> tuple[Vector, Vector]: ...

vectors: dict[str, Vectors]
default: Vectors

def threads_started() -> bool: ...
def checksum(data: NDArray[np.uint8]) -> int: ...
