"""Tables of numbers, read by whole columns: the same rows as row by row, ids, and bad rows."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.dataset import read_dataset
from selfplay.dataset_selection.reading.numbers import _row_numbers, has_only_numbers
from selfplay.inputs.rows.columns import recognise
from selfplay.inputs.rows.source import open_source
from selfplay.inputs.rows.survey import survey
from selfplay.inputs.rows.tables import all_differ

NAMES = ["reward_chosen", "reward_rejected", "num_tokens_chosen", "num_tokens_rejected"]


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def test_types_stay_narrow_and_columns_in_one_piece(tmp_path):
    columns = {
        "reward_chosen": pa.array([1.0, 2.0, 3.0], pa.float32()),
        "reward_rejected": pa.array([1, 2, 3], pa.int16()),
        "num_tokens_chosen": pa.array([1, 2, 3], pa.int32()),
        "num_tokens_rejected": pa.array([1.0, 2.0, 3.0], pa.float64()),
    }
    pairs = read_dataset(write(tmp_path / "a.parquet", columns, row_group_size=2)).pairs
    assert pairs.column_names == ["pair_id", *NAMES]
    assert [str(field.type) for field in pairs.schema] == ["string", "float", "int16", "int32", "int64"]
    assert all(pairs.column(name).num_chunks == 1 for name in NAMES)
    assert pairs.column("pair_id").to_pylist() == ["00000001", "00000002", "00000003"]


def test_bad_rows_over_several_shards(tmp_path):
    good = {name: [2.0, 3.0] for name in NAMES}
    for number, change in enumerate(
        [
            {},
            {"reward_chosen": [math.nan, 1.0]},
            {"reward_rejected": [None, math.inf]},
            {"num_tokens_chosen": [0.0, 1e300]},
        ]
    ):
        write(tmp_path / f"part-{number}.parquet", {**good, **change})
    dataset = read_dataset(str(tmp_path))
    assert dataset.bad_rows.counts == {"not_finite": 2, "null_value": 1, "bad_num_tokens": 2}
    assert {(bad.file, bad.row, bad.reason) for bad in dataset.bad_rows.examples} == {
        ("part-1.parquet", 1, "not_finite"),
        ("part-2.parquet", 1, "null_value"),
        ("part-2.parquet", 2, "not_finite"),
        ("part-3.parquet", 1, "bad_num_tokens"),
        ("part-3.parquet", 2, "bad_num_tokens"),
    }
    assert dataset.pairs.column("pair_id").to_pylist() == ["00000001", "00000002", "00000004"]
    assert dataset.num_rows == 8


numbers = st.none() | st.floats(width=32) | st.integers(-3, 3).map(float)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=12))
@example([(None, None, None, None), (None, None, None, math.inf)])  # null beside the one value that is bad itself
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_by_columns_and_row_by_row_give_the_same(tmp_path, rows):
    table = [dict(zip(NAMES, row, strict=True)) for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    schema = pa.schema([(name, pa.float64()) for name in NAMES])
    pq.write_table(pa.Table.from_pylist(table, schema=schema), tmp_path / "a.parquet")
    found = []
    for name in ("a.parquet", "a.jsonl"):
        try:
            dataset = read_dataset(str(tmp_path / name))
        except DataError as error:
            assert "can be used" in error.message
            found.append(error.message.replace(name, "a"))
        else:
            examples = [(bad.row, bad.reason, bad.detail) for bad in dataset.bad_rows.examples]
            found.append((dataset.pairs.to_pylist(), dataset.bad_rows.counts, examples, dataset.num_rows))
    assert found[0] == found[1]


def test_ids_groups_and_other_columns(tmp_path):
    columns = {
        **{name: [1.0, 2.0] for name in NAMES},
        "id": [7, 5],
        "skill": ["sums", None],
        "odd": ['"quoted"\n', None],
        "flag": [True, False],
        "kept": [True, None],
    }
    dataset = read_dataset(write(tmp_path / "a.parquet", columns), columns={"group": "skill"})
    rows = dataset.pairs.to_pylist()
    assert [row["pair_id"] for row in rows] == ["7", "5"] and [row["group"] for row in rows] == ["sums", None]
    assert [json.loads(row["columns_json"]) for row in rows] == [
        {"odd": '"quoted"\n', "flag": True, "kept": True},
        {"odd": None, "flag": False, "kept": None},
    ]
    plain = {**{name: [1.0, 2.0] for name in NAMES}, "b": ["x", None], "a": [1, 2]}
    rows = read_dataset(write(tmp_path / "b.parquet", plain)).pairs.column("columns_json").to_pylist()
    assert rows == ['{"a":1,"b":"x"}', '{"a":2,"b":null}']


def test_ids_that_cannot_be_used(tmp_path):
    for ids in (["a", "a"], ["a", None], [0.5, 1.5]):
        path = write(tmp_path / "a.parquet", {**{name: [1.0, 2.0] for name in NAMES}, "id": ids})
        dataset = read_dataset(path)
        assert dataset.pairs.column("pair_id").to_pylist() == ["00000001", "00000002"]
        assert any("it is not used as pair_id" in note for note in dataset.notes)
        with pytest.raises(DataError, match="leave pair_id out"):
            read_dataset(path, columns={"pair_id": "id"})


@pytest.mark.parametrize("count", [0, 1, 9_999, 10_000, 10_001])
def test_row_numbers(count):
    assert _row_numbers(count).to_pylist() == [f"{number:08d}" for number in range(1, count + 1)]


@pytest.mark.parametrize(
    "chunks, expected",
    [([["a", "b"], ["c"]], True), ([["b", "a"], ["c"]], True), ([["a", "b"], ["b"]], False), ([["c"], [], ["a"]], True),
     ([["b", "a", "b"]], False), ([["a", None]], False), ([[]], True)],
)  # fmt: skip
def test_all_differ(chunks, expected):
    assert all_differ(pa.chunked_array(chunks, type=pa.string())) is expected


def test_positive_log_probs_are_said(tmp_path):
    columns = {"policy_logp_chosen": [-1.0, 2.0], "policy_logp_rejected": [-1.0, -2.0]}
    notes = read_dataset(write(tmp_path / "a.parquet", columns)).notes
    assert len(notes) == 1 and "above 0 in 1 rows" in notes[0]


def test_a_column_that_is_null_everywhere_is_as_though_absent(tmp_path):
    columns = {
        **{name: [1.0, 2.0] for name in NAMES},
        "policy_logp_chosen": [None, None],
        "policy_logp_rejected": [None, None],
    }
    dataset = read_dataset(write(tmp_path / "a.parquet", columns))
    assert dataset.pairs.column_names == ["pair_id", *NAMES] and dataset.bad_rows.count == 0


def test_texts_as_numbers_are_read_row_by_row(tmp_path):
    columns = {"reward_chosen": ["1.5", "x"], "reward_rejected": ["1", "2"]}
    path = write(tmp_path / "a.parquet", columns)
    found = recognise(path, survey(open_source(path)), named={}, wanted=(), prefer="pairs")
    assert not has_only_numbers(open_source(path), found)
    dataset = read_dataset(path)
    assert dataset.pairs.column("reward_chosen").to_pylist() == [1.5] and dataset.bad_rows.counts == {"not_a_number": 1}


def test_a_saved_dataset_and_decimals(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({name: [1.0, 2.0] for name in NAMES}).save_to_disk(tmp_path / "saved")
    assert read_dataset(str(tmp_path / "saved")).pairs.num_rows == 2
    decimals = pa.array([1, 2], pa.int64()).cast(pa.decimal128(21, 1))
    path = write(tmp_path / "a.parquet", {"reward_chosen": decimals, "reward_rejected": [0.5, 0.5]})
    assert read_dataset(path).pairs.column("reward_chosen").to_pylist() == [1.0, 2.0]


def test_a_million_rows_cost_no_python_object_each(tmp_path):
    count = 1_000_000
    columns = {"reward_chosen": np.arange(count, dtype=np.float64), "reward_rejected": np.zeros(count)}
    pairs = read_dataset(write(tmp_path / "a.parquet", columns)).pairs
    assert pairs.num_rows == count and pairs.nbytes == count * (8 + 4 + 16)
