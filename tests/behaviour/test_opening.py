"""Opening what somebody else gave (docs/security.md): nothing runs, no link out of it is followed, nothing is written but where
the user said, and nothing is sent. Every opening command over forged runs, in one process under an audit hook and inotify.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from selfplay.cli.main import app
from selfplay.core.errors import CorruptionError
from selfplay.inspect.query.api import open_run
from selfplay.store import unfolding
from tests.helpers import opening_child
from tests.helpers.forging import edit_settings, edit_table, reseal
from tests.helpers.make_run import make_run
from tests.helpers.sealing import rewrite
from tests.helpers.viewing import make_selection

# `doctor` tries temporary files and loopback; the file has no name, or is removed at once
OF_DOCTOR = re.compile(r"(open|os\.remove) (/var)?/tmp(/\w+)?|socket\.(getaddrinfo|connect) .*'127\.0\.0\.1'.*")
RUNNING = {"run", "resume", "fork", "select", "compare", "quickstart"}

# names in a run that become links to what they were, those of one run in a line
LINKED = (
    ("run.lock", "report.html", "README.md", ".tmp-report.html", ".work", "attempts/0001/events.jsonl"),
    ("RUN.json",),
    ("config",),
    ("config/resolved.json",),
    ("attempts",),
    ("attempts/0001",),
    ("rounds",),
    ("attempts/0001/attempt.json", "attempts/0001/end.json"),
    ("rounds/001",),
    ("rounds/001/select", "rounds/000/evaluate", ".work/001-sample"),
    ("rounds/001/select/part-00000.parquet", "rounds/001/sample/.metrics.json"),
    ("rounds/001/select/.COMMIT.json", "rounds/001/pair/.pairs", "rounds/001/train/policy/config.json"),
)
CODE = "open({marker!r}, 'w').write('ran')\ndef reward(prompt, response): return 1.0\ndef metric(pairs): return pairs\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_run(tmp_path_factory.mktemp("given") / "run", rounds=1).layout.root
    (root / "run.lock").touch()
    (root / "attempts/0001/events.jsonl").write_text('{"event": "progress", "title": "x", "done": 1, "total": 2}\n')
    for name in ("report.html", "README.md", ".tmp-report.html"):
        (root / name).write_text("old")
    return root


def commands(run: Path, out: Path) -> list[list[str]]:
    """Every opening command, as it is given to this run."""
    pair = "p1-000-r001-0-1"
    found = [
        ["status", str(run)], ["status", str(run.parent)], ["rounds", str(run)], ["show", str(run), "1"],
        ["show", str(run), "1", "--by", "topic"], ["pairs", str(run), "1", "--content", "--where", "rank > 0"],
        ["pair", str(run), pair], ["diff", f"{run}@0", "@1", "--content"],
        ["sql", str(run), "select * from responses join prompts using (prompt_id)"], ["verify", str(run), "--deep"],
        ["export", str(run), "--to", str(out / "exported")], ["report", str(run)],
        ["report", str(run), "--out", str(out / "page.html")], ["gc", str(run), "--keep-policies", "2", "--dry-run"],
        ["config", "show", str(run)], ["view", str(run)], ["metrics"], ["doctor", "--quick"],
    ]  # fmt: skip
    assert {command[0] for command in found} == {*get_command(app).commands} - RUNNING  # type: ignore[attr-defined]
    return found


def job(name: str, run: Path, root: Path) -> dict[str, Any]:
    """What the child is asked to do with the run in root/given; root/outside is out of bounds."""
    out = root / "out"
    for folder in (out, root / "outside"):
        folder.mkdir(exist_ok=True)
    # temporary files of a report stand beside it
    writes = [str(out), *(str(run / name) for name in ("report.html", "README.md"))]
    return {
        "name": name,
        "run": str(run),
        "outside": str(root / "outside"),
        "writes": writes,
        "commands": commands(run, out),
    }


def outside_of_the_rule(jobs: list[dict[str, Any]], tmp_path: Path) -> list[Any]:
    """What the commands did that they may not do."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    for name in ("TMPDIR", "TEMP", "TMP"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, opening_child.__file__], input=json.dumps(jobs), capture_output=True, text=True, check=False,
        env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[Any] = json.loads(done.stdout)
    return [entry for entry in found if not _allowed(*entry[1:])]


def _allowed(command: str, what: str) -> bool:
    if command == "doctor --quick":
        return OF_DOCTOR.fullmatch(what) is not None
    # of a report and of nothing else: random names beside what is replaced
    return command.startswith("report ") and f"{os.sep}.tmp-" in what


