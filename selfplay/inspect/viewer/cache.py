"""What was read or computed of committed tables, kept in memory up to a bound. A commit's digest is part of each key, and what is
committed never changes: nothing here can be stale.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

Value = TypeVar("Value")

MAX_BYTES = 512 << 20
_LEAST = 256


class Cache:
    """The values used last, of `max_bytes` together. Threads may ask at once; one of them makes the value."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int] | None = None) -> Value:
        """The value of the key, made where it is not there. `size` says its bytes; without it `nbytes` does."""
        while True:
            with self._lock:
                if key in self._values:
                    self._values.move_to_end(key)
                    return cast(Value, self._values[key][0])
                under_way = self._making.get(key)
                if under_way is None:
                    mine = self._making[key] = threading.Lock()
                    mine.acquire()
                    break
            # another thread makes it: wait, then look again (it may have failed, or the value may be gone already)
            with under_way:
                pass
        try:
            value = make()
            self._keep(key, value, _num_bytes(value) if size is None else size(value))
            return value
        finally:
            with self._lock:
                del self._making[key]
            mine.release()

    def _keep(self, key: Hashable, value: object, num_bytes: int) -> None:
        num_bytes = max(num_bytes, _LEAST)
        if num_bytes > self._max_bytes // 2:
            return
        with self._lock:
            self._values[key] = (value, num_bytes)
            self._num_bytes += num_bytes
            while self._num_bytes > self._max_bytes:
                _, (_, gone) = self._values.popitem(last=False)
                self._num_bytes -= gone

    def has(self, key: Hashable) -> bool:
        """Whether the value is there already."""
        with self._lock:
            return key in self._values

    @property
    def too_large(self) -> int:
        """A size at which a value is given back but not kept."""
        return self._max_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of all values that are kept."""
        return self._num_bytes


def _num_bytes(value: Any) -> int:
    return int(value.nbytes)
