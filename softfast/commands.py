"""The commands ``softfast demo``, ``fit``, ``predict``, ``evaluate`` and ``info``.

Everything but typer and rich is imported by the command that needs it, so that help and errors come at once.
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid
from typer.core import TyperGroup

from softfast.files import InputError, half_of_memory, require_writable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from softfast import SoftmaxRegression

# The most classes of which `evaluate` prints the recall of each.
_MANY_CLASSES = 30
# In the demonstration each contender has this many turns of this many evaluations. The first of a turn may still share
# the cores with the other's threads, which wait for work without sleeping.
_TURNS, _EVALUATIONS = 5, 5


class _Group(TyperGroup):
    """Turns bad input into one line on stderr and exit code 2, and Ctrl-C into exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("interrupted", "nothing was written")
            raise typer.Exit(130) from None
        except (InputError, OSError) as error:
            if ctx.params["debug"]:
                raise
            _say("error", str(error))
            raise typer.Exit(2) from error


app = typer.Typer(cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _positive(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise typer.BadParameter(f"{value} is not a number > 0.")
    return value


_Threads = Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="all this process may use")]
_Data = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="Rows: .csv, .parquet, .pq, .npz, .svm or .libsvm, or a folder of .parquet."),
]
_Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file.")]


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Softmax regression (multinomial logistic regression) with a proof of optimality."""


@app.command()
def fit(
    file: _Data,
    target: Annotated[
        str | None,
        typer.Option(help="The column of labels; in an NPZ file the array of labels.", show_default="y in NPZ"),
    ] = None,
    C: Annotated[
        float, typer.Option("--C", callback=_positive, help="Inverse strength of the penalty; inf for none.")
    ] = 1.0,
    l1_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of absolute values in the penalty: 0 is L2, 1 is L1.")
    ] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="The model file to write.", show_default="FILE's name with -model.safetensors")
    ] = None,
    tol: Annotated[float, typer.Option(min=0, help="Relative duality gap at which the fit has converged.")] = 1e-6,
    max_iter: Annotated[int, typer.Option(min=1, help="Iterations at most.")] = 1000,
    threads: _Threads = None,
    intercept: Annotated[bool, typer.Option(help="Whether the logits have an intercept.")] = True,
    memory_limit: Annotated[
        float | None,
        typer.Option(
            callback=_positive,
            help="GiB: a larger Parquet file is read in parts, as a folder is.",
            show_default="half of the memory",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the copy of rows that are read in parts.", show_default="that of temporary files"
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Write the state of the fit there, for --resume; removed once it has converged.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the --checkpoint, if there is one.")] = False,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Read Parquet files and fit on the workers of this Dask scheduler, tcp://HOST:PORT.",
        ),
    ] = None,
) -> None:
    """Fit a model to a file of rows, or a folder of Parquet files, and write it to a model file."""
    out = Path(f"{file.stem}-model.safetensors") if out is None else out
    _require_output(out, file)
    if resume and checkpoint is None:
        raise InputError("--resume: needs the --checkpoint to go on from")
    if checkpoint is not None:
        _require_output(checkpoint, file, out)
        if checkpoint.exists() and not resume:
            raise InputError(f"{checkpoint}: exists; go on from it by --resume, or remove it")
    import numpy as np

    from softfast import SoftmaxRegression
    from softfast.model_file import save
    from softfast.tables import TableError

    if dask is not None:
        from softfast.dask import SoftmaxRegression
    model = SoftmaxRegression(
        C, l1_ratio=l1_ratio, fit_intercept=intercept, tol=tol, max_iter=max_iter, n_threads=threads, verbose=1
    )
    limit = half_of_memory() if memory_limit is None else memory_limit * 2**30
    with _training(file, target, limit, cache) if dask is None else _on_workers(file, target, dask) as (X, y, names):
        start = time.perf_counter()
        try:
            with _short_warnings():
                model.fit(X, y, checkpoint=checkpoint)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise TableError(f"{file}: {error}") from error
        seconds = time.perf_counter() - start
        accuracy = model.score(X, y)
    if names is not None:
        model.feature_names_in_ = np.array(names, dtype=object)
    # How this run was watched and spread over threads is no part of the model.
    model.set_params(verbose=0, n_threads=None)
    save(model, out, target=target)
    reached = [
        ("classes", f"{len(model.classes_):,}"),
        *_summary(model, seconds),
        ("training accuracy", f"{accuracy:.4f}"),
        ("model file", str(out)),
    ]
    if checkpoint is not None and model.converged_:
        checkpoint.unlink(missing_ok=True)
    elif checkpoint is not None and checkpoint.exists():
        reached.append(("checkpoint", f"{checkpoint} (--resume goes on from it, by up to --max-iter more iterations)"))
    _facts(reached)


@app.command()
def predict(
    model_file: _Model,
    file: _Data,
    out: Annotated[Path, typer.Option(help="Predictions to write: .csv, .parquet or .pq.")],
    threads: _Threads = None,
) -> None:
    """Predict labels and probabilities of the rows of a file and write them to another."""
    from softfast.tables import require_predictions_ending, write_predictions

    require_predictions_ending(out)
    _require_output(out, model_file, file)
    model, metadata = _load(model_file, threads)
    batches = _batches(file, model, metadata["feature_names"], metadata["target"], labelled=False)
    predictions = ((model.predict(X), model.predict_proba(X)) for X, _ in batches)
    n_rows = write_predictions(out, model.classes_, predictions)
    _print(f"{out}: {n_rows:,} predictions with the probabilities of {len(model.classes_):,} classes")


@app.command()
def evaluate(
    model_file: _Model,
    file: _Data,
    target: Annotated[
        str | None,
        typer.Option(help="The column (in an NPZ file the array) of labels.", show_default="as the model was fitted"),
    ] = None,
    threads: _Threads = None,
) -> None:
    """Compare a model's predictions with the labels of a file: accuracy, log-loss, recall."""
    import numpy as np

    model, metadata = _load(model_file, threads)
    target = metadata["target"] if target is None else target
    n_classes, loss = len(model.classes_), 0.0
    rows, recalled = np.zeros(n_classes, dtype=int), np.zeros(n_classes, dtype=int)
    for X, y in _batches(file, model, metadata["feature_names"], target, labelled=True):
        assert y is not None
        codes = _codes(file, y, model.classes_)
        right = model.predict(X) == model.classes_[codes]
        loss -= float(model.predict_log_proba(X)[np.arange(len(codes)), codes].sum(dtype=float))
        rows += np.bincount(codes, minlength=n_classes)
        recalled += np.bincount(codes[right], minlength=n_classes)
    _facts(
        [
            ("rows", f"{rows.sum():,}"),
            ("accuracy", f"{recalled.sum() / rows.sum():.4f}"),
            ("log-loss", f"{loss / rows.sum():.6g}"),
        ]
    )
    if len(model.classes_) > _MANY_CLASSES:
        return
    _grid(
        ("class", "rows", "recall"),
        [
            (str(label), f"{n:,}", f"{k / n:.4f}" if n else "-")
            for label, n, k in zip(model.classes_.tolist(), rows.tolist(), recalled.tolist(), strict=True)
        ],
    )


