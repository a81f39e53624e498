# cython: language_level=3
# cython: freethreading_compatible=True
"""Mapped files whose pages can't be read any more: mapped.h for Python."""

cdef extern from "mapped.h" nogil:
    int sf_watch(const void *memory, size_t n_bytes)
    int sf_broken(int number)
    void sf_unwatch(int number)


def watch(const unsigned char[::1] memory not None):
    """The number under which the memory is watched, -1 where it can't be; not for two threads at once."""
    return sf_watch(&memory[0], memory.shape[0])


def broken(int number):
    """Whether zeros have taken the place of some of it."""
    return bool(sf_broken(number))


def unwatch(int number):
    """Watch it no more: before it is unmapped."""
    sf_unwatch(number)
