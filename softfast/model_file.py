"""Model files: a fitted `SoftmaxRegression` in a safetensors file, without pickle.

A file holds two tensors, ``coef`` (M, p) and ``intercept`` (M,), float64, M = K or 1 with two classes; after
``sparsify``, in place of ``coef`` its CSR: ``coef_data`` float64, ``coef_indices`` and ``coef_indptr`` int32 or int64.
And it holds one metadata entry, ``softfast``: JSON with the keys of `_METADATA` below, ``format``, ``version``,
``params`` (the constructor's but for ``callback``, which is code), ``classes`` (``dtype`` and ``values``) and
``feature_names`` (a list or null). Numbers that JSON does not have are written as "inf" (``C``) and null
(``duality_gap``). Loading checks everything and runs nothing of what it reads.
"""

import json
import math
import operator
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from scipy.sparse import csr_array, issparse
from sklearn.utils.validation import check_is_fitted

from softfast._core import VERSION, SparseRows
from softfast.estimator import SoftmaxRegression
from softfast.files import InputError, half_of_memory, replacing

_FORMAT, _VERSION = "softfast.SoftmaxRegression", 1

# NumPy dtypes of classes_ and the Python type of their values in JSON.
_CLASS_DTYPES: dict[str, type] = {
    "bool": bool,
    **{f"{kind}{bits}": int for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "float32": float,
    "float64": float,
    "str": str,
    "object": str,
}

_SPARSE = ("coef_data", "coef_indices", "coef_indptr")

_MAX_LABEL_CHARACTERS = 2**26

Check = tuple[str, Callable[[Any], bool]]


class ModelFileError(InputError):
    """A file that is not a model this version of softfast can load, or a model that such a file can't hold."""


def _is_int(value: Any, low: int) -> bool:
    return type(value) is int and low <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_text(value: Any) -> bool:
    """A string that can be printed and written to a file: no half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_class_weight(value: Any) -> bool:
    if value is None or value == "balanced":
        return True
    return isinstance(value, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and (_is_text(pair[0]) or type(pair[0]) is bool or _is_number(pair[0]))
        and _is_number(pair[1])
        for pair in value
    )


_BOOL: Check = ("true or false", lambda value: type(value) is bool)
_COUNT: Check = ("an integer >= 0", lambda value: _is_int(value, 0))
_TEXT: Check = ("a string", _is_text)

_PARAMS: dict[str, Check] = {
    "C": ('a number > 0 or "inf"', lambda value: value == "inf" or (_is_number(value) and value > 0)),
    "l1_ratio": ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "sparsity": ('"coefficient" or "feature"', lambda value: value in ("coefficient", "feature")),
    "fit_intercept": _BOOL,
    "class_weight": ('null, "balanced" or a list of [label, weight]', _is_class_weight),
    "solver": _TEXT,
    "tol": ("a number >= 0", lambda value: _is_number(value) and value >= 0),
    "max_iter": ("an integer >= 1", lambda value: type(value) is int and value >= 1),
    "warm_start": _BOOL,
    "n_threads": ("null or an integer >= 1", lambda value: value is None or (type(value) is int and value >= 1)),
    "verbose": _COUNT,
}
_METADATA: dict[str, Check] = {
    "softfast_version": _TEXT,
    "n_features": ("an integer >= 1", lambda value: _is_int(value, 1)),
    "target": ("a string or null", lambda value: value is None or _is_text(value)),
    "objective": ("a finite number", _is_number),
    "duality_gap": ("a number or null", lambda value: value is None or _is_number(value)),
    "converged": _BOOL,
    "n_iter": _COUNT,
    "n_passes": ("a number >= 0", lambda value: _is_number(value) and value >= 0),
    "solver": _TEXT,
}
_KEYS = {"format", "version", "params", "classes", "feature_names", *_METADATA}


def save(model: SoftmaxRegression, path: str | os.PathLike[str], *, target: str | None = None) -> None:
    """Write a fitted model to a file, whole or not at all.

    Parameters
    ----------
    model : SoftmaxRegression
        Fitted. Its ``history_`` is not kept.
    path : path_like
        Replaced if it exists. By custom the name ends in ``.safetensors``.
    target : str, optional
        The name of the column of labels, for the reader's information.

    Raises
    ------
    ModelFileError
        If the file can't hold the model: one of `partial_fit`, labels other than integers, floats, booleans and
        strings, or a number that is not finite.
    OSError
        If the file can't be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from softfast import SoftmaxRegression
    >>> from softfast.model_file import load, save
    >>> model = SoftmaxRegression().fit([[0.0], [1.0], [2.0], [3.0]], ["a", "a", "b", "b"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, Path(folder) / "model.safetensors", target="letter")
    ...     loaded, metadata = load(Path(folder) / "model.safetensors")
    >>> loaded.predict([[0.0], [3.0]]).tolist(), metadata["target"]
    (['a', 'b'], 'letter')
    """
    check_is_fitted(model)
    if not hasattr(model, "objective_"):
        raise ModelFileError(
            f"{path}: a model file says what a fit has reached, and partial_fit has reached no optimum of all rows; "
            "pickle keeps such a model, and what it has learned"
        )
    params = {name: _plain(value) for name, value in model.get_params(deep=False).items()}
    del params["callback"]  # code, not data
    params |= {name: bool(params[name]) for name in ("fit_intercept", "warm_start")}
    params |= {name: _whole(params[name]) for name in ("max_iter", "n_threads")}
    params["verbose"] = _level(params["verbose"])
    params |= {name: _real(params[name]) for name in ("C", "l1_ratio", "tol")}
    if params["C"] == math.inf:
        params["C"] = "inf"
    if isinstance(params["class_weight"], dict):
        params["class_weight"] = [[_plain(label), _plain(weight)] for label, weight in params["class_weight"].items()]
    dtype = model.classes_.dtype
    names = getattr(model, "feature_names_in_", None)
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "softfast_version": VERSION,
        "params": params,
        "classes": {"dtype": "str" if dtype.kind == "U" else dtype.name, "values": model.classes_.tolist()},
        "feature_names": None if names is None else list(names),
        "n_features": model.coef_.shape[1],
        "target": target,
        "objective": float(model.objective_),
        "duality_gap": None if math.isnan(model.duality_gap_) else float(model.duality_gap_),
        "converged": bool(model.converged_),
        "n_iter": _plain(model.n_iter_),
        "n_passes": _plain(model.n_passes_),
        "solver": model.solver_,
    }
    tensors = {"intercept": np.ascontiguousarray(model.intercept_, dtype=np.float64)}
    if issparse(model.coef_):
        coef = csr_array(model.coef_, dtype=np.float64)
        tensors |= {"coef_data": coef.data, "coef_indices": coef.indices, "coef_indptr": coef.indptr}
    else:
        tensors["coef"] = np.ascontiguousarray(model.coef_, dtype=np.float64)
    # The checks of loading come before the writing: what could not be loaded is not saved.
    _check_metadata(path, metadata)
    _restore(path, metadata, tensors)
    data = safetensors.numpy.save(tensors, metadata={"softfast": json.dumps(metadata, allow_nan=False)})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def load(path: str | os.PathLike[str]) -> tuple[SoftmaxRegression, dict[str, Any]]:
    """Read a model file.

    Parameters
    ----------
    path : path_like

    Returns
    -------
    model : SoftmaxRegression
        Fitted; it predicts the same bits as the model that was saved.
    metadata : dict
        What the file says of the model, among it ``target`` (str or None) and ``softfast_version``.

    Raises
    ------
    ModelFileError
        If the file is missing, cut off, damaged, of another kind or of a newer version; the message says which.
    """
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: there is no such file; expected a model file of softfast")
    try:
        if Path(path).stat().st_size > half_of_memory():
            raise ModelFileError(f"{path}: the file is larger than half of this machine's memory")
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("softfast")
            if text is None:
                raise ModelFileError(f"{path}: a safetensors file, but no model of softfast: no entry 'softfast' in it")
            metadata = _check_metadata(path, _parse(path, text))
            names = set(file.keys())
            if names not in ({"coef", "intercept"}, {*_SPARSE, "intercept"}):
                raise ModelFileError(f"{path}: expected the tensors coef and intercept, got {_shown(file.keys())}")
            for name, shape in _shapes(metadata).items():
                if name not in names:
                    continue
                tensor = file.get_slice(name)
                if tensor.get_dtype() != "F64" or tuple(tensor.get_shape()) != shape:
                    raise ModelFileError(
                        f"{path}: {name} must be F64 of shape {shape}, as its numbers of classes and features ask for, "
                        f"got {tensor.get_dtype()} of shape {tuple(tensor.get_shape())}"
                    )
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a whole safetensors file, as softfast's models are ({error})") from error
    return _restore(path, metadata, tensors), metadata


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _whole(value: Any) -> int | None:
    """What a fit takes for an integer, True among it."""
    return None if value is None else operator.index(value)


def _level(value: Any) -> int:
    """What a fit takes for `verbose`, which is anything."""
    return int(value) if isinstance(value, int) and value >= 0 else int(bool(value))


def _real(value: Any) -> float:
    """What a fit takes for a real number, fractions and True among it."""
    return value if type(value) is int else float(value)


def _shown(value: Any) -> str:
    """The value for a message, cut to a readable length."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _parse(path: str | os.PathLike[str], text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: damaged: its entry 'softfast' is not JSON ({error})") from error


def _check_metadata(path: str | os.PathLike[str], metadata: Any) -> dict[str, Any]:
    """The metadata, every key of the right kind, or an error that names the first that is not."""
    if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
        seen = metadata.get("format") if isinstance(metadata, dict) else metadata
        raise ModelFileError(f"{path}: expected the format {_FORMAT!r}, got {_shown(seen)}")
    version = metadata.get("version")
    if version != _VERSION or type(version) is not int:
        newer = " Upgrade softfast." if type(version) is int and version > _VERSION else ""
        raise ModelFileError(
            f"{path}: model file version {_shown(version)}; softfast {VERSION} reads version {_VERSION}.{newer}"
        )
    _check_keys(path, "the metadata", metadata, _KEYS)
    _check_values(path, "", metadata, _METADATA)
    if not isinstance(metadata["params"], dict):
        raise ModelFileError(f"{path}: 'params' must be an object, got {_shown(metadata['params'])}")
    _check_keys(path, "'params'", metadata["params"], set(_PARAMS))
    _check_values(path, "params.", metadata["params"], _PARAMS)
    names = metadata["feature_names"]
    if names is not None and not (
        isinstance(names, list)
        and all(map(_is_text, names))
        and len(set(names)) == len(names) == metadata["n_features"]
    ):
        accepted = f"null or a list of {metadata['n_features']} different strings"
        raise ModelFileError(f"{path}: 'feature_names' must be {accepted}, got {_shown(names)}")
    _check_classes(path, metadata["classes"])
    return metadata


def _check_keys(path: str | os.PathLike[str], where: str, seen: dict[str, Any], accepted: set[str]) -> None:
    if seen.keys() != accepted:
        missing, unknown = sorted(accepted - seen.keys()), sorted(seen.keys() - accepted)
        raise ModelFileError(f"{path}: {where} lacks the keys {_shown(missing)} and has unknown ones {_shown(unknown)}")


def _check_values(path: str | os.PathLike[str], prefix: str, seen: dict[str, Any], checks: dict[str, Check]) -> None:
    for name, (accepted, fine) in checks.items():
        if not fine(seen[name]):
            raise ModelFileError(f"{path}: '{prefix}{name}' must be {accepted}, got {_shown(seen[name])}")


def _check_classes(path: str | os.PathLike[str], entry: Any) -> None:
    """At least two classes, sorted, all different, of one type."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "values"}:
        raise ModelFileError(f"{path}: 'classes' must be an object of dtype and values, got {_shown(entry)}")
    dtype, values = entry["dtype"], entry["values"]
    if not isinstance(dtype, str) or dtype not in _CLASS_DTYPES:
        raise ModelFileError(f"{path}: classes must be of dtype {', '.join(_CLASS_DTYPES)}, got {_shown(dtype)}")
    kind = _CLASS_DTYPES[dtype]
    if not isinstance(values, list) or not all(type(v) is kind and (kind is not str or _is_text(v)) for v in values):
        raise ModelFileError(f"{path}: classes must be a list of values of type {kind.__name__}, got {_shown(values)}")
    if len(values) < 2 or any(not a < b for a, b in pairwise(values)):
        raise ModelFileError(f"{path}: classes must be two or more different ones in order, got {_shown(values)}")
    # NumPy gives every string the length of the longest: one long label among many would ask for any amount of memory.
    if dtype == "str" and len(values) * max(map(len, values)) > _MAX_LABEL_CHARACTERS:
        raise ModelFileError(f"{path}: classes must fit in {_MAX_LABEL_CHARACTERS} characters, padded to one length")
    try:
        with np.errstate(over="ignore"):
            fits = np.array(values, dtype=dtype).tolist() == values
    except OverflowError:
        fits = False
    if not fits:
        raise ModelFileError(f"{path}: classes must fit their dtype {dtype}, got {_shown(values)}")


def _shapes(metadata: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes that checked metadata ask for."""
    n_classes = len(metadata["classes"]["values"])
    n_outputs = 1 if n_classes == 2 else n_classes
    return {"coef": (n_outputs, metadata["n_features"]), "intercept": (n_outputs,)}


def _restore(
    path: str | os.PathLike[str], metadata: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> SoftmaxRegression:
    """The fitted model of checked metadata and of tensors of the right shapes."""
    for name, tensor in tensors.items():
        if not name.startswith("coef_") and not np.isfinite(tensor).all():
            raise ModelFileError(f"{path}: {name} must be finite, got NaN or infinity in it")
    params = dict(metadata["params"])
    params["C"] = float(params["C"])
    if isinstance(params["class_weight"], list):
        params["class_weight"] = dict(params["class_weight"])
    model = SoftmaxRegression(**params)
    model.classes_ = np.array(metadata["classes"]["values"], dtype=metadata["classes"]["dtype"])
    model.coef_ = tensors["coef"] if "coef" in tensors else _sparse_coef(path, metadata, tensors)
    model.intercept_ = tensors["intercept"]
    model.n_features_in_ = metadata["n_features"]
    if metadata["feature_names"] is not None:
        model.feature_names_in_ = np.array(metadata["feature_names"], dtype=object)
    gap = metadata["duality_gap"]
    model.objective_, model.duality_gap_ = float(metadata["objective"]), math.nan if gap is None else float(gap)
    model.converged_, model.solver_ = metadata["converged"], metadata["solver"]
    model.n_iter_, model.n_passes_ = metadata["n_iter"], metadata["n_passes"]
    return model


def _sparse_coef(path: str | os.PathLike[str], metadata: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> csr_array:
    """The sparse coefficients of checked metadata; nothing in them is taken on trust."""
    data, indices, indptr = (tensors[name] for name in _SPARSE)
    shape = _shapes(metadata)["coef"]
    try:
        if data.dtype != np.float64:
            raise ValueError(f"data must be float64, got {data.dtype}")
        rows = SparseRows(data, indices, indptr, shape[1])
    except ValueError as error:
        raise ModelFileError(f"{path}: of the sparse coef {error}") from None
    if rows.n_rows != shape[0]:
        raise ModelFileError(f"{path}: coef must have {shape[0]} rows, one a class, got {rows.n_rows}")
    return csr_array((data, indices, indptr), shape=shape)
