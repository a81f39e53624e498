"""Loss and gradient and the array functions against other libraries, in one process, interleaved.

Writes a CSV: work, shape, dtype, threads, library, version, median_ms, min_ms, runs; and beside it a JSON with the
machine. Libraries that are not installed are left out.
"""

import argparse
import csv
import datetime
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
from threadpoolctl import threadpool_limits

import softfast
from softfast.config import config
from softfast.numpy_reference import loss_gradient as numpy_loss_gradient

Call = Callable[[], Any]

THREADS = 2
# Seconds for other libraries' threads to stop spinning; see README.md here.
PAUSE = 0.1

LOSS_GRADIENT = [
    (500_000, 54, 7, "float32"),
    (500_000, 54, 7, "float64"),
    (60_000, 784, 10, "float32"),
    (60_000, 784, 10, "float64"),
    (200_000, 128, 3, "float32"),
    (20_000, 512, 100, "float32"),
    (20_000, 256, 1000, "float32"),
    (100, 10, 3, "float64"),
]
SOFTMAX = [
    ((1_000_000, 10), 1, "float32"),
    ((1_000_000, 10), 1, "float64"),
    ((100_000, 1000), 1, "float32"),
    ((100_000, 1000), 1, "float64"),
    ((10, 1_000_000), 0, "float32"),
    ((1, 10), 1, "float64"),
]
LOGSUMEXP = [((1_000_000, 10), 1, "float32"), ((100_000, 1000), 1, "float32")]
CROSS_ENTROPY = [((100_000, 1000), "float32"), ((1_000_000, 10), "float32")]


def torch_module() -> Any:
    """PyTorch if it is there."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(THREADS)
    return torch


def loss_gradient_calls(n: int, p: int, n_classes: int, dtype: str) -> dict[str, Call]:
    """One evaluation by each library, on the same arrays."""
    from sklearn._loss import HalfMultinomialLoss
    from sklearn.linear_model._linear_loss import LinearModelLoss

    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p)).astype(dtype)
    y = rng.integers(0, n_classes, n)
    coef = (rng.standard_normal((n_classes, p)) / np.sqrt(p)).astype(dtype)
    intercept = np.zeros(n_classes, dtype=dtype)
    linear = LinearModelLoss(HalfMultinomialLoss(n_classes=n_classes), fit_intercept=True)
    raveled = np.ravel(np.column_stack([coef, intercept]), order="F")
    y_float = y.astype(dtype)
    calls: dict[str, Call] = {
        "softfast": lambda: softfast.loss_gradient(X, y, coef, intercept, n_threads=THREADS),
        "numpy": lambda: numpy_loss_gradient(X, y, coef, intercept),
        "scikit-learn": lambda: linear.loss_gradient(raveled, X, y_float, n_threads=THREADS),
    }
    torch = torch_module()
    if torch:
        tensors = [torch.from_numpy(a) for a in (X, y, coef.copy(), intercept.copy())]
        tensors[2].requires_grad_()
        tensors[3].requires_grad_()

        def torch_call() -> None:
            tensors[2].grad = tensors[3].grad = None
            logits = torch.nn.functional.linear(tensors[0], tensors[2], tensors[3])
            torch.nn.functional.cross_entropy(logits, tensors[1]).backward()

        calls["torch"] = torch_call
    return calls


def array_calls(function: str, shape: tuple[int, ...], axis: int, dtype: str) -> dict[str, Call]:
    """softmax or logsumexp by each library; for softmax, copying the array as the floor."""
    x = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    calls: dict[str, Call] = {
        "softfast": lambda: getattr(softfast, function)(x, axis, n_threads=THREADS if x.size > 1000 else None),
        "scipy": lambda: getattr(scipy.special, function)(x, axis=axis),
    }
    if function == "softmax":
        calls["copy"] = x.copy
    torch = torch_module()
    if torch:
        tensor = torch.from_numpy(x)
        calls["torch"] = lambda: getattr(torch, function)(tensor, axis)
    return calls


def cross_entropy_calls(shape: tuple[int, int], dtype: str) -> dict[str, Call]:
    """Cross-entropy and its gradient by the logits."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal(shape).astype(dtype), rng.integers(0, shape[1], shape[0])
    calls: dict[str, Call] = {"softfast": lambda: softfast.cross_entropy_gradient(x, y, n_threads=THREADS)}
    torch = torch_module()
    if torch:
        tensor, labels = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)

        def torch_call() -> None:
            tensor.grad = None
            torch.nn.functional.cross_entropy(tensor, labels).backward()

        calls["torch"] = torch_call
    return calls


