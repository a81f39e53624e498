"""What reading in parts costs, on a folder of Parquet files that `make_large.py` wrote, and what a fit from it takes.

Seconds of pyarrow to decode the columns; of the first pass, which also checks, counts and copies the rows; of an
evaluation from that copy, from a mapped .npy file and from memory, in turns; with --fit, of a fit, and its peak memory
without the pages of files. The array must fit in memory for the turns; without --turns it need not.

    python benchmarks/make_large.py /tmp/large --rows 2000000
    python benchmarks/compare/streams.py /tmp/large --turns 10
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from pyarrow import dataset

import softfast
from softfast.sources import Source
from softfast.sources.dense import DenseSource
from softfast.sources.parts import PartedSource
from softfast.sources.streamed import StreamedParts, StreamedRows


def decode(folder: Path) -> float:
    """Seconds, the least of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in dataset.dataset(folder, format="parquet").to_batches():
            pass
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def turns(rows: StreamedRows, count: int, scratch: Path) -> dict[str, list[float]]:
    """Seconds of evaluations of loss and gradient."""
    chunks = list(rows)
    X, labels = np.concatenate([x for x, _, _ in chunks]), np.concatenate([y for _, y, _ in chunks])
    X = np.ascontiguousarray(X)
    np.save(scratch / "X.npy", X)
    classes, codes = np.unique(labels, return_inverse=True)
    mapped = softfast.from_npy(scratch / "X.npy", labels)
    sources: dict[str, Source] = {
        "memory, C order": DenseSource(X, codes, len(classes)),
        "memory, F order": DenseSource(np.asfortranarray(X), codes, len(classes)),
        "mapped .npy": PartedSource(StreamedParts(mapped, None, None)),
        "copy of Parquet": PartedSource(StreamedParts(rows, None, None)),
    }
    coef = np.random.default_rng(0).normal(size=(len(classes), X.shape[1])) / 10
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(count):
        for name, source in sources.items():
            start = time.perf_counter()
            source.loss_gradient(coef, np.zeros(len(classes)))
            seconds[name].append(time.perf_counter() - start)
    return seconds


def anonymous() -> int:
    """MiB that this process takes without the pages of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--turns", type=int, default=0)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--scratch", default=tempfile.gettempdir(), help="folder for copies of the rows")
    arguments = parser.parse_args()
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    threading.Thread(target=watch, daemon=True).start()
    # In a process of its own: whole row groups leave memory behind that is not softfast's.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        decoding = other.submit(decode, arguments.folder).result()
    print(f"pyarrow decodes in {decoding:.2f} s", flush=True)
    with softfast.from_parquet(arguments.folder, target="label", cache=arguments.scratch) as rows:
        start = time.perf_counter()
        survey = rows.survey()
        seconds = time.perf_counter() - start
        print(
            f"first pass {seconds:.2f} s, {survey.n_rows:,} rows: {decoding / seconds:.0%} of pyarrow's speed",
            flush=True,
        )
        if arguments.fit:
            start = time.perf_counter()
            model = softfast.SoftmaxRegression().fit(rows)
            print(
                f"fit {time.perf_counter() - start:.1f} s, {model.n_passes_} passes, objective {model.objective_:.8f}, "
                f"gap {model.duality_gap_:.2g}, converged {model.converged_}, peak {peak[0]} MiB",
                flush=True,
            )
        if arguments.turns:
            with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
                for name, values in turns(rows, arguments.turns, Path(scratch)).items():
                    print(f"{name:16} least {min(values):.3f} s, median {np.median(values):.3f} s")
    ended.set()


if __name__ == "__main__":
    main()
