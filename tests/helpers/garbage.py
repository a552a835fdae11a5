"""What the libraries hold is not searched for garbage."""

from __future__ import annotations

import gc


def vllm_freezes_nothing() -> None:
    """vLLM freezes the heap once an engine is built and unfreezes it when the engine ends, so that each of its next ten full
    collections walks through all imported libraries: half of the processor time of a small engine. Here what was imported
    stays frozen, and the engine is never frozen. For the rest of the process."""
    from vllm.v1.engine import core
    from vllm.v1.worker import gpu_worker

    gc.unfreeze = lambda: None  # type: ignore[assignment]
    core.freeze_gc_heap = gpu_worker.freeze_gc_heap = lambda: None
