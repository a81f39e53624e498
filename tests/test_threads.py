"""Threads: the same bits, calls side by side, forks, instruction sets by environment, bounded memory."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import softfast
from softfast import _core


def run(code, **environment):
    """Python code in a process of its own; its standard output."""
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.returncode, result.stdout.strip(), result.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_have_the_same_bits_for_any_number_of_threads(dtype, rng):
    for shape in [(3000, 7), (500, 200)]:
        x, y = rng.normal(size=shape).astype(dtype), rng.integers(0, shape[1], shape[0])
        calls = [
            lambda n, x=x: softfast.softmax(x, n_threads=n),
            lambda n, x=x: softfast.log_softmax(x, 0, n_threads=n),
            lambda n, x=x: softfast.logsumexp(x, n_threads=n),
            lambda n, x=x, y=y: softfast.cross_entropy(x, y, n_threads=n),
            lambda n, x=x, y=y: softfast.cross_entropy_gradient(x, y, n_threads=n)[1],
            lambda n, x=x, y=y: softfast.loss_gradient(x, y, np.eye(x.shape[1]), n_threads=n)[1],
        ]
        for call in calls:
            expected = call(1)
            for n_threads in (2, 3, 7):
                np.testing.assert_array_equal(call(n_threads), expected)


def test_calls_side_by_side_give_the_serial_answer(rng):
    X, y, coef = rng.normal(size=(5000, 10)), rng.integers(0, 4, 5000), rng.normal(size=(4, 10))
    expected = softfast.loss_gradient(X, y, coef)[1]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: softfast.loss_gradient(X, y, coef, n_threads=1 + i % 3)[1], range(40)))
    for result in results:
        np.testing.assert_array_equal(result, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_computes():
    code = """if True:
        import os, sys, warnings
        warnings.simplefilter("ignore")
        import numpy as np, softfast
        x = np.random.default_rng(0).normal(size=(3000, 10))
        expected = softfast.softmax(x, n_threads=2)
        child = os.fork()
        if child == 0:
            os._exit(0 if (softfast.softmax(x, n_threads=2) == expected).all() else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run(code)[:2] == (0, "0")


def test_the_environment_chooses_the_instruction_set(kernels):
    code = "from softfast import _core; print(_core.default.name)"
    assert run(code, SOFTFAST_ISA=kernels.name)[:2] == (0, kernels.name)


def test_an_unknown_instruction_set_is_an_error():
    code, _, error = run("import softfast", SOFTFAST_ISA="sse9")
    assert code != 0
    assert f"ImportError: SOFTFAST_ISA='sse9' is not available here; choose one of: {', '.join(_core.kernels)}" in error


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory that Linux counts")
def test_memory_does_not_grow_with_the_rows():
    code = """if True:
        import resource, sys
        import numpy as np, softfast
        n, n_classes = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS, 20
        X, y, coef = np.ones((n, 5), np.float32), np.zeros(n, np.int64), np.zeros((n_classes, 5))
        softfast.loss_gradient(X[:10], y[:10], coef)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        softfast.loss_gradient(X, y, coef, n_threads=2)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    kib = [int(run(code.replace("ROWS", str(n)))[1]) for n in (200_000, 3_000_000)]
    # An array of n x K float32 would take 15 and 230 MiB.
    assert max(kib) < 12 * 1024, kib


def predict(n):
    X, coef = np.broadcast_to(np.ones(1000), (n, 1000)), np.ones((10, 1000))
    _core.default.predict(_core.Rows(X), coef, np.zeros(10), 10, _core.SOFTMAX)


def logsumexp(n):
    softfast.logsumexp(np.broadcast_to(np.arange(1000.0), (n, 1000)), n_threads=1)


def cross_entropy(n):
    softfast.cross_entropy(np.broadcast_to(np.arange(1000.0), (n, 1000)), np.zeros(n, int), n_threads=1)


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="signals can't be raised here")
@pytest.mark.parametrize("call", [predict, logsumexp, cross_entropy])
def test_an_interrupt_ends_a_long_call_early(call):
    begin = time.thread_time()
    call(20_000)
    whole = 50 * (time.thread_time() - begin)
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    begin = time.thread_time()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        call(1_000_000)
    assert time.thread_time() - begin < 0.6 * whole


def test_labels_that_change_meanwhile_end_in_an_error_or_a_number(rng):
    n, stop = 20_000, threading.Event()
    X, labels = rng.normal(size=(n, 1)), np.zeros(n, np.int64)
    rows, targets = _core.Rows(X), _core.Targets(labels)

    def change():
        while not stop.is_set():
            labels[:] = 5
            labels[:] = 1

    thread = threading.Thread(target=change)
    thread.start()
    losses, errors = [], []
    try:
        for _ in range(1000):
            try:
                losses.append(_core.default.loss_gradient(rows, targets, np.ones((3, 1)), np.zeros(3), 3)[0])
            except IndexError as error:
                errors.append(str(error))
    finally:
        stop.set()
        thread.join()
    assert np.isfinite(losses).all()
    assert errors
    for error in errors:
        assert int(re.search(r"row (\d+)", error)[1]) < n
