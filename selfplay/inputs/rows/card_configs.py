"""Which files of a folder are which split, where its dataset card says so, as `datasets` reads it.

A card may list configs (subsets), each with the files of its splits:

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

from selfplay.core.errors import DataError
from selfplay.inputs.rows.card import NAME_A_FILE, card_entry
from selfplay.inputs.rows.file_names import file_format

# The other keys of a config say how its files are to be parsed.
_KEYS = frozenset(("config_name", "data_files", "data_dir", "default", "description", "version", "drop_labels"))


@dataclass(frozen=True, slots=True)
class DeclaredFiles:
    """What a card says of one config (`name`). `splits`: the patterns of each split's files below `folder`; None where the files'
    own names say their splits."""

    card: Path
    name: str
    folder: Path
    splits: Mapping[str, tuple[str, ...]] | None

    def files(self, split: str) -> list[Path]:
        """The files of a split, in the order of its patterns. Raises DataError for a pattern without a file that is read, and for
        one that leads out of the folder."""
        found: dict[Path, None] = {}
        for pattern in (self.splits or {})[split]:
            matched = _glob(self.card, self.folder, pattern)
            if not matched:
                raise _error(self.card, f"names {pattern!r} for the split {split}, for which there is no data file")
            found |= dict.fromkeys(matched)
        return list(found)


def declared_files(folder: Path, subset: str | None) -> DeclaredFiles | None:
    """What the card of a folder says of a subset (None: of its only one, or of its default). None for a folder without a card
    that names configs. Raises DataError for a subset that is not there, and for a card that cannot be followed."""
    card, configs = _configs(folder)
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
        raise _error(card, said)
    data_dir = config.get("data_dir")
    if data_dir is not None:
        _check_inside(card, data_dir)
    place = folder / (data_dir or "")
    if not place.is_dir():
        raise _error(card, f"names the folder {data_dir!r}, which does not exist")
    return DeclaredFiles(card, subset, place, _splits(card, config.get("data_files")))


def _configs(folder: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The card that names configs, and these by name; empty where there is no card, or none in it."""
    card, entries = card_entry(folder, "configs")
    if not entries:
        return card, {}
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("config_name"), str) for entry in entries
    ):
        raise _error(card, "has configs that are not a list of objects with a config_name")
    return card, {entry["config_name"]: entry for entry in entries}


def _splits(card: Path, data_files: Any) -> dict[str, tuple[str, ...]] | None:
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
            raise _error(card, "has data_files that are neither paths nor a list of different splits with their paths")
        found[split] = tuple(patterns)
    return found


def _glob(card: Path, folder: Path, pattern: str) -> list[Path]:
    """The data files below a folder that a pattern matches, sorted. `**` matches folders, and at the end files too."""
    _check_inside(card, pattern)
    parts = PurePosixPath(pattern).parts
    try:
        matches = sorted(folder.glob("/".join((*parts, "*") if parts[-1:] == ("**",) else parts)))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise _error(card, f"has the pattern {pattern!r}: {error}") from None
    return [
        path
        for path in matches
        if path.is_file()
        and file_format(path) is not None
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    ]


def _check_inside(card: Path, path: Any) -> None:
    parts = PurePosixPath(path).parts if isinstance(path, str) else ("..",)
    if ".." in parts or "://" in str(path) or "::" in str(path) or parts[:1] == ("/",):
        raise _error(card, f"names {path!r}: only files of its own folder are read", "Copy the files into the folder.")


def _error(card: Path, said: str, hint: str = NAME_A_FILE) -> DataError:
    return DataError(f"the dataset card {card} {said}", hint)
