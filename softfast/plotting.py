"""Displays in scikit-learn's manner: made by a class method, drawn by ``plot``."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from softfast.estimator import SoftmaxRegression

Vector = NDArray[np.float64]

_X_LABELS = {"pass": "passes over the rows", "time": "seconds"}
_Y_LABELS = {"gap": "duality gap", "suboptimality": "objective minus optimum"}


class ConvergenceDisplay:
    """How a fit came to its optimum: gap or suboptimality against passes or seconds, on a logarithmic scale.

    Make it with `from_estimator` or `from_history`. Several fits share axes if `ax` is the `ax_` of the first.

    Parameters
    ----------
    x : ndarray of shape (n_iter + 1,)
        Passes or seconds.
    y : ndarray of shape (n_iter + 1,)
        Gap or suboptimality.
    x_label, y_label : str
        What they are.
    tol : float or None, default None
        Where y counts as converged: a horizontal line.
    name : str or None, default None
        The fit's name in the legend.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure
    line_ : matplotlib.lines.Line2D
        The fit.
    tol_line_ : matplotlib.lines.Line2D or None
        `tol`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from softfast import ConvergenceDisplay, SoftmaxRegression
    >>> model = SoftmaxRegression().fit(*load_iris(return_X_y=True))
    >>> display = ConvergenceDisplay.from_estimator(model, name="iris")
    >>> display.ax_.get_xlabel(), display.ax_.get_yscale()
    ('passes over the rows', 'log')
    """

    def __init__(
        self, x: Vector, y: Vector, *, x_label: str, y_label: str, tol: float | None = None, name: str | None = None
    ) -> None:
        self.x = x
        self.y = y
        self.x_label = x_label
        self.y_label = y_label
        self.tol = tol
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: SoftmaxRegression,
        *,
        x: Literal["pass", "time"] = "pass",
        y: Literal["gap", "suboptimality"] | None = None,
        optimum: float | None = None,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the history of a fitted estimator, and its `tol` where there is a gap.

        Parameters
        ----------
        estimator : SoftmaxRegression
            Fitted.
        x, y, optimum, ax, **kwargs
            As in `from_history`.
        name : str, optional
            The name in the legend; by default that of the class.

        Returns
        -------
        ConvergenceDisplay

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ImportError, ValueError
            As `from_history`.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "history_"):
            raise ValueError("estimator has no history_: models read from a file do not keep it")
        goal = float(estimator.tol * max(1.0, estimator.objective_))
        certified = not np.isnan(estimator.duality_gap_)
        return cls.from_history(
            estimator.history_,
            x=x,
            y=y,
            optimum=optimum,
            tol=goal if certified else None,
            name=type(estimator).__name__ if name is None else name,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_history(
        cls,
        history: Mapping[str, ArrayLike],
        *,
        x: Literal["pass", "time"] = "pass",
        y: Literal["gap", "suboptimality"] | None = None,
        optimum: float | None = None,
        tol: float | None = None,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw a history.

        Parameters
        ----------
        history : mapping of str to array_like
            The estimator's `history_`: "pass", "time", "objective" and "gap".
        x : {"pass", "time"}, default "pass"
            Against what.
        y : {"gap", "suboptimality"}, optional
            The certified gap, or the objective minus `optimum`; by default the gap where there is one.
        optimum : float, optional
            For "suboptimality"; by default the lowest objective of the history, so that this point itself is not seen.
        tol : float, optional
            Where y counts as converged: a horizontal line.
        name : str, optional
            The name in the legend.
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default in a figure of its own.
        **kwargs
            For ``ax.plot``.

        Returns
        -------
        ConvergenceDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            If `x` or `y` is none of the above, a column is missing, or there is no gap to draw.
        """
        if x not in _X_LABELS:
            raise ValueError(f"x must be one of {', '.join(map(repr, _X_LABELS))}, got {x!r}")
        if y not in (None, *_Y_LABELS):
            raise ValueError(f"y must be None or one of {', '.join(map(repr, _Y_LABELS))}, got {y!r}")
        missing = {"pass", "time", "objective", "gap"} - set(history)
        if missing:
            raise ValueError(f"history must have pass, time, objective and gap, got no {', '.join(sorted(missing))}")
        gap, objective = (np.asarray(history[column], dtype=np.float64) for column in ("gap", "objective"))
        if y is None:
            y = "suboptimality" if np.isnan(gap).all() else "gap"
        if y == "suboptimality":
            values = objective - (objective.min() if optimum is None else optimum)
        elif np.isnan(gap).all():
            raise ValueError("y='gap': the history has none, as a fit without penalty; y='suboptimality' is there")
        else:
            values = gap
        display = cls(
            np.asarray(history[x], dtype=np.float64),
            values,
            x_label=_X_LABELS[x],
            y_label=_Y_LABELS[y],
            tol=tol,
            name=name,
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, **kwargs: Any) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where; by default in a figure of its own.
        name : str, optional
            The name in the legend, in place of the display's.
        **kwargs
            For ``ax.plot``.

        Returns
        -------
        ConvergenceDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError('ConvergenceDisplay needs matplotlib: pip install "softfast[plot]"') from error
        if ax is None:
            _, ax = pyplot.subplots()
        name = self.name if name is None else name
        # A logarithmic scale has no place for what is not above zero.
        seen = np.where(self.y > 0, self.y, np.nan)
        (self.line_,) = ax.plot(self.x, seen, **{"label": name, "marker": ".", **kwargs})
        self.tol_line_ = None
        if self.tol is not None and self.tol > 0:
            self.tol_line_ = ax.axhline(self.tol, color=self.line_.get_color(), linestyle="--", linewidth=1)
        ax.set(xlabel=self.x_label, ylabel=self.y_label, yscale="log")
        if name is not None:
            ax.legend()
        self.ax_ = ax
        self.figure_ = ax.figure
        return self
