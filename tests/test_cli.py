"""The command: its results, its messages and its exit codes."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import dump_svmlight_file, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from typer.testing import CliRunner

import softfast
from softfast import SoftmaxRegression, cli, commands, model_file, numpy_reference
from softfast.config import config

COMMAND = [sys.executable, "-P", "-c", "from softfast.cli import main; main()"]
IRIS = load_iris(as_frame=True)
FEATURES = list(IRIS.data.columns)
SPECIES = IRIS.target_names[IRIS.target]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def iris(folder):
    """iris.csv, iris.parquet, iris.npz and iris.svm in the current directory."""
    frame = IRIS.data.assign(species=SPECIES)
    frame.to_csv("iris.csv", index=False)
    frame.to_parquet("iris.parquet")
    np.savez("iris.npz", X=IRIS.data, species=SPECIES, y=IRIS.target)
    dump_svmlight_file(IRIS.data, IRIS.target, "iris.svm", zero_based=False)
    return folder


def run(*arguments, code=0):
    result = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def facts(text):
    """Name and value of each line of a summary."""
    return dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines() if re.search(r"\S  +\S", line))


@pytest.mark.parametrize(
    ("name", "target", "labels"),
    [
        ("iris.csv", ["--target", "species"], SPECIES),
        ("iris.parquet", ["--target", "species"], SPECIES),
        ("iris.npz", [], IRIS.target),
        ("iris.npz", ["--target", "species"], SPECIES),
        ("iris.svm", [], IRIS.target),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_fit_evaluate_predict(iris, name, target, labels, ending):
    expected = SoftmaxRegression(C=10, tol=1e-8).fit(IRIS.data.to_numpy(), labels)
    fitted = run("fit", name, *target, "--C", 10, "--tol", 1e-8, "--out", "model.safetensors")
    assert f"{name}: 150 rows, 4 features, float64\n" in fitted.stdout
    summary = facts(fitted.stdout)
    assert summary["classes"] == "3"
    assert float(summary["objective"]) == pytest.approx(expected.objective_, rel=1e-7)
    assert float(summary["duality gap"].split()[0]) <= 1e-8
    assert summary["passes"].endswith("lbfgs, converged)")
    assert float(summary["training accuracy"]) == round(expected.score(IRIS.data.to_numpy(), labels), 4)
    assert fitted.stderr == ""

    model, metadata = model_file.load("model.safetensors")
    assert metadata["target"] == (target[1] if target else None)
    assert (metadata["feature_names"] or FEATURES) == FEATURES
    assert model.get_params() == SoftmaxRegression(C=10.0, tol=1e-8).get_params()
    # CSV and Parquet give X in F order, whose sums round otherwise.
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-3, atol=1e-5)

    evaluated = run("evaluate", "model.safetensors", name)
    proba = expected.predict_proba(IRIS.data.to_numpy())
    summary = facts(evaluated.stdout)
    assert summary["rows"] == "150"
    assert summary["accuracy"] == f"{np.mean(expected.predict(IRIS.data.to_numpy()) == labels):.4f}"
    assert float(summary["log-loss"]) == pytest.approx(log_loss(labels, proba), rel=1e-5)
    recall = [line.split() for line in evaluated.stdout.splitlines()[-3:]]
    assert [row[:2] for row in recall] == [[str(label), "50"] for label in expected.classes_]
    assert float(recall[1][2]) == np.mean(expected.predict(IRIS.data.to_numpy()[50:100]) == labels[50])

    out = f"predictions.{ending}"
    assert f"{out}: 150 predictions" in run("predict", "model.safetensors", name, "--out", out).stdout
    predictions = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
    assert list(predictions.columns) == ["prediction", *(f"proba_{label}" for label in expected.classes_)]
    assert predictions["prediction"].tolist() == expected.predict(IRIS.data.to_numpy()).tolist()
    np.testing.assert_allclose(predictions.iloc[:, 1:], proba, atol=1e-5)


def test_columns_are_matched_by_name(iris):
    run("fit", "iris.csv", "--target", "species")
    shuffled = IRIS.data[FEATURES[::-1]].assign(note="text")
    shuffled.to_parquet("other.parquet")
    run("predict", "iris-model.safetensors", "iris.csv", "--out", "one.csv")
    run("predict", "iris-model.safetensors", "other.parquet", "--out", "two.csv")
    assert (iris / "one.csv").read_bytes() == (iris / "two.csv").read_bytes()
    # A file without names is taken in the order of the model's columns.
    run("predict", "iris-model.safetensors", "iris.npz", "--out", "three.csv")
    one, three = (pd.read_csv(name, index_col="prediction") for name in ("one.csv", "three.csv"))
    pd.testing.assert_frame_equal(one, three, rtol=1e-12)
    assert "accuracy" in run("evaluate", "iris-model.safetensors", "iris.npz", "--target", "species").stdout


def test_fit_without_penalty_or_intercept(iris):
    with pytest.warns(ConvergenceWarning, match="separated"):
        expected = SoftmaxRegression(C=np.inf, fit_intercept=False).fit(IRIS.data.to_numpy(), SPECIES)
    result = run("fit", "iris.csv", "--target", "species", "--C", "inf", "--no-intercept", "--threads", 1)
    assert "setosa and versicolor" in result.stderr
    assert facts(result.stdout)["duality gap"] == "none: without penalty there is no certificate"
    model, _ = model_file.load("iris-model.safetensors")
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0.01)
    assert not model.intercept_.any()
    assert model.n_threads is None


def test_fit_with_absolute_values_in_the_penalty(iris):
    expected = SoftmaxRegression(l1_ratio=1.0).fit(IRIS.data.to_numpy(), SPECIES)
    run("fit", "iris.csv", "--target", "species", "--l1-ratio", 1)
    model, _ = model_file.load("iris-model.safetensors")
    assert (model.l1_ratio, model.sparsity, model.solver_) == (1.0, "coefficient", "proximal-newton")
    np.testing.assert_array_equal(model.coef_ == 0, expected.coef_ == 0)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-4)


def test_a_fit_that_stops_short_says_so_in_one_line(iris):
    result = run("fit", "iris.csv", "--target", "species", "--max-iter", 2)
    assert re.fullmatch(r"warning: The fit stopped at max_iter=2: [^\n]*\n", result.stderr)
    assert facts(result.stdout)["passes"].endswith("(2 iterations of lbfgs, not converged)")
    assert not model_file.load("iris-model.safetensors")[0].converged_


def test_many_classes_are_not_listed(folder):
    labels = np.repeat(np.arange(40), 3)
    np.savez("many.npz", X=np.random.default_rng(0).normal(size=(120, 2)), y=labels)
    run("fit", "many.npz", "--C", 0.1)
    assert "recall" not in run("evaluate", "many-model.safetensors", "many.npz").stdout


def test_labels_absent_from_a_file(iris):
    run("fit", "iris.csv", "--target", "species")
    pd.read_csv("iris.csv").query("species != 'setosa'").to_csv("part.csv", index=False)
    assert re.search(r"^setosa +0 +-$", run("evaluate", "iris-model.safetensors", "part.csv").stdout, re.MULTILINE)


BAD = {
    "no file": ("fit absent.csv --target y", "absent.csv: no such file"),
    "no target": ("fit iris.csv", "iris.csv: the column of labels must be named (target); the columns are 'sepal"),
    "other target": (
        "fit iris.csv --target y",
        "iris.csv: there is no column 'y'; the columns are 'sepal length (cm)'",
    ),
    "ending": ("fit iris.txt --target y", "iris.txt: unknown ending '.txt'; accepted are .csv, .parquet"),
    "text": ("fit text.csv --target y", "text.csv, line 3, column 'a': got 'x'"),
    "one class": ("fit one.csv --target y", "one.csv: y must hold at least two classes, got one class"),
    "continuous": ("fit real.csv --target y", "real.csv: Unknown label type: continuous"),
    "no folder": ("fit iris.npz --out absent/model.safetensors", "absent/model.safetensors: there is no directory"),
    "out is a folder": ("fit iris.npz --out folder", "folder: exists and is not a regular file"),
    "out is the input": (
        "predict model iris.csv --out iris.csv",
        "iris.csv: is read by this command; write to another",
    ),
    "out is the data": ("fit iris.npz --out ./iris.npz", "iris.npz: is read by this command; write to another"),
    "not a model": ("predict iris.csv iris.csv --out p.csv", "iris.csv: not a whole safetensors file"),
    "no model": ("evaluate absent iris.csv", "absent: there is no such file"),
    "predictions' ending": ("predict model iris.csv --out p.txt", "p.txt: unknown ending '.txt'; predictions"),
    "missing columns": ("predict model one.csv --out p.csv", "one.csv: the features 'sepal length (cm)', "),
    "too few features": ("predict model few.npz --out p.csv", "few.npz: has 2 features; expected 4, as the model has"),
    "unknown labels": (
        "evaluate model iris.npz --target y",
        "iris.npz: the model does not know the labels 0, 1, 2; it knows 'setosa', 'versicolor', 'virginica'",
    ),
    "no labels": ("evaluate model few.csv", "few.csv: there is no column 'species'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(iris, name):
    (iris / "text.csv").write_text("a,y\n1,p\nx,q\n")
    (iris / "one.csv").write_text("a,y\n1,p\n2,p\n")
    (iris / "real.csv").write_text("a,y\n1,0.5\n2,0.25\n")
    IRIS.data.to_csv("few.csv", index=False)
    np.savez("few.npz", X=np.ones((3, 2)))
    (iris / "folder").mkdir()
    model_file.save(SoftmaxRegression().fit(IRIS.data, SPECIES), "model", target="species")
    before = sorted(path.name for path in iris.rglob("*"))
    arguments, message = BAD[name]
    result = run(*arguments.split(), code=2)
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in iris.rglob("*")) == before
    result = CliRunner().invoke(commands.app, ["--debug", *arguments.split()])
    assert isinstance(result.exception, ValueError | OSError)
    assert str(result.exception).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fit iris.csv --C 0", "0.0 is not a number > 0"),
        ("fit iris.csv --C nan", "nan is not a number > 0"),
        ("fit iris.csv --C much", "--C"),
        ("fit iris.csv --max-iter 0", "max-iter"),
        ("fit iris.csv --threads 0", "threads"),
        ("predict model iris.csv", "--out"),
        ("fit", "FILE"),
        ("tell", "tell"),
    ],
)
def test_bad_arguments(arguments, message):
    assert message in run(*arguments.split(), code=2).stderr


def test_info():
    expected = {name: ", ".join(v) if isinstance(v, list) else str(v) for name, v in config().items()}
    assert facts(run("info").stdout) == expected


def test_demo(folder, monkeypatch):
    monkeypatch.setattr(commands, "_TURNS", 2)
    output = run("demo").stdout
    assert float(facts(output)["held-out accuracy"]) > 0.95
    assert "(proved: " in facts(output)["duality gap"]
    speeds = {line.split()[0]: line for line in output.splitlines() if " ms " in line}
    assert re.search(r"1,347 x 64 +10 +float64 +[\d.,]+ ms +[\d.,]+ ms +[\d.]+$", speeds["digits"])
    assert re.search(r"100,000 x 54 +7 +float32 +[\d.,]+ ms +[\d.,]+ ms +[\d.]+$", speeds["random"])
    model, metadata = model_file.load("softfast-demo.safetensors")
    assert (metadata["target"], len(model.classes_)) == ("digit", 10)
    assert [path.name for path in folder.iterdir()] == ["softfast-demo.safetensors"]


def test_the_process(iris):
    """Exit codes and streams as a shell sees them; lines are whole where there is no terminal."""

    def process(*arguments):
        return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)

    fitted = process("fit", "iris.csv", "--target", "species", "--out", "x" * 100)
    assert (fitted.returncode, fitted.stderr) == (0, "")
    assert f"model file         {'x' * 100}\n" in fitted.stdout
    assert "\x1b" not in fitted.stdout
    bad = process("fit", "iris.csv", "--target", "[red]" * 40)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith(f"error: iris.csv: there is no column '{'[red]' * 40}'; the columns are 'sepal length")
    assert bad.stderr.count("\n") == 1
    traced = process("--debug", "fit", "absent.csv")
    assert traced.returncode != 0
    assert "Traceback" in traced.stderr
    assert "TableError: absent.csv: no such file" in traced.stderr


def test_ctrl_c_ends_a_fit(folder):
    rng = np.random.default_rng(0)
    # Random walks are strongly correlated columns: many iterations.
    np.savez("long.npz", X=rng.normal(size=(100_000, 60)).cumsum(axis=1), y=rng.integers(10, size=100_000))
    with subprocess.Popen(
        [*COMMAND, "fit", "long.npz", "--tol", "0", "--C", "1e9", "--max-iter", "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "long.npz: 100,000 rows, 60 features, float64\n"
        time.sleep(0.5)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()  # Without it, leaving the block waits for a fit that would take days.
        assert time.monotonic() - start < 5
    assert process.returncode == 130
    assert errors == "interrupted: nothing was written\n"
    assert [path.name for path in folder.iterdir()] == ["long.npz"]


def test_missing_extra_is_named(monkeypatch, capsys):
    for module in ("softfast.commands", "rich.console"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == 'softfast: the command needs typer: pip install "softfast[cli]"\n'


def test_importing_the_command_loads_nothing_heavy():
    code = "import json, sys, softfast.commands; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True).stdout)
    assert not {"sklearn", "scipy", "pyarrow", "pandas", "safetensors"} & set(loaded)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_numpy_reference_is_the_same_function(dtype, weighted):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(500, 7)).astype(dtype), rng.integers(4, size=500)
    coef, intercept = rng.normal(size=(4, 7)), rng.normal(size=4)
    weight = rng.uniform(0, 3, size=500) if weighted else None
    loss, grad_coef, grad_intercept = numpy_reference.loss_gradient(X, y, coef, intercept, weight)
    assert grad_coef.dtype == grad_intercept.dtype == dtype
    expected = softfast.loss_gradient(X.astype(float), y, coef, intercept, sample_weight=weight)
    tolerance = 20 * float(np.finfo(dtype).eps)
    assert loss == pytest.approx(expected[0], rel=tolerance)
    np.testing.assert_allclose(grad_coef, expected[1], atol=tolerance)
    np.testing.assert_allclose(grad_intercept, expected[2], atol=tolerance)
