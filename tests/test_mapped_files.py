"""Mapped files that can't be read any more: an error, where the operating system would end the process."""

import signal
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a mapped file can't be cut off there")

N_ROWS = 4000


@pytest.fixture
def run(rng, tmp_path):
    """Runs a script in a process of its own; returns how that ended, and what it printed."""
    np.save(tmp_path / "X.npy", rng.normal(size=(N_ROWS, 8)))
    np.save(tmp_path / "y.npy", rng.integers(0, 3, N_ROWS))
    beginning = f"""
import mmap, os, signal, numpy as np, softfast
from softfast.sources import readers, streamed
readers.CHUNK_BYTES = 2**16
folder = {str(tmp_path)!r}
X, y = folder + "/X.npy", folder + "/y.npy"
rows = softfast.from_npy(X, y)
"""

    def run(script):
        result = subprocess.run([sys.executable, "-P", "-c", beginning + script], capture_output=True, text=True)
        return result.returncode, result.stdout, result.stderr

    return run


CUT_IN_PASS = """
def cut():
    size, changed = os.stat(X).st_size, os.stat(X).st_mtime_ns
    os.truncate(X, {length})
    if {restored}:
        # As a disk that fails: nothing is to be seen of it but in the pages, which are read in between.
        assert not np.asarray(rows._reader._X[-100:]).any()
        os.truncate(X, size)
        os.utime(X, ns=(changed, changed))

part, calls = streamed.StreamedParts._part, []
def cutting(self, x, number):
    calls.append(number)
    if len(calls) == {calls}:
        cut()
    return part(self, x, number)

streamed.StreamedParts._part = cutting
model = softfast.SoftmaxRegression()
try:
    model.fit(rows)
except ValueError as error:
    print(error)
assert len(calls) >= {calls}
assert not hasattr(model, "coef_") and not hasattr(model, "classes_")
"""


@pytest.mark.parametrize("length", [0, 200_000])
@pytest.mark.parametrize("calls", [1, 10])
def test_cut_off_in_a_pass(length, calls, run):
    code, out, errors = run(CUT_IN_PASS.format(length=length, calls=calls, restored=False))
    assert code == 0, errors
    assert "X.npy: the file has changed since it was opened" in out


def test_pages_that_could_not_be_read(run):
    code, out, errors = run(CUT_IN_PASS.format(length=0, calls=3, restored=True))
    assert code == 0, errors
    assert "X.npy: can't be read any more" in out


@pytest.mark.parametrize("file", ["X", "y"])
@pytest.mark.parametrize("use", ["list(rows)", "rows.survey()", "softfast.SoftmaxRegression().fit(rows)"])
def test_cut_off_in_the_first_pass(use, file, run):
    script = f"""
touch = readers.touch
def cutting(x):
    touch(x)
    os.truncate({file}, 128)
readers.touch = cutting
try:
    {use}
except ValueError as error:
    print(error)
"""
    code, out, errors = run(script)
    assert code == 0, errors
    assert f"{file}.npy: the file has changed since it was opened" in out


def test_other_faults_and_signals_end_the_process(run):
    other = """
with open(folder + "/other", "wb+") as file:
    file.truncate(10**6)
    memory = mmap.mmap(file.fileno(), 10**6)
    file.truncate(0)
    memory[5000]
"""
    # It is before our handler, which the second file installs again, and behind it.
    other_handler = "import faulthandler\nfaulthandler.enable()\nrows = softfast.from_npy(X, y)\n"
    for script in (other, "os.kill(os.getpid(), signal.SIGBUS)", other_handler + other):
        code, _, errors = run(script)
        assert code == -signal.SIGBUS, errors


def test_many_files(run):
    script = """
first = [softfast.from_npy(X, y) for _ in range(100)]
del first
rows = softfast.from_npy(X, y)
for x, _, _ in rows:
    os.truncate(X, 0)
    assert np.isfinite(x).all()
    break
"""
    code, _, errors = run(script)
    assert code == 0, errors
