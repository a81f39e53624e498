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


def main() -> int:
    """Rewrite or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readme", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = wanted = options.readme.read_text(encoding="utf-8")
    for name, table in (("benchmark table", kernels_table),):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = wanted.split(begin)
        wanted = f"{before}{begin}\n{table()}\n{end}{rest.split(end)[1]}"
    if options.check:
        if wanted != text:
            print(f"{options.readme}: a table is not what {HERE} gives; run this without --check")
        return int(wanted != text)
    options.readme.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
