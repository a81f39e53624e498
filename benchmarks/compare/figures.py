"""Draws roofline.svg from results.csv: how near each library comes to the machine's two limits."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import matplotlib
from readme_table import LIBRARIES, read

COLOURS = {
    "softfast": "C3",
    "softfast avx2": "C1",
    "numpy": "C0",
    "scikit-learn": "C2",
    "oneDAL": "C4",
    "torch": "C5",
    "cyanure": "C6",
    "statsmodels": "C7",
}
MARKERS = {"float32": "o", "float64": "s"}


def roofline(folder: Path) -> Any:
    """GFLOP/s of loss and gradient against operations per byte that has to be read: X and the labels, once.

    Only the two products count as operations, 4 n p K; whoever reads X twice or spends time on exp lies lower.
    """
    from matplotlib import pyplot

    machine = json.loads((folder / "results.json").read_text())
    bandwidth, peaks = machine["read_bandwidth_GBps"], machine["fma_peak_GFLOPs"]
    figure, ax = pyplot.subplots(figsize=(7, 5), layout="constrained")
    seen = set()
    for row in read(folder / "results.csv"):
        large = row["work"] == "loss_gradient" and not row["shape"].startswith("100x")
        if not large or row["order"] != "C" or row["threads"] != str(machine["threads"]):
            continue
        n, p, n_classes = map(int, re.findall(r"\d+", row["shape"]))
        operations = 4 * n * p * n_classes
        n_bytes = n * (p * int(row["dtype"][-2:]) // 8 + 8)
        library = row["library"]
        label = LIBRARIES.get(library, library) if library not in seen else None
        seen.add(library)
        rate = operations / float(row["median_ms"]) / 1e6
        ax.plot(operations / n_bytes, rate, MARKERS[row["dtype"]], color=COLOURS[library], label=label)
    left, right = 1.0, 2000.0
    for dtype, peak in peaks.items():
        style, side = ("k-", "bottom") if dtype == "float32" else ("k--", "top")
        ax.plot([left, peak / bandwidth, right], [left * bandwidth, peak, peak], style, linewidth=1)
        ax.annotate(f"{dtype}: {peak} GFLOP/s", (right, peak), ha="right", va=side)
    ax.annotate(f"{bandwidth} GB/s", (left * 1.3, left * 1.3 * bandwidth), ha="right", va="bottom")
    ax.set(xscale="log", yscale="log", xlabel="operations per byte of X and y", ylabel="GFLOP/s")
    ax.set_title(f"loss and gradient, {machine['threads']} threads (circles float32, squares float64)")
    ax.legend()
    return figure


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the CSVs are")
    options = parser.parse_args()
    matplotlib.use("agg")
    # The same figure gives the same file.
    matplotlib.rcParams["svg.hashsalt"] = "softfast"
    roofline(options.folder).savefig(options.folder / "roofline.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
