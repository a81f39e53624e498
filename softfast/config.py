"""What this installation is: versions, compiler, instruction sets, threads."""

import platform
import sys
from typing import Any

import numpy as np

from softfast import _core
from softfast.threads import default_threads


def config() -> dict[str, Any]:
    """The facts that a bug report or a benchmark should state.

    Returns
    -------
    dict
        ``version``, ``python``, ``numpy``, ``platform``, ``compiler``, ``isa`` (the instruction set chosen),
        ``isas_available`` (best first; ``SOFTFAST_ISA`` chooses among them), ``openmp`` (the date of the OpenMP
        specification, 0 without threads) and ``default_threads``.

    Examples
    --------
    >>> from softfast.config import config
    >>> config()["isa"] in config()["isas_available"]
    True
    """
    return {
        "version": _core.VERSION,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "platform": platform.platform(),
        "compiler": _core.COMPILER,
        "isa": _core.default.name,
        "isas_available": list(_core.kernels),
        "openmp": _core.OPENMP,
        "default_threads": default_threads(),
    }


def show_config() -> None:
    """Print `config()`, one line a fact."""
    for name, value in config().items():
        print(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
