"""Checkpoints: a fit that is killed goes on to the same optimum, and nothing but a whole checkpoint is read."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import softfast
from softfast import SoftmaxRegression, checkpoint, commands, model_file
from softfast.checkpoint import CheckpointError


@pytest.fixture
def problem(rng):
    X = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 2
    y = (X @ rng.normal(size=(5, 3)) + rng.gumbel(size=(400, 3))).argmax(axis=1)
    return X, y


@pytest.fixture
def always(monkeypatch):
    """Write at every iteration."""
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)


def stopped_at(iteration):
    return SoftmaxRegression(tol=1e-12, callback=lambda it: it.iteration == iteration)


@pytest.mark.filterwarnings("ignore:The callback stopped the fit")
@pytest.mark.parametrize("parameters", [{}, {"l1_ratio": 0.5, "C": 0.1}, {"C": np.inf}, {"solver": "newton-cg"}])
def test_goes_on_from_where_it_stopped(parameters, problem, tmp_path):
    file = tmp_path / "state"
    halted = stopped_at(3).set_params(**parameters).fit(*problem, checkpoint=file)
    seen = []
    model = SoftmaxRegression(tol=1e-12, callback=seen.append, **parameters).fit(*problem, checkpoint=file)
    np.testing.assert_allclose(seen[0].coef, halted.coef_, rtol=1e-12, atol=1e-15)
    assert seen[0].n_passes >= halted.n_passes_ + 1
    whole = SoftmaxRegression(tol=1e-12, **parameters).fit(*problem)
    assert model.converged_
    np.testing.assert_allclose(model.coef_, whole.coef_, rtol=1e-4, atol=1e-5)
    assert abs(model.objective_ - whole.objective_) <= 1e-11
    # The last state is the optimum itself.
    again = SoftmaxRegression(tol=1e-12, **parameters).fit(*problem, checkpoint=file)
    assert again.n_iter_ <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.filterwarnings("ignore:The fit stopped")
@pytest.mark.parametrize("parameters", [{"max_iter": 3}, {"max_iter": 3, "l1_ratio": 0.5, "C": 0.1}, {"tol": 0}])
def test_written_at_the_end_of_a_fit_that_has_not_converged(parameters, problem, tmp_path):
    file, seen = tmp_path / "state", []
    halted = SoftmaxRegression(**parameters).fit(*problem, checkpoint=file)
    assert not halted.converged_
    del parameters["max_iter" if "max_iter" in parameters else "tol"]
    SoftmaxRegression(callback=seen.append, **parameters).fit(*problem, checkpoint=file)
    np.testing.assert_allclose(seen[0].coef, halted.coef_, rtol=1e-12, atol=1e-15)


def test_written_as_the_fit_proceeds(problem, tmp_path, always):
    file, states = tmp_path / "state", []

    def read(it):
        if it.iteration:
            states.append((file.read_bytes(), it.iteration))

    SoftmaxRegression(callback=read).fit(*problem, checkpoint=file)
    assert len(states) > 3
    assert len({content for content, _ in states}) == len(states)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_killed_again_and_again(problem, tmp_path, rng):
    X, y = problem
    np.savez(tmp_path / "rows.npz", X=X, y=y)
    script = f"""
import time, numpy as np, softfast
from softfast import checkpoint
checkpoint._SECONDS = 0.0
file = np.load({str(tmp_path / "rows.npz")!r})
X, y = file["X"], file["y"]
def batches():
    for begin in range(0, 400, 100):
        time.sleep(0.01)
        yield X[begin:begin + 100], y[begin:begin + 100]
