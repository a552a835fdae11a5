"""Finds the data files of a source: a file, a folder of shards, or a save_to_disk folder. A Hub dataset has none."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfplay.core.errors import DataError
from selfplay.core.json_text import parse_json
from selfplay.inputs.rows.card_configs import declared_files
from selfplay.inputs.rows.card_labels import declared_labels
from selfplay.inputs.rows.file_names import COMPRESSIONS, file_format, split_of_name
from selfplay.store.layout import COMMIT as MANIFEST

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# JSON files beside the data that hold no rows.
_NO_DATA = {"summary.json", "dataset_info.json", "dataset_infos.json", "state.json", "config.json"}
_SAVE_AGAIN = "Save or copy the dataset again."
WHAT_IS_READ = (
    "Sources are .jsonl, .json, .csv, .tsv, .parquet, .arrow or .feather files (also .gz, .bz2 or .zst), a folder of "
    "such files, a save_to_disk folder, or a Hub dataset."
)


def local_path(source: str, base_dir: str | Path) -> Path | None:
    """The path of a source, None for the name of a Hub dataset. Raises DataError for a path that does not exist."""
    path = Path(base_dir, Path(source).expanduser())
    if path.exists():
        return path
    if not source.startswith((".", "~", "/")) and file_format(path) is None and _HUB_NAME.fullmatch(source):
        return None
    folder = path.parent
    if not folder.is_dir():
        raise DataError(f"no such file: {path}", f"The folder {folder} does not exist either; check the path.")
    near = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()], 1)
    raise DataError(
        f"no such file: {path}",
        f"Did you mean {near[0]}?" if near else "The path is relative to the config's folder; check it.",
    )


def source_files(path: Path, split: str | None, subset: str | None = None) -> list[Path]:
    """The data files at a path that exists, in reading order. Raises DataError for a folder that holds none or
    several datasets, and for a split or a subset where there are none."""
    files = _declared(path, split, subset) if path.is_dir() else None
    if files is not None:
        return files
    if subset is not None:
        raise DataError(f"{path} is local and has no subsets: no dataset card names any", "Remove the setting.")
    if path.is_file():
        if split is not None:
            raise DataError(f"split {split!r} is given, but {path} is a file and has no splits", "Remove split.")
        if file_format(path) is None:
            raise DataError(f"{path} has an unknown file format", WHAT_IS_READ)
        return [path]
    if not path.is_dir():
        raise DataError(
            f"{path} is neither a file nor a folder (a pipe or a device): its rows are read several times",
            "Write them into a file first.",
        )
    if (path / "dataset_dict.json").is_file():
        return _saved_files(path / _split_of_saved(path, split))
    if (path / "state.json").is_file():
        if split is not None:
            raise DataError(f"split {split!r} is given, but {path} holds one dataset without splits", "Remove split.")
        return _saved_files(path)
    return _folder_files(path, split)


def source_labels(path: Path, subset: str | None = None) -> Mapping[str, Any]:
    """The labels that the card of a folder names, see `declared_labels`; none for a file and a save_to_disk folder."""
    if not path.is_dir() or any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return {}
    declared = declared_files(path, subset)
    return declared_labels(path, declared.name if declared is not None else subset)


def _declared(folder: Path, split: str | None, subset: str | None) -> list[Path] | None:
    """The files of a split as the folder's dataset card names them; None where it names none."""
    declared = declared_files(folder, subset)
    if declared is None:
        return None
    if declared.splits is None:
        return _folder_files(declared.folder, split)
    names = list(declared.splits)
    if split not in names and (split is not None or len(names) > 1):
        raise _no_such_split(folder, split, names)
    return _one_kind(folder, declared.files(split or names[0]))


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split_of_saved(folder: Path, split: str | None) -> str:
    path = folder / "dataset_dict.json"
    splits = _list_in(path, "splits")
    if not all(isinstance(name, str) and name == Path(name).name for name in splits):
        raise DataError(f"{path} names a split that is not a folder beside it", _SAVE_AGAIN)
    if split is None and len(splits) == 1:
        return str(splits[0])
    if split not in splits:
        raise _no_such_split(folder, split, splits)
    return str(split)


