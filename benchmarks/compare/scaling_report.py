"""Writes the tables of docs/scaling.md and docs/scaling.svg from scaling.csv, or with --check compares the tables.

The model of an evaluation of n rows, p float32 features, K classes (M = K coefficient rows, 1 of two classes) is
n (4 p + 8) bytes, 4 n p M operations and n K exponentials, each at a rate of its own, one after the other; operations
and exponentials have other rates from 32 classes on, where other kernels work, on whole panels of 32 classes. A pass
over a Dask cluster costs a constant and something for each partition. The rates are fitted to relative errors.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from readme_table import read
from scipy.optimize import nnls

HERE = Path(__file__).parent
# What the costs on a cluster assume.
MACHINES, CORES, PARTITIONS_A_MACHINE, FAN_IN = 100, 16, 4, 8
NETWORK, LATENCY, READING = 10e9 / 8, 1e-3, 1e9
SAMPLE_BYTES = 2**26
# From so many classes on they lie across the lanes, in panels of as many.
PANEL = 32
PAPER = [(10**9, 54, 7), (10**11, 54, 7), (10**9, 1000, 100)]


class Model:
    """The rates, and what they give."""

    def __init__(self, rows: list[dict[str, str]], threads: int) -> None:
        evaluations = [row for row in rows if row["part"] in ("rows", "classes", "features")]
        counts = np.array([self.counts(*self.shape(row)) for row in evaluations])
        seconds = np.array([float(row["seconds"]) for row in evaluations])
        self.costs, _ = nnls(counts / seconds[:, None], np.ones(len(seconds)))
        self.ratios = counts @ self.costs / seconds
        self.threads = threads
        passes = [row for row in rows if row["part"] == "partitions"]
        number = np.array([float(row["partitions"]) for row in passes])
        seconds = np.array([float(row["seconds"]) for row in passes])
        (self.of_pass, self.of_partition), _ = nnls(
            np.column_stack([1 / seconds, number / seconds]), np.ones(len(seconds))
        )
        fits = [row for row in rows if row["part"] == "fits"]
        self.passes = max(float(row["passes"]) for row in fits)

    @staticmethod
    def shape(row: dict[str, str]) -> tuple[int, int, int]:
        return int(row["n"]), int(row["p"]), int(row["classes"])

    @staticmethod
    def counts(n: int, p: int, n_classes: int) -> tuple[float, ...]:
        """Bytes; operations and exponentials of few classes; of many."""
        n_bytes = n * (4.0 * p + 8)
        if n_classes < PANEL:
            return n_bytes, 4.0 * n * p * (n_classes if n_classes > 2 else 1), float(n) * n_classes, 0.0, 0.0
        padded = -(-n_classes // PANEL) * PANEL
        return n_bytes, 0.0, 0.0, 4.0 * n * p * padded, float(n) * padded

    def evaluation(self, n: int, p: int, n_classes: int) -> float:
        """Seconds, on the threads of the measurements."""
        return float(np.dot(self.counts(n, p, n_classes), self.costs))

    def on_cluster(self, n: int, p: int, n_classes: int) -> dict[str, float]:
        """Seconds on all machines: of a pass, by what takes them, and of a fit."""
        partitions, coef = MACHINES * PARTITIONS_A_MACHINE, 8.0 * n_classes * (p + 1)
        levels = math.ceil(math.log(partitions, FAN_IN))
        rows = self.evaluation(n, p, n_classes) / MACHINES * self.threads / CORES
        tasks = self.of_pass + partitions * self.of_partition
        # One worker sends the coefficients to all others; a sum waits for the results that it adds.
        network = (MACHINES * coef + levels * (FAN_IN - 1) * coef) / NETWORK + (levels + 2) * LATENCY
        samples = (levels + 1) * (SAMPLE_BYTES + 8.0 * p * 20_000) / NETWORK
        loading = 4.0 * n * p / MACHINES / READING
        one = rows + tasks + network
        return {
            "memory": 4.0 * n * p / MACHINES,
            "loading": loading,
            "rows": rows,
            "tasks": tasks,
            "network": network,
            "pass": one,
            "samples": samples,
            "fit": loading + samples + self.passes * one,
        }


def table(head: list[str], lines: list[list[str]]) -> str:
    """Of Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds / 60:.0f} min"


def size(n_bytes: float) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes:.0f} B"


def count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e9 else f"10^{math.log10(number):.0f}"


def evaluations(rows: list[dict[str, str]], model: Model, facts: dict[str, Any]) -> str:
    lines = []
    for row in rows:
        if row["part"] in ("rows", "classes", "features"):
            n, p, n_classes = model.shape(row)
            seconds = float(row["seconds"])
            said = model.evaluation(n, p, n_classes)
            lines.append(
                [count(n), str(p), str(n_classes), duration(seconds), f"{1e9 * seconds / n:.3g}", duration(said)]
            )
    units = ["GB/s", *("GFLOP/s", "billion exponentials a second") * 2]
    rates = [f"{1e-9 / cost:.3g} {unit}" for cost, unit in zip(model.costs, units, strict=True) if cost]
    n_few = sum(cost > 0 for cost in model.costs[:3])
    return "\n".join(
        [
            table(["rows", "features", "classes", "an evaluation", "ns a row", "the model"], lines),
            "",
            f"{facts['threads']} threads, {facts['cpu']}, {facts['isa']}, {facts['date']}; the least of several runs. "
            f"The model's rates: {', '.join(rates[:n_few])}; from {PANEL} classes on {', '.join(rates[n_few:])}. "
            f"It is off by a factor of {model.ratios.min():.2f} to {model.ratios.max():.2f}, "
            f"{np.exp(np.abs(np.log(model.ratios)).mean()):.2f} in the geometric mean.",
        ]
    )


