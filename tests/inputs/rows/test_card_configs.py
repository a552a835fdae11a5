"""The dataset card of a local folder says which files are which split, as it does for `datasets`."""

from pathlib import Path

import pytest

from selfplay.core.errors import DataError
from selfplay.inputs.rows.files import source_files

FILES = ("data/a.jsonl", "data/b.jsonl", "en/train.jsonl", "fr/train.jsonl", "fr/.h.jsonl", "train.jsonl", "notes.txt")


def read(root: Path, card: str, split: str | None = None, subset: str | None = None) -> list[str]:
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}\n")
    (root / "README.md").write_text(card)
    return [str(file.relative_to(root)) for file in source_files(root, split, subset)]


def card(configs: str, front: str = "---\nlicense: mit\n{}\ntags:\n- x\n---\n# Title\n") -> str:
    return front.format(f"configs:{configs}")


def one(data_files: str) -> str:
    return card(f"\n- config_name: default\n  data_files: {data_files}")


@pytest.mark.parametrize(
    "data_files, files",
    [
        ("data/a.jsonl", ["data/a.jsonl"]),
        ("[data/b.jsonl, data/a.jsonl]", ["data/b.jsonl", "data/a.jsonl"]),
        ("[data/b.jsonl, data/*]", ["data/b.jsonl", "data/a.jsonl"]),
        ("'**/train.jsonl'", ["en/train.jsonl", "fr/train.jsonl", "train.jsonl"]),
        ("fr/**", ["fr/train.jsonl"]),
        ("./data/[b-z].jsonl", ["data/b.jsonl"]),
    ],
)
def test_its_files(tmp_path: Path, data_files: str, files: list[str]) -> None:
    assert read(tmp_path, one(data_files)) == files


def test_its_splits_count_whatever_the_files_are_called(tmp_path: Path) -> None:
    swapped = card(
        "\n- config_name: default\n  data_files:\n  - split: train\n    path: data/a.jsonl\n  - split: test\n    path:\n"
        "    - train.jsonl"
    )
    assert read(tmp_path, swapped, "test") == ["train.jsonl"] and read(tmp_path, swapped, "train") == ["data/a.jsonl"]
    for split, said in ((None, "has several splits; there are train, test"), ("dev", "has no split 'dev'")):
        with pytest.raises(DataError, match=said):
            read(tmp_path, swapped, split)


def test_its_subsets(tmp_path: Path) -> None:
    two = card(
        "\n  - config_name: en\n    data_dir: en\n  - config_name: fr\n    data_files: fr/*.jsonl\n    default: true"
    )
    assert read(tmp_path, two) == ["fr/train.jsonl"]
    assert read(tmp_path, two, subset="en") == ["en/train.jsonl"]
    with pytest.raises(DataError, match="no subset 'de'; there are en, fr"):
        read(tmp_path, two, subset="de")
    with pytest.raises(DataError, match="several subsets; there are en, fr"):
        read(tmp_path, two.replace("    default: true\n", ""))


@pytest.mark.parametrize("text", ["", "# Title\n", "---\nlicense: mit\n---\nconfigs:\n- x\n", card(" []"), card("")])
def test_without_configs_the_names_of_the_files_count(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == ["train.jsonl"]
    with pytest.raises(DataError, match="has no subset"):
        read(tmp_path, text, subset="en")


@pytest.mark.parametrize(
    "configs, said",
    [
        ("\n- config_name: a\n  data_files: ../x.jsonl", "only files of its own folder"),
        ("\n- config_name: a\n  data_files: /etc/*.json", "only files of its own folder"),
        ("\n- config_name: a\n  data_files: https://x.invalid/a.jsonl", "only files of its own folder"),
        ("\n- config_name: a\n  data_dir: ..", "only files of its own folder"),
        ("\n- config_name: a\n  data_dir: de", "the folder 'de', which does not exist"),
        (
            "\n- config_name: a\n  data_files: none.jsonl",
            "'none.jsonl' for the split train, for which there is no data file",
        ),
        ("\n- config_name: a\n  data_files: notes.txt", "for which there is no data file"),
        ("\n- config_name: a\n  data_files: '**.jsonl'", "can only be an entire path component"),
        ("\n- config_name: a\n  data_files: [{split: train}]", "list of different splits"),
        ("\n- config_name: a\n  data_files: train.jsonl\n  sep: ';'", "the setting 'sep' for a"),
        ("\n- data_files: train.jsonl", "with a config_name"),
        (" [", "README.md is not valid YAML: line 3"),
    ],
)
def test_a_card_that_cannot_be_followed_is_refused(tmp_path: Path, configs: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, card(configs))


def test_links_to_folders_above_end(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path)
    assert read(tmp_path, one("'**/a.jsonl'"))[0] == "data/a.jsonl"


def test_the_yaml_file_beside_the_card_comes_first(tmp_path: Path) -> None:
    (tmp_path / ".huggingface.yaml").write_text("configs:\n- config_name: default\n  data_files: data/b.jsonl\n")
    assert read(tmp_path, one("data/a.jsonl")) == ["data/b.jsonl"]
    (tmp_path / ".huggingface.yaml").write_text("configs:\n- config_name: default\n  data_files: '{a,b}.jsonl'\n")
    with pytest.raises(DataError, match=r"\.huggingface\.yaml names '\{a,b\}\.jsonl' for the split train"):
        read(tmp_path, one("data/a.jsonl"))
