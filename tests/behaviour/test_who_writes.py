"""Only `store/` writes run files: no other module may change a disk, but for the places named here, each with its reason.

A module that has something to write gives the bytes to `store.durable.write_file` (or to a `StageWriter` or `ResultWriter`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import selfplay

ROOT = Path(selfplay.__file__).parent

WORLD = "makes the quickstart's world, which is no run: in a temporary folder beside its place, then renamed there"
SCRATCH = "a trainer's own scratch; the store fsyncs, digests and adopts what it leaves there"
RAY = "Ray's private folder in the temporary folder, which ends with it"
LOG = "an append-only log for people, which nothing depends on"

# module -> (the calls it may make, why)
ALLOWED: dict[str, tuple[set[str], str]] = {
    "execution/progress.py": ({"open", "os.open", "os.fdopen"}, LOG + "; and the real stderr"),
    "compare/main.py": ({"os.fdopen"}, "the real stderr"),
    "execution/ray/worker.py": ({"open"}, LOG),
    "execution/ray/local_ray.py": ({"tempfile.mkdtemp", ".rmdir"}, RAY),
    "execution/ray/idle_agent.py": ({"open", "os.replace"}, RAY),
    "execution/ray/orphan_reaper.py": ({"shutil.rmtree"}, RAY),
    "core/limits.py": ({"tempfile.TemporaryFile"}, "a file without a name, to see whether one can be written"),
    "core/terminal.py": ({"os.open"}, "the null device, when the reader of stdout or stderr has gone"),
    "cli/main.py": ({"os.open"}, "the null device, when the reader of stdout has gone"),
    "inspect/export/main.py": ({"tempfile.TemporaryDirectory"}, "holds what is uploaded, until it is"),
    "core/train_pairs.py": ({".replace", ".write_table"}, "a job's pairs, in the trainer's scratch: made again by each attempt"),
    "core/heartbeat.py": ({".touch", "os.utime"}, "an empty file whose time is all that is looked at"),
    "inspect/trace.py": ({"open"}, "a new file outside the run, which nothing depends on"),
    "inspect/viewer/downloads.py": ({".ParquetWriter", ".write_table"}, "into the answer of a request"),
    "quickstart/world.py": (
        {".mkdir", ".open", ".write_text", "shutil.copytree", "shutil.rmtree", "tempfile.TemporaryFile"},
        WORLD,
    ),
    "quickstart/models/world.py": ({".save_pretrained", ".write_text"}, WORLD),
    "quickstart/models/reward.py": ({".save_pretrained", "shutil.rmtree"}, WORLD),
    "backends/trl/policy_files.py": (
        {".mkdir", ".save_pretrained", ".unlink", ".write_text", "shutil.copyfile", "shutil.copytree"},
        SCRATCH,
    ),
    "backends/trl/published_tensors.py": (
        {".mkdir", ".rmdir", ".unlink", ".write_text", "save_file", "shutil.move"},
        SCRATCH,
    ),
    "backends/trl/trainer.py": ({".unlink", "shutil.rmtree"}, SCRATCH),
    "backends/trl/checkpoints.py": ({"shutil.rmtree"}, SCRATCH),
    "backends/pass_through.py": ({"os.fdopen"}, "a pipe to the parent process"),
    "backends/vllm/configure.py": ({"os.fdopen"}, "a pipe to the parent process"),
    "inputs/models/trial.py": ({"open"}, "the null device, in a child process"),
}  # fmt: skip


def names(text: str) -> set[str]:
    return set(text.split())


METHODS = names(
    "write_text write_bytes mkdir rmdir unlink rename touch symlink_to hardlink_to chmod write_table write_dataset "
    "write_feather ParquetWriter save_pretrained save_file save_model to_parquet to_csv savez savez_compressed savetxt "
    "savefig save_to_disk FileHandler RotatingFileHandler SummaryWriter"
)
MODULES = {
    "os": names(
        "rename renames replace remove unlink mkdir makedirs rmdir removedirs link symlink truncate ftruncate mknod "
        "mkfifo chmod chown utime sendfile copy_file_range"
    ),
    "shutil": names(
        "rmtree move copy copy2 copyfile copyfileobj copytree copymode copystat chown make_archive unpack_archive"
    ),
    "tempfile": names("TemporaryFile NamedTemporaryFile SpooledTemporaryFile TemporaryDirectory mkdtemp mkstemp"),
    "torch": {"save"},
    "numpy": {"save"},
    "np": {"save"},
}
WRITING_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"}


def writes(tree: ast.AST) -> Iterator[str]:
    """The calls of a module that may change a disk, as they are named in ALLOWED."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield from (f"{node.module}.{name.name}" for name in node.names if name.name in MODULES[node.module])
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and getattr(function.value, "attr", "") == "operations":
            continue  # through the seam
        owner = (
            function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
        )
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        shown = f"{owner}.{name}" if owner in MODULES else f".{name}" if isinstance(function, ast.Attribute) else name
        if owner == "os" and name == "open":
            if any(getattr(part, "attr", "") in WRITING_FLAGS for part in ast.walk(node)):
                yield shown
        elif name in ("open", "fdopen"):
            if opens_for_writing(node):
                yield shown
        elif owner in MODULES:
            if name in MODULES[owner]:
                yield shown
        elif name in METHODS or (shown == ".replace" and len(node.args) == 1 and owner != "dataclasses"):
            yield shown


