"""What was read or computed of committed tables, kept in memory up to a bound. A commit's digest is part of each key, and what is
committed never changes: no value can be stale.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from cachetools import LRUCache, cached

Value = TypeVar("Value")

MAX_BYTES = 512 << 20
_LEAST = 256


class Cache:
    """The values used last, of `max_bytes` together. Threads may ask at the same time; one of them makes the value. A value of
    more than half of `max_bytes` is returned but not kept."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        # LRUCache refuses what is larger than it is
        self._values: LRUCache[Hashable, tuple[Any, int]] = LRUCache(
            max_bytes, getsizeof=lambda value: value[1] if value[1] <= max_bytes // 2 else max_bytes + 1
        )
        self._changed = threading.Condition()
        made_once = cached(self._values, key=lambda key, make: key, condition=self._changed)
        self._get: Callable[[Hashable, Callable[[], tuple[Any, int]]], tuple[Any, int]] = made_once(
            lambda key, make: make()
        )

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int] | None = None) -> Value:
        """The value of the key, made if it is missing. `size` gives its bytes; the default is its `nbytes`."""

        def sized() -> tuple[Value, int]:
            value: Any = make()
            return value, max(int(value.nbytes) if size is None else size(value), _LEAST)

        return cast(Value, self._get(key, sized)[0])

    def has(self, key: Hashable) -> bool:
        """Whether the value is in memory."""
        with self._changed:
            return key in self._values

    @property
    def num_bytes(self) -> int:
        """Bytes of all values that are kept."""
        return int(self._values.currsize)
