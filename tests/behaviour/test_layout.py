"""The shape of the repository: few rooms, each with a sentence that says what it is, and tests that mirror them. (Which room may
import which is a contract in pyproject.toml.)"""

from __future__ import annotations

import ast
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
from packaging.requirements import Requirement

import selfplay

PACKAGE = Path(selfplay.__file__).parent
TESTS = Path(__file__).parents[1]
ACROSS_MODULES = ("behaviour", "fixtures", "helpers")


def mirrors_a_module(test: Path) -> bool:
    """`test_x.py` and `test_x_topic.py` test the module or package `x` of the same folder, or the folder `x` itself."""
    folder, words = PACKAGE / test.parent.relative_to(TESTS), test.stem.split("_")[1:]
    names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
    return any(
        name == folder.name or (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
        for name in names
    )


def test_tests_mirror_the_package() -> None:
    tests = [path for path in TESTS.rglob("test_*.py") if path.relative_to(TESTS).parts[0] not in ACROSS_MODULES]
    assert len(tests) > 50
    assert [str(path.relative_to(TESTS)) for path in tests if not mirrors_a_module(path)] == []


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions and for type checkers count too. `prepare` raises CycleError, which names the modules."""
    graph = grimp.build_graph("selfplay")
    assert len(graph.modules) > 100
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()


def test_what_is_imported_is_a_dependency() -> None:
    """Not only of a library that happens to install it. Trackers are installed by those who use them."""
    trackers = {"tensorboard", "wandb", "mlflow", "trackio"}
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    required = {Requirement(text).name.replace("-", "_") for text in [*project["dependencies"], *extras]}
    graph = grimp.build_graph("selfplay", include_external_packages=True)
    imported = {module for module in graph.modules if "." not in module} - sys.stdlib_module_names - {"selfplay"}
    assert len(imported) > 20
    assert imported - required - trackers - {"ruamel"} == set()
    assert "ruamel.yaml" in required


def test_there_are_few_rooms() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed", "__init__.pyi")]
    files = [path for path in entries if path.is_file()]
    assert len(entries) <= 17
    assert len(files) <= 5


def test_each_room_says_what_belongs_there_and_what_it_may_import() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}
    sentences = {
        folder.relative_to(PACKAGE): ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        for folder in folders
    }
    assert [str(folder) for folder, text in sentences.items() if not text] == []
    assert [
        str(room) for room, text in sentences.items() if len(room.parts) == 1 and "import" not in text.lower()
    ] == []


def test_the_package_is_typed_and_licensed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE.parent / "LICENSE").read_text().lstrip().startswith("Apache License")
