"""The kept pairs as other trainers read them: TRL's own code, and the rules of LLaMA-Factory's and axolotl's loaders."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from selfplay.dataset_selection import pipeline
from selfplay.dataset_selection.settings import load_settings
from selfplay.execution.progress import Reporter
from selfplay.inspect.export import formats
from tests.helpers.tables import text_rows, write_rows
from tests.helpers.tiny import make_tokenizer


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten kept pairs; some prompts have a system message, or several turns."""
    root = tmp_path_factory.mktemp("formats")
    rows = text_rows(20)
    for row in rows[::3]:
        row["prompt"] = [{"role": "system", "content": "be kind"}, *row["prompt"]]
    for row in rows[1::3]:
        row["prompt"] = [*row["prompt"], {"role": "assistant", "content": "what?"}, {"role": "user", "content": "that"}]
    settings, _ = load_settings(
        {"dataset": str(write_rows(root / "a.jsonl", rows)), "out": str(root / "out"), "keep": 0.5}
    )
    pipeline.run(settings, Reporter(io.StringIO()))
    return root / "out"


def jsonl(result: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result / formats.FILE).read_text().splitlines()]


def kept(result: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(result / "kept", partitioning=None).to_pylist())


def test_trl_reads_the_parquet_as_it_is(result: Path, tmp_path: Path) -> None:
    import datasets
    from trl.data_utils import is_conversational, maybe_apply_chat_template

    rows = datasets.load_dataset(str(result), split="kept", cache_dir=str(tmp_path))
    assert rows.num_rows == 10
    for row in rows:
        assert is_conversational(row)
        found = maybe_apply_chat_template(
            {name: row[name] for name in ("prompt", "chosen", "rejected")}, make_tokenizer()
        )
        assert found["prompt"].endswith("<|assistant|>")
        assert found["chosen"] == row["chosen"][0]["content"] + "<|end|>"


def test_llama_factory_reads_pairs(result: Path) -> None:
    """By the rules of src/llamafactory/data/parser.py and SharegptDatasetConverter."""
    info = json.loads((result / formats.DATASET_INFO).read_text())[formats.NAME]
    assert (info["formatting"], info["ranking"]) == ("sharegpt", True)
    tags, columns = info["tags"], info["columns"]
    accepted = ((tags["user_tag"],), (tags["assistant_tag"],))
    path = result / formats.FOLDER / info["file_name"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 10
    for row, source in zip(rows, kept(result), strict=True):
        messages = row[columns["messages"]]
        if messages[0][tags["role_tag"]] == tags["system_tag"]:
            messages = messages[1:]
        assert len(messages) % 2 == 1
        assert all(message[tags["role_tag"]] in accepted[turn % 2] for turn, message in enumerate(messages))
        for side in ("chosen", "rejected"):
            assert isinstance(row[columns[side]], dict)
            assert row[columns[side]][tags["role_tag"]] == tags["assistant_tag"]
            assert row[columns[side]][tags["content_tag"]] == source[side][0]["content"]


def test_axolotl_reads_pairs(result: Path) -> None:
    """By the rules of src/axolotl/prompt_strategies/dpo/chat_template.py."""
    config = yaml.safe_load((result / formats.AXOLOTL).read_text())
    assert config["rl"] == "dpo"
    (section,) = config["datasets"]
    assert section["type"] == "chat_template.default"
    assert (result / section["path"]).is_file()
    names = section["message_property_mappings"]
    for row in jsonl(result):
        roles = [message[names["role"]] for message in row[section["field_messages"]]]
        assert {*roles} <= {"system", "user", "assistant"}
        assert roles[-1] == "user"
        for side in (section["field_chosen"], section["field_rejected"]):
            assert row[side][names["role"]] == "assistant"
            assert row[side][names["content"]]


def test_rows_are_in_order_of_rank(result: Path) -> None:
    assert [row["chosen"] for row in jsonl(result)] == [row["chosen"][-1] for row in kept(result)]
    assert [row["rank"] for row in kept(result)] == list(range(1, 11))


def test_prompts_that_are_not_in_turn_are_counted() -> None:
    def prompt(*roles: str) -> list[dict[str, str]]:
        return [{"role": role, "content": "x"} for role in roles]

    prompts = [
        prompt("user"), prompt("system", "user"), prompt("user", "assistant", "user"),
        prompt("user", "user"), prompt("assistant", "user"), prompt("system", "user", "assistant", "assistant", "user"),
    ]  # fmt: skip
    assert formats.num_not_alternating(pa.table({"prompt": prompts})) == 3
