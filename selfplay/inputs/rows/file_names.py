"""What the names of data files say: their format, their split, their number, and whether they belong together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
# As `datasets` names the files of a split, whatever the split is called: train_prefs-00000-of-00002, also with a hash at the end.
_COUNTED = re.compile(r"(.*)-(\d{4,5})-of-(\d{4,5})(?![0-9])")
# Words by which `datasets` knows the split of any other file.
_SPLITS = frozenset(
    ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation")
)  # fmt: skip
_SHOWN = 5


def file_format(path: Path) -> str | None:
    """The format of a file by its suffix (below that of a compression); None for an unknown one."""
    return _FORMATS.get(Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix)


def split_of_name(file: Path) -> str | None:
    """The split that a file is of, by its name; None where the name says nothing. Example: "train" for my_train_2.jsonl."""
    if counted := _COUNTED.match(file.name):
        return counted[1]
    words = re.split(r"[^a-z]+", file.name.split(".")[0].lower())
    return next((word for word in words if word in _SPLITS), None)


def notes_on_files(source: str, files: Sequence[Path]) -> Iterator[str]:
    """Notes on the files that are read of a folder: which are missing, that their names differ, and which folders beside them are
    left out. `source`: the name of the source."""
    yield from _missing(files)
    if not Path(source).is_dir() or not files:
        return
    named = dict.fromkeys(re.sub(r"[0-9a-f]*\d[0-9a-f]*", "N", file.name) for file in files)
    if len(named) > 1:
        yield f"{len(files)} files are read as one dataset: {_shown([file.name for file in files])}"
    folders = sorted(entry for entry in files[0].parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if beside := [folder.name for folder in folders if any(map(file_format, folder.iterdir()))]:
        yield f"the folders beside these files are not read: {_shown(beside)}"


def _missing(files: Sequence[Path]) -> Iterator[str]:
    """Which files are not there of a dataset whose files count themselves (train-00000-of-00003)."""
    found: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if counted := _COUNTED.match(file.name):
            found.setdefault((counted[1], int(counted[3])), set()).add(int(counted[2]))
    for (name, total), numbers in found.items():
        missing = sorted({*range(total)} - numbers)
        if missing:
            yield (
                f"{len(missing)} of the {total} files {name}-N-of-{total} are missing (N = {_shown([*map(str, missing)])}): "
                "the others are read"
            )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
