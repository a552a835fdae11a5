"""Values that take longer than a page may: computed in the background, one after the other. Pages show the rest until then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any


class BackgroundJobs:
    """Jobs that are running or waiting. Threads are daemons, so that Ctrl-C does not wait for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._under_way: set[Hashable] = set()
        self._failed: dict[Hashable, Exception] = {}

    def begin(self, key: Hashable, make: Callable[[], Any]) -> None:
        """Call `make` in the background, unless a call for the key is running. Raises the error of the previous call."""
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
