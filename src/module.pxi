# What both modules with threads and a table of functions for each instruction set have.

import os

cdef extern from *:
    """
    #ifdef _OPENMP
    #define SF_OPENMP _OPENMP
    #else
    #define SF_OPENMP 0
    #endif
    """
    enum: SF_OPENMP

# GNU's OpenMP does not survive a fork: a child of a process that has opened a team hangs when it opens one itself.
cdef bint _threads_started = False


cdef int _remember_threads(int n_threads) except -1:
    global _threads_started
    if n_threads < 1:                                # OpenMP would choose a number, and scratch is counted in threads
        raise ValueError(f"n_threads must be at least 1, got {n_threads}")
    if n_threads > 1 and SF_OPENMP:
        _threads_started = True
    return 0


def threads_started():
    """Whether this process, or the parent it was forked from, has opened a team of threads."""
    return _threads_started


def _choose(tables):
    wanted = os.environ.get("SOFTFAST_ISA")
    if not wanted:
        return next(iter(tables.values()))
    if wanted not in tables:
        raise ImportError(f"SOFTFAST_ISA={wanted!r} is not available here; choose one of: {', '.join(tables)}")
    return tables[wanted]
