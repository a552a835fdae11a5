"""What takes longer than a page may: made beside the requests, one after the other; pages do without it until then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any


class Later:
    """Values under way. Threads are daemons, so that Ctrl-C waits for none of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._under_way: set[Hashable] = set()
        self._failed: dict[Hashable, Exception] = {}

    def begin(self, key: Hashable, make: Callable[[], Any]) -> None:
        """Have `make` called, unless it is being called already; what it gives is its own business. Raises what the call
        before this one failed with."""
        with self._lock:
            failure = self._failed.pop(key, None)
            if failure is not None:
                raise failure
            if key in self._under_way:
                return
            self._under_way.add(key)
        threading.Thread(target=self._run, args=(key, make), daemon=True).start()

    def _run(self, key: Hashable, make: Callable[[], Any]) -> None:
        try:
            with self._turn:
                make()
        except Exception as error:
            with self._lock:
                self._failed[key] = error
        finally:
            with self._lock:
                self._under_way.discard(key)
