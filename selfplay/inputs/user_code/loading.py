"""A person's own function, a reward or a metric: finding, pinning and importing the file it lives in.

`file.py:function` or `module:function`. A module is looked for in the config's folder first, then on sys.path. `what`
says in messages what the function is to be ("reward function", "metric"). Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from selfplay.core.errors import ConfigError
from selfplay.core.raised_at import raised_at
from selfplay.core.redaction import text_of
from selfplay.inputs.user_code.exits import exits_are_errors
from selfplay.inputs.user_code.imports import local_files
from selfplay.store.durable import sha256_bytes, sha256_file

_EXAMPLES = {
    "reward function": "my_rewards:reward or rewards/format.py:reward",
    "metric": "my_metrics:short_first or metrics/length.py:short_first",
}


def source_file(spec: str, search_path: str | Path, *, what: str) -> Path:
    """The file that holds the function of `spec`. Raises ConfigError when there is none."""
    module, _ = _split(spec, what)
    base = Path(search_path)
    if module.endswith(".py"):
        path = Path(base, Path(module).expanduser())
        if not path.is_file():
            raise ConfigError(f"{what} {spec}: no such file: {path}", "The path is relative to the config.")
        return path.resolve()
    parts = base.joinpath(*module.split("."))
    for path in (parts.with_name(parts.name + ".py"), parts / "__init__.py"):
        if path.is_file():
            return path.resolve()
    found = _on_sys_path(module)
    if found is None:
        raise ConfigError(
            f"{what} {spec}: no module {module!r} in {base} or on sys.path",
            f"Write module:function with the file {module.replace('.', '/')}.py in {base}, or file.py:function, "
            "or install the module in this environment.",
        )
    return found


def _on_sys_path(module: str) -> Path | None:
    """The file of a module that is installed. Unlike `importlib.util.find_spec`, this runs no `__init__.py` of the packages
    around it: a run's code is listed before any of it runs."""
    first, *others = module.split(".")
    found = next((spec for finder in sys.meta_path if (spec := finder.find_spec(first, None)) is not None), None)
    for part in others:
        found = _find_in(list(found.submodule_search_locations or []), part) if found is not None else None
    return Path(found.origin).resolve() if found and found.origin and Path(found.origin).is_file() else None


def _find_in(folders: Sequence[str], name: str) -> ModuleSpec | None:
    """The module of that name in a package's folders, or the portions of a namespace package."""
    portions = ModuleSpec(name, None, is_package=True)
    portions.submodule_search_locations = []
    for folder in folders:
        importer = pkgutil.get_importer(folder)
        found = importer.find_spec(name, None) if importer is not None else None
        if found is not None and found.loader is not None:
            return found
        if found is not None:
            portions.submodule_search_locations += found.submodule_search_locations or []
    return portions if portions.submodule_search_locations else None


def source_files(spec: str, search_path: str | Path, *, what: str) -> list[Path]:
    """The files of the user's own code that a function runs: the file that holds it, and the files of the config's folder or its
    own that this one imports (see `local_files`). Nothing is run, and what is installed is not followed."""
    path = source_file(spec, search_path, what=what)
    return [path, *local_files(path, _roots(spec, path, Path(search_path).resolve()))]


def source_digest(spec: str, search_path: str | Path, *, what: str) -> str:
    """sha256 (hex) that pins a run to a function; see `digest_of`."""
    return digest_of([(path, sha256_file(path)) for path in source_files(spec, search_path, what=what)])


def digest_of(files: Sequence[tuple[Path, str]]) -> str:
    """sha256 (hex) of a function's files (`source_files`, each with its sha256): of the one that holds it, or, where it runs
    several, of all of them with their places beside the first."""
    (path, digest), *others = files
    if not others:
        return digest
    digests = {os.path.relpath(file, path.parent): other for file, other in others}
    return sha256_bytes(json.dumps({**digests, path.name: digest}, sort_keys=True).encode())


def _roots(spec: str, path: Path, search_path: Path) -> list[Path]:
    """Where the imports of a person's own file are looked for, as `_import` lets Python find them; nowhere for what is
    installed."""
    module, _ = _split(spec, "function")
    if module.endswith(".py"):
        return [search_path, path.parent]
    beside = search_path.joinpath(*module.split("."))
    places = (beside.with_name(beside.name + ".py"), beside / "__init__.py")
    return [search_path] if path in [place.resolve() for place in places] else []


def load_function(spec: str, search_path: str | Path, *, what: str) -> Callable[..., Any]:
    """The function of `spec`, imported. Raises ConfigError when there is none or its file does not import."""
    module_name, name = _split(spec, what)
    path = source_file(spec, search_path, what=what)
    try:
        with exits_are_errors():
            module = _import(module_name, path, Path(search_path).resolve())
    except KeyboardInterrupt:  # the user's own, who does not want to wait for the import
        raise
    except BaseException as error:  # a module may raise anything, and a program end, while it is imported
        raise ConfigError(
            f"{what} {spec}: importing {path} failed: {type(error).__name__}: {text_of(error)}{raised_at(error)}",
            _import_hint(error),
        ) from error
    functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if name not in vars(module):
        near = difflib.get_close_matches(name, functions, 1)
        raise ConfigError(
            f"{path} has no function {name!r}; it has {', '.join(functions) or 'none'}",
            f"Did you mean {near[0]!r}?" if near else "Check the name after the colon.",
        )
    function = vars(module)[name]
    if not callable(function) or _is_async(function):
        returned = "one number a pair" if what == "metric" else "a number"
        raise ConfigError(
            f"{spec} is {'an async function' if callable(function) else 'no function'}",
            f"A {what} is an ordinary function that returns {returned}. It may call asyncio.run itself.",
        )
    return function  # type: ignore[no-any-return]


def _is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of it, or of the `__call__` of an object, has to be awaited. A wrapper of an async function may run it
    itself; what it returns is checked at each call."""
    called = (function, function.__call__)  # type: ignore[operator]  # what can be called has it
    return any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in called)


def _import_hint(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return 'The file ends the program while it is imported: put that code under `if __name__ == "__main__":`.'
    return "Run the file by itself with python to see the whole traceback."


def _split(spec: str, what: str) -> tuple[str, str]:
    module, colon, function = spec.rpartition(":")
    if not colon or not module or not function.isidentifier():
        raise ConfigError(f"{what} {spec!r} is not module:function", f"For example {_EXAMPLES[what]}.")
    return module, function


def _import(name: str, path: Path, search_path: Path) -> ModuleType:
    """The module in `path`. A single file beside the config is loaded under a name of its own, so that two
    runs' files of the same name never meet; packages are imported by name. Either way the file's neighbours can
    be imported."""
    for folder in (search_path, path.parent) if name.endswith(".py") else (search_path,):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    if not name.endswith(".py") and ("." in name or path.parent != search_path):
        module = importlib.import_module(name)
        if Path(module.__file__ or "").resolve() != path:
            raise ImportError(f"the name {name} already belongs to {module.__file__}; rename the module")
        return module
    unique = f"_selfplay_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    spec.loader.exec_module(module)
    return module
