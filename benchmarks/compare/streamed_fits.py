"""Seconds until the loss over all rows of a folder of Parquet files is near its minimum, for what reads it in batches.

Each reads the same batches again and again until its time is over; how long the loss then takes to compute is not
counted, and all rows are kept in memory for that. The loss is the mean cross-entropy of the predicted probabilities,
whatever the method itself minimises; its minimum is that of softfast's certified fit, with C = 1e4 a penalty that is
below all that is shown.

    python benchmarks/make_large.py /tmp/large --rows 2000000
    python benchmarks/compare/streamed_fits.py /tmp/large --limit 15
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import SGDClassifier

import softfast

EXCESSES = [0.1, 0.03, 0.01, 0.003, 0.001, 1e-4, 1e-6]
Loss = Callable[[np.ndarray, np.ndarray], float]


class Clock:
    """Seconds and losses of a method that stops its clock while the loss is computed."""

    def __init__(self, limit: float) -> None:
        self.limit, self.spent, self.losses = limit, 0.0, []
        self._begin = time.perf_counter()

    def stop(self, loss: Callable[[], float]) -> bool:
        """Note the loss; whether the time is over."""
        self.spent += time.perf_counter() - self._begin
        self.losses.append((self.spent, loss()))
        self._begin = time.perf_counter()
        return self.spent > self.limit


def batches(folder: Path, clock: Clock, loss: Callable[[], float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches until the time is over; the loss is noted after 1, 4, 16, ... batches, and after each pass."""
    count, following = 0, 1
    while True:
        for X, y, _ in softfast.from_parquet(folder, target="label"):
            yield X, y
            count += 1
            if count == following:
                following *= 4
                if clock.stop(loss):
                    return
        if clock.stop(loss):
            return


def by_partial_fit(model: Any, folder: Path, classes: np.ndarray, loss: Any, clock: Clock) -> None:
    def now() -> float:
        return loss(model.predict_log_proba)

    for X, y in batches(folder, clock, now):
        model.partial_fit(np.ascontiguousarray(X), y, classes=classes)


def by_torch(rate: float, folder: Path, classes: np.ndarray, loss: Any, clock: Clock) -> None:
    """Adam on 1,024 rows a step, by a DataLoader."""
    import torch

    torch.manual_seed(0)
    linear = None

    def now() -> float:
        def predict(X: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return torch.log_softmax(linear(torch.from_numpy(np.ascontiguousarray(X))), dim=1).numpy()

        return loss(predict)

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[tuple[Any, Any]]:
            for X, y in batches(folder, clock, now):
                X, codes = np.ascontiguousarray(X), np.searchsorted(classes, y)
                for begin in range(0, len(X), 1024):
                    part = slice(begin, begin + 1024)
                    yield torch.from_numpy(X[part]), torch.from_numpy(codes[part])

    for X, y in torch.utils.data.DataLoader(Rows(), batch_size=None):
        if linear is None:
            linear = torch.nn.Linear(X.shape[1], len(classes))
            optimizer = torch.optim.Adam(linear.parameters(), lr=rate)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(linear(X), y).backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=float, default=15.0, help="seconds of each method")
    parser.add_argument("--methods", nargs="*", help="those whose names contain one of these; default all")
    parser.add_argument("--scratch", help="folder for the copy of the rows; default that of temporary files")
    arguments = parser.parse_args()
    folder = arguments.folder
    begin = time.perf_counter()
    fit = []
    with softfast.from_parquet(folder, target="label", cache=arguments.scratch) as rows:
        model = softfast.SoftmaxRegression(
            C=1e4, callback=lambda it: fit.append((time.perf_counter() - begin, it.objective)) and False
        ).fit(rows)
    # The certificate bounds what is left.
    least, classes = model.objective_ - model.duality_gap_, model.classes_

    chunks = [
        (np.ascontiguousarray(X), np.searchsorted(classes, y))
        for X, y, _ in softfast.from_parquet(folder, target="label")
    ]

    def loss(log_proba: Callable[[np.ndarray], np.ndarray]) -> float:
        total = sum(log_proba(X)[np.arange(len(X)), codes].sum(dtype=np.float64) for X, codes in chunks)
        return -float(total) / sum(len(X) for X, _ in chunks)

    sgd = {"loss": "log_loss", "random_state": 0, "alpha": 1e-6, "learning_rate": "adaptive"}
    methods = {
        "softfast partial_fit": lambda *a: by_partial_fit(softfast.SoftmaxRegression(), *a),
        "SGDClassifier": lambda *a: by_partial_fit(SGDClassifier(loss="log_loss", random_state=0), *a),
        "SGDClassifier adaptive 0.01": lambda *a: by_partial_fit(SGDClassifier(**sgd, eta0=0.01), *a),
        "SGDClassifier adaptive 0.001": lambda *a: by_partial_fit(SGDClassifier(**sgd, eta0=0.001), *a),
        "torch Adam 0.01": lambda *a: by_torch(0.01, *a),
        "torch Adam 0.001": lambda *a: by_torch(0.001, *a),
    }
    print(f"minimum {least:.7f}; seconds until the loss exceeds it by no more than")
    print(f"{'':29}" + "".join(f"{excess:>9.0e}" for excess in EXCESSES) + "   last loss")

    def show(name: str, losses: list[tuple[float, float]]) -> None:
        reached = [next((t for t, value in losses if value - least <= excess), None) for excess in EXCESSES]
        cells = "".join(f"{'-':>9}" if t is None else f"{t:9.2f}" for t in reached)
        print(f"{name:29}{cells}   {losses[-1][1]:.6f} after {losses[-1][0]:.1f} s", flush=True)

    show("softfast fit", fit)
    for name, method in methods.items():
        if not arguments.methods or any(part in name for part in arguments.methods):
            clock = Clock(arguments.limit)
            method(folder, classes, loss, clock)
            show(name, clock.losses)


if __name__ == "__main__":
    main()
