"""Prompt sources: every kind of file, every kind of bad row, ids, and the errors of a source that is none."""

import gzip
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import DataError
from selfplay.inputs.prompts import load_prompts
from selfplay.inputs.rows.source import open_source, source_digest
from selfplay.inputs.rows.values import lenient_json

ROWS = [{"question": "2 + 2?", "answer": "4"}, {"question": "Say hello.", "answer": "hello"}]


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_kind(folder: Path, kind: str) -> str:
    """ROWS as a source of the kind; returns its name in `folder`."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    path = folder / f"train.{kind}"
    if kind == "jsonl":
        path.write_text(lines)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind in ("csv", "tsv"):
        comma = "," if kind == "csv" else "\t"
        path.write_text("\n".join(comma.join(row) for row in [ROWS[0], *(row.values() for row in ROWS)]))
    return path.name


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet"])
def test_every_kind_of_file_gives_the_same_prompts(tmp_path, kind):
    source = load_prompts(write_kind(tmp_path, kind), "question", base_dir=tmp_path)
    assert [p.messages for p in source.prompts] == [[{"role": "user", "content": r["question"]}] for r in ROWS]
    assert [p.columns_json for p in source.prompts] == ['{"answer":"4"}', '{"answer":"hello"}']
    assert [(p.file, p.row, p.plain) for p in source.prompts] == [
        (f"train.{kind}", 1, True),
        (f"train.{kind}", 2, True),
    ]
    assert source.bad_rows.count == 0 and source.columns == ["question", "answer"]


@pytest.mark.parametrize(
    "text", ['{"data": [{"question": "a"}, {"question": "b"}]}', '{"question": "a"}\n{"question": "b"}\n']
)
def test_json_under_data_and_json_lines_called_json(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    source = load_prompts("a.json", "question", base_dir=tmp_path)
    assert [p.messages[0]["content"] for p in source.prompts] == ["a", "b"]


def test_saved_dataset_with_and_without_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=data, test=data.select([1])).save_to_disk(tmp_path / "two")
    assert [row.values for row in open_source("one", base_dir=tmp_path).rows()] == ROWS
    assert [row.values for row in open_source("two", "test", tmp_path).rows()] == ROWS[1:]
    with pytest.raises(DataError, match="has several splits; there are train, test"):
        open_source("two", base_dir=tmp_path)
    with pytest.raises(DataError, match="without splits"):
        open_source("one", "train", tmp_path)


def test_every_bad_row_is_reported_with_its_line(tmp_path):
    user = {"role": "user", "content": "hi"}
    bad = {
        2: ("{broken", "not valid JSON"),
        4: ({"q": "other column"}, "no column 'question'"),
        5: ({"question": None}, "is null"),
        6: ({"question": "  \n"}, "is empty"),
        7: ({"question": 7}, "neither text nor a list of messages but int"),
        8: ({"question": []}, "has no messages"),
        9: ({"question": [user, {"role": "assistant", "content": "x"}]}, "ends in a user turn"),
        10: ({"question": [{"role": "robot", "content": "x"}, user]}, "'robot'; roles are system, user, assistant"),
        11: ({"question": [user, {"role": "system", "content": "x"}, user]}, "a system message that is not its first"),
        12: ({"question": ["hi"]}, "not an object with role and content"),
        13: ({"question": [{"role": "user", "content": [{"type": "text"}]}]}, "is not text but list"),
        14: ({"question": [{**user, "tool_calls": [1]}]}, "has 'tool_calls': only text messages are read"),
        15: ('["a", "list"]', "not a JSON object but list"),
        16: ('{"question": "half \\ud83d"}', "not valid Unicode at character 6"),
    }
    rows = {1: {"question": "good"}, 3: "", **{line: row for line, (row, _) in bad.items()}}
    path = write_jsonl(tmp_path / "a.jsonl", [rows[line] for line in sorted(rows)])
    with path.open("ab") as file:
        file.write(b'{"question": "\xff"}\n{"question": "last"}\n')
    source = load_prompts("a.jsonl", "question", base_dir=tmp_path)
    assert [(p.messages[0]["content"], p.row) for p in source.prompts] == [("good", 1), ("last", 18)]
    reasons = {row.row: row.detail for row in source.bad_rows.examples}
    assert sorted(reasons) == [*sorted(bad), 17]
    for line, (_, reason) in bad.items():
        assert reason in reasons[line]
    assert reasons[17] == "not UTF-8"


def test_csv_rows_of_wrong_width_and_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'q,a\n"two\nlines",1\nx,1,2\nx\nbad \xff,1\n\nlast,1\n')
    source = load_prompts("a.csv", "q", base_dir=tmp_path)
    assert [(p.messages[0]["content"], p.row) for p in source.prompts] == [("two\nlines", 1), ("last", 5)]
    assert [(b.row, b.detail) for b in source.bad_rows.examples] == [
        (2, "3 fields, the header has 2"),
        (3, "1 fields, the header has 2"),
        (4, "column 'q' is not valid Unicode at character 5"),
    ]


def test_multi_turn_messages_and_system_prompt(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    own = [{"role": "system", "content": "own"}, turns[0]]
    pq.write_table(pa.Table.from_pylist([{"q": turns}, {"q": own}]), tmp_path / "a.parquet")
    prompts = load_prompts("a.parquet", "q", base_dir=tmp_path, system_prompt="Be brief.").prompts
    assert prompts[0].messages == [{"role": "system", "content": "Be brief."}, *turns]
    assert prompts[1].messages == own
    assert not prompts[0].plain
    plain = load_prompts(write_kind(tmp_path, "jsonl"), "question", base_dir=tmp_path, system_prompt="S").prompts[0]
    assert [m["role"] for m in plain.messages] == ["system", "user"] and plain.plain


def test_equal_prompts_stay_two_and_ids_do_not_depend_on_the_rest(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"q": "x"}, {"q": "y"}, {"q": "x"}])
    write_jsonl(tmp_path / "b.jsonl", [{"q": "y"}, {"q": "x", "more": 1}])
    first = [p.prompt_id for p in load_prompts("a.jsonl", "q", base_dir=tmp_path).prompts]
    second = [p.prompt_id for p in load_prompts("b.jsonl", "q", base_dir=tmp_path).prompts]
    assert len(set(first)) == 3 and all(len(name) == 16 for name in first)
    assert second == [first[1], first[0]]


def test_own_ids(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"q": "x", "id": 1}, {"q": "y", "id": "b"}, {"q": "z", "id": 1.5}, {"q": "w"}])
    source = load_prompts("a.jsonl", "q", base_dir=tmp_path, id_column="id")
    assert [p.prompt_id for p in source.prompts] == ["1", "b"]
    assert [(b.row, b.detail.split(" but ")[1]) for b in source.bad_rows.examples] == [(3, "float"), (4, "NoneType")]
    assert json.loads(source.prompts[0].columns_json) == {"id": 1}


def test_repeated_ids_are_refused_with_their_rows(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"q": "x", "id": 1}, {"q": "y", "id": 2}, {"q": "z", "id": "1"}])
    with pytest.raises(DataError, match=r"'1' in rows 1 and 3"):
        load_prompts("a.jsonl", "q", base_dir=tmp_path, id_column="id")


def test_missing_column_names_those_there_and_the_nearest(tmp_path):
    write_kind(tmp_path, "jsonl")
    with pytest.raises(DataError, match="no column 'qestion'; it has question, answer") as caught:
        load_prompts("train.jsonl", "qestion", base_dir=tmp_path)
    assert caught.value.hint == "Did you mean 'question'?"
    with pytest.raises(DataError, match="no column 'ids'"):
        load_prompts("train.jsonl", "question", base_dir=tmp_path, id_column="ids")


def test_nothing_but_bad_rows_and_nothing_at_all(tmp_path):
    write_jsonl(tmp_path / "bad.jsonl", ["{", "[1]", '{"q": ""}', '{"q": 3}'])
    with pytest.raises(
        DataError, match=r"none of the 4 rows .* row 1: not valid JSON.*row 2.*row 3: column 'q' is empty"
    ):
        load_prompts("bad.jsonl", "q", base_dir=tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="has no rows"):
        load_prompts("empty.jsonl", "q", base_dir=tmp_path)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="has no rows"):
        load_prompts("empty.csv", "q", base_dir=tmp_path)


def test_missing_and_unreadable_files(tmp_path):
    write_kind(tmp_path, "jsonl")
    with pytest.raises(DataError, match="no such file") as caught:
        load_prompts("trian.jsonl", "q", base_dir=tmp_path)
    assert caught.value.hint == "Did you mean train.jsonl?"
    with pytest.raises(DataError, match="no such file"):
        load_prompts("nowhere/train.jsonl", "q", base_dir=tmp_path)
    for name, content in {"a.parquet": b"PAR1", "a.jsonl.gz": b"\x1f\x8b\x08", "a.csv": b'q\n"open'}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            load_prompts(name, "q", base_dir=tmp_path)
    (tmp_path / "a.json").write_text('{"data": [')
    with pytest.raises(DataError, match="not valid JSON"):
        load_prompts("a.json", "q", base_dir=tmp_path)
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match="an unknown file format"):
        load_prompts("a.xlsx", "q", base_dir=tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"not a folder of Dataset\.save_to_disk"):
        load_prompts("folder", "q", base_dir=tmp_path)


def test_settings_that_do_nothing_are_refused(tmp_path):
    name = write_kind(tmp_path, "jsonl")
    with pytest.raises(DataError, match="has no splits"):
        load_prompts(name, "question", base_dir=tmp_path, split="train")
    with pytest.raises(DataError, match="no subset"):
        load_prompts(name, "question", base_dir=tmp_path, subset="main")


def test_hub_names_go_to_datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = load_prompts("org/name", "question", base_dir=tmp_path, split="train", subset="main", revision="abc")
    assert asked == [(("org/name", "main"), {"split": "train", "revision": "abc"})]
    assert [(p.file, p.row) for p in source.prompts] == [("org/name:train", 1), ("org/name:train", 2)]
    assert source_digest("org/name", "train", tmp_path) != source_digest("org/name", "test", tmp_path)
    with pytest.raises(DataError, match="needs a split"):
        load_prompts("org/name", "question", base_dir=tmp_path)

    def refuse(*args, **kwargs):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match="ConnectionError: no network"):
        load_prompts("org/name", "question", base_dir=tmp_path, split="train")


def test_columns_json_is_canonical():
    row = {"b": float("nan"), "a": [date(2026, 1, 2), {"x": float("inf")}], "ä": "ü\ud83d", "n": 1, "t": True}
    assert lenient_json(row) == '{"a":["2026-01-02",{"x":null}],"b":null,"n":1,"t":true,"ä":"ü?"}'


def test_digest_follows_the_content(tmp_path):
    name = write_kind(tmp_path, "jsonl")
    before = source_digest(name, base_dir=tmp_path)
    assert len(before) == 64 and source_digest(name, base_dir=tmp_path) == before
    write_jsonl(tmp_path / name, [ROWS[0]])
    assert source_digest(name, base_dir=tmp_path) != before


def test_importing_and_reading_needs_no_torch(tmp_path):
    write_kind(tmp_path, "jsonl")
    code = (
        "import sys, selfplay.inputs.prompts as s; s.load_prompts(sys.argv[1], 'question');"
        "assert not {'torch', 'datasets', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "train.jsonl")], check=True)


def test_the_forms_that_select_reads_are_read(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    forms = [
        turns,
        json.dumps(turns),
        repr(turns),
        "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:",
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}],
        [*turns[:2], {"role": "user", "content": [{"type": "text", "text": "c"}]}],
    ]
    write_jsonl(tmp_path / "a.jsonl", [{"q": form} for form in forms])
    source = load_prompts("a.jsonl", "q", base_dir=tmp_path)
    assert [prompt.messages for prompt in source.prompts] == [turns] * len(forms)
    assert not any(prompt.plain for prompt in source.prompts)


def test_instruction_input_and_system_columns(tmp_path):
    row = {"instruction": "Add.", "input": "2 and 2", "system": "Be brief."}
    write_jsonl(tmp_path / "a.jsonl", [row, {"instruction": "Say hello.", "input": "", "system": None}])
    source = load_prompts("a.jsonl", "instruction", base_dir=tmp_path, system_prompt="S")
    assert [prompt.messages for prompt in source.prompts] == [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add.\n2 and 2"}],
        [{"role": "system", "content": "S"}, {"role": "user", "content": "Say hello."}],
    ]
    assert len(source.notes) == 2 and "'system' is used as the system prompt" in source.notes[1]
    assert json.loads(source.prompts[0].columns_json) == {"input": "2 and 2", "system": "Be brief."}


def test_prompts_are_taken_by_row(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"q": f"{number}"} for number in range(5)])
    prompts = load_prompts("a.jsonl", "q", base_dir=tmp_path).prompts
    assert [prompt.row for prompt in prompts.take([3, 0])] == [4, 1]
    assert [prompt.row for prompt in prompts[1:3]] == [2, 3] and prompts[-1].row == 5 and len(prompts[:2]) == 2