def with_links(run: Path, root: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """A copy of the run in which these names are links, and what is asked of it."""
    copied = Path(shutil.copytree(run, root / "given" / "run"))
    made = job(names[0], copied, root)
    # the others open no more of a run than these
    left_out = ("metrics", "doctor", "config", "rounds", "gc")
    commands = [words for words in made["commands"] if words[0] not in left_out and not {"--by", "--out"} & {*words}]
    for name in names:
        place, target = copied / name, root / "outside" / name.replace("/", "-")
        if place.exists():
            place.rename(target)
        else:
            target.mkdir()
        place.symlink_to(target)
    return {**made, "commands": commands}


def forged(run: Path, root: Path, name: str) -> Path:
    """A copy of the run, forged in one way and sealed again."""
    copied = Path(shutil.copytree(run, root / "given" / "run"))
    marker, secret = str(root / "outside" / "marker"), root / "outside" / "secret.json"
    (root / "outside").mkdir()
    secret.write_text('{"secret": "CANARY"}')
    if name == "functions and places":
        (copied / "notes").mkdir()
        for module in ("notes/rw.py", "duckdb.py", "sitecustomize.py", "conftest.py"):
            (copied / module).write_text(CODE.format(marker=marker))

        def change(config: dict[str, Any]) -> None:
            config["reward"] |= {"model": None, "function": "notes/rw.py:reward"}
            config["selection"]["metric"] = "notes/rw.py:metric"
            config["evaluation"]["gold"] = "notes/rw.py:reward"
            config["policy"]["model"] = str(root / "outside")
            config["prompts"]["source"] = config["evaluation"]["source"] = str(secret)

        edit_settings(copied, change, search_path=str(copied))
        copied = copied.rename(copied.with_name("run$(touch${IFS}PASTED) \x1b[2J"))
    elif name == "manifest and pipe":
        (copied / "attempts/0001/events.jsonl").unlink()
        os.mkfifo(copied / "attempts/0001/events.jsonl")
        stage = copied / "rounds/001/select"
        entry = {"path": "../../../../outside/secret.json", "num_bytes": 20, "sha256": "0" * 64, "rows": None}
        rewrite(stage / ".COMMIT.json", lambda document: document["files"].append(entry))
    elif name == "metadata and nesting":
        features = {
            "info": {"features": {"text": {"_type": "Image"}, "response_id": {"dtype": "string", "_type": "Value"}}}
        }
        pandas = {"index_columns": ["text"], "columns": [], "column_indexes": []}

        def described(table: pa.Table) -> pa.Table:
            texts = pa.array([str(secret)] * len(table))
            fields = [field.with_metadata({"ARROW:extension:name": "somebodys.code"}) for field in table.schema]
            table = table.set_column(table.schema.names.index("text"), "text", texts)
            metadata = {"huggingface": json.dumps(features), "pandas": json.dumps(pandas)}
            return pa.Table.from_arrays(table.columns, schema=pa.schema(fields, metadata))

        edit_table(copied, "001/sample", described)
        deep = '{"topic": ' + "[" * 900 + "]" * 900 + "}"
        edit_table(copied, "001/prompts", lambda table: _all(table, "columns_json", pa.array([deep] * len(table))))
    else:
        assert name == "unfolds"
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * 11, pa.int32()), pa.array(["a" * (60 << 20)]))
        huge: dict[str, Any] = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 1 << 30}
        edit_table(
            copied,
            "001/select",
            lambda table: _all(table, "drop_reason", texts[: len(table)]),
            write_statistics=False,
            **huge,
        )
    return copied


def _all(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.names.index(name), name, values)


FORGED = ("functions and places", "manifest and pipe", "metadata and nesting", "unfolds")


@pytest.mark.timeout(1200)
def test_of_forged_runs_and_of_links(run: Path, tmp_path: Path) -> None:
    jobs = [with_links(run, tmp_path / f"{number:02d}", names) for number, names in enumerate(LINKED)]
    jobs += [job(name, forged(run, tmp_path / name, name), tmp_path / name) for name in FORGED]
    assert outside_of_the_rule(jobs, tmp_path) == []
    assert not [*tmp_path.rglob("marker"), *tmp_path.rglob("PASTED")]
    for number, names in enumerate(LINKED):
        for name in names:
            target = tmp_path / f"{number:02d}" / "outside" / name.replace("/", "-")
            assert target.is_dir() or target.read_bytes() == (run / name).read_bytes(), name


