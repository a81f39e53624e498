"""Kill a fit from Parquet files by SIGKILL, twenty times, in each phase of its life, and resume it each time.

A moment is drawn at random within a phase: while Python starts; in the first pass, which copies the rows to the disk;
in the iterations; while a checkpoint is written. Each fit is then run again to its end. It fails unless that reaches
the coefficients of a fit that was left alone, and unless nothing of the copy is left on the disk.

    python benchmarks/kills.py
"""

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

PHASES = {"start": 3, "first pass": 6, "iterations": 5, "checkpoint": 6}
N_ROWS, N_FEATURES, N_CLASSES, N_FILES = 400_000, 20, 4, 4

# Says when each phase begins; checkpoints are written after every iteration.
CHILD = """
import sys
print("start", flush=True)
import numpy as np, softfast
from softfast import checkpoint
from softfast.sources import streamed

def announced(phase, function, after):
    def call(*arguments):
        print(phase, flush=True)
        result = function(*arguments)
        print(after, flush=True)
        return result
    return call

checkpoint._SECONDS = 0.0
checkpoint.Checkpoint.write = announced("checkpoint", checkpoint.Checkpoint.write, "iterations")
streamed._survey = announced("first pass", streamed._survey, "iterations")
folder, scratch, state, out = sys.argv[1:]
begun = []
model = softfast.SoftmaxRegression(tol=1e-10, callback=lambda it: begun.append(it.n_passes) and False)
with softfast.from_parquet(folder, target="y", cache=scratch) as rows:
    model.fit(rows, checkpoint=state)
assert model.converged_
np.savez(out, coef=model.coef_, intercept=model.intercept_, objective=model.objective_, begun=begun[0])
print("end", flush=True)
"""


def write_rows(folder: Path, rng: np.random.Generator) -> None:
    X = (rng.normal(size=(N_ROWS, N_FEATURES)) * np.geomspace(0.1, 10, N_FEATURES)).astype(np.float32)
    z = (X / X.std(axis=0)) @ rng.normal(size=(N_FEATURES, N_CLASSES))
    y = (z + 2 * rng.gumbel(size=z.shape)).argmax(axis=1)
    for number, part in enumerate(np.array_split(np.arange(N_ROWS), N_FILES)):
        columns = {f"f{j}": X[part, j] for j in range(N_FEATURES)}
        parquet.write_table(pa.table({**columns, "y": y[part]}), folder / f"{number}.parquet", row_group_size=30_000)


def run(arguments: list[Path], phase: str | None = None, occurrence: int = 0, delay: float = 0.0) -> list[tuple]:
    """What a fit said and when; killed `delay` seconds after it has said that a phase begins, if any is named."""
    said = []
    command = [sys.executable, "-P", "-c", CHILD, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            said.append((line.strip(), time.perf_counter()))
            if said[-1][0] == phase:
                occurrence -= 1
                if occurrence < 0:
                    time.sleep(delay)
                    process.kill()
                    break
    if phase is None and process.returncode != 0:
        raise SystemExit(f"a fit ended with code {process.returncode}")
    return said


def lengths(said: list[tuple]) -> dict[str, list[float]]:
    """Seconds of each occurrence of each phase."""
    found: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for (phase, begin), (_, end) in pairwise(said):
        found[phase].append(end - begin)
    return found


def kill(arguments: list[Path], phase: str, seconds: list[float], rng: np.random.Generator) -> tuple[int, float]:
    """A fit from nothing, killed at a moment of a phase; drawn anew if it had ended by then. Returns the moment."""
    *_, state, model = arguments
    while True:
        for path in (*state.parent.iterdir(), model):
            path.unlink(missing_ok=True)
        occurrence = int(rng.integers(len(seconds)))
        # The median: whatever held the fit up that was measured.
        delay = rng.uniform(0, np.median(seconds))
        run(arguments, phase, occurrence, delay)
        if not model.exists():
            return occurrence, delay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    rng = np.random.default_rng(parser.parse_args().seed)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        folder, scratch, states = top / "rows", top / "scratch", top / "states"
        for path in (folder, scratch, states):
            path.mkdir()
        write_rows(folder, rng)
        arguments = [folder, scratch, states / "state", top / "model.npz"]
        seconds = lengths(run(arguments))
        whole = dict(np.load(top / "model.npz"))
        print({phase: f"{len(values)} x {np.median(values):.4f} s" for phase, values in seconds.items()})
        number = 0
        for phase, count in PHASES.items():
            for _ in range(count):
                occurrence, delay = kill(arguments, phase, seconds[phase], rng)
                left = sorted(path.name for path in states.iterdir())
                if any(scratch.iterdir()):
                    raise SystemExit("something of the copy of the rows is left on the disk")
                run(arguments)
                model = dict(np.load(top / "model.npz"))
                apart = max(np.abs(model[a] - whole[a]).max() / np.abs(whole[a]).max() for a in ("coef", "intercept"))
                number += 1
                print(
                    f"{number:2} {phase:10} no. {occurrence + 1} + {1000 * delay:6.1f} ms: left {left}, "
                    f"resumed at pass {model['begun']:.1f}, objective apart "
                    f"{model['objective'] - whole['objective']:.1e}, coefficients {apart:.1e}",
                    flush=True,
                )
                if abs(model["objective"] - whole["objective"]) > 2e-10 or apart > 1e-4:
                    raise SystemExit("another optimum")
        print(f"{number} fits killed and resumed to the same optimum")


if __name__ == "__main__":
    main()
