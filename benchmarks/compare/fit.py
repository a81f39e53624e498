"""Seconds until the objective is within a relative 1e-6 of its optimum, by softfast and other libraries.

Not seconds an iteration and not seconds of the defaults: each solver climbs a ladder of settings, the defaults first,
then tighter and tighter tolerances, each a fit from scratch, until one reaches the target or the time limit of a fit
runs out. One function computes the objective in float64 from the coefficients that were returned. Each solver has a
process of its own on each problem, which has fitted iris before it is timed; fits shorter than half a second are
repeated, and the median is taken.

Writes a CSV: problem, solver, library, version, settings, limit (the seconds a fit may take), seconds, iterations
(passes over the rows for softfast, else as the library counts them), relative_suboptimality, reached ("yes", "no",
"time limit", or the error); and beside it a JSON with the machine and the optima, which a later run takes from there.
All problems with all solvers take hours: --problems, --solvers and --limit choose.
"""

import argparse
import csv
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fit_problems import BUNDLED, PROBLEMS, objective, optimum
from fit_solvers import SOLVERS, fit, rungs, version
from machine import THREADS, machine, threads_of_all

COLUMNS = [
    "problem",
    "solver",
    "library",
    "version",
    "settings",
    "limit",
    "seconds",
    "iterations",
    "relative_suboptimality",
    "reached",
]


def work(task: dict[str, Any]) -> None:
    """In a process of its own: one line of JSON a fit, after one that says that all is loaded; null at the end."""
    warnings.simplefilter("ignore")
    problem = PROBLEMS[task["problem"]]()
    solver = task["solver"]
    if solver == "optimum":
        tell(optimum(problem))
        return
    if not SOLVERS[solver].applies(problem):
        return
    with threads_of_all(task["threads"]):
        fit(solver, PROBLEMS["anes96 C=inf" if problem.penalty == 0 else "iris"](), {})
        tell("ready")
        for settings in rungs(solver, problem):
            line: dict[str, Any] = {"settings": settings}
            try:
                seconds = []
                while not seconds or (sum(seconds) < 0.5 and len(seconds) < 5):
                    begin = time.perf_counter()
                    coef, intercept, line["iterations"] = fit(solver, problem, settings)
                    seconds.append(time.perf_counter() - begin)
                line["seconds"] = statistics.median(seconds)
                line["objective"] = objective(problem, coef, intercept)
            except Exception as error:
                line["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            tell(line)
    # Some libraries take their time to leave the process.
    tell(None)


def tell(what: Any) -> None:
    """One line to the parent."""
    print("\n" + json.dumps(what), flush=True)


class Worker:
    """A process that works on a task; what it tells, or None when it ends or takes longer than allowed."""

    def __init__(self, **task: Any) -> None:
        threads = str(task["threads"])
        limited = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", json.dumps(task)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **limited},
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            # The libraries print too.
            if line.startswith(('{"', '"ready"', "null")):
                self._lines.put(line)
        self._lines.put(None)

    def next(self, seconds: float) -> Any:
        """What comes next; raises TimeoutError."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None
        return None if line is None else json.loads(line)

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()


def climb(problem: str, solver: str, best: float, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of one solver on one problem."""
    blank = {**dict.fromkeys(COLUMNS, ""), "problem": problem, "solver": solver}
    blank.update(library=SOLVERS[solver].library, version=version(solver), limit=f"{options.limit:g}")
    worker = Worker(problem=problem, solver=solver, threads=options.threads)
    try:
        if worker.next(10 * options.limit) is None:
            return
        # The seconds more are for the objective, and for fits so short that they are repeated.
        while line := worker.next(options.limit + 5):
            row = {**blank, "settings": json.dumps(line["settings"])}
            if "error" in line:
                row["reached"] = line["error"]
            else:
                relative = (line["objective"] - best) / best
                row["seconds"], row["iterations"] = f"{line['seconds']:.4g}", line["iterations"]
                row["relative_suboptimality"] = f"{relative:.3g}"
                row["reached"] = "yes" if relative <= options.target else "no"
                if line["seconds"] > options.limit:
                    row["reached"] = "time limit"
                elif relative < -1e-10:
                    row["reached"] = "below the optimum"
            yield row
            if row["reached"] == "time limit" or (row["reached"] == "yes" and line["settings"]):
                return
    except TimeoutError:
        yield {**blank, "seconds": options.limit, "reached": "time limit"}
    finally:
        worker.end()


def find_optimum(problem: str, options: argparse.Namespace) -> dict[str, float] | None:
    """The optimum with what vouches for it; None after an error or sixty times the time limit."""
    worker = Worker(problem=problem, solver="optimum", threads=options.threads)
    try:
        found: dict[str, float] | None = worker.next(60 * options.limit)
        return found
    except TimeoutError:
        return None
    finally:
        worker.end()


def earlier(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and optima of an earlier run."""
    if not out.is_file():
        return [], {}
    with out.open(newline="") as file:
        return list(csv.DictReader(file)), json.loads(out.with_suffix(".json").read_text())["optima"]


def write(out: Path, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """The CSV and the JSON."""
    out.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Climb all ladders; rows of other problems and solvers in the file stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "fit.csv")
    default = list(PROBLEMS) if "SOFTFAST_DATA" in os.environ else list(BUNDLED)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=default, metavar="PROBLEM")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), metavar="SOLVER")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that one fit may take")
    parser.add_argument("--target", type=float, default=1e-6, help="relative suboptimality to reach")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    # So that a worker never outlives this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows, optima = earlier(options.out)
    facts = {**machine(), "threads": options.threads, "target": options.target}
    facts["optima"] = optima
    for problem in options.problems:
        found = optima.get(problem) or find_optimum(problem, options)
        if found is None:
            print(f"{problem}: no optimum")
            continue
        optima[problem] = found
        print(f"{problem}: {found}", flush=True)
        for solver in filter(version, options.solvers):
            rows = [row for row in rows if (row["problem"], row["solver"]) != (problem, solver)]
            for row in climb(problem, solver, found["objective"], options):
                rows.append(row)
                print("  ", *(row[column] for column in ("solver", *COLUMNS[4:])), flush=True)
            write(options.out, rows, facts)


if __name__ == "__main__":
    main()