@app.command()
def info() -> None:
    """Show the version, the compiler, the instruction sets and the threads."""
    from softfast.config import config

    _facts((name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in config().items())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The model file to write.")] = Path("softfast-demo.safetensors"),
    threads: _Threads = None,
) -> None:
    """Train on the digits that scikit-learn brings, measure the speed, write a model file."""
    require_writable(out)
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from softfast import SoftmaxRegression
    from softfast.model_file import save
    from softfast.threads import default_threads

    digits = load_digits()
    X, X_test, y, y_test = train_test_split(digits.data, digits.target, random_state=0, stratify=digits.target)
    _print(f"handwritten digits: {len(X):,} rows of 8x8 pixels to train on, {len(X_test):,} held out, 10 classes")
    model = SoftmaxRegression(n_threads=threads, verbose=1)
    start = time.perf_counter()
    with _short_warnings():
        model.fit(X, y)
    seconds = time.perf_counter() - start
    accuracy = model.score(X_test, y_test)
    model.feature_names_in_ = np.array(digits.feature_names, dtype=object)
    model.set_params(verbose=0, n_threads=None)
    save(model, out, target="digit")
    _facts([("held-out accuracy", f"{accuracy:.4f}"), *_summary(model, seconds), ("model file", str(out))])

    rng = np.random.default_rng(0)
    large, labels = rng.standard_normal((100_000, 54), dtype=np.float32), rng.integers(7, size=100_000)
    used = default_threads() if threads is None else threads
    count = _TURNS * _EVALUATIONS
    _print(f"\nOne evaluation of loss and gradient, median of {count} in turns, softfast with {used} threads:")
    _grid(
        ("data", "rows x features", "classes", "dtype", "softfast", "NumPy", "ratio"),
        [_race("digits", X, y, 10, threads), _race("random", large, labels, 7, threads)],
    )
    _print(
        "\nNext, with rows of your own:\n"
        "  softfast fit train.csv --target NAME --out model.safetensors\n"
        "  softfast evaluate model.safetensors test.csv\n"
        "  softfast predict model.safetensors new.csv --out predictions.csv"
    )


