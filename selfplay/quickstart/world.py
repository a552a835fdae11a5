"""Prepares the small world: a folder with a policy, a reward model, prompts and a configuration that runs.

`selfplay quickstart` starts here, then takes the same way as any user's run. The two models are trained by a
child process (`quickstart/models/world.py`), so that nothing here imports torch, and kept in the user's cache, so
that it happens once for each seed and recipe. A world appears under its name in one step, complete and with
digests: what was interrupted is never taken for finished, and what was damaged is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from selfplay.config.strict_yaml import dump
from selfplay.core.errors import BackendError, ConfigError
from selfplay.quickstart.recipe import Sizes, run_config
from selfplay.quickstart.tasks import prompts
from selfplay.store import durable
from selfplay.store.manifest import check_files, hash_files, read_manifest, write_manifest

Progress = Callable[[dict[str, Any]], None]
"""Takes one report of progress: `stage` (a word for people) and numbers such as `step`, `steps`, `loss`,
`seconds`.
"""

MARKER = "world.json"
"""Written last: the manifest of all other files, with key, seed and sizes."""

PACKAGE = Path(__file__).parents[1]
RECIPE_SOURCES = sorted((PACKAGE / "quickstart").rglob("*.py"))
LIBRARIES = ("torch", "transformers", "tokenizers", "trl")


@dataclass(frozen=True, slots=True)
class World:
    """A prepared world. `folder` holds all of it; `from_cache` says that nothing was trained for it this time;
    `record` is what was measured when it was made (learning curve, accuracy of the reward model, seconds by
    part).
    """

    folder: Path
    seed: int
    from_cache: bool
    record: dict[str, Any]

    @property
    def config(self) -> Path:
        """The configuration of a run in this world."""
        return self.folder / "config.yaml"


def default_cache_dir() -> Path:
    """`SELFPLAY_CACHE`, else `selfplay` in `XDG_CACHE_HOME`, else `~/.cache/selfplay`. Need not exist."""
    if given := os.environ.get("SELFPLAY_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "selfplay"


def world_key(seed: int, sizes: Sizes) -> str:
    """The key of a cached world, 16 hex digits: seed, sizes, the source of the recipe, and the
    libraries' versions.
    """
    parts = [str(seed), json.dumps(asdict(sizes), sort_keys=True)]
    parts += [hashlib.sha256(source.read_bytes()).hexdigest() for source in RECIPE_SOURCES]
    parts += [f"{library} {metadata.version(library)}" for library in LIBRARIES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def prepare(
    world_dir: Path,
    seed: int,
    *,
    cache_dir: Path | None = None,
    progress: Progress = lambda report: None,
    sizes: Sizes | None = None,
) -> World:
    """Make the world of `seed` in `world_dir`: `policy/`, `early_policy/`, `reward_model/`, `prompts.jsonl`,
    `eval_prompts.jsonl`, `config.yaml`, `learning_curve.json`, `world.json`.

    A world of the same seed and recipe that is there already, whole, is kept as it is. `sizes` is for tests.
    Raises ConfigError when `world_dir` holds anything else, and BackendError when training fails.
    """
    sizes = sizes or Sizes()
    key = world_key(seed, sizes)
    cache = cache_dir or default_cache_dir()
    world_dir = world_dir.absolute()
    if world_dir.exists() and not _is_empty_folder(world_dir):
        if not _is_world(world_dir, key):
            raise ConfigError(
                f"{world_dir} is there already and is not a whole world of seed {seed}",
                "Give another folder, or remove that one.",
            )
        return World(world_dir, seed, True, _record(world_dir))
    worlds = cache / "worlds"
    worlds.mkdir(parents=True, exist_ok=True)
    cached = worlds / key
    with _locked(
        worlds / f".{key}.lock", lambda: progress({"stage": "waiting for another process that makes this world"})
    ):
        from_cache = _is_world(cached, key)
        if not from_cache:
            _remove_leftovers(worlds, key)
            with _appearing_as(cached) as scratch:
                _build(scratch, seed, key, sizes, progress)
    world_dir.parent.mkdir(parents=True, exist_ok=True)
    with _appearing_as(world_dir) as scratch:
        shutil.copytree(cached, scratch, dirs_exist_ok=True)
    return World(world_dir, seed, from_cache, _record(world_dir))


def _build(folder: Path, seed: int, key: str, sizes: Sizes, progress: Progress) -> None:
    """Fill an empty folder with a world; the marker comes last."""
    _train_models(folder, seed, sizes, progress)
    for name, split, num in (("prompts", "rounds", sizes.prompts), ("eval_prompts", "evaluation", sizes.eval_prompts)):
        lines = [json.dumps(row) + "\n" for row in prompts(split, num, seed)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "config.yaml").write_text(dump(run_config(seed)), encoding="utf-8")
    durable.set_modes(folder, like=folder / "config.yaml")
    write_manifest(folder / MARKER, {"key": key, "seed": seed, "sizes": asdict(sizes)}, hash_files(folder))


def _train_models(folder: Path, seed: int, sizes: Sizes, progress: Progress) -> None:
    """Run the training process, handing on its progress. Its other output is shown only when it fails."""
    command = [sys.executable, "-m", "selfplay.quickstart.models.world", "--out", str(folder), "--seed", str(seed)]
    command += ["--sizes", json.dumps(asdict(sizes))]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    started = time.monotonic()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=noise, text=True) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.startswith('{"stage"'):
                    progress(json.loads(line) | {"elapsed": round(time.monotonic() - started, 1)})
                else:
                    noise.write(line)
        except BaseException:
            child.kill()
            raise
        if child.wait() != 0:
            noise.seek(0)
            last_words = "\n".join(noise.read().splitlines()[-15:])
            raise BackendError(
                f"the small world's models could not be made (exit code {child.returncode}):\n{last_words}",
                "`selfplay doctor` checks the environment.",
            )


@contextlib.contextmanager
def _appearing_as(target: Path) -> Iterator[Path]:
    """A scratch folder beside `target` that takes its name, synced to disk, when the block ends well; else it
    is removed.
    """
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    scratch.mkdir()
    try:
        yield scratch
        durable.sync_tree(scratch)
        if target.exists():
            # empty, or a damaged world in the cache: `prepare` lets no other folder come this far
            shutil.rmtree(target)
        durable.publish_folder(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold an flock on `path`, so that two quickstarts do not train the same world twice."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _remove_leftovers(worlds: Path, key: str) -> None:
    """Remove what a killed preparation of this world left. Called with its lock held, so no live one is
    touched.
    """
    for leftover in worlds.glob(f".{key}.*.partial"):
        shutil.rmtree(leftover)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _is_world(folder: Path, key: str) -> bool:
    """Whether `folder` is the whole world of that key: every file of the manifest exists and is unchanged. Added files are
    allowed (a user may keep settings of their own beside it); an edited `config.yaml` is theirs to edit and not checked.
    """
    marker = folder / MARKER
    if not marker.is_file():
        return False
    try:
        manifest = read_manifest(marker)
    except (ValueError, ConfigError):
        return False
    files = [entry for entry in manifest.files if entry.path != "config.yaml"]
    return manifest.facts.get("key") == key and not any(check_files(folder, files, digests=True))


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "learning_curve.json").read_text(encoding="utf-8"))
    return record
