"""Modules of `inputs` import nothing heavy: the driver and the commands use them."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import selfplay.inputs

HEAVY = ("torch", "transformers", "datasets", "tokenizers", "ray", "vllm", "trl")
CODE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if found := [heavy for heavy in {heavy} if heavy in sys.modules]:
        sys.exit(f"{{name}} imports {{', '.join(found)}}")
"""


def test_no_module_imports_torch() -> None:
    modules = [module.name for module in pkgutil.walk_packages(selfplay.inputs.__path__, "selfplay.inputs.")]
    assert "selfplay.inputs.models.preflight" in modules
    command = [sys.executable, "-c", CODE.format(heavy=HEAVY), *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_run_that_is_not_there_is_refused_before_anything_slow_is_imported() -> None:
    slow = (*HEAVY, "pandas", "duckdb", "selfplay.api")
    code = (
        "import sys; from selfplay.cli.main import main\ntry: main()\n"
        f"finally: print([name for name in {slow} if name in sys.modules])"
    )
    for command in (["resume", "no-such-run"], ["fork", "no-such-run", "--from-round", "1"]):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout.strip()) == (2, "[]"), done.stderr
        assert "no-such-run does not exist" in done.stderr


def test_status_and_rounds_import_no_arrow() -> None:
    """They are called again and again while a run is under way; pyarrow and numpy would double their time. The classes of what
    stages record are a third of what *status* imports otherwise."""
    run = Path(__file__).parents[1] / "fixtures/run-v1"
    slow = {"rounds": ("pyarrow", "numpy", "selfplay.config.schema")}
    slow["status"] = (*slow["rounds"], "selfplay.core.outcomes")
    for command, names in slow.items():
        code = (
            "import sys; from selfplay.cli.main import main\ntry: main()\n"
            f"finally: print([name for name in {names} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code, command, run], capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stdout + done.stderr