def _race(
    name: str, X: "NDArray[Any]", y: "NDArray[Any]", n_classes: int, threads: int | None
) -> tuple[str, str, str, str, str, str, str]:
    """A row of the table of speeds: softfast and plain NumPy in turn, so that both meet the same machine."""
    import numpy as np

    import softfast
    from softfast import numpy_reference

    coef = np.random.default_rng(1).standard_normal((n_classes, X.shape[1])) / X.shape[1]
    intercept = np.zeros(n_classes)
    contenders: list[Callable[[], object]] = [
        lambda: softfast.loss_gradient(X, y, coef, intercept, n_threads=threads),
        lambda: numpy_reference.loss_gradient(X, y, coef, intercept),
    ]
    seconds: list[list[float]] = [[], []]
    for _ in range(_TURNS):
        for contender, times in zip(contenders, seconds, strict=True):
            for _ in range(_EVALUATIONS):
                start = time.perf_counter()
                contender()
                times.append(time.perf_counter() - start)
    ours, numpys = map(statistics.median, seconds)
    shape = f"{len(X):,} x {X.shape[1]:,}"
    speeds = (f"{1e3 * ours:,.2f} ms", f"{1e3 * numpys:,.2f} ms", f"{numpys / ours:.1f}")
    return (name, shape, str(n_classes), str(X.dtype), *speeds)


def _is_streamed(file: Path) -> bool:
    """Whether a file, or a folder, can be read in parts."""
    return file.is_dir() or file.suffix.lower() in (".parquet", ".pq", ".arrow", ".feather")


def _required(target: str | None, file: Path) -> str:
    if target is None:
        from softfast.tables import TableError

        raise TableError(f"{file}: the column of labels must be named (target)")
    return target


@contextmanager
def _training(
    file: Path, target: str | None, limit: float, cache: Path | None
) -> "Iterator[tuple[Any, NDArray[Any] | None, list[str] | None]]":
    """X, y and the names of the features; X streamed where it is a folder, or takes more than `limit` bytes."""
    from softfast.streams import from_parquet
    from softfast.tables import read_table

    if _is_streamed(file):
        with from_parquet(file, target=_required(target, file), cache=cache) as rows:
            if file.suffix.lower() not in (".parquet", ".pq") or (rows.nbytes or 0) > limit:
                survey = rows.survey()
                _print(f"{file}: {survey.n_rows:,} rows, {survey.n_features:,} features, {survey.dtype}, in parts")
                yield rows, None, rows.feature_names
                return
    table = read_table(file, target=target)
    _print(f"{file}: {table.X.shape[0]:,} rows, {table.X.shape[1]:,} features, {table.X.dtype}")
    yield table.X, table.y, table.feature_names


@contextmanager
def _on_workers(file: Path, target: str | None, address: str) -> "Iterator[tuple[Any, Any, list[str] | None]]":
    """X and y, Dask data frames over Parquet files, while there is a client of the scheduler."""
    from dask import dataframe
    from distributed import Client

    from softfast.tables.common import TableError, listed

    target = _required(target, file)
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise InputError(f"--dask {address}: no scheduler answers there ({error})") from error
    with client:
        try:
            table = dataframe.read_parquet(str(file.resolve()))
        except (OSError, ValueError) as error:
            raise TableError(f"{file}: can't be read as Parquet ({error})") from error
        if target not in table.columns:
            raise TableError(f"{file}: there is no column {target!r}; the columns are {listed(table.columns)}")
        _print(f"{file}: {table.npartitions:,} partitions on {len(client.nthreads()):,} workers of {address}")
        yield table.drop(columns=target), table[target], None


