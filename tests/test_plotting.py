"""The display of a fit's convergence."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from softfast import ConvergenceDisplay, SoftmaxRegression

HISTORY = {"pass": [1, 2, 4], "time": [0.1, 0.2, 0.5], "objective": [3.0, 2.0, 1.5], "gap": [2.0, 0.7, 0.001]}


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


@pytest.fixture(scope="module")
def model():
    return SoftmaxRegression().fit(*load_iris(return_X_y=True))


def test_history_is_drawn_as_it_is(pyplot):
    display = ConvergenceDisplay.from_history(HISTORY, tol=0.01, name="fit")
    np.testing.assert_array_equal(display.line_.get_xydata(), np.transpose([HISTORY["pass"], HISTORY["gap"]]))
    np.testing.assert_array_equal(display.tol_line_.get_ydata(), [0.01, 0.01])
    assert display.ax_.get_yscale() == "log"
    assert display.figure_ is display.ax_.figure
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["fit"]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("passes over the rows", "duality gap")


def test_suboptimality_against_time(pyplot):
    display = ConvergenceDisplay.from_history(HISTORY, x="time", y="suboptimality")
    np.testing.assert_array_equal(display.line_.get_xydata(), [[0.1, 1.5], [0.2, 0.5], [0.5, np.nan]])
    assert display.ax_.get_xlabel() == "seconds"
    assert display.ax_.get_legend() is None
    assert display.tol_line_ is None
    known = ConvergenceDisplay.from_history(HISTORY, y="suboptimality", optimum=1.0)
    np.testing.assert_array_equal(known.line_.get_ydata(), [2.0, 1.0, 0.5])


def test_estimator_shows_its_history_and_tol(pyplot, model):
    display = ConvergenceDisplay.from_estimator(model)
    np.testing.assert_array_equal(display.line_.get_xdata(), model.history_["pass"])
    np.testing.assert_array_equal(display.line_.get_ydata(), model.history_["gap"])
    goal = display.tol_line_.get_ydata()[0]
    assert goal == model.tol * max(1, model.objective_)
    assert model.history_["gap"][-1] <= goal < model.history_["gap"][-2]
    assert display.line_.get_label() == "SoftmaxRegression"
    display.figure_.canvas.draw()


def test_fits_share_axes(pyplot, model):
    first = ConvergenceDisplay.from_estimator(model, name="first", color="red")
    second = ConvergenceDisplay.from_estimator(model, name="second", ax=first.ax_)
    assert second.ax_ is first.ax_
    assert first.line_.get_color() == "red"
    assert [text.get_text() for text in first.ax_.get_legend().get_texts()] == ["first", "second"]
    again = second.plot(name="again")
    assert again is second
    assert again.ax_ is not first.ax_


def test_without_penalty_the_objective_is_shown(pyplot, rng):
    X, y = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    model = SoftmaxRegression(C=np.inf).fit(X, y)
    display = ConvergenceDisplay.from_estimator(model)
    assert display.ax_.get_ylabel() == "objective minus optimum"
    assert display.tol_line_ is None
    with pytest.raises(ValueError, match="without penalty"):
        ConvergenceDisplay.from_estimator(model, y="gap")


def test_bad_arguments_are_named(model):
    with pytest.raises(ValueError, match="x must be one of 'pass', 'time', got 'epoch'"):
        ConvergenceDisplay.from_estimator(model, x="epoch")
    with pytest.raises(ValueError, match="y must be None or one of 'gap', 'suboptimality', got 'loss'"):
        ConvergenceDisplay.from_estimator(model, y="loss")
    with pytest.raises(ValueError, match="history must have pass, time, objective and gap, got no gap, time"):
        ConvergenceDisplay.from_history({"pass": [1], "objective": [1.0]})
    with pytest.raises(NotFittedError):
        ConvergenceDisplay.from_estimator(SoftmaxRegression())
    without = SoftmaxRegression().fit(*load_iris(return_X_y=True))
    del without.history_
    with pytest.raises(ValueError, match="no history_"):
        ConvergenceDisplay.from_estimator(without)


def test_without_matplotlib_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from softfast import ConvergenceDisplay\n"
        f"try: ConvergenceDisplay.from_history({HISTORY})\n"
        "except ImportError as error: print(error)"
    )
    printed = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == 'ConvergenceDisplay needs matplotlib: pip install "softfast[plot]"\n'
