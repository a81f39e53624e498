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

from libraries import loss_gradient_calls, version
from machine import THREADS, threads_of_all

CASES = [(5_000_000, 20, 10, "float32"), (20_000, 256, 1000, "float32")]
LIBRARIES = ["softfast", "numpy", "scikit-learn", "oneDAL", "torch"]


def peak_extra_mb(library: str, n: int, p: int, n_classes: int, dtype: str) -> float:
    """In this process, which must be new."""
    with threads_of_all(THREADS):
        loss_gradient_calls(1000, p, n_classes, dtype, n_threads=THREADS)[library]()
        call = loss_gradient_calls(n, p, n_classes, dtype, n_threads=THREADS)[library]
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
        for n, p, n_classes, dtype in CASES:
            for library in filter(version, LIBRARIES):
                one = json.dumps([library, n, p, n_classes, dtype])
                command = [sys.executable, __file__, "--one", one]
                result = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                row = [f"{n}x{p} K={n_classes}", dtype, library, version(library), f"{float(result):.1f}"]
                writer.writerow(row)
                print(*row, flush=True)


if __name__ == "__main__":
    main()
