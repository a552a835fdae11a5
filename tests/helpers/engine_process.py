"""A vLLM engine in a process of its own, without Ray. vLLM changes classes of transformers in its process (its backend for
models that it has no code for), so that plain computations must not share it."""

from __future__ import annotations

import importlib.machinery
import multiprocessing
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tests.helpers.garbage import vllm_freezes_nothing

_engine: Any = None


class EngineProcess:
    """A `VllmSampler` behind a process: `fresh` begins with another one, `call` calls a method of the present one."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def fresh(self, settings: dict[str, Any]) -> None:
        self._pool.submit(_fresh, settings).result(timeout=600)

    def call(self, method: str, *arguments: Any) -> Any:
        return self._pool.submit(_call, method, arguments).result(timeout=600)


@contextmanager
def engine_process() -> Iterator[EngineProcess]:
    """The process starts with the first call."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare) as pool:
        yield EngineProcess(pool)


class _AnyAttribute(type):
    """A class of this kind has every attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Empty(types.ModuleType):
    """A module that has every name, each an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyAttribute(name, (), {})


def _pretend_torchvision() -> None:
    """vLLM's code of a composite model imports the processors of images, which import torchvision. The CPU environment lacks
    it, and the language model alone uses none of it."""
    for name in (
        "torchvision",
        *(f"torchvision.{rest}" for rest in ("io", "transforms", "transforms.functional", "transforms.v2")),
    ):
        _put(name)
    _put("torchvision.transforms.v2.functional")


def _put(name: str) -> None:
    module = _Empty(name)
    module.__path__ = []
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    else:
        vars(module)["__version__"] = "0.0"


def _prepare() -> None:
    if find_spec("torchvision") is None:
        _pretend_torchvision()
    from selfplay.backends.vllm.engine_args import prepare_environment

    prepare_environment()
    from vllm.model_executor.models import registry

    # vLLM asks a child process about each architecture, which imports everything again: ten seconds for each family
    registry._run_in_subprocess = lambda function: function()
    vllm_freezes_nothing()


def _fresh(settings: dict[str, Any]) -> None:
    global _engine
    from selfplay.backends.vllm.sampler import VllmSampler

    if _engine is not None:
        _engine._drop_engine()
    _engine = VllmSampler(**settings)
    # saves a second engine of each model: what the first live change served is compared with plain computations
    _engine._live_change_is_whole = True


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_engine, method)(*arguments)
