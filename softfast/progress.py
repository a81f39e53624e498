"""What a fit tells while it runs: a progress bar in a terminal or a notebook, log records elsewhere, callbacks."""

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("softfast")


@dataclass(frozen=True)
class Iteration:
    """One iteration of a fit, as a callback sees it.

    Attributes
    ----------
    iteration : int
        Iterations so far; 0 at the start.
    n_passes : float
        Evaluations of loss and gradient over all rows so far, plus 1.5 for each product with the Hessian.
    time : float
        Seconds since the start.
    objective : float
        Mean cross-entropy plus penalty.
    gap : float
        The objective exceeds the optimum by at most this much; NaN without penalty.
    coef : ndarray of shape (K, p), or (1, p) with two classes
        Made anew each time it is asked for, as is the intercept.
    intercept : ndarray of shape (K,) or (1,)
    """

    iteration: int
    n_passes: float
    time: float
    objective: float
    gap: float
    _unpack: Callable[[], tuple[NDArray[np.float64], NDArray[np.float64]]] = field(repr=False, compare=False)

    @property
    def coef(self) -> NDArray[np.float64]:
        """The coefficients of this iteration."""
        return self._unpack()[0]

    @property
    def intercept(self) -> NDArray[np.float64]:
        """The intercept of this iteration."""
        return self._unpack()[1]


def _interactive() -> bool:
    """Whether a progress bar would be seen: a terminal, or a Jupyter kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return sys.stderr.isatty() or (shell is not None and type(shell).__name__ == "ZMQInteractiveShell")


class Progress:
    """Shows `measure` falling from its first value to `goal`, on a logarithmic scale."""

    def __init__(self, verbose: int, name: str, goal: float) -> None:
        self._verbose = verbose
        self._name = name
        self._goal = goal
        self._first = 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self._verbose and _interactive():
            try:
                from rich import progress
                from rich.console import Console
            except ImportError:
                return self
            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=1.0)
        return self

    def update(self, n_passes: float, objective: float, measure: float) -> None:
        """One iteration: passes so far, objective, and the measure that has to fall to the goal."""
        if not self._verbose:
            return
        if self._bar is None:
            text = f"{n_passes} passes, objective {objective:.8g}, {self._name} {measure:.2g} (goal {self._goal:.1g})"
            logger.info(text)
            return
        self._first = max(self._first, measure)
        span = math.log(self._first / self._goal) if self._first > self._goal > 0 else 0.0
        done = 1 - math.log(max(measure, self._goal) / self._goal) / span if span > 0 else 1.0
        self._bar.update(self._task, completed=done, description=f"{self._name} {measure:.1e}, {n_passes} passes")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
