"""Reading ahead: a thread gets the next item while the caller works on this one."""

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_END = object()


def read_ahead(items: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """The items, got by a thread; at most `depth` of them at once, the one that the caller has among them.

    The thread ends with the generator, whichever way that ends: a caller that stops early closes it.  What is raised in
    the thread is raised here.  Ctrl-C waits for no more than the item that is being read.
    """
    ready: SimpleQueue[tuple[object, BaseException | None]] = SimpleQueue()
    free = threading.Semaphore(depth)
    stopped = threading.Event()

    def work() -> None:
        try:
            while True:
                free.acquire()
                item = _END if stopped.is_set() else next(items, _END)
                ready.put((item, None))
                if item is _END:
                    break
                del item
        except BaseException as error:
            ready.put((_END, error))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    # A daemon: a second Ctrl-C gets away from a source that never answers.
    thread = threading.Thread(target=work, name="softfast read-ahead", daemon=True)
    try:
        # Ctrl-C may come while it waits for the thread, which then runs.
        thread.start()
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item  # type: ignore[misc]
            del item
            free.release()
    finally:
        stopped.set()
        free.release()
        if thread.is_alive():
            thread.join()
