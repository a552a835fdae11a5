"""What was read or computed of committed tables, kept in memory up to a bound. A commit's digest is part of each key, and what is
committed never changes: no value can be stale.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from cachetools import LRUCache

Value = TypeVar("Value")

MAX_BYTES = 512 << 20
_LEAST = 256


class Cache:
    """The values used last, of `max_bytes` together. Threads may ask at the same time; one of them makes the value."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._values: LRUCache[Hashable, tuple[Any, int]] = LRUCache(max_bytes, getsizeof=lambda value: value[1])
        self._making: set[Hashable] = set()
        self._changed = threading.Condition()

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int] | None = None) -> Value:
        """The value of the key, made if it is missing. `size` gives its bytes; the default is its `nbytes`."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._making)
            if key in self._values:
                return cast(Value, self._values[key][0])
            self._making.add(key)
        try:
            value = make()
            num_bytes = max(_num_bytes(value) if size is None else size(value), _LEAST)
            with self._changed:
                if num_bytes < self.too_large:
                    self._values[key] = (value, num_bytes)
            return value
        finally:
            with self._changed:
                self._making.remove(key)
                self._changed.notify_all()

    def has(self, key: Hashable) -> bool:
        """Whether the value is in memory."""
        with self._changed:
            return key in self._values

    @property
    def too_large(self) -> int:
        """Values of this size or larger are returned but not kept."""
        return int(self._values.maxsize) // 2 + 1

    @property
    def num_bytes(self) -> int:
        """Bytes of all values that are kept."""
        return int(self._values.currsize)


def _num_bytes(value: Any) -> int:
    return int(value.nbytes)
