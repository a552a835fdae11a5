"""Commands that are shown to be typed: pasted into a shell, each word is one argument and runs nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import selfplay
from selfplay.cli.main import app
from selfplay.core.commands import shell_command
from selfplay.core.escape import escape_terminal

HOSTILE = [
    "run$(touch${IFS}PASTED)", "run`touch PASTED`", "a b", "a;touch PASTED", "a'b", "a'$(touch PASTED)'b", 'a"b', "a\nb", "#a",
    "~", "*", "a&touch PASTED", "a|b", "a>PASTED", "!!", "a\\", "日本", "\x1b[2J", "",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pasted_command_has_each_word_as_one_argument_and_runs_nothing(name: str, tmp_path: Path) -> None:
    line = shell_command("resume", name, "rounds=3").removeprefix("selfplay ")
    show = f"{sys.executable} -c 'import json,sys; print(json.dumps(sys.argv[1:]))' {line}"
    done = subprocess.run(["/bin/sh", "-c", show], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert ast.literal_eval(done.stdout) == ["resume", name, "rounds=3"]
    # what a terminal shows of it is pasted, too
    subprocess.run(["/bin/sh", "-c", f"true {escape_terminal(line)}"], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_no_option() -> None:
    assert shell_command("status", Path("-rf")) == "selfplay status ./-rf"
    assert shell_command("fork", Path("my run"), "--from-round", 2) == "selfplay fork 'my run' --from-round 2"


def test_the_program_is_named_as_it_was_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "my env/bin/selfplay")])
    assert shell_command("status") == "'my env/bin/selfplay' status"
    monkeypatch.setattr(sys, "argv", ["/elsewhere/bin/selfplay"])
    assert shell_command("status") == "/elsewhere/bin/selfplay status"
    monkeypatch.setattr(sys, "argv", ["script.py"])
    assert shell_command("status") == "selfplay status"


def test_no_message_puts_a_command_together_by_itself() -> None:
    """No formatted string has `selfplay COMMAND` before a value: shell_command quotes the value."""
    names = "|".join(get_command(app).commands)  # type: ignore[attr-defined]
    offered = re.compile(rf"\bselfplay ({names})\b[^`.]*$")
    root = Path(selfplay.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pairs = zip(node.values, node.values[1:], strict=False)
                found += [
                    f"{path.relative_to(root)}:{node.lineno}"
                    for text, value in pairs
                    if isinstance(text, ast.Constant) and isinstance(value, ast.FormattedValue)
                    and offered.search(str(text.value))
                ]  # fmt: skip
    assert found == []
