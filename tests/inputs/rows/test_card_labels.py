"""Labels whose names stand in a folder's card: JSON and CSV files hold only their numbers, and `datasets` casts them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.dataset import read_dataset
from selfplay.inputs.rows.source import Source, open_source

INFO = """dataset_info:
  features:
  - name: prompt
    dtype: string
  - name: preference
    dtype:
      class_label:
        names:
          '0': response_1
          '1': response_0
"""


def written(folder: Path, file: str, text: str, card: str = INFO, where: str = "README.md") -> Source:
    (folder / file).write_text(text)
    (folder / where).write_text(card if where.startswith(".") else f"---\nlicense: mit\n{card}---\n# Title\n")
    return open_source(str(folder))


def labels(source: Source) -> list[object]:
    return [row.values["preference"] for row in source.rows() if row.values is not None]


def lines(*values: object) -> str:
    return "".join(json.dumps({"prompt": "p", "preference": value}) + "\n" for value in values)


@pytest.mark.parametrize("where", ["README.md", ".huggingface.yaml"])
def test_numbers_get_their_names(tmp_path: Path, where: str) -> None:
    source = written(tmp_path, "train.jsonl", lines(0, 1.0, "response_1", "1", -1, 7, None, True), where=where)
    assert labels(source) == ["response_1", "response_0", "response_1", "response_0", None, None, None, True]
    assert source.digest() != open_source(str(tmp_path / "train.jsonl")).digest()


def test_a_csv_and_a_parquet_file_too(tmp_path: Path) -> None:
    assert labels(written(tmp_path, "train.csv", "prompt,preference\np,0\np,1\n")) == ["response_1", "response_0"]
    (tmp_path / "train.csv").unlink()
    pq.write_table(pa.table({"prompt": ["p", "q"], "preference": [0.0, None]}), tmp_path / "train.parquet")
    source = open_source(str(tmp_path))
    schemas = source.schemas()
    assert schemas is not None and schemas[0].field("preference").type == pa.string()
    assert labels(source) == ["response_1", None]


def test_those_of_the_subset_that_is_read(tmp_path: Path) -> None:
    configs = "configs:\n- config_name: a\n  data_files: train.jsonl\n- config_name: b\n  data_files: train.jsonl\n"
    info = INFO.replace("features", "config_name: b\n  features")
    (tmp_path / "train.jsonl").write_text(lines(0))
    (tmp_path / "README.md").write_text(f"---\n{configs}{info}---\n")
    assert labels(open_source(str(tmp_path), subset="b")) == ["response_1"]
    assert labels(open_source(str(tmp_path), subset="a")) == [0]


def test_the_older_file(tmp_path: Path) -> None:
    feature = {"names": ["response_1", "response_0"], "_type": "ClassLabel"}
    (tmp_path / "dataset_infos.json").write_text(json.dumps({"x": {"features": {"preference": feature}}}))
    (tmp_path / "train.jsonl").write_text(lines(0))
    assert labels(open_source(str(tmp_path))) == ["response_1"]


def test_what_cannot_be_understood_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dataset_info that `datasets` does not read"):
        written(tmp_path, "train.jsonl", lines(0), card=INFO.replace("'0'", "'zero'"))


def test_pairs_are_the_right_way_round(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "response_0": "GOOD", "response_1": "bad", "preference": 1} for i in range(3)]
    source = written(tmp_path, "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    dataset = read_dataset(source.name)
    assert dataset.pairs is not None
    assert {turns[-1]["content"] for turns in dataset.pairs["chosen"].to_pylist()} == {"GOOD"}
