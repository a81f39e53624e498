"""What a fit says of each iterate, and whether it is the last."""

import math
import time
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from softfast.checkpoint import Checkpoint, State
from softfast.objective import Point, SoftmaxObjective
from softfast.progress import Iteration, Progress


class Monitor:
    """Judges each iterate: keeps the history and the best certificate, tells of it, says when to stop."""

    def __init__(
        self,
        objective: SoftmaxObjective,
        tol: float,
        *,
        certified: bool,
        verbose: int,
        callback: Callable[[Iteration], object] | None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._objective = objective
        self._tol = tol
        self._certified = certified
        self.name = "relative duality gap" if certified else "scaled gradient"
        self._progress = Progress(verbose, self.name, tol)
        self._callback = callback
        self._checkpoint = checkpoint
        self.cancelled = False
        self._start = time.perf_counter()
        self._lower_bound = -math.inf
        self.gap = math.nan
        self.measure = math.inf
        self.history: dict[str, list[float]] = {"pass": [], "time": [], "objective": [], "gap": []}

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._progress.__exit__(*exception)

    def stop(self, point: Point) -> bool:
        """Whether the point is optimal to `tol`, or the callback asks, or has asked, to stop short of that."""
        if self.cancelled:
            return True
        if self._certified:
            # Every iterate's dual value bounds the optimum from below, so the best one certifies all. The gap of a
            # point is a difference in which the rounding of its value cancels; between two points it does not.
            self._lower_bound = max(self._lower_bound, point.value - point.gap - point.rounding)
            self.gap = min(point.gap, point.value - self._lower_bound + point.rounding)
            self.measure = self.gap / max(1.0, point.value)
        else:
            self.measure = float(np.abs(point.gradient).max(initial=0.0))
        entry = (self._objective.n_passes, time.perf_counter() - self._start, point.value, self.gap)
        iteration = len(self.history["pass"])
        for values, value in zip(self.history.values(), entry, strict=True):
            values.append(value)
        self._progress.update(self._objective.n_passes, point.value, self.measure)
        converged = self.measure <= self._tol
        if self._callback is not None:
            wish = self._callback(Iteration(iteration, *entry, lambda: self._objective.unpack(point.x)))
            self.cancelled = bool(wish) and not converged
        if self._checkpoint is not None and self._checkpoint.due():
            self._checkpoint.write(State(*self._objective.unpack(point.x), self._objective.n_passes))
        return converged or self.cancelled

    def shortfall(self, status: str, n_iter: int, max_iter: int) -> str:
        """Why the fit has not converged, and what it reached."""
        reached = f"{self.name} {self.measure:.2g} after {n_iter} iterations, tol asks for {self._tol:.2g}"
        if self.cancelled:
            return f"The callback stopped the fit: {reached}."
        if status == "stalled":
            return f"The fit stopped where rounding ends all progress: {reached}."
        return f"The fit stopped at max_iter={max_iter}: {reached}."
