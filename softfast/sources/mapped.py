"""Files mapped into memory: where a page can't be read any more there is an error, and not the end of the process."""

import mmap
import threading
import weakref

from softfast import _mapped

_lock = threading.Lock()


class Watch:
    """Watches a mapping for as long as it lives, whoever holds views of it."""

    def __init__(self, mapping: mmap.mmap) -> None:
        with _lock:
            self._number = _mapped.watch(mapping)
        # At the end of the process it would come before the threads that read.
        weakref.finalize(mapping, _mapped.unwatch, self._number).atexit = False

    @property
    def broken(self) -> bool:
        """Whether some pages could not be read, and have been zeros since."""
        return _mapped.broken(self._number)