def test_the_hook_sees_what_is_forbidden(run: Path, tmp_path: Path) -> None:
    """Otherwise the test above would assert nothing."""
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    made = job("seen", copied, tmp_path)
    (tmp_path / "outside/query.sql").write_text("x")
    made["commands"] = [
        ["config", "validate", str(tmp_path / "outside/query.sql")],
        ["export", str(copied), "--to", str(tmp_path / "elsewhere")],
    ]
    found = outside_of_the_rule([made], tmp_path)
    assert ["seen", "config validate", "opened or changed something outside"] in found
    assert any(entry[1].startswith("export") and entry[2].startswith("os.mkdir") for entry in found)


def test_a_table_that_unfolds_has_its_own_message(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the commands, the viewer and Python; `verify --deep` names the file."""
    monkeypatch.setattr(unfolding, "MAX_BYTES", 16 << 20)
    monkeypatch.setattr(unfolding, "_CLOSE", 1 << 20)
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 11, pa.int32()), pa.array(["a" * (2 << 20)]))
    huge: dict[str, Any] = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 1 << 30}
    edit_table(
        copied,
        "001/select",
        lambda table: _all(table, "drop_reason", texts[: len(table)]),
        write_statistics=False,
        **huge,
    )
    for command in (
        ["show", str(copied), "1"], ["pairs", str(copied), "1", "--limit", "2"],
        ["pairs", str(copied), "1", "--sort", "drop_reason"],
        ["sql", str(copied), "select drop_reason from pairs"], ["export", str(copied), "--to", str(tmp_path / "out")],
    ):  # fmt: skip
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 5, (command, done.stderr)
        assert "it unfolds to 0.0 GB or more" in done.stderr, (command, done.stderr)
        assert "part-00000.parquet" in done.stderr or command[0] == "sql"
    with pytest.raises(CorruptionError, match="it unfolds to"):
        open_run(copied).pairs.to_arrow()
    assert open_run(copied).pairs.select("pair_id").to_arrow().num_rows == 11


def test_python_obeys_no_metadata(run: Path, tmp_path: Path) -> None:
    opened = open_run(forged(run, tmp_path, "metadata and nesting"))
    table = opened.responses.to_arrow()
    assert table.schema.metadata is None and not any(field.metadata for field in table.schema)
    assert opened.store.table(1, "sample").schema.metadata is None
    assert opened.store.lazy_table(1, "sample").take([0]).schema.metadata is None
    assert "text" in opened.responses.to_pandas().columns


@pytest.fixture
def selection(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "given").mkdir()
    yield make_selection(tmp_path / "given")


@pytest.mark.parametrize("name", [".run", ".COMMIT.json", "summary.json", "kept", "kept/part-00000.parquet"])
def test_of_a_selection_with_links(selection: Path, tmp_path: Path, name: str) -> None:
    """Neither opened nor taken as a dataset, nor written into."""
    (tmp_path / "outside").mkdir()
    target = tmp_path / "outside" / Path(name).name
    (selection / name).rename(target)
    (selection / name).symlink_to(target)
    watch = opening_child.Watch(str(tmp_path / "outside"))
    for command in (
        ["show", str(selection), "1"], ["pairs", str(selection), "1", "--content"], ["status", str(selection)],
        ["export", str(selection), "--to", str(tmp_path / "exported")],
    ):  # fmt: skip
        if name == ".run":
            assert CliRunner().invoke(app, command).exit_code == 5
    from tests.helpers.viewing import client_of

    client_of(selection).get(f"/select/{selection.name}")
    again = [
        "select",
        str(selection.parent.parent / "given/../pairs.jsonl"),
        "--metric",
        "explicit_margin",
        "--keep",
        "0.4",
    ]
    done = CliRunner().invoke(app, [*again, "--out", str(selection)])
    assert done.exit_code == 5, done.stderr
    if name.startswith("kept"):
        done = CliRunner().invoke(
            app, ["select", str(selection), "--split", "kept", "--keep", "0.5", "--out", str(tmp_path / "o")]
        )
        assert done.exit_code == 2 and "symbolic link" in done.stderr
    assert not watch.seen()
    watch.close()


def test_a_reseal_holds(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    edit_table(copied, "001/sample", lambda table: table)
    reseal(copied)
    assert CliRunner().invoke(app, ["verify", str(copied), "--deep"]).exit_code == 0