def measure(calls: dict[str, Call], runs: int) -> dict[str, list[float]]:
    """Milliseconds of each call; the libraries take turns, calls shorter than 10 ms are repeated."""
    repeats = {}
    for name, call in calls.items():
        call()
        begin = time.perf_counter()
        call()
        repeats[name] = max(1, min(1000, int(0.01 / max(1e-9, time.perf_counter() - begin))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            time.sleep(PAUSE)
            begin = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - begin) / repeats[name] * 1e3)
    return times


def read_bandwidth() -> float:
    """GB/s that two threads read, by summing a large array with NumPy; the best of several."""
    from concurrent.futures import ThreadPoolExecutor

    array = np.ones(64 * 2**20, dtype=np.float32)
    halves = np.split(array, THREADS)
    best = float("inf")
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(10):
            begin = time.perf_counter()
            list(pool.map(np.max, halves))
            best = min(best, time.perf_counter() - begin)
    return array.nbytes / best / 1e9


def fma_peak() -> float:
    """GFLOP/s of float32 that matrix products of NumPy's BLAS reach with two threads; the best of several."""
    a = np.ones((2048, 2048), dtype=np.float32)
    best = float("inf")
    for _ in range(8):
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    return 2 * 2048**3 / best / 1e9


def main() -> None:
    """Measure all, write the CSV and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.csv")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows, 2 runs: does it work?")
    options = parser.parse_args()
    shrink = 100 if options.quick else 1
    runs = 2 if options.quick else options.runs

    works: list[tuple[str, str, str, Callable[[], dict[str, Call]]]] = []
    for n, p, n_classes, dtype in LOSS_GRADIENT:
        rows = max(100, n // shrink)
        works.append(
            (
                "loss_gradient",
                f"{rows}x{p} K={n_classes}",
                dtype,
                lambda a=(rows, p, n_classes, dtype): loss_gradient_calls(*a),
            )
        )
    for function, cases in (("softmax", SOFTMAX), ("logsumexp", LOGSUMEXP)):
        for shape, axis, dtype in cases:
            small = tuple(max(1, s // shrink) if s > 1000 else s for s in shape)
            name = f"{function} axis {axis}"
            works.append(
                (name, "x".join(map(str, small)), dtype, lambda a=(function, small, axis, dtype): array_calls(*a))
            )
    for shape, dtype in CROSS_ENTROPY:
        small = (shape[0] // shrink, shape[1])
        works.append(
            (
                "cross_entropy_gradient",
                "x".join(map(str, small)),
                dtype,
                lambda a=(small, dtype): cross_entropy_calls(*a),
            )
        )

    with threadpool_limits(THREADS), options.out.open("w", newline="") as file:
        machine = {
            **config(),
            "date": datetime.date.today().isoformat(),
            "cpu": cpu_model(),
            "threads": THREADS,
            "read_bandwidth_GBps": round(read_bandwidth(), 1),
            "fma_peak_GFLOPs": round(fma_peak(), 0),
        }
        print(json.dumps(machine, indent=2))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["work", "shape", "dtype", "threads", "library", "version", "median_ms", "min_ms", "runs"])
        for work, shape, dtype, make in works:
            times = measure(make(), runs)
            for library, values in times.items():
                package = {"copy": "numpy"}.get(library, library)
                median, least = statistics.median(values), min(values)
                row = [work, shape, dtype, THREADS, library, importlib.metadata.version(package)]
                writer.writerow([*row, f"{median:.4g}", f"{least:.4g}", runs])
            ours = statistics.median(times["softfast"])
            ratios = {k: round(statistics.median(v) / ours, 2) for k, v in times.items() if k != "softfast"}
            print(f"{work:24} {shape:20} {dtype}: softfast {ours:.4g} ms, times as long: {ratios}", flush=True)
    options.out.with_suffix(".json").write_text(json.dumps(machine, indent=2) + "\n")


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