def _no_such_split(folder: Path, split: str | None, splits: list[str]) -> DataError:
    said = f"has no split {split!r}" if split else "has several splits"
    return DataError(
        f"{folder} {said}; there are {', '.join(splits)}",
        f"Set split to one of them. The dataset is the folder {folder}.",
    )


def _saved_files(folder: Path) -> list[Path]:
    """The Arrow files of one saved dataset."""
    state = folder / "state.json"
    if not state.is_file():
        raise DataError(f"{folder} is not a folder of Dataset.save_to_disk", WHAT_IS_READ)
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in _list_in(state, "_data_files")]
    outside = [name for name in names if not isinstance(name, str) or name != Path(name).name]
    if outside:
        raise DataError(f"{state} names {outside[0]!r}, which is not a file beside it", _SAVE_AGAIN)
    files = [folder / str(name) for name in names]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise DataError(f"{folder} has no {', '.join(absent[:3])}", _SAVE_AGAIN)
    return files


def _list_in(path: Path, key: str) -> list[Any]:
    """A list in a JSON file of a save_to_disk folder. Raises DataError."""
    try:
        found = parse_json(path.read_bytes())[key]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error})", _SAVE_AGAIN) from None
    if not isinstance(found, list):
        raise DataError(f"{path} is damaged: {key} is not a list", _SAVE_AGAIN)
    return found


def _folder_files(folder: Path, split: str | None) -> list[Path]:
    """The shards in a folder: its own files, else those of the subfolder that is the split (`kept`, `dropped`,
    `train`), else those of its only subfolder (`data`). Files named after splits (see `split_of_name`) are told apart."""
    files = _data_files(folder)
    if not files:
        splits = sorted(
            entry.name
            for entry in folder.iterdir()
            if entry.is_dir() and not entry.name.startswith(".") and _data_files(entry)
        )
        if len(splits) > 1:  # of a result of `select`: its files for other trainers are not a split
            splits = [name for name in splits if name != "formats"]
        if not splits:
            raise DataError(f"{folder} holds no data files and is not a folder of Dataset.save_to_disk", WHAT_IS_READ)
        if len(splits) == 1 and split != splits[0]:
            return _folder_files(folder / splits[0], split)
        if split not in splits:
            raise _no_such_split(folder, split, splits)
        return _folder_files(folder / split, None)
    named = {file: split_of_name(file) for file in files}
    splits = sorted({name for name in named.values() if name is not None})
    if split is not None and split not in splits:
        if splits:
            raise _no_such_split(folder, split, splits)
        raise DataError(f"split {split!r} is given, but the files in {folder} have no splits", "Remove split.")
    if split is None and len(splits) > 1:
        raise _no_such_split(folder, None, splits)
    other = next((file.name for file in files if named[file] is None), None)
    if split is None and splits and other is not None:
        raise DataError(
            f"{folder} holds files of the split {splits[0]} and others, such as {other}",
            f"Set split to {splits[0]} to read that only, or name one file.",
        )
    return _one_kind(folder, [file for file in files if split is None or named[file] == split])


def _data_files(folder: Path) -> list[Path]:
    # what has a manifest was written by selfplay, without links; elsewhere they are usual (the hub's cache)
    is_part = (folder.parent / MANIFEST).exists()
    if is_part or (folder / MANIFEST).exists():
        for entry in (*folder.iterdir(), *([folder] if is_part else [])):
            if entry.is_symlink():
                raise DataError(f"{entry} is a symbolic link", "Put the file itself in its place, or name that file.")
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_file()
        and not entry.name.startswith((".", "_"))
        and entry.name not in _NO_DATA
        and file_format(entry) is not None
        and not (entry.name.startswith("cache-") and entry.suffix == ".arrow")
    )


def _one_kind(folder: Path, files: list[Path]) -> list[Path]:
    kinds = sorted({str(file_format(file)) for file in files})
    if len(kinds) > 1:
        raise DataError(
            f"{folder} holds files of several kinds: {', '.join(kinds)}", "Name one file, or move the others away."
        )
    unpacked = [file.with_suffix("") if file.suffix in COMPRESSIONS else file for file in files]
    for file, name in zip(files, unpacked, strict=True):
        if unpacked.count(name) > 1:
            raise DataError(
                f"{folder} holds {name.name} several times, packed and unpacked ({file.name})", "Move all but one away."
            )
    return files
