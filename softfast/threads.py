"""How many threads a call uses."""

import os
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, cast

from softfast import _core, _vectors

# Below this many floating-point operations (about half a millisecond on one core) a call stays on one thread. Opening a
# team costs 5 to 20 microseconds; but every call ends by waiting for the slowest thread, and where another process
# keeps a core busy that is a turn of the scheduler: fits of digits, 5e6 operations a pass, took 16 times as long with
# two threads as with one on a machine with one of its two cores taken.
_SMALL_WORK = 2e7

_forked = False


def _after_fork_in_child() -> None:
    global _forked
    _forked = _core.threads_started() or _vectors.threads_started()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _cgroup_quota() -> float:
    """CPUs that the control group grants (version 2), infinity where nothing limits them."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):
        return float("inf")


@cache
def default_threads() -> int:
    """CPUs this process may use: affinity, control group and ``OMP_NUM_THREADS``, whichever is smallest."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [float(available), max(1.0, _cgroup_quota())]
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if wanted.isdigit():
        limits.append(max(1.0, float(wanted)))
    return int(min(limits))


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def single_threaded_blas() -> AbstractContextManager[Any]:
    """A context in which the linear algebra of NumPy and SciPy stays on one thread.

    In a fit its matrices are small: threads would save little, would make the last bits depend on their number, and
    spin: with a core taken by another process, fits of letterrecognition took 3.4 s with two of them, 0.5 s with one.
    """
    return cast(AbstractContextManager[Any], _blas().limit(limits=1, user_api="blas"))


def resolve_threads(n_threads: int | None, work: float) -> int:
    """Threads for `work` floating-point operations; an explicit `n_threads` is taken at its word, up to 1024.

    A process forked from one that had used threads stays on one: GNU's OpenMP would hang there.
    """
    if n_threads is None:
        count = 1 if work < _SMALL_WORK else default_threads()
    elif isinstance(n_threads, bool) or not hasattr(n_threads, "__index__") or n_threads.__index__() < 1:
        raise ValueError(f"n_threads must be None or an integer >= 1, got {n_threads!r}")
    else:
        count = n_threads.__index__()
    return 1 if _forked else min(count, 1024)
