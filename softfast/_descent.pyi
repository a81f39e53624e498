import numpy as np
from numpy.typing import NDArray

def descend(
    values: NDArray[np.float64],
    sizes: NDArray[np.int64],
    low_rank: NDArray[np.float64],
    sign: NDArray[np.float64],
    members: NDArray[np.int64],
    starts: NDArray[np.int64],
    weight: NDArray[np.float64],
    bound: NDArray[np.float64],
    x: NDArray[np.float64],
    gradient: NDArray[np.float64],
    product: NDArray[np.float64],
    max_sweeps: int,
    tolerance: float,
) -> tuple[int, float]: ...
def descend_rows(
    data: NDArray[np.floating],
    rows: NDArray[np.int32],
    begins: NDArray[np.int64],
    columns: NDArray[np.int64],
    classes: NDArray[np.int64],
    center: NDArray[np.float64],
    scale: NDArray[np.float64],
    logits: NDArray[np.float64],
    proba: NDArray[np.float64],
    labels: NDArray[np.int64],
    row_weight: NDArray[np.float64],
    ridge: NDArray[np.float64],
    weight: NDArray[np.float64],
    gradient: NDArray[np.float64],
    start: NDArray[np.float64],
    x: NDArray[np.float64],
    max_sweeps: int,
    tolerance: float,
) -> tuple[int, float]: ...
