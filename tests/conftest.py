"""Fixtures: seeded randomness, the instruction sets of this architecture, and real data where it is at hand."""

import os
import platform
import signal
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from softfast import _core

settings.register_profile("softfast", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("softfast")

# A shell lets its background jobs ignore Ctrl-C, and Python leaves it so: tests of it need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

ISAS = {"x86_64": ["avx512", "avx2", "baseline"], "AMD64": ["baseline"], "aarch64": ["neon"]}


@pytest.fixture(params=ISAS.get(platform.machine(), list(_core.kernels)))
def kernels(request):
    """The kernels of each instruction set of this architecture, by name."""
    if request.param not in _core.kernels:
        pytest.skip(f"this processor or build lacks the instruction set {request.param}")
    return _core.kernels[request.param]


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def data_dir():
    """The folder of real data sets that SOFTFAST_DATA names."""
    folder = os.environ.get("SOFTFAST_DATA")
    if not folder:
        pytest.skip("needs the data files of the folder that SOFTFAST_DATA names")
    return Path(folder)
