"""The house itself: directions of imports, exported symbols, lazy loading, versions, documentation that runs."""

import ast
import doctest
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import softfast
from softfast import _core, _descent, _mapped, _vectors

ROOT = Path(__file__).parent.parent
PACKAGE = Path(softfast.functions.__file__).parent

# A module may import those of lower rank, and those of its own folder.
RANK = {
    "_core": 0,
    "_descent": 0,
    "_mapped": 0,
    "_vectors": 0,
    "threads": 1,
    "files": 1,
    "numpy_reference": 1,
    "config": 2,
    "validation": 2,
    "functions": 3,
    "targets": 3,
    "progress": 1,
    "sources": 4,
    "metric": 5,
    "quadratic": 5,
    "row_model": 5,
    "parameters": 3,
    "penalty": 5,
    "certificate": 6,
    "interior_point": 6,
    "objective": 7,
    "separation": 7,
    "sparse_coef": 3,
    "streams": 5,
    "checkpoint": 5,
    "training": 5,
    "monitor": 8,
    "solvers": 8,
    "balance": 9,
    "sampled_start": 9,
    "streaming": 9,
    "minimise": 10,
    "estimator": 11,
    "plotting": 12,
    "dask": 12,
    "tables": 3,
    "model_file": 12,
    "commands": 13,
    "cli": 14,
}


def modules():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def imported(path):
    """Names below softfast that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "softfast":
            parts = node.module.split(".")[1:]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    # The estimator is public and loaded on demand; what is public may be imported from the top by the commands.
    public = {"SoftmaxRegression", "loss_gradient"} if RANK[name] > RANK["estimator"] else set()
    for other in imported(path):
        if other in public:
            continue
        assert other in RANK, f"{path.name} imports {other}, which has no place in the order"
        assert other == name or RANK[other] < RANK[name], f"{name} must not import {other}"


def test_solvers_know_nothing_of_the_problem():
    for path in (PACKAGE / "solvers").glob("*.py"):
        assert set(imported(path)) <= {"_descent", "_vectors", "solvers"}


@pytest.mark.skipif(not (ROOT / "src").is_dir(), reason="needs the source tree")
def test_native_code_knows_nothing_of_python():
    for path in (ROOT / "src").iterdir():
        if path.suffix in (".c", ".h"):
            assert "Python.h" not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.skipif(not (ROOT / "src").is_dir(), reason="needs the source tree")
def test_no_file_outgrows_a_reader():
    for path in [*(ROOT / "src").iterdir(), *(ROOT / "softfast").rglob("*.py"), *(ROOT / "tests").glob("*.py")]:
        # The class of kernels can't be spread over files.
        limit = 600 if path.name == "_core.pyx" else 500
        assert len(path.read_text(encoding="utf-8").splitlines()) <= limit, path.name


@pytest.mark.skipif(not (shutil.which("nm") and sys.platform == "linux"), reason="needs nm on Linux")
@pytest.mark.parametrize(
    "module", [_core, _descent, _mapped, _vectors], ids=["_core", "_descent", "_mapped", "_vectors"]
)
def test_only_the_module_is_exported(module):
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", module.__file__], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in symbols.stdout.splitlines()} - {"_init", "_fini"}
    assert names == {f"PyInit_{module.__name__.split('.')[-1]}"}


def test_import_loads_numpy_alone():
    code = (
        "import sys, softfast; "
        "heavy = 'sklearn', 'scipy', 'pandas', 'pyarrow', 'rich', 'typer', 'matplotlib', 'dask', 'distributed'; "
        "print([m for m in heavy if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_public_names_are_there():
    for name in softfast.__all__:
        assert getattr(softfast, name) is not None
    assert set(softfast.__all__) <= set(dir(softfast))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        softfast.nonsense  # noqa: B018


@pytest.mark.skipif(not (ROOT / "meson.build").is_file(), reason="needs the source tree")
def test_versions_agree():
    version = re.search(r"^\s*version: '([^']+)'", (ROOT / "meson.build").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    assert softfast.__version__ == version[1]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_examples_in_docstrings_run(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("plotting",):
        pytest.importorskip("matplotlib").use("agg")
    if "dask" in parts or "distributed" in parts:
        pytest.importorskip("dask.dataframe")
        pytest.importorskip("distributed")
    module = importlib.import_module(".".join(["softfast", *(p for p in parts if p != "__init__")]))
    assert doctest.testmod(module).failed == 0


def test_public_functions_have_examples():
    for name in softfast.__all__:
        if name not in ("__version__", "show_config"):
            assert ">>>" in getattr(softfast, name).__doc__, name


def test_show_config_says_what_is_used(capsys):
    softfast.show_config()
    printed = capsys.readouterr().out
    assert f"isa: {_core.default.name}\n" in printed
    assert f"isas_available: {', '.join(_core.kernels)}\n" in printed
