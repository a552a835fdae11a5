"""Which files of a folder are which split, where its dataset card (README.md) says so, as `datasets` reads it.

The front matter of a card may list configs (subsets), each with the files of its splits:

    configs:
    - config_name: default
      data_files:
      - split: train
        path: data/train-*

Source: https://huggingface.co/docs/hub/datasets-manual-configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from selfplay.config.strict_yaml import parse
from selfplay.core.errors import ConfigError, DataError
from selfplay.inputs.rows.file_names import file_format
from selfplay.store.layout import COMMIT as MANIFEST

CARD = "README.md"
_MAX_CARD = 1 << 20  # bytes that are looked through for configs
_NAME_A_FILE = "Name one of its data files in place of the folder."
# The other keys of a config say how its files are to be parsed.
_KEYS = frozenset(("config_name", "data_files", "data_dir", "default", "description", "version", "drop_labels"))


@dataclass(frozen=True, slots=True)
class DeclaredFiles:
    """What a card says of one config. `splits`: the patterns of each split's files below `folder`; None where the files' own
    names say their splits."""

    folder: Path
    splits: Mapping[str, tuple[str, ...]] | None

    def files(self, split: str) -> list[Path]:
        """The files of a split, in the order of its patterns. Raises DataError for a pattern without a file that is read, and for
        one that leads out of the folder."""
        found: dict[Path, None] = {}
        for pattern in (self.splits or {})[split]:
            matched = _glob(self.folder, pattern)
            if not matched:
                raise _error(
                    self.folder,
                    f"names {pattern!r} for the split {split}, for which there is no data file",
                    _NAME_A_FILE,
                )
            found |= dict.fromkeys(matched)
        return list(found)


def declared_files(folder: Path, subset: str | None) -> DeclaredFiles | None:
    """What the card of a folder says of a subset (None: of its only one, or of its default). None for a folder without a card
    that names configs. Raises DataError for a subset that is not there, and for a card that cannot be followed."""
    configs = _configs(folder)
    if not configs:
        return None
    names = list(configs)
    if subset is not None and subset not in configs:
        raise DataError(
            f"{folder} has no subset {subset!r}; there are {', '.join(names)}", "Set subset to one of them."
        )
    if subset is None:
        defaults = [name for name in names if configs[name].get("default") is True] or ["default"]
        subset = names[0] if len(names) == 1 else defaults[0]
        if subset not in configs:
            raise DataError(f"{folder} has several subsets; there are {', '.join(names)}", "Set subset to one of them.")
    config = configs[subset]
    if unknown := sorted({*config} - _KEYS):
        said = f"gives the setting {unknown[0]!r} for {subset}, which is not supported"
        raise _error(folder, said, _NAME_A_FILE)
    data_dir = config.get("data_dir")
    if data_dir is not None:
        _check_inside(folder, data_dir)
    place = folder / (data_dir or "")
    if not place.is_dir():
        raise _error(folder, f"names the folder {data_dir!r}, which does not exist", _NAME_A_FILE)
    return DeclaredFiles(place, _splits(folder, config.get("data_files")))


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    """The configs of a card by name; empty where there is no card, or none in it."""
    card = folder / CARD
    # what has a manifest was written by selfplay, and is read by its folders
    if not card.is_file() or (folder / MANIFEST).exists():
        return {}
    with card.open("rb") as file:
        lines = file.read(_MAX_CARD).decode("utf-8-sig", errors="replace").splitlines()
    block = _block(lines)
    if block is None:
        return {}
    try:
        entries = parse(block, str(card))["configs"]
    except ConfigError as error:
        raise DataError(
            error.message, f"Its `configs` say which files are which split. Fix them. {_NAME_A_FILE}"
        ) from None
    if not entries:
        return {}
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("config_name"), str) for entry in entries
    ):
        raise _error(folder, "has configs that are not a list of objects with a config_name")
    return {entry["config_name"]: entry for entry in entries}


def _block(lines: list[str]) -> str | None:
    """The key `configs` of a card's front matter, behind as many empty lines as stand before it. The rest (features, sizes) is
    not parsed."""
    if not lines or lines[0].rstrip() != "---":
        return None
    block: list[str] = []
    for number, line in enumerate(lines[1:], 1):
        if (block and line[:1] not in (" ", "-", "#", "")) or line.rstrip() == "---":
            break
        if line.startswith("configs:"):
            block = [""] * number
        if block:
            block.append(line)
    return "\n".join(block) or None


def _splits(folder: Path, data_files: Any) -> dict[str, tuple[str, ...]] | None:
    if data_files is None:
        return None
    entries = data_files if isinstance(data_files, list) else [data_files]
    if all(isinstance(entry, str) for entry in entries):
        return {"train": tuple(entries)}
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        split, path = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        patterns: list[Any] = path if isinstance(path, list) else [path]
        if not isinstance(split, str) or split in found or not all(isinstance(pattern, str) for pattern in patterns):
            raise _error(
                folder, "has data_files that are neither paths nor a list of different splits with their paths"
            )
        found[split] = tuple(patterns)
    return found


def _glob(folder: Path, pattern: str) -> list[Path]:
    """The data files below a folder that a pattern matches, sorted. `**` matches folders, and at the end files too."""
    _check_inside(folder, pattern)
    parts = PurePosixPath(pattern).parts
    try:
        matches = sorted(folder.glob("/".join((*parts, "*") if parts[-1:] == ("**",) else parts)))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise _error(folder, f"has the pattern {pattern!r}: {error}") from None
    return [
        path
        for path in matches
        if path.is_file()
        and file_format(path) is not None
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    ]


def _check_inside(folder: Path, path: Any) -> None:
    parts = PurePosixPath(path).parts if isinstance(path, str) else ("..",)
    if ".." in parts or "://" in str(path) or "::" in str(path) or parts[:1] == ("/",):
        raise _error(
            folder, f"names {path!r}: only files of its own folder are read", "Copy the files into the folder."
        )


def _error(folder: Path, said: str, hint: str = _NAME_A_FILE) -> DataError:
    return DataError(f"the dataset card {folder / CARD} {said}", hint)
