"""Draws the figures from the CSVs.

roofline.svg from results.csv: how near each library comes to the machine's two limits. fit.svg from fit.csv: relative
suboptimality against seconds.
"""

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
# Of the solvers of one library: line and marker.
STYLES = [{"linestyle": line, "marker": marker} for marker in (".", "^") for line in ("-", "--", "-.", ":")]
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


def fits(folder: Path) -> Any:
    """A line for each solver, through its fits from loose to tight; the defaults are crosses."""
    from matplotlib import pyplot

    facts = json.loads((folder / "fit.json").read_text())
    rows = [row for row in read(folder / "fit.csv") if row["relative_suboptimality"]]
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    libraries = {row["solver"]: row["library"] for row in rows}
    styles = {}
    for library in set(libraries.values()):
        for solver, style in zip([s for s in libraries if libraries[s] == library], STYLES, strict=False):
            styles[solver] = {"color": COLOURS[library], "label": solver, **style}
    n_lines = -(-(len(problems) + 1) // 3)
    figure, grid = pyplot.subplots(n_lines, 3, figsize=(12, 3.5 * n_lines), layout="constrained", squeeze=False)
    for ax, problem in zip(grid.flat, problems, strict=False):
        for solver, style in styles.items():
            ladder = []
            for row in rows:
                if (row["problem"], row["solver"]) != (problem, solver):
                    continue
                # What rounding leaves of it, a negative number too, has no place on the scale.
                point = float(row["seconds"]), max(float(row["relative_suboptimality"]), 1e-13)
                if row["settings"] == "{}":
                    ax.plot(*point, "x", color=style["color"])
                else:
                    ladder.append(point)
            if ladder:
                ax.plot(*zip(*ladder, strict=True), **style)
        ax.axhline(facts["target"], color="black", linewidth=0.5)
        ax.set(xscale="log", yscale="log", title=problem, xlabel="seconds", ylabel="relative suboptimality")
    for ax in grid.flat[len(problems) :]:
        ax.axis("off")
    handles = [pyplot.Line2D([], [], **styles[solver]) for solver in libraries]
    grid.flat[-1].legend(handles=handles, loc="center", ncols=2, fontsize="small")
    return figure


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the CSVs are")
    options = parser.parse_args()
    matplotlib.use("agg")
    # The same figure gives the same file.
    matplotlib.rcParams["svg.hashsalt"] = "softfast"
    for data, name, draw in (("results.csv", "roofline.svg", roofline), ("fit.csv", "fit.svg", fits)):
        if (options.folder / data).is_file():
            draw(options.folder).savefig(options.folder / name, metadata={"Date": None})


if __name__ == "__main__":
    main()
