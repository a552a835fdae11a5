"""A label of `datasets` (ClassLabel) is read as its name: its number is only a place in a list of names."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.dataset import read_dataset
from selfplay.inputs.rows.source import open_source

LABEL = {"names": ["x", "y"], "_type": "ClassLabel"}


def labelled(file: Path, columns: dict[str, Any], features: dict[str, Any]) -> str:
    """A Parquet file with the metadata that `datasets` writes (see test_a_dataset_that_datasets_wrote)."""
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), file)
    return str(file)


def test_a_preference_is_named(tmp_path: Path) -> None:
    columns = {"prompt": ["q"], "response_0": ["good"], "response_1": ["bad"], "preference": [1]}
    names = {"preference": {"names": ["response_1", "response_0"], "_type": "ClassLabel"}}
    pairs = read_dataset(labelled(tmp_path / "a.parquet", columns, names)).pairs
    assert pairs is not None and pairs["chosen"].to_pylist() == [[{"role": "assistant", "content": "good"}]]


def test_a_label_that_is_no_number_is_no_reward(tmp_path: Path) -> None:
    columns = {"prompt": ["q", "q"], "completion": ["a", "b"], "label": [0, 1]}
    names = {"label": {"names": ["good", "bad"], "_type": "ClassLabel"}}
    with pytest.raises(DataError, match="not a number but 'good'"):
        read_dataset(labelled(tmp_path / "a.parquet", columns, names))
    stars = {"label": {"names": ["5", "1"], "_type": "ClassLabel"}}
    responses = read_dataset(labelled(tmp_path / "b.parquet", columns, stars)).responses
    assert responses is not None and responses["reward"].to_pylist() == [5.0, 1.0]


def test_labels_at_any_depth_in_every_way_of_reading(tmp_path: Path) -> None:
    columns = {
        "one": [1, None, -1],
        "list": [[0, 1], None, []],
        "objects": [[{"k": 1, "t": "u"}], [], None],
        "object": pa.array([{"k": [0]}, None, {"k": None}], pa.struct([("k", pa.large_list(pa.int64()))])),
        "text": ["1", "2", "z"],
    }
    of_list = {"feature": LABEL, "_type": "List"}
    features = {
        "one": LABEL, "list": of_list, "objects": {"feature": {"k": LABEL, "t": {"dtype": "string"}}, "_type": "List"},
        "object": {"k": of_list}, "text": LABEL, "absent": LABEL,
    }  # fmt: skip
    source = open_source(labelled(tmp_path / "a.parquet", columns, features))
    rows = [row.values for row in source.rows()]
    assert rows == [
        {"one": "y", "list": ["x", "y"], "objects": [{"k": "y", "t": "u"}], "object": {"k": ["x"]}, "text": "y"},
        {"one": None, "list": None, "objects": [], "object": None, "text": None},
        {"one": None, "list": [], "objects": None, "object": {"k": None}, "text": "z"},
    ]
    assert [next(source.tables())[2].schema] == source.schemas()
    assert next(source.tables(["list"]))[2].to_pylist()[0] == {"list": ["x", "y"]}


@pytest.mark.parametrize("metadata", [b"", b"[]", b"{", b'{"info": null}', b'{"info": {"features": []}}'])
def test_metadata_of_others_is_left_alone(tmp_path: Path, metadata: bytes) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"one": [1]}).replace_schema_metadata({b"huggingface": metadata}), file)
    assert [row.values for row in open_source(str(file)).rows()] == [{"one": 1}]


def test_a_dataset_that_datasets_wrote(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"k": datasets.ClassLabel(names=["x", "y"])})
    datasets.Dataset.from_dict({"k": [1, 0]}, features=features).save_to_disk(str(tmp_path / "saved"))
    assert [row.values for row in open_source(str(tmp_path / "saved")).rows()] == [{"k": "y"}, {"k": "x"}]
