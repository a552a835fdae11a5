"""The typed records that pass between stages, and their Arrow schemas.

One frozen dataclass per table; `schema(cls)` is its Arrow schema, `to_table(cls, rows)` makes a table of rows.
Null is allowed only where the annotation says `| None`. Token ids, not text, are what sampler, log-probs and trainer exchange.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

# pyarrow takes long to import, and `status` and `rounds` read no table
if TYPE_CHECKING:
    import pyarrow as pa


class Message(TypedDict):
    """One chat message: {"role": "user", "content": "Say hello."}"""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of one round (stage *prompts*); a row with a `drop_reason` is not sampled from.

    Example: Prompt("9f2c...", 1, "train.jsonl", 17, [{"role": "user", "content": "Say hello."}], [1, 52, 9], 3, "{}", None)
    """

    prompt_id: str
    round: int
    source_file: str
    source_row: int
    messages: list[Message]
    prompt_token_ids: list[int]
    num_prompt_tokens: int
    columns_json: str
    drop_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled response (stage *sample*). `token_ids` ends with the sampled end token when `finish_reason` is "stop".
    `policy_digest` identifies the weights that sampled it, `policy_round` is the round that trained them (0: the starting
    policy; null: a model that this run did not train, such as the second model of `sampling.mix`). `sampler_logp` is the log-prob
    sum of the tokens as the engine computed it (natural log, temperature 1, before penalties; null where it was not asked for).

    Example: Response("9f2c...-r001-0", "9f2c...", 1, 0, 123456, [7, 8, 2], 3, "hello", "stop", "5e1d...", 0, -12.5)
    """

    response_id: str
    prompt_id: str
    round: int
    response_index: int
    seed: int
    token_ids: list[int]
    num_tokens: int
    text: str
    finish_reason: str
    policy_digest: str
    policy_round: int | None
    sampler_logp: float | None = None


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one response (stage *score*): null with a `drop_reason` when it could not be scored.

    Example: Reward("9f2c...-r001-0", 0.73, None, None)
    """

    response_id: str
    reward: float | None
    gold_reward: float | None = None
    drop_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Unused:
    """A response that is in no pair, and why (stage *pair*). Example: Unused("9f2c...-r001-3", "not_extreme")"""

    response_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probs of one response (stage *logprobs*): sums over its tokens at temperature 1, natural log, the sampled end token
    included; of a teacher-forced pass, or of the engine that sampled it. `reference_logp` is null where there is no reference,
    and where the ranking does not need it and *train* computes it for the kept pairs.

    Example: Logprobs("9f2c...-r001-0", -12.5, -12.5, 3)
    """

    response_id: str
    policy_logp: float
    reference_logp: float | None
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference pair with everything that ranked it (stage *select*); see docs/data.md for each column.

    Example: Pair("9f2c...-r001-0-3", 1, "9f2c...", [user], [assistant], [assistant], "...-0", "...-3", 0.9, 0.1, 0.8, ...)
    """

    pair_id: str
    round: int
    prompt_id: str
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    chosen_response_id: str
    rejected_response_id: str
    reward_chosen: float
    reward_rejected: float
    explicit_margin: float
    policy_logp_chosen: float | None = None
    policy_logp_rejected: float | None = None
    reference_logp_chosen: float | None = None
    reference_logp_rejected: float | None = None
    num_tokens_chosen: int = 0
    num_tokens_rejected: int = 0
    implicit_margin: float | None = None
    alignment_potential: float | None = None
    metric_value: float | None = None
    rank: int | None = None
    kept: bool = False
    drop_reason: str | None = None


@dataclass(frozen=True, slots=True)
class EvaluationResponse:
    """One response of the held-out evaluation (stage *evaluate*), `mode` is "sampled" or "greedy"; `policy_*` as in Response.

    Example: EvaluationResponse("9f2c...-e001-s0", "9f2c...", 1, "sampled", 0, 123456, [7, 2], 2, "hello", "stop", "a0..", 1, .7)
    """

    response_id: str
    prompt_id: str
    round: int
    mode: str
    response_index: int
    seed: int
    token_ids: list[int]
    num_tokens: int
    text: str
    finish_reason: str
    policy_digest: str
    policy_round: int | None
    reward: float | None = None
    gold_reward: float | None = None
    drop_reason: str | None = None


def _arrow_type(hint: Any) -> pa.DataType:
    import pyarrow as pa

    kinds: dict[Any, pa.DataType] = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        list[int]: pa.list_(pa.int32()),
        list[Message]: pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])),
    }
    return kinds[hint]


@functools.cache
def schema(record: type) -> pa.Schema:
    """Arrow schema of a record class: one field per dataclass field, nullable only where the annotation says `| None`."""
    import pyarrow as pa

    hints = typing.get_type_hints(record)
    fields = []
    for field in dataclasses.fields(record):
        hint = hints[field.name]
        members = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        nullable = type(None) in typing.get_args(hint)
        fields.append(pa.field(field.name, _arrow_type(members[0] if nullable else hint), nullable=nullable))
    return pa.schema(fields)


def part_column(name: str) -> str:
    """The column that holds a part of a combined reward (`reward.parts.NAME`) as its scorer gave it."""
    return f"reward_{name}"


def with_parts(shape: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """A schema with `reward` (rewards, responses of the evaluation) with the columns of the parts behind it, by name."""
    import pyarrow as pa

    fields = [pa.field(part_column(name), pa.float64()) for name in sorted(names)]
    at = shape.get_field_index("reward") + 1
    return pa.schema([*list(shape)[:at], *fields, *list(shape)[at:]])


def part_columns(names: Iterable[str]) -> list[str]:
    """Which columns of such a table hold parts of a reward."""
    return [name for name in names if name.startswith("reward_")]


def to_table(record: type, rows: Iterable[Any]) -> pa.Table:
    """Rows of one record class as an Arrow table with its schema (also when there is no row)."""
    import pyarrow as pa

    rows = list(rows)
    shape = schema(record)
    columns = [pa.array([getattr(row, field.name) for row in rows], type=field.type) for field in shape]
    return pa.Table.from_arrays(columns, schema=shape)
