"""Writes the README's table from results.csv, or with --check says whether it is what the CSV gives."""

import argparse
import csv
import json
import sys
from pathlib import Path

BEGIN, END = "<!-- benchmark table: begin -->", "<!-- benchmark table: end -->"
# The works that the README always shows; those where softfast is not the fastest are added, whichever they are.
SHOWN = [
    ("loss_gradient", "500000x54 K=7", "float32"),
    ("loss_gradient", "60000x784 K=10", "float32"),
    ("loss_gradient", "20000x512 K=100", "float32"),
    ("softmax axis 1", "1000000x10", "float32"),
    ("softmax axis 1", "100000x1000", "float32"),
]
LIBRARIES = {"numpy": "NumPy", "scipy": "SciPy", "scikit-learn": "scikit-learn", "torch": "PyTorch"}


def table(results: Path) -> str:
    """The Markdown between the markers."""
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    machine = json.loads(results.with_suffix(".json").read_text())
    works: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        key = (row["work"], row["shape"], row["dtype"])
        works.setdefault(key, {})[row["library"]] = float(row["median_ms"])
    lost = [
        k for k, times in works.items() if any(times[name] < times["softfast"] for name in LIBRARIES if name in times)
    ]
    present = [name for name in LIBRARIES if any(name in times for times in works.values())]
    lines = [
        "| one call, milliseconds | softfast | " + " | ".join(LIBRARIES[name] for name in present) + " |",
        "|---|" + "---|" * (len(present) + 1),
    ]
    for key in SHOWN + [k for k in lost if k not in SHOWN]:
        times = works[key]
        best = min(times[name] for name in ("softfast", *present) if name in times)
        cells = [f"{times[name]:.3g}" if name in times else "" for name in ("softfast", *present)]
        cells = [f"**{c}**" if c and float(c) == float(f"{best:.3g}") else c for c in cells]
        lines.append(f"| `{key[0].split()[0]}` {key[1].replace('x', '×')} {key[2]} | " + " | ".join(cells) + " |")
    versions = {row["library"]: row["version"] for row in rows}
    used = ", ".join(f"{LIBRARIES[name]} {versions[name]}" for name in present)
    lines += [
        "",
        f"Medians of {rows[0]['runs']} interleaved runs in one process, {machine['threads']} threads, "
        f"{machine['cpu']}, {machine['isa']}; {used}; {machine['date']}. Rows where softfast is not the fastest are "
        "shown whichever they are.",
    ]
    return "\n".join(lines)


def main() -> int:
    """Rewrite or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readme", type=Path)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results.csv")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = options.readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}\n{table(options.results)}\n{END}{after}"
    if options.check:
        if wanted != text:
            print(f"{options.readme}: the table is not what {options.results} gives; run this without --check")
        return int(wanted != text)
    options.readme.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
