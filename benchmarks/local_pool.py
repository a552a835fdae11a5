"""A pool in this process, for fakes (tests have it too): what a stage costs without processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from selfplay.core.machine import DeviceFacts, this_device
from selfplay.core.pool import IN_FLIGHT, PAUSE, Call


class LocalPool:
    """A pool of one worker that is an object of this process."""

    def __init__(self, backend: Any, device: DeviceFacts | None = None) -> None:
        self.backend = backend
        self._device = device

    def start(self) -> None:
        """Nothing to start."""

    def devices(self) -> list[DeviceFacts]:
        """The given facts, or those of this process."""
        return [self._device or this_device()]

    def map(self, method: str, calls: Iterable[Call | None], window: int = IN_FLIGHT) -> Iterator[tuple[int, Any]]:
        """One by one, in order."""
        for call in calls:
            if call is None:
                time.sleep(PAUSE)
                continue
            yield call.key, getattr(self.backend, method)(*call.args)

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """The one result."""
        return [getattr(self.backend, method)(*args)]

    def run_streaming(self, method: str, *args: Any, meanwhile: Callable[[], None] = lambda: None) -> Iterator[Any]:
        """Progress first, all at once: there is no second thread."""
        seen: list[Any] = []
        collect: Callable[[Any], None] = seen.append
        result = getattr(self.backend, method)(*args, collect)
        yield from seen
        yield result

    def drain_events(self) -> list[str]:
        """Nothing dies alone here."""
        return []
