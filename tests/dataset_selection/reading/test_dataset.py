"""Reading an offline dataset: every kind of source, ids, bad rows, and real dialogues."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.dataset import read_dataset
from selfplay.inputs.prompts import load_prompts

HH = Path(__file__).resolve().parents[4] / "shared" / "data" / "hh-harmless" / "test.jsonl.gz"
ROWS = [
    {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "score_chosen": 1.5, "score_rejected": -0.5, "source": "sums"},
    {
        "prompt": "Say hello.",
        "chosen": "hello",
        "rejected": "no",
        "score_chosen": 2.0,
        "score_rejected": 0.0,
        "source": "x",
    },
]


def write_jsonl(path: Path, rows: list) -> str:
    lines = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def write_kind(folder: Path, kind: str) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    values = "\r\n".join(",".join(map(str, row)) for row in [ROWS[0], *(row.values() for row in ROWS)]) + "\r\n"
    table = pa.Table.from_pylist(ROWS)
    contents = {
        "jsonl": lines,
        "json": json.dumps(ROWS).encode(),
        "csv": b"\xef\xbb\xbf" + values.encode(),
        "tsv": values.replace(",", "\t").encode(),
    }
    path = folder / f"pairs.{kind}"
    bare = kind.removesuffix(".gz")
    if bare == "parquet":
        pq.write_table(table, folder / "pairs.parquet")
        content = (folder / "pairs.parquet").read_bytes()
    else:
        content = contents[bare]
    path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    return str(path)


@pytest.mark.parametrize(
    "kind",
    ["jsonl", "jsonl.gz", "json", "json.gz", "csv", "csv.gz", "tsv", "tsv.gz", "parquet", "parquet.gz"],
)
def test_every_kind_of_file_gives_the_same_pairs(tmp_path, kind):
    dataset = read_dataset(write_kind(tmp_path, kind))
    expected = read_dataset(write_jsonl(tmp_path / "same.jsonl", ROWS))
    assert dataset.kind == "pairs" and dataset.num_rows == 2 and dataset.bad_rows.count == 0
    assert dataset.pairs.drop_columns(["source_file"]).equals(expected.pairs.drop_columns(["source_file"]))
    row = dataset.pairs.to_pylist()[0]
    assert row["prompt"] == [{"role": "user", "content": "2 + 2?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "4"}]
    assert row["rejected"] == [{"role": "assistant", "content": "5"}]
    assert (row["reward_chosen"], row["reward_rejected"]) == (1.5, -0.5)
    assert row["columns_json"] == '{"source":"sums"}'
    assert (row["source_file"], row["source_row"]) == (f"pairs.{kind}", 1)
    assert dataset.recognised["reward_chosen"] == "score_chosen" and dataset.recognised["prompt"] == "prompt"


def test_a_folder_of_shards_a_saved_dataset_and_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row]), shards / f"part-{number:05d}.parquet")
    (shards / ".COMMIT.json").write_text("{}")
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=saved, test=saved.select([1])).save_to_disk(tmp_path / "splits")
    expected = read_dataset(write_jsonl(tmp_path / "a.jsonl", ROWS)).pairs.column("pair_id").to_pylist()
    for name, split in (("shards", None), ("saved", None), ("splits", "train")):
        dataset = read_dataset(name, split=split, base_dir=tmp_path)
        assert dataset.pairs.column("pair_id").to_pylist() == expected
    assert [(row["source_file"], row["source_row"]) for row in read_dataset(str(shards)).pairs.to_pylist()] == [
        ("part-00000.parquet", 1),
        ("part-00001.parquet", 1),
    ]
    with pytest.raises(DataError, match="there are train, test"):
        read_dataset("splits", base_dir=tmp_path)


def test_what_select_wrote_is_read_by_its_split(tmp_path):
    derived = {"explicit_margin": 2.0, "metric_value": 0.5, "rank": 1, "kept": True, "drop_reason": None}
    for split, row in zip(("kept", "dropped"), ROWS, strict=True):
        (tmp_path / split).mkdir()
        columns = {"columns_json": '{"skill":"sums"}', "reference_logp_chosen": None, "reference_logp_rejected": None}
        table = pa.Table.from_pylist([{**row, **derived, **columns}])
        pq.write_table(table, tmp_path / split / "part-00000.parquet")
    (tmp_path / "summary.json").write_text("{}")
    dataset = read_dataset(str(tmp_path), split="kept")
    assert dataset.pairs.num_rows == 1 and "reference_logp_chosen" not in dataset.pairs.column_names
    assert dataset.pairs.column("columns_json").to_pylist() == ['{"skill":"sums","source":"sums"}']
    assert any("left out" in note and "metric_value" in note for note in dataset.notes)
    assert any("null in every row" in note for note in dataset.notes)
    with pytest.raises(DataError, match="has several splits; there are dropped, kept"):
        read_dataset(str(tmp_path))


def test_files_named_after_splits_and_mixed_folders(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data" / f"{name}.parquet")
    assert read_dataset(str(tmp_path), split="train").num_rows == 4
    for split, said in ((None, "has several splits; there are test, train"), ("dev", "has no split 'dev'")):
        with pytest.raises(DataError, match=said):
            read_dataset(str(tmp_path), split=split)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    write_jsonl(mixed / "a.jsonl", ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), mixed / "b.parquet")
    with pytest.raises(DataError, match="several kinds: jsonl, parquet"):
        read_dataset(str(mixed))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds no data files"):
        read_dataset(str(tmp_path / "bare"))


def test_ids_equal_rows_stay_two_and_equal_prompts_are_one(tmp_path):
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = write_jsonl(tmp_path / "a.jsonl", [row, row, {**row, "chosen": "d"}])
    pairs = read_dataset(path).pairs.to_pylist()
    assert len({pair["pair_id"] for pair in pairs}) == 3 and len({pair["prompt_id"] for pair in pairs}) == 1
    assert pairs[0]["prompt_id"] == load_prompts(path, "prompt").prompts[0].prompt_id
    assert read_dataset(path).pairs.column("pair_id").to_pylist() == [pair["pair_id"] for pair in pairs]


def test_the_users_ids_are_taken_where_they_are_unique(tmp_path):
    rows = [{**row, "id": number, "prompt_id": f"p{number}"} for number, row in enumerate(ROWS)]
    dataset = read_dataset(write_jsonl(tmp_path / "a.jsonl", rows))
    assert dataset.pairs.column("pair_id").to_pylist() == ["0", "1"]
    assert dataset.pairs.column("prompt_id").to_pylist() == ["p0", "p1"]
    twice = write_jsonl(tmp_path / "b.jsonl", [{**row, "id": 7, "prompt_id": "p"} for row in ROWS])
    dataset = read_dataset(twice)
    assert len(set(dataset.pairs.column("pair_id").to_pylist())) == 2
    assert len(set(dataset.pairs.column("prompt_id").to_pylist())) == 2
    assert any("repeats 1 ids" in note for note in dataset.notes)
    assert any("one id, 'p', for different prompts" in note for note in dataset.notes)
    for ours, said in (("pair_id", "repeats 1 ids"), ("prompt_id", "for different prompts")):
        with pytest.raises(DataError, match=said):
            read_dataset(twice, columns={ours: "id" if ours == "pair_id" else "prompt_id"})


GOOD = {"prompt": "p", "chosen": "c", "rejected": "r", "reward_chosen": 1, "reward_rejected": 0, "num_tokens_chosen": 3}
GOOD["num_tokens_rejected"] = 2
BAD = [
    ("{broken", "unreadable"),
    ("[1]", "unreadable"),
    (b'{"prompt": "\xff"}', "unreadable"),
    ({key: value for key, value in GOOD.items() if key != "chosen"}, "no_column"),
    ({key: value for key, value in GOOD.items() if key != "prompt"}, "no_column"),
    ({**GOOD, "rejected": None}, "null_value"),
    ({**GOOD, "chosen": " \n\t"}, "empty_text"),
    ({**GOOD, "chosen": ""}, "empty_text"),
    ({**GOOD, "chosen": 3}, "not_messages"),
    ({**GOOD, "prompt": {"a": 1}}, "not_messages"),
    ({**GOOD, "chosen": "half \ud800 of a pair"}, "not_unicode"),
    ({**GOOD, "reward_chosen": float("nan")}, "not_finite"),
    ({**GOOD, "reward_chosen": "NaN"}, "not_finite"),
    ({**GOOD, "reward_chosen": "-inf"}, "not_finite"),
    ({**GOOD, "reward_chosen": 10**400}, "not_finite"),
    ({**GOOD, "reward_chosen": None}, "null_value"),
    ({key: value for key, value in GOOD.items() if key != "reward_rejected"}, "null_value"),
    ({**GOOD, "reward_chosen": "good"}, "not_a_number"),
    ({**GOOD, "reward_chosen": "1_000"}, "not_a_number"),
    ({**GOOD, "reward_chosen": [1.0]}, "not_a_number"),
    ({**GOOD, "num_tokens_chosen": 0}, "bad_num_tokens"),
    ({**GOOD, "num_tokens_chosen": 1.5}, "bad_num_tokens"),
]


def test_every_bad_row_is_counted_once_with_file_and_row(tmp_path):
    rows = [GOOD]
    for row, _ in BAD:
        rows += ["", row]
    dataset = read_dataset(write_jsonl(tmp_path / "a.jsonl", rows))
    expected = {}
    for number, (_, reason) in enumerate(BAD):
        expected.setdefault(reason, []).append(3 + 2 * number)
    assert dataset.bad_rows.counts == {reason: len(rows) for reason, rows in sorted(expected.items())}
    found = {}
    for bad in dataset.bad_rows.examples:
        assert bad.file == "a.jsonl" and bad.detail
        found.setdefault(bad.reason, []).append(bad.row)
    assert found == {reason: rows[:5] for reason, rows in expected.items()}
    assert dataset.pairs.num_rows == 1 and dataset.num_rows == 1 + dataset.bad_rows.count
    assert dataset.pairs.schema.field("num_tokens_chosen").type == pa.int64()


def test_no_usable_row_names_the_first_few(tmp_path):
    with pytest.raises(
        DataError, match=r"none of the 2 rows .*empty_text 1, null_value 1.*a.jsonl row 1: column 'chosen'"
    ):
        read_dataset(write_jsonl(tmp_path / "a.jsonl", [{**GOOD, "chosen": ""}, {**GOOD, "rejected": None}]))
    for content, said in ((b"", "has no rows"), (b"{broken\n", "no row .* can be read: a.jsonl row 1: not valid JSON")):
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(DataError, match=said):
            read_dataset(str(tmp_path / "a.jsonl"))


def test_equal_chosen_and_rejected_control_characters_and_long_texts_are_no_bad_rows(tmp_path):
    odd = "\x00\x1b[31m\u202e\ufeff" + "x" * 300_000
    rows = [{"prompt": odd, "chosen": odd, "rejected": odd}]
    pairs = read_dataset(write_jsonl(tmp_path / "a.jsonl", rows)).pairs.to_pylist()
    assert pairs[0]["prompt"][0]["content"] == pairs[0]["chosen"][0]["content"] == odd
    (tmp_path / "a.csv").write_text(f"prompt,chosen,rejected\np,{'y' * 300_000},r\n")
    assert len(read_dataset(str(tmp_path / "a.csv")).pairs.to_pylist()[0]["chosen"][0]["content"]) == 300_000


def test_files_that_cannot_be_read_as_a_whole(tmp_path):
    packed = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in ROWS * 50))
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[:-20])
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not parquet")
    (tmp_path / "twice.csv").write_text("prompt,chosen,rejected,chosen\n1,2,3,4\n")
    column = pa.array(["a"])
    pq.write_table(
        pa.Table.from_arrays([column] * 4, ["prompt", "chosen", "rejected", "chosen"]), tmp_path / "twice.parquet"
    )
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name, said in (
        ("cut.jsonl.gz", "cannot be read"),
        ("no.parquet", "cannot be read"),
        ("twice.csv", "two columns called 'chosen'"),
        ("twice.parquet", "two columns called 'chosen'"),
        ("a.txt", "an unknown file format"),
        ("deep.json", "not valid JSON"),
        ("twice.cvs", "Did you mean twice.csv"),
    ):
        with pytest.raises(DataError, match=said):
            read_dataset(str(tmp_path / name))


def test_bytes_that_are_not_utf8_in_parquet_are_one_bad_row(tmp_path):
    raw = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary())
    chosen = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    table = pa.table({"prompt": ["a", "b", "c"], "chosen": chosen, "rejected": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = read_dataset(str(tmp_path / "a.parquet"))
    assert dataset.pairs.num_rows == 2
    assert [(bad.row, bad.reason, bad.detail) for bad in dataset.bad_rows.examples] == [(2, "unreadable", "not UTF-8")]


def test_the_digest_follows_the_content(tmp_path):
    first = read_dataset(write_jsonl(tmp_path / "a.jsonl", ROWS)).digest
    assert read_dataset(write_jsonl(tmp_path / "b.jsonl", ROWS)).digest == first
    assert read_dataset(write_jsonl(tmp_path / "a.jsonl", ROWS[::-1])).digest != first


def test_groups_and_a_metrics_own_columns(tmp_path):
    rows = [{**row, "difficulty": number, "embedding": [0.5, number]} for number, row in enumerate(ROWS)]
    rows[1]["difficulty"] = None
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    dataset = read_dataset(path, columns={"group": "source"}, wanted=["difficulty"])
    assert dataset.pairs.column("group").to_pylist() == ["sums", "x"]
    values = dataset.pairs.column("difficulty").to_pylist()
    assert values[0] == 0 and values[1] != values[1]  # null is NaN: that metric cannot rank the row
    assert dataset.pairs.column("embedding").to_pylist() == [[0.5, 0.0], [0.5, 1.0]]
    assert "difficulty" not in read_dataset(path).pairs.column_names


@pytest.mark.parametrize(
    "value, reason",
    [
        (None, "null_value"),
        ([1.0], "not_an_embedding"),
        ("a", "not_an_embedding"),
        ([1, None], "not_an_embedding"),
        ([1, 1e300], "not_finite"),
    ],
)
def test_embeddings_that_are_none(tmp_path, value, reason):
    rows = [{**ROWS[0], "embedding": [0.5, 1.0]}, {**ROWS[1], "embedding": value}]
    assert read_dataset(write_jsonl(tmp_path / "a.jsonl", rows)).bad_rows.counts == {reason: 1}


@pytest.mark.realdata
def test_hh_dialogues_become_pairs():
    if not HH.is_file():
        pytest.skip(f"{HH} is not here")
    dataset = read_dataset(str(HH))
    assert (dataset.num_rows, dataset.pairs.num_rows) == (2312, 2308)
    assert dataset.bad_rows.counts == {"empty_text": 4}
    for pair in dataset.pairs.to_pylist():
        roles = [message["role"] for message in pair["prompt"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


def test_reading_imports_no_torch():
    code = (
        "import sys, selfplay.dataset_selection.reading.dataset; "
        "print([m for m in ('torch', 'datasets', 'ray') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_hub_dataset_by_rows_and_by_columns(monkeypatch):
    datasets = pytest.importorskip("datasets")
    for rows in (ROWS, [{"reward_chosen": 1.0, "reward_rejected": float(number)} for number in range(3)]):
        hub = datasets.Dataset.from_list([*rows, rows[0]]).select(range(len(rows)))
        monkeypatch.setattr("selfplay.inputs.rows.source._load_hub", lambda *args, hub=hub: hub)
        dataset = read_dataset("someone/pairs", split="train")
        assert dataset.pairs.num_rows == dataset.num_rows == len(rows)
        assert dataset.digest == read_dataset("someone/pairs", split="train").digest
    with pytest.raises(DataError, match="is local and has no subsets"):
        read_dataset(__file__, subset="a")


def test_booleans_are_1_and_0(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,score_chosen,score_rejected\np,a,b,True,false\n")
    flags = [{**GOOD, "reward_chosen": True, "reward_rejected": False}]
    for path in (write_jsonl(tmp_path / "a.jsonl", flags), str(tmp_path / "a.csv")):
        row = read_dataset(path).pairs.to_pylist()[0]
        assert (row["reward_chosen"], row["reward_rejected"]) == (1.0, 0.0)


def test_two_different_system_prompts_are_refused(tmp_path):
    dialogue = [{"role": "system", "content": "a"}, {"role": "user", "content": "q"}]
    sides = {side: [*dialogue, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    rows = [{**sides, "system": "a"}, {**sides, "system": None}, {**sides, "system": "b"}]
    dataset = read_dataset(write_jsonl(tmp_path / "a.jsonl", rows))
    assert dataset.pairs.num_rows == 2 and dataset.bad_rows.counts == {"two_system_prompts": 1}
    assert read_dataset(write_jsonl(tmp_path / "a.jsonl", rows), columns={"system": ""}).pairs.num_rows == 3
