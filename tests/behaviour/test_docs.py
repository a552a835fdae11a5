"""The examples of README.md and docs/ are right: commands, options and settings exist, configurations load, and what only reads
a run does so on a small one. (`make examples` runs the README's on a real run.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import yaml
from typer.main import get_command
from typer.testing import Result

from selfplay.cli.main import app
from selfplay.config.load import load_config, setting_names
from tests.helpers.doc_examples import PAGES, ROOT, Example, all_examples, commands, examples
from tests.helpers.make_run import make_run

SHELL = [example for example in all_examples() if example.language in ("bash", "sh")]
READS = {"show", "pairs", "pair", "rounds", "status", "diff", "sql", "verify", "report", "metrics", "config"}


def names(example: Example) -> str:
    return f"{example.page}:{example.line}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `runs/quickstart` is a small run of three rounds."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "runs").mkdir()
    make_run(folder / "runs" / "quickstart", rounds=3)
    return folder


def test_code_blocks_are_fenced_and_name_their_language() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("\n```") == 2 * len(examples(page)), f"{page}: a block without language, or not closed"
        bare = re.sub(r"^```\w+\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"\n\n    \S", bare), f"{page}: an indented code block"


@pytest.mark.parametrize("example", SHELL, ids=names)
def test_commands_and_their_options_exist(example: Example) -> None:
    group = get_command(app)
    for words in commands(example):
        context = typer.Context(group)
        command = group
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            assert words[0] in command.commands, f"selfplay {words[0]}"
            command, words = command.commands[words[0]], words[1:]
        known = {option for parameter in command.get_params(context) for option in parameter.opts}
        used = [re.sub(r"[\]=].*", "", word.lstrip("[")) for word in words if re.match(r"\[?--?[a-z]", word)]
        assert [option for option in used if option not in known] == [], words


@pytest.mark.parametrize("example", SHELL, ids=names)
def test_settings_given_on_the_command_line_exist(example: Example) -> None:
    known = {name.replace(".NAME", "") for name in setting_names()}
    for words in commands(example):
        if not words or words[0] not in ("run", "resume", "fork", "compare"):
            continue
        given = [
            part
            for word in words[1:]
            for part in word.split(": ")[-1].split()
            if re.match(r"[a-z_]+(\.[a-z_]+)*=", part)
        ]
        settings = [part.split("=")[0] for part in given]
        assert [name for name in settings if not any(name == k or k.startswith(name + ".") for k in known)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_load(page: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    for example in examples(page):
        documents = [example.text] if example.language == "yaml" else []
        if example.language == "bash":
            documents += re.findall(r"^cat > \S+\.yaml <<'EOF'\n(.*?)^EOF$", example.text, re.MULTILINE | re.DOTALL)
        for text in documents:
            if "policy" not in (document := yaml.safe_load(text)) or not isinstance(document["policy"], dict):
                continue  # a section, or the file of another command
            config.write_text(text)
            load_config(config)


@pytest.mark.parametrize(
    "words",
    [words for example in SHELL if example.language == "bash" for words in commands(example) if words[0] in READS
     and any("runs/quickstart" in word for word in words)],
    ids=" ".join,
)  # fmt: skip
def test_commands_that_read_a_run(
    words: list[str], workplace: Path, selfplay: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    if "PAIR_ID" in words:
        import selfplay as package

        pair = package.open_run("runs/quickstart").pairs.head(1).to_arrow()["pair_id"][0].as_py()
        words = [pair if word == "PAIR_ID" else word for word in words]
    done = selfplay(*words)
    assert done.exit_code == 0, done.stderr
    assert done.stdout or words[0] == "report"


@pytest.mark.parametrize("example", [example for example in all_examples() if example.language == "python"], ids=names)
def test_python_examples(example: Example, workplace: Path) -> None:
    if "runs/quickstart" in example.text:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", example.text],
            cwd=workplace,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    else:
        compile(example.text, names(example), "exec")


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\"]+)\"", page.read_text(encoding="utf-8"))
        missing = [
            link for pair in links for link in pair if link and "://" not in link and not (page.parent / link).exists()
        ]
        assert missing == [], page
