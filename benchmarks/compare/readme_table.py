"""Writes the README's tables from the CSVs beside this file, or with --check says whether they are what those give."""

import argparse
import csv
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
LIBRARIES = {
    "numpy": "NumPy",
    "scipy": "SciPy",
    "scikit-learn": "scikit-learn",
    "oneDAL": "oneDAL",
    "torch": "PyTorch",
    "cyanure": "Cyanure",
    "statsmodels": "statsmodels",
}
# The works that the README always shows; those where softfast is not the fastest are added, whichever they are.
SHOWN = [
    ("loss_gradient", "500000x54 K=7", "float32", "C", "2"),
    ("loss_gradient", "60000x784 K=10", "float32", "C", "2"),
    ("loss_gradient", "20000x512 K=100", "float32", "C", "2"),
    ("softmax axis 1", "1000000x10", "float32", "C", "2"),
    ("softmax axis 1", "100000x1000", "float32", "C", "2"),
]


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def markdown(corner: str, columns: list[str], lines: dict[str, dict[str, float]]) -> list[str]:
    """A table of numbers with softfast as its first column; the smallest of a line is bold."""
    names = ["softfast", *(LIBRARIES[name] for name in columns)]
    table = [f"| {corner} | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for label, values in lines.items():
        cells = [f"{values[name]:.3g}" if name in values else "" for name in ("softfast", *columns)]
        best = min(float(cell) for cell in cells if cell)
        cells = [f"**{cell}**" if cell and float(cell) == best else cell for cell in cells]
        table.append(f"| {label} | {' | '.join(cells)} |")
    return table


def kernels_table() -> str:
    """One call of each function, and the memory of one evaluation."""
    rows = read(HERE / "results.csv")
    machine = json.loads((HERE / "results.json").read_text())
    works: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        key = tuple(row[column] for column in ("work", "shape", "dtype", "order", "threads"))
        works.setdefault(key, {})[row["library"]] = float(row["median_ms"])
    lost = [
        k for k, times in works.items() if any(times[name] < times["softfast"] for name in LIBRARIES if name in times)
    ]
    present = [name for name in LIBRARIES if any(name in times for times in works.values())]
    lines = {}
    for key in SHOWN + [k for k in lost if k not in SHOWN]:
        work, shape, dtype, order, threads = key
        words = [f"`{work.split()[0]}`", shape.replace("x", "×"), dtype]
        words += ["into `out`"] * work.endswith(" out") + [f"{order} order"] * (order != "C")
        words += [f"{threads} thread"] * (threads != str(machine["threads"]))
        lines[" ".join(words)] = works[key]
    memory: dict[str, dict[str, float]] = {}
    memory_rows = read(HERE / "memory.csv")
    for row in memory_rows:
        label = f"`loss_gradient` {row['shape'].replace('x', '×')} {row['dtype']}"
        memory.setdefault(label, {})[row["library"]] = float(row["peak_extra_MB"])
    in_memory = [name for name in LIBRARIES if any(name in values for values in memory.values())]
    versions = {row["library"]: row["version"] for row in [*memory_rows, *rows]}
    used = ", ".join(f"{label} {versions[name]}" for name, label in LIBRARIES.items() if name in versions)
    return "\n".join(
        [
            *markdown("one call, milliseconds", present, lines),
            "",
            *markdown("memory of one call, MB", in_memory, memory),
            "",
            f"Medians of {rows[0]['runs']} interleaved runs in one process, {machine['threads']} threads, "
            f"{machine['cpu']}, {machine['isa']}; {used}; {machine['date']}. Rows where softfast is not the fastest "
            "are shown whichever they are. Memory is the peak beyond the arguments.",
        ]
    )


def fit_table() -> str:
    """Seconds to the target, of each library its fastest solver and settings; empty before fit.py has been run."""
    results = HERE / "fit.csv"
    if not results.is_file():
        return ""
    machine = json.loads(results.with_suffix(".json").read_text())
    rows = read(results)
    problems: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        found = problems.setdefault(row["problem"], {})
        best = found.get(row["library"])
        if row["reached"] == "yes" and (best is None or float(row["seconds"]) < float(best["seconds"])):
            found[row["library"]] = row
    # The time limit that a solver of the library ran into, or why else none reached the target.
    tried = {(row["problem"], row["library"]): "not reached" for row in rows}
    tried.update({(r["problem"], r["library"]): f"> {r['limit']}" for r in rows if r["reached"] == "time limit"})
    names = ["softfast", *(name for name in LIBRARIES if any(library == name for _, library in tried))]
    table = [
        f"| fit, seconds | {' | '.join(LIBRARIES.get(name, name) for name in names)} |",
        "|---|" + "---|" * len(names),
    ]
    for problem, found in problems.items():
        least = min((float(row["seconds"]) for row in found.values()), default=0.0)
        cells = []
        for name in names:
            if name not in found:
                cells.append(tried.get((problem, name), ""))
                continue
            seconds, solver = float(found[name]["seconds"]), found[name]["solver"].removeprefix(name).strip()
            number = f"**{seconds:.3g}**" if seconds == least else f"{seconds:.3g}"
            cells.append(f"{number} {solver}".rstrip())
        table.append(f"| {problem} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *table,
            "",
            f"Seconds until the objective, computed from the returned coefficients, is within a relative "
            f"{machine['target']:g} of its optimum; of each library the fastest solver and tolerance, or the "
            f"seconds that a fit was given; threads: {machine['threads']}, {machine['cpu']}; {machine['date']}.",
        ]
    )


def main() -> int:
    """Rewrite or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readme", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = wanted = options.readme.read_text(encoding="utf-8")
    for name, table in (("benchmark table", kernels_table), ("fit table", fit_table)):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = wanted.split(begin)
        wanted = "\n".join(filter(None, [before + begin, table(), end + rest.split(end)[1]]))
    if options.check:
        if wanted != text:
            print(f"{options.readme}: a table is not what {HERE} gives; run this without --check")
        return int(wanted != text)
    options.readme.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