estimator = softfast.SoftmaxRegression(tol=1e-12)
print("ready", flush=True)
model = estimator.fit(softfast.from_batches(batches), checkpoint={str(tmp_path / "state")!r})
np.savez({str(tmp_path / "model.npz")!r}, coef=model.coef_, n_iter=model.n_iter_, n_passes=model.n_passes_)
"""
    kills = 0
    for attempt in range(40):
        process = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        try:
            # Longer and longer, for a busy machine.
            process.wait(rng.uniform(0.1, 0.6) * (1 + attempt / 8))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        assert process.wait() in (0, -9)
        process.stdout.close()
        if (tmp_path / "model.npz").exists():
            break
    else:
        pytest.fail("never came to an end")
    assert kills >= 2
    result = np.load(tmp_path / "model.npz")
    whole = SoftmaxRegression(tol=1e-12).fit(X, y)
    np.testing.assert_allclose(result["coef"], whole.coef_, rtol=1e-4, atol=1e-6)


def test_what_is_no_checkpoint(problem, tmp_path):
    file = tmp_path / "state"
    SoftmaxRegression().fit(*problem, checkpoint=file)
    whole = file.read_bytes()
    for length in [*range(0, 120, 7), len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"damaged or cut off|is no checkpoint"):
            SoftmaxRegression().fit(*problem, checkpoint=file)
    for place in range(0, len(whole), 61):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"damaged or cut off|is no checkpoint"):
            SoftmaxRegression().fit(*problem, checkpoint=file)
    assert file.read_bytes()[:-1] != whole[:-1]


def test_another_problem(problem, tmp_path):
    X, y = problem
    file = tmp_path / "state"
    SoftmaxRegression().fit(X, y, checkpoint=file)
    moved, other = X.copy(), y.copy()
    moved[:, 1] += 1e-3
    other[:4] = (other[:4] + 1) % 3
    for model, arguments, what in [
        (SoftmaxRegression(C=2), (X, y), "C 1.0, now 2.0"),
        (SoftmaxRegression(l1_ratio=0.5), (X, y), "l1_ratio"),
        (SoftmaxRegression(fit_intercept=False), (X, y), "fit_intercept"),
        (SoftmaxRegression(), (X[:-1], y[:-1]), "n_rows 400, now 399"),
        (SoftmaxRegression(), (X, y + 1), "classes"),
        (SoftmaxRegression(), (X, other), "class_mean"),
        (SoftmaxRegression(), (moved, y), "feature_mean"),
        (SoftmaxRegression(), (X[:, :4], y), "coef"),
        (SoftmaxRegression(), (X, y, np.full(400, 2.0)), "total_weight"),
    ]:
        with pytest.raises(CheckpointError, match=f"is of another problem: .*{what}"):
            model.fit(*arguments, checkpoint=file)
    # What changes the way and not the goal is free, and so is the order of the sums.
    SoftmaxRegression(tol=1e-8, solver="newton-cg", max_iter=50).fit(X, y, checkpoint=file)
    stream = softfast.from_batches(lambda: [(X[:100], y[:100]), (X[100:], y[100:])])
    assert SoftmaxRegression().fit(stream, checkpoint=file).n_iter_ == 0


def test_where_it_can_not_be_written(problem, tmp_path, always, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        SoftmaxRegression().fit(*problem, checkpoint=tmp_path / "none" / "state")
    folder = tmp_path / "folder"
    folder.mkdir()

    def vanish(it):
        if it.iteration == 2:
            (folder / "state").unlink()
            folder.rmdir()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = SoftmaxRegression(callback=vanish).fit(*problem, checkpoint=folder / "state")
    assert model.converged_
    assert any("the checkpoint was not written" in str(warning.message) for warning in caught)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the operating system")
def test_disk_that_fills_up(problem, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    np.savez(tmp_path / "rows.npz", *problem)
    script = f"""
import resource, warnings, numpy as np
from pathlib import Path
from softfast import SoftmaxRegression, checkpoint
checkpoint._SECONDS = 0.0
X, y = np.load({str(tmp_path / "rows.npz")!r}).values()
state = Path({str(folder / "state")!r})
warnings.simplefilter("ignore")
SoftmaxRegression(tol=1e-12, callback=lambda it: it.iteration == 3).fit(X, y, checkpoint=state)
before = state.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = SoftmaxRegression(tol=1e-12).fit(X, y, checkpoint=state)
assert model.converged_ and model.n_iter_ > 1
assert state.read_bytes() == before
print(caught[0].message)
"""
    out = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True).stdout
    assert "the checkpoint was not written (" in out
    assert [path.name for path in folder.iterdir()] == ["state"]


def run(*arguments, code=0):
    result = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.mark.filterwarnings("ignore:The callback stopped the fit")
def test_command(problem, tmp_path):
    X, y = problem
    rows, file, out = tmp_path / "rows.parquet", tmp_path / "state", tmp_path / "m.safetensors"
    pd.DataFrame(X, columns=list("abcde")).assign(label=y).to_parquet(rows)
    arguments = ["fit", rows, "--target", "label", "--out", out]
    assert "needs the --checkpoint" in run(*arguments, "--resume", code=2).stderr
    run(*arguments, "--checkpoint", file, "--resume", "--memory-limit", "inf")
    assert not file.exists()
    whole, _ = model_file.load(out)
    halted = stopped_at(4).fit(np.asfortranarray(X), y, checkpoint=file)
    assert "exists; go on from it by --resume" in run(*arguments, "--checkpoint", file, code=2).stderr
    run(*arguments, "--checkpoint", file, "--resume", "--memory-limit", 1e-6)
    model, _ = model_file.load(out)
    assert model.n_passes_ > halted.n_passes_
    assert model.n_iter_ < whole.n_iter_
    assert abs(model.objective_ - whole.objective_) <= 2e-6
    assert not file.exists()
    short = run(*arguments, "--checkpoint", file, "--max-iter", 8)
    assert (
        f"checkpoint         {file} (--resume goes on from it, by up to --max-iter more iterations)\n" in short.stdout
    )
    run(*arguments, "--checkpoint", file, "--resume")
    model, _ = model_file.load(out)
    assert model.converged_
    assert model.n_iter_ < whole.n_iter_
    assert not file.exists()
    file.write_bytes(b"something else")
    assert "is no checkpoint" in run(*arguments, "--checkpoint", file, "--resume", code=2).stderr
