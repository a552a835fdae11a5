"""The kept pairs as other trainers read them.

TRL reads the Parquet files as they are (`prompt`, `chosen`, `rejected` as lists of messages). LLaMA-Factory wants a
`dataset_info.json` beside its file, with `ranking: true`, and in the ShareGPT form one message object each for chosen and
rejected (its converter tells pairs by that); axolotl's `chat_template.default` takes such a file too. So both read one JSONL
file, in a folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

FOLDER = "formats"
FILE = f"{FOLDER}/kept.jsonl"
DATASET_INFO = f"{FOLDER}/dataset_info.json"
AXOLOTL = f"{FOLDER}/axolotl.yaml"
NAME = "kept"

# Keys as in src/llamafactory/data/parser.py: roles and contents go by the names that our messages have.
_INFO: dict[str, Any] = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}

# Keys as in src/axolotl/prompt_strategies/dpo/chat_template.py.
_AXOLOTL = """\
# Put this into an axolotl config. Paths are relative to the folder in which axolotl is started.
rl: dpo
datasets:
"""
_AXOLOTL_FILE = """\
  - path: {path}
    ds_type: json
    split: train
    type: chat_template.default
    field_messages: conversations
    field_chosen: chosen
    field_rejected: rejected
    message_property_mappings:
      role: role
      content: content
"""


def dataset_info(files: Mapping[str, str]) -> bytes:
    """`dataset_info.json` for LLaMA-Factory; `files` maps names of datasets to their files."""
    document = {name: {"file_name": file, **_INFO} for name, file in files.items()}
    return (json.dumps(document, indent=2) + "\n").encode()


def axolotl(*paths: str) -> bytes:
    """The `datasets` section of an axolotl config for these files."""
    return (_AXOLOTL + "".join(_AXOLOTL_FILE.format(path=path) for path in paths)).encode()


def plain_lines(table: pa.Table) -> Iterator[bytes]:
    """JSONL lines of `prompt`, `chosen`, `rejected` (messages) with the numbers that ranked the pair."""
    for batch in table.drop_columns(["kept", "drop_reason"]).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield (json.dumps(row, ensure_ascii=False) + "\n").encode()


def lines(table: pa.Table) -> Iterator[bytes]:
    """The JSONL file's lines, from the kept pairs in order of rank."""
    for batch in table.select(["prompt", "chosen", "rejected"]).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            document = {"conversations": row["prompt"], "chosen": row["chosen"][-1], "rejected": row["rejected"][-1]}
            yield (json.dumps(document, ensure_ascii=False) + "\n").encode()


def num_not_alternating(table: pa.Table) -> int:
    """Pairs whose prompt is not user and assistant in turn (a system message first is allowed), ending with the user:
    LLaMA-Factory skips them."""
    count = 0
    for batch in table.select(["prompt"]).to_batches(max_chunksize=1024):
        for prompt in batch["prompt"].to_pylist():
            roles = [message["role"] for message in prompt]
            turns = roles[1:] if roles[:1] == ["system"] else roles
            expected = [("user", "assistant")[place % 2] for place in range(len(turns))]
            count += turns != expected or len(turns) % 2 == 0
    return count