def opens_for_writing(call: ast.Call) -> bool:
    """Whether an argument is a mode that writes, or a mode that cannot be told."""
    for keyword in call.keywords:
        if keyword.arg == "mode" and not isinstance(keyword.value, ast.Constant):
            return True
    values = [part.value for part in (*call.args, *(k.value for k in call.keywords)) if isinstance(part, ast.Constant)]
    modes = [
        value for value in values if isinstance(value, str) and 0 < len(value) <= 4 and set(value) <= set("rwaxbt+")
    ]
    return any(set(mode) & set("wax+") for mode in modes)


def test_no_other_module_writes() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("store/") and (calls := set(writes(ast.parse(path.read_text(encoding="utf-8"))))):
            found[name] = calls
    new = {name: extra for name, calls in found.items() if (extra := calls - ALLOWED.get(name, (set(), ""))[0])}
    assert not new, f"only store/ writes run files; these give their bytes to store.durable instead: {new}"
    stale = {name: gone for name, (calls, _) in ALLOWED.items() if (gone := calls - found.get(name, set()))}
    assert not stale, f"allowed, but not there any more: {stale}"


def test_in_the_store_only_the_durable_module_touches_the_disk() -> None:
    paths = [path for path in sorted((ROOT / "store").glob("*.py")) if path.name != "durable.py"]
    found = {path.name: set(writes(ast.parse(path.read_text(encoding="utf-8")))) for path in paths}
    assert {name: calls for name, calls in found.items() if calls} == {
        "lock.py": {"os.open", "os.ftruncate"},  # the lock's file, which holds no data
        "begun.py": {"os.open", ".mkdir"},  # the user's own note, outside of all runs
        "driver_heartbeat.py": {"os.utime"},  # a time stamp, which holds no data
        "spool.py": {"tempfile.TemporaryFile"},  # a file without a name, which ends with the process
        "result_folder.py": {".ParquetWriter", ".write_table"},  # into a sink whose bytes go through the seam
    }


@pytest.mark.parametrize(
    "line",
    [
        'open(path, "w")', 'open(path, mode="ab")', "open(path, mode=mode)", 'path.open("x")', 'gzip.open(path, "wt")',
        "os.open(path, os.O_WRONLY | os.O_CREAT)", "os.replace(a, b)", "path.replace(other)", "path.rename(other)",
        'path.write_text("x")', "path.write_bytes(data)", "path.unlink()", "path.mkdir(parents=True)", "path.touch()",
        "shutil.rmtree(path)", "shutil.copyfile(a, b)", "tempfile.mkdtemp()", "pq.write_table(table, path)",
        "model.save_pretrained(path)", "from shutil import rmtree", "from os import rename", "torch.save(x, path)",
        "table.to_parquet(path)", "pq.ParquetWriter(path, schema)", 'open(path, "r+b")', "logging.FileHandler(path)",
    ],
)  # fmt: skip
def test_the_ban_sees(line: str) -> None:
    assert list(writes(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "open(path)", 'open(path, "rb")', "path.read_text()", "Store.open(root)", 'text.replace("a", "b")',
        "dataclasses.replace(x, a=1)", "replace(x, a=1)", "time.replace(tzinfo=UTC)", "shutil.disk_usage(path)",
               "os.open(path, os.O_RDONLY)", "os.path.exists(path)", "durable.write_file(path, data)",
        "durable.operations.rmdir(path)",
    ],
)  # fmt: skip
def test_the_ban_leaves_alone(line: str) -> None:
    assert not list(writes(ast.parse(line)))