def _batches(
    file: Path, model: "SoftmaxRegression", features: list[str] | None, target: str | None, *, labelled: bool
) -> "Iterator[tuple[NDArray[Any], NDArray[Any] | None]]":
    """X and y, if `labelled`: of Parquet and Arrow files in parts, of others all at once."""
    from softfast.sources.parquet import ParquetReader
    from softfast.sources.streamed import StreamedRows
    from softfast.tables import TableError, read_table

    if not _is_streamed(file):
        table = read_table(file, target=target, features=features, n_features=model.n_features_in_, labelled=labelled)
        yield table.X, table.y
        return
    if labelled:
        target = _required(target, file)
    for X, y, _ in StreamedRows(ParquetReader(file, target, features, None, labelled=labelled)):
        if X.shape[1] != model.n_features_in_:
            raise TableError(f"{file}: has {X.shape[1]} features; expected {model.n_features_in_}, as the model has")
        yield X, y


def _require_output(out: Path, *inputs: Path) -> None:
    """An error, before any work, if `out` can't be written or is one of the inputs."""
    if require_writable(out) in [path.resolve() for path in inputs]:
        raise InputError(f"{out}: is read by this command; write to another file")


def _load(path: Path, threads: int | None) -> "tuple[SoftmaxRegression, dict[str, Any]]":
    """The model and its metadata."""
    from softfast.model_file import load

    model, metadata = load(path)
    model.set_params(n_threads=threads)
    # Tables come as arrays, their columns matched by name: scikit-learn would warn that they have none.
    model.__dict__.pop("feature_names_in_", None)
    return model, metadata


def _codes(file: Path, y: "NDArray[Any]", classes: "NDArray[Any]") -> "NDArray[np.intp]":
    """Positions of the labels (n,) in the model's classes."""
    import numpy as np

    from softfast.tables.common import TableError, listed

    values, inverse = np.unique(y, return_inverse=True)
    positions = {label: position for position, label in enumerate(classes.tolist())}
    unknown = [value for value in values.tolist() if value not in positions]
    if unknown:
        raise TableError(f"{file}: the model does not know the labels {listed(unknown)}; it knows {listed(positions)}")
    return np.array([positions[value] for value in values.tolist()], dtype=np.intp)[inverse]


def _summary(model: "SoftmaxRegression", seconds: float) -> list[tuple[str, str]]:
    """What a fit reached, and at what cost."""
    if math.isnan(model.duality_gap_):
        gap = "none: without penalty there is no certificate"
    else:
        gap = f"{model.duality_gap_:.2g} (proved: no model has an objective lower by more)"
    state = "converged" if model.converged_ else "not converged"
    return [
        ("objective", f"{model.objective_:.8g}"),
        ("duality gap", gap),
        ("passes", f"{model.n_passes_} ({model.n_iter_} iterations of {model.solver_}, {state})"),
        ("seconds", f"{seconds:.3g}"),
    ]


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Shows a fit's ConvergenceWarning as one line on stderr."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield
    for warning in caught:
        _say("warning", str(warning.message))


def _console() -> Console:
    """stdout: as wide as the terminal, or without limit where there is none, for lines to stay whole."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000)


def _print(text: str) -> None:
    _console().print(text, markup=False, soft_wrap=True)


def _say(kind: str, text: str) -> None:
    """One line on stderr."""
    color = {"warning": "yellow"}.get(kind, "red")
    message = f"[bold {color}]{kind}:[/] {escape(' '.join(text.split()))}"
    Console(stderr=True, highlight=False).print(message, soft_wrap=True)


def _facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names and values, one a line."""
    listed = list(facts)
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        _console().print(f"[cyan]{name:{width}}[/]  {escape(value)}", soft_wrap=True)


def _grid(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """A table with numbers to the right."""
    grid = Grid(box=None, padding=(0, 1), pad_edge=False, header_style="cyan")
    for place, name in enumerate(head):
        grid.add_column(name, justify="right" if place else "left")
    for row in rows:
        grid.add_row(*map(escape, row))
    _console().print(grid)
