"""Peak memory that one evaluation of loss and gradient takes beyond its arguments, a process for each library.

Writes a CSV: shape, dtype, library, version, peak_extra_MB: by how much the process's largest resident set
(ru_maxrss) grows in one call, after a call on few rows has loaded all code and made the libraries' own buffers. Linux
only.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from libraries import Call, csr_loss_gradient_calls, loss_gradient_calls, version
from machine import THREADS, threads_of_all

# Rows, features, classes, entries of a row (None: dense), type.
CASES = [
    (5_000_000, 20, 10, None, "float32"),
    (20_000, 256, 1000, None, "float32"),
    (11_314, 130_107, 20, 158, "float32"),
]
LIBRARIES = ["softfast", "numpy", "scikit-learn", "oneDAL", "torch"]
SPARSE = ["softfast", "scikit-learn"]


def calls(n: int, p: int, n_classes: int, entries: int | None, dtype: str) -> dict[str, Call]:
    """Of the libraries, for n rows."""
    if entries is None:
        return loss_gradient_calls(n, p, n_classes, dtype, n_threads=THREADS)
    return csr_loss_gradient_calls(n, p, n_classes, entries, dtype, n_threads=THREADS)


def peak_extra_mb(library: str, n: int, *case: Any) -> float:
    """In this process, which must be new."""
    with threads_of_all(THREADS):
        calls(1000, *case)[library]()
        call = calls(n, *case)[library]
        # Else a peak while the data were made (40 MB here) would hide what the call takes.
        Path("/proc/self/clear_refs").write_text("5")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6


def main() -> None:
    """Measure all and write the CSV; with --one, measure one in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "memory.csv")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(peak_extra_mb(*options.one))
        return
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["shape", "dtype", "library", "version", "peak_extra_MB"])
        for n, p, n_classes, entries, dtype in CASES:
            for library in filter(version, LIBRARIES if entries is None else SPARSE):
                one = json.dumps([library, n, p, n_classes, entries, dtype])
                command = [sys.executable, __file__, "--one", one]
                result = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                row = [
                    f"{n}x{p} K={n_classes}{' CSR' * (entries is not None)}",
                    dtype,
                    library,
                    version(library),
                    f"{float(result):.1f}",
                ]
                writer.writerow(row)
                print(*row, flush=True)


if __name__ == "__main__":
    main()
