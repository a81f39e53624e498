"""The machine: what it is, how fast it reads and multiplies, and threads of all libraries at once."""

import contextlib
import datetime
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from softfast.config import config

THREADS = 2


@contextlib.contextmanager
def threads_of_all(n_threads: int) -> Iterator[None]:
    """NumPy's BLAS, OpenMP, PyTorch and oneDAL on `n_threads`; those that are not installed are left out."""
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(n_threads)
    with contextlib.suppress(ImportError):
        import daal4py

        daal4py.daalinit(n_threads)
    with threadpool_limits(n_threads):
        yield


def machine() -> dict[str, Any]:
    """The facts that stand beside every table of results."""
    return {**config(), "date": datetime.date.today().isoformat(), "cpu": cpu_model(), "threads": THREADS}


def limits() -> dict[str, Any]:
    """The two limits of every kernel: GB/s read, and GFLOP/s of the matrix product of NumPy's BLAS."""
    return {
        "read_bandwidth_GBps": round(read_bandwidth(), 1),
        "fma_peak_GFLOPs": {dtype: round(fma_peak(dtype)) for dtype in ("float32", "float64")},
    }


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def read_bandwidth() -> float:
    """GB/s that all threads read together, by NumPy's maximum of a large array; the best of several."""
    array = np.ones(64 * 2**20, dtype=np.float32)
    parts = np.split(array, THREADS)
    best = float("inf")
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(10):
            begin = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - begin)
    return array.nbytes / best / 1e9


def fma_peak(dtype: str) -> float:
    """GFLOP/s that products of large square matrices reach in NumPy's BLAS; the best of several."""
    a = np.ones((2048, 2048), dtype=dtype)
    best = float("inf")
    for _ in range(8):
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    return 2 * 2048**3 / best / 1e9
