"""Which files of a folder are one dataset: splits are told apart, and what else is read or left out is said."""

import os
from pathlib import Path

import pytest

from selfplay.core.errors import DataError
from selfplay.inputs.rows.file_names import notes_on_files, split_of_name
from selfplay.inputs.rows.files import source_files


def folder(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}\n")
    return root


def read(root: Path, names: list[str], split: str | None = None) -> list[str]:
    return [str(file.relative_to(root)) for file in source_files(folder(root, names), split)]


@pytest.mark.parametrize(
    "name, split",
    [
        ("train.jsonl", "train"), ("Train_2.jsonl", "train"), ("my_dataset-test.csv", "test"), ("dev-v1.2.json", "dev"),
        ("train_prefs-00000-of-00002.parquet", "train_prefs"), ("raw-00000-of-00001-0ab1.parquet", "raw"),
        ("c4-train.00001-of-01024.json.gz", "train"), ("rejected_sampling.jsonl", None), ("part-00000-ab.parquet", None),
        ("trained.jsonl", None),
    ],
)  # fmt: skip
def test_the_split_of_a_file(name: str, split: str | None) -> None:
    assert split_of_name(Path(name)) == split


@pytest.mark.parametrize(
    "names",
    [
        ["data/train_prefs-00000-of-00001.jsonl", "data/test_prefs-00000-of-00001.jsonl"],
        ["my_train.jsonl", "my_test.jsonl"],
        ["train.jsonl", "negatives.jsonl"],
        ["en/train.jsonl", "en/test.jsonl"],
        ["en/train.jsonl", "fr/train.jsonl"],
    ],
)
def test_files_of_several_splits_are_not_one_dataset(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(DataError, match=r"has several splits|and others, such as negatives"):
        read(tmp_path, names)


def test_a_split_is_read_from_where_it_is(tmp_path: Path) -> None:
    prefs = [f"train_prefs-0000{number}-of-00002.jsonl" for number in (0, 1)]
    assert read(tmp_path / "a", ["train_sft-00000-of-00001.jsonl", *prefs], "train_prefs") == prefs
    assert read(tmp_path / "b", ["default/train.jsonl", "default/test.jsonl"], "test") == ["default/test.jsonl"]
    assert read(tmp_path / "c", ["kept/a-1.jsonl", "kept/a-2.jsonl"]) == ["kept/a-1.jsonl", "kept/a-2.jsonl"]
    hidden = [".run/a.jsonl", "dropped/a.jsonl", "kept/a.jsonl"]
    with pytest.raises(DataError, match="several splits; there are dropped, kept"):
        read(tmp_path / "e", hidden)
    assert read(tmp_path / "f", hidden[::2]) == ["kept/a.jsonl"]
    with pytest.raises(DataError, match="several splits; there are test, train"):  # a configuration is not a split
        read(tmp_path / "d", ["en/train.jsonl", "en/test.jsonl", "fr/train.jsonl"], "en")


def test_files_of_different_names_and_folders_beside_are_said(tmp_path: Path) -> None:
    root = folder(tmp_path, ["harmless.jsonl", "helpful.jsonl", "more/a.jsonl", "images/1.png"])
    assert [*notes_on_files(str(root), source_files(root, None))] == [
        "2 files are read as one dataset: harmless.jsonl, helpful.jsonl",
        "the folders beside these files are not read: more",
    ]
    shards = folder(tmp_path / "shards", ["part-0.jsonl", "part-1.jsonl"])
    assert not [*notes_on_files(str(shards), source_files(shards, None))]


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        source_files(tmp_path / "a.jsonl", None)