def fits(rows: list[dict[str, str]], model: Model, facts: dict[str, Any]) -> str:
    lines = []
    for row in rows:
        if row["part"] == "fits":
            n, p, _ = model.shape(row)
            seconds, passes = float(row["seconds"]), float(row["passes"])
            lines.append([count(n), f"{passes:.1f}", duration(seconds), f"{1e9 * seconds / n:,.0f}", size(4.0 * n * p)])
    return table(["rows", "passes", "a fit", "ns a row", "X"], lines)


def partitions(rows: list[dict[str, str]], model: Model, facts: dict[str, Any]) -> str:
    lines = []
    for row in rows:
        if row["part"] == "partitions":
            sent = (size(float(row[f"bytes_{who}"])) for who in ("client", "scheduler", "workers", "data"))
            said = model.of_pass + int(row["partitions"]) * model.of_partition
            lines.append([row["partitions"], duration(float(row["seconds"])), duration(said), *sent])
    head = ["partitions", "a pass", "the model", "client sends", "scheduler sends", "workers send", "results sent"]
    return "\n".join(
        [
            table(head, lines),
            "",
            f"The model: {duration(model.of_pass)} and {duration(model.of_partition)} a partition.",
        ]
    )


def paper(rows: list[dict[str, str]], model: Model, facts: dict[str, Any]) -> str:
    lines = []
    for shape in PAPER:
        cost = model.on_cluster(*shape)
        names = ("loading", "rows", "tasks", "network", "pass", "fit")
        lines.append([*map(count, shape), size(cost["memory"]), *(duration(cost[name]) for name in names)])
    head = [
        *("rows", "features", "classes", "X, a machine", "loading"),
        *("rows of a pass", "its tasks", "its messages"),
    ]
    shares = {shape: model.on_cluster(*shape) for shape in PAPER}
    most = max(shares.values(), key=lambda cost: cost["samples"])
    return "\n".join(
        [
            table([*head, "a pass", "a fit"], lines),
            "",
            f"{MACHINES} machines of {CORES} cores, {PARTITIONS_A_MACHINE} partitions each; a network of "
            f"{8 * NETWORK / 1e9:.0f} Gbit/s and {1e3 * LATENCY:.0f} ms a message; each reads "
            f"{READING / 1e9:.0f} GB/s from files; {model.passes:.0f} passes, the most seen above. The samples take at "
            f"most {duration(most['samples'])} of the fit.",
        ]
    )


BLOCKS = {"evaluations": evaluations, "fits": fits, "partitions": partitions, "paper": paper}


def figure(rows: list[dict[str, str]], model: Model) -> Any:
    """Points measured, lines of the model."""
    from matplotlib import pyplot

    drawing, grid = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    panels = (("rows", "n", "rows"), ("classes", "classes", "classes"), ("features", "p", "features"))
    for ax, (part, column, label) in zip(grid.flat, panels, strict=False):
        own = [row for row in rows if row["part"] == part]
        series = {"an evaluation": own}
        if part == "features":
            kinds = dict.fromkeys(row["classes"] for row in own)
            series = {f"{kind} classes": [row for row in own if row["classes"] == kind] for kind in kinds}
        for number, (name, some) in enumerate(series.items()):
            at = [int(row[column]) for row in some]
            ax.plot(at, [float(row["seconds"]) for row in some], "o", color=f"C{number}", label=name)
            ax.plot(
                at, [model.evaluation(*model.shape(row)) for row in some], "-", color=f"C{number}", label="the model"
            )
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds")
    done = [row for row in rows if row["part"] == "fits"]
    grid[0, 0].plot([int(r["n"]) for r in done], [float(r["seconds"]) for r in done], "s", color="C3", label="a fit")
    grid[0, 0].set_title("54 features, 7 classes")
    grid[0, 1].set_title("500,000 rows of 54 features")
    grid[1, 0].set_title("27,000,000 numbers; 2,700,000 of 100 classes")
    passes = [row for row in rows if row["part"] == "partitions"]
    at = [int(row["partitions"]) for row in passes]
    grid[1, 1].plot(at, [float(row["seconds"]) for row in passes], "o", label="a pass over a Dask cluster")
    grid[1, 1].plot(at, [model.of_pass + n * model.of_partition for n in at], "-", color="C0", label="the model")
    grid[1, 1].set(xlabel="partitions", ylabel="seconds", ylim=(0, None), title="two workers, 100 rows a partition")
    for ax in grid.flat:
        ax.legend()
    return drawing


def main() -> int:
    """Rewrite or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    rows, facts = read(HERE / "scaling.csv"), json.loads((HERE / "scaling.json").read_text())
    model = Model(rows, facts["threads"])
    text = wanted = options.document.read_text(encoding="utf-8")
    for name, block in BLOCKS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = wanted.split(begin)
        wanted = "\n".join([before + begin, block(rows, model, facts), end + rest.split(end)[1]])
    if options.check:
        if wanted != text:
            print(f"{options.document}: a table is not what {HERE} gives; run this without --check")
        return int(wanted != text)
    options.document.write_text(wanted, encoding="utf-8")
    import matplotlib

    matplotlib.use("agg")
    # The same figure gives the same file.
    matplotlib.rcParams["svg.hashsalt"] = "softfast"
    figure(rows, model).savefig(options.document.with_suffix(".svg"), metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
