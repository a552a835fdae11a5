"""What a person's own file imports from beside it: the part of a reward function or metric that lies in other files.

Read from the source, nothing is run: `import` and `from` statements anywhere in it, followed from file to file as long as they
lead to files in the folders given. What is installed is not followed; imports by a computed name (importlib) are not seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path


def local_files(path: Path, roots: Sequence[Path]) -> list[Path]:
    """The files that `path` imports, directly or not, in the order they are found; itself and empty files left out. Absolute
    imports are looked for in `roots`, relative ones in the importing file's folder."""
    start = path.resolve()
    found: dict[Path, None] = {start: None}
    # importing pkg.module runs the __init__.py of pkg first
    waiting = [start, *_packages_above(start, roots)]
    found.update(dict.fromkeys(waiting))
    while waiting:
        for file in _imported(waiting.pop(0), roots):
            if file not in found:
                found[file] = None
                waiting.append(file)
    return [file for file in found if file != start and file.read_bytes().strip()]


def _packages_above(path: Path, roots: Sequence[Path]) -> list[Path]:
    above: list[Path] = []
    for folder in path.parents:
        if folder in [root.resolve() for root in roots]:
            return [file.resolve() for file in above if file.is_file() and file != path]
        above.append(folder / "__init__.py")
    return []


def _imported(path: Path, roots: Sequence[Path]) -> Iterator[Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # importing it says what is wrong with it
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name.split("."), roots)
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            folders = [path.parents[min(node.level, len(path.parents)) - 1]] if node.level else roots
            for alias in node.names:
                # the name may be a module or something inside one
                yield from _files([*base, alias.name], folders)


def _files(names: Sequence[str], folders: Sequence[Path]) -> Iterator[Path]:
    """The files that importing a.b.c runs in any of the folders: each package's __init__.py, and the module."""
    for folder in folders:
        place = folder
        for name in names:
            place = place / name
            for file in (place / "__init__.py", place.with_name(f"{name}.py")):
                if file.is_file():
                    yield file.resolve()
