"""Loss and gradient and the array functions against other libraries, in one process, interleaved.

Writes a CSV: work, shape, dtype, order, threads, library, version, median_ms, min_ms, runs; and beside it a JSON with
the machine and its limits. Libraries that are not installed are left out. "softfast" is the public function on the best
instruction set of the machine, "softfast avx2" the AVX2 kernels called without it.
"""

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from libraries import Call, array_calls, cross_entropy_calls, csr_loss_gradient_calls, loss_gradient_calls, version
from machine import THREADS, limits, machine, threads_of_all

# Seconds for other libraries' threads to stop spinning; see README.md here.
PAUSE = 0.1

# Rows, features, classes, type; in C order and with all threads, and some of them otherwise too.
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
F_ORDER = [LOSS_GRADIENT[i] for i in (0, 1, 2, 5)]
ONE_THREAD = [LOSS_GRADIENT[i] for i in (0, 1, 2, 5, 6)]
# The same and the entries of a row, in CSR: words and pairs of them in news, and in short questions.
CSR = [(11_314, 130_107, 20, 158, "float32"), (18_000, 35_165, 150, 16, "float32")]
# Function, shape, axis, type, whether into an array that is there already.
ARRAYS = [
    ("softmax", (1_000_000, 10), 1, "float32", False),
    ("softmax", (1_000_000, 10), 1, "float32", True),
    ("softmax", (1_000_000, 10), 1, "float64", False),
    ("softmax", (100_000, 1000), 1, "float32", False),
    ("softmax", (100_000, 1000), 1, "float32", True),
    ("softmax", (100_000, 1000), 1, "float64", False),
    ("softmax", (10, 1_000_000), 0, "float32", False),
    ("softmax", (1, 10), 1, "float64", False),
    ("log_softmax", (1_000_000, 10), 1, "float32", False),
    ("log_softmax", (100_000, 1000), 1, "float32", False),
    ("logsumexp", (1_000_000, 10), 1, "float32", False),
    ("logsumexp", (100_000, 1000), 1, "float32", False),
    ("logsumexp", (10, 1_000_000), 0, "float32", False),
]
CROSS_ENTROPY = [((100_000, 1000), "float32"), ((1_000_000, 10), "float32")]


class Work(NamedTuple):
    """Columns of the CSV, and what makes the data and gives each library's call."""

    work: str
    shape: str
    dtype: str
    order: str
    threads: int
    calls: Callable[[], dict[str, Call]]


def works(shrink: int) -> Iterator[Work]:
    """All that is measured, with a `shrink`-th of the rows."""
    for cases, order, threads in (
        (LOSS_GRADIENT, "C", THREADS),
        (F_ORDER, "F", THREADS),
        (ONE_THREAD, "C", 1),
    ):
        for n, p, n_classes, dtype in cases:
            arguments = (max(100, n // shrink), p, n_classes, dtype, order, threads)
            yield Work(
                "loss_gradient",
                f"{arguments[0]}x{p} K={n_classes}",
                dtype,
                order,
                threads,
                lambda a=arguments: loss_gradient_calls(*a),
            )
    for threads in (THREADS, 1):
        for n, p, n_classes, entries, dtype in CSR:
            arguments = (max(100, n // shrink), p, n_classes, entries, dtype, threads)
            yield Work(
                "loss_gradient",
                f"{arguments[0]}x{p} K={n_classes}",
                dtype,
                "CSR",
                threads,
                lambda a=arguments: csr_loss_gradient_calls(*a),
            )
    for function, shape, axis, dtype, out in ARRAYS:
        small = tuple(max(1, s // shrink) if s > 1000 else s for s in shape)
        name = f"{function} axis {axis}{' out' if out else ''}"
        arguments = (function, small, axis, dtype, out, THREADS)
        yield Work(name, "x".join(map(str, small)), dtype, "C", THREADS, lambda a=arguments: array_calls(*a))
    for (n, n_classes), dtype in CROSS_ENTROPY:
        arguments = ((n // shrink, n_classes), dtype, THREADS)
        yield Work(
            "cross_entropy_gradient",
            f"{n // shrink}x{n_classes}",
            dtype,
            "C",
            THREADS,
            lambda a=arguments: cross_entropy_calls(*a),
        )


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


def main() -> None:
    """Measure all, write the CSV and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.csv")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows, 2 runs: does it work?")
    options = parser.parse_args()
    runs = 2 if options.quick else options.runs

    with threads_of_all(THREADS):
        facts = {**machine(), **limits()}
    print(json.dumps(facts, indent=2))
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Work._fields[:-1], "library", "version", "median_ms", "min_ms", "runs"])
        for work in works(100 if options.quick else 1):
            with threads_of_all(work.threads):
                times = measure(work.calls(), runs)
            for library, values in times.items():
                median, least = statistics.median(values), min(values)
                writer.writerow([*work[:-1], library, version(library), f"{median:.4g}", f"{least:.4g}", runs])
            ours = statistics.median(times["softfast"])
            ratios = {k: round(statistics.median(v) / ours, 2) for k, v in times.items() if k != "softfast"}
            what = f"{work.work:22} {work.shape:18} {work.dtype} {work.order} {work.threads} thread(s)"
            print(f"{what}: softfast {ours:.4g} ms, times as long: {ratios}", flush=True)
    options.out.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
