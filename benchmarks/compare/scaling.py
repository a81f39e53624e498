"""What an evaluation, a fit and a pass over a Dask cluster cost, against rows, features, classes and partitions.

Each part adds its rows to scaling.csv. What is there already is replaced by a lesser time only: what else a machine
does adds to a time and never shortens it, so several runs at several times come near the truth; for another version
remove the file. `scaling_report.py` makes docs/scaling.md of it.

    python benchmarks/make_large.py /tmp/large --rows 20000000 --npy
    python benchmarks/compare/scaling.py rows --folder /tmp/large
    python benchmarks/compare/scaling.py fits --folder /tmp/large
    python benchmarks/compare/scaling.py classes
    python benchmarks/compare/scaling.py features
    python benchmarks/compare/scaling.py partitions
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import THREADS, limits, machine

import softfast
from softfast.sources.dense import DenseSource

COLUMNS = [
    *("part", "n", "p", "classes", "partitions", "runs", "seconds", "passes", "converged"),
    *("bytes_client", "bytes_scheduler", "bytes_workers", "bytes_data"),
]
ROWS = [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 20_000_000]
P, CLASSES, ELEMENTS = 54, 7, 27_000_000
MANY_CLASSES = [2, 3, 7, 20, 50, 100, 300, 1000]
MANY_FEATURES = [10, 30, 54, 100, 300, 1000, 4096]
PARTITIONS = [2, 4, 8, 16, 32, 64]
# Seconds for which a measurement is repeated, and how often at least.
LONG_ENOUGH, RUNS = 2.5, 3


def least(call: Callable[[], Any], runs: int = RUNS) -> dict[str, Any]:
    """The least time of several runs."""
    seconds: list[float] = []
    while len(seconds) < runs or sum(seconds) < LONG_ENOUGH:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return {"runs": len(seconds), "seconds": f"{min(seconds):.4g}"}


def evaluation(X: Any, codes: np.ndarray, n_classes: int) -> dict[str, Any]:
    """Loss and gradient as a fit computes them, in float64, at coefficients that make logits of a usual size."""
    n, p = X.shape
    n_outputs = n_classes if n_classes > 2 else 1
    source = DenseSource(X, codes, n_classes, n_threads=THREADS)
    coef, intercept = np.random.default_rng(0).normal(size=(n_outputs, p)) / np.sqrt(p), np.zeros(n_outputs)
    source.loss_gradient(coef, intercept)
    return {"n": n, "p": p, "classes": n_classes, **least(lambda: source.loss_gradient(coef, intercept))}


def mapped(folder: Path, n: int) -> tuple[Any, np.ndarray]:
    """The first n rows of X.npy and their labels 0..6; of a mapped file, once it has been read."""
    X, y = np.load(folder / "X.npy", mmap_mode="r")[:n], np.load(folder / "y.npy", mmap_mode="r")[:n]
    return X, np.unique(y, return_inverse=True)[1]


def rows(folder: Path, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Evaluations against n."""
    for n in sizes:
        yield evaluation(*mapped(folder, n), CLASSES)


def fits(folder: Path, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Fits against n, from X as it lies in the file."""
    for n in sizes:
        X, codes = mapped(folder, n)
        model = softfast.SoftmaxRegression(n_threads=THREADS)
        found = {"n": n, "p": P, "classes": CLASSES, **least(lambda X=X, y=codes, model=model: model.fit(X, y), runs=1)}
        yield {**found, "passes": f"{model.n_passes_:.4g}", "converged": model.converged_}


def classes(folder: Path, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Evaluations against K."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ELEMENTS // P, P), dtype=np.float32)
    for n_classes in sizes:
        yield evaluation(X, rng.integers(n_classes, size=len(X)), n_classes)


def features(folder: Path, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Evaluations against p, with as many elements; of 100 classes a tenth of them."""
    rng = np.random.default_rng(0)
    for n_classes, elements in ((CLASSES, ELEMENTS), (100, ELEMENTS // 10)):
        for p in sizes:
            X = rng.standard_normal((elements // p, p), dtype=np.float32)
            yield evaluation(X, rng.integers(n_classes, size=len(X)), n_classes)


def partitions(folder: Path, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Passes against the number of partitions, of 100 rows, on two worker processes; and Dask's counters of bytes."""
    from dask import array as da
    from distributed import Client, LocalCluster

    from softfast.dask import SoftmaxRegression

    rng = np.random.default_rng(0)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        for number in sizes:
            X, y = rng.normal(size=(100 * number, P)), rng.integers(CLASSES, size=100 * number)
            arrays = da.from_array(X, chunks=(100, P)), da.from_array(y, chunks=100)
            source = SoftmaxRegression()._training(*arrays, None, None).source
            coef = rng.normal(size=(CLASSES, P))
            source.loss_gradient(coef, np.zeros(CLASSES))
            before = counters(client)
            found = least(lambda source=source, coef=coef: source.loss_gradient(coef, np.zeros(CLASSES)))
            sent = (counters(client) - before) // found["runs"]
            names = ("bytes_client", "bytes_scheduler", "bytes_workers", "bytes_data")
            found = {"n": len(X), "p": P, "classes": CLASSES, "partitions": number, **found}
            yield {**found, **dict(zip(names, sent.tolist(), strict=True))}


def counters(client: Any) -> np.ndarray:
    """Bytes so far: messages of the client, of the scheduler, of the workers; results that workers sent."""

    def of_scheduler(dask_scheduler: Any) -> int:
        streams = [*dask_scheduler.stream_comms.values(), *dask_scheduler.client_comms.values()]
        return sum(stream.byte_count for stream in streams)

    def of_worker(dask_worker: Any) -> tuple[int, int]:
        return dask_worker.batched_stream.byte_count, dask_worker.transfer_outgoing_bytes_total

    of_workers = np.sum(list(client.run(of_worker).values()), axis=0)
    return np.array([client.scheduler_comm.byte_count, client.run_on_scheduler(of_scheduler), *of_workers])


PARTS = {
    "rows": (rows, ROWS),
    "fits": (fits, ROWS),
    "classes": (classes, MANY_CLASSES),
    "features": (features, MANY_FEATURES),
    "partitions": (partitions, PARTITIONS),
}


def key(row: dict[str, str]) -> tuple[int, ...]:
    """What a row of the CSV has measured."""
    return list(PARTS).index(row["part"]), *(int(row[name] or 0) for name in ("partitions", "classes", "p", "n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--folder", type=Path, help="of X.npy and y.npy, for rows and fits")
    parser.add_argument("--sizes", type=int, nargs="+", help="some of the part's sizes only")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "scaling.csv")
    options = parser.parse_args()
    measure, sizes = PARTS[options.part]
    old: list[dict[str, Any]] = []
    if options.out.is_file():
        with options.out.open(newline="") as file:
            old = list(csv.DictReader(file))
    for found in measure(options.folder, options.sizes or sizes):
        print(found, flush=True)
        new = {name: str(found.get(name, "")) for name in COLUMNS} | {"part": options.part}
        best = min([new, *(row for row in old if key(row) == key(new))], key=lambda row: float(row["seconds"]))
        old = sorted([*(row for row in old if key(row) != key(new)), best], key=key)
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(old)
    options.out.with_suffix(".json").write_text(json.dumps({**machine(), **limits()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
