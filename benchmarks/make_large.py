"""Write rows for measurements of what does not fit in memory: a folder of Parquet files, or an array in a .npy file.

The rows are covtype's, drawn with replacement, their numeric columns standardised and moved by a tenth of their spread,
where SOFTFAST_DATA names the folder that has them; else random ones of the same shape.

    python benchmarks/make_large.py /tmp/large --rows 20000000
    python benchmarks/make_large.py /tmp/large --rows 2000000 --npy
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

N_FEATURES, N_NUMERIC, N_CLASSES, ROWS_A_FILE = 54, 10, 7, 1_000_000


def rows_of(n_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """X (m, 54) float32 and labels (m,), a file's worth at a time."""
    folder = os.environ.get("SOFTFAST_DATA")
    if folder:
        file = np.load(Path(folder) / "covtype.npz")
        original, labels = file["X"].astype(np.float32), file["y"]
        numeric = original[:, :N_NUMERIC].astype(np.float64)
        original[:, :N_NUMERIC] = (numeric - numeric.mean(axis=0)) / numeric.std(axis=0)
    coef = np.random.default_rng(1).normal(size=(N_CLASSES, N_FEATURES)).astype(np.float32) / 4
    for number, begin in enumerate(range(0, n_rows, ROWS_A_FILE)):
        m, rng = min(ROWS_A_FILE, n_rows - begin), np.random.default_rng((2, number))
        if folder:
            drawn = rng.integers(len(original), size=m)
            X, y = original[drawn], labels[drawn]
            X[:, :N_NUMERIC] += 0.1 * rng.standard_normal((m, N_NUMERIC), dtype=np.float32)
        else:
            X = rng.standard_normal((m, N_FEATURES), dtype=np.float32)
            y = (X @ coef.T + rng.gumbel(size=(m, N_CLASSES))).argmax(axis=1)
        yield X, y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--npy", action="store_true", help="X.npy and y.npy instead of Parquet files")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.npy:
        shape = (arguments.rows, N_FEATURES)
        out = np.lib.format.open_memmap(arguments.folder / "X.npy", mode="w+", dtype=np.float32, shape=shape)
    begin, labels = 0, []
    for number, (X, y) in enumerate(rows_of(arguments.rows)):
        if arguments.npy:
            out[begin : begin + len(X)] = X
            labels.append(y)
        else:
            columns = {f"f{j}": X[:, j] for j in range(N_FEATURES)}
            parquet.write_table(pa.table({**columns, "label": y}), arguments.folder / f"{number:05}.parquet")
        begin += len(X)
    if arguments.npy:
        np.save(arguments.folder / "y.npy", np.concatenate(labels))


if __name__ == "__main__":
    main()
