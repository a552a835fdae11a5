"""What must hold between the rows of a round's tables, whoever wrote them (`verify --deep`).

Only stages whose files are intact are looked at; a rule that needs a stage that is not committed yet says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.outcomes import EvaluateOutcome, LogprobsOutcome, PairOutcome, SampleOutcome, SelectOutcome
from selfplay.core.stages import CANDIDATES, STAGES, Stage
from selfplay.inspect.verify.commit_chain import Problem
from selfplay.store.commits import remedy
from selfplay.store.run import Store
from selfplay.store.run_state import config_of_round, is_selection


def check_rows(store: Store, sound: Set[tuple[int, str]]) -> Iterator[Problem]:
    """A problem for each rule that a round breaks; `sound` names the (round, stage) whose files are intact."""
    for number in sorted({number for number, _ in sound}):
        shaped = set()
        for stage in STAGES:
            if (number, stage.name) in sound and stage.schema is not None:
                if wrong := _wrong_columns(store, number, stage):
                    yield _problem(store, number, stage.name, f"columns missing or of another type: {', '.join(wrong)}")
                else:
                    shaped.add(stage.name)
        for needs, rule in _OF_SELECTIONS if is_selection(store) else _RULES:
            if set(needs) <= shaped:
                for message in rule(store, number):
                    yield _problem(store, number, needs[0], message)


def _problem(store: Store, number: int, stage: str, message: str) -> Problem:
    folder = store.layout.stage(number, stage)
    return Problem("rows", str(folder), f"round {number} {stage}: {message}", remedy(folder))


def _wrong_columns(store: Store, number: int, stage: Stage) -> list[str]:
    assert stage.schema is not None
    found = store.lazy_table(number, stage.name).schema()
    return [
        field.name
        for field in stage.schema
        if field.name not in found.names or found.field(field.name).type != field.type
    ]


def _prompts(store: Store, number: int) -> Iterator[str]:
    table = store.table(number, "prompts", columns=["prompt_id", "num_prompt_tokens", "drop_reason"])
    yield from _unique(table["prompt_id"], "prompt id")
    silent = table.filter(pc.and_(pc.is_null(table["drop_reason"]), pc.equal(table["num_prompt_tokens"], 0)))
    yield from _count(silent.num_rows, "prompts without tokens and without a reason")


def _responses(store: Store, number: int) -> Iterator[str]:
    table = store.table(number, "sample", columns=["response_id", "prompt_id", "token_ids", "num_tokens", "text"])
    yield from _unique(table["response_id"], "response id")
    yield from _sampled_by(store, number, "sample", store.outcome(number, SampleOutcome).policy_digest)
    lengths = pc.fill_null(pc.list_value_length(table["token_ids"]), 0)
    yield from _count(_true(pc.equal(lengths, 0)), "responses without token ids")
    yield from _count(
        _true(pc.not_equal(lengths, table["num_tokens"])), "responses whose num_tokens is not their number of tokens"
    )
    yield from _count(table["text"].null_count, "responses without text")
    prompts = store.table(number, "prompts", columns=["prompt_id", "drop_reason"])
    admitted = prompts.filter(pc.is_null(prompts["drop_reason"]))["prompt_id"]
    asked = table["prompt_id"].value_counts()
    counts = dict(zip(asked.field("values").to_pylist(), asked.field("counts").to_pylist(), strict=True))
    wanted = config_of_round(store, number)["sampling"]["num_responses"]
    # a prompt that killed its engine has none, or only those of the second model
    known = set(admitted.to_pylist())
    given_up = store.outcome(number, SampleOutcome).quarantined
    yield from _count(len(counts.keys() - known), "prompts with responses that were not admitted")
    short = sum(counts.get(prompt_id, 0) != wanted for prompt_id in known - given_up.keys())
    yield from _count(short, f"prompts that do not have {wanted} responses")


def _rewards(store: Store, number: int) -> Iterator[str]:
    table = store.table(number, "score", columns=["response_id", "reward", "drop_reason"])
    yield from _same(table["response_id"], _column(store, number, "sample", "response_id"), "rewards", "responses")
    yield from _count(_unexplained(table), "responses with neither a finite reward nor a reason")


def _pairs(store: Store, number: int) -> Iterator[str]:
    columns = ["pair_id", "prompt_id", "chosen_response_id", "rejected_response_id", "kept", "drop_reason"]
    table = store.table(number, "select", columns=columns)
    yield from _unique(table["pair_id"], "pair id")
    yield from _count(
        _true(pc.equal(table["chosen_response_id"], table["rejected_response_id"])), "pairs of one response with itself"
    )
    yield from _count(
        _true(pc.equal(table["kept"], pc.is_valid(table["drop_reason"]))),
        "pairs neither kept nor dropped with a reason",
    )
    summary = store.outcome(number, SelectOutcome).summary
    found, recorded = (table.num_rows, _true(table["kept"])), (summary.num_pairs, summary.num_kept)
    if found != recorded:
        yield f"{found[0]} pairs, {found[1]} of them kept; recorded were {recorded[0]} and {recorded[1]}"


def _pairs_are_of_their_responses(store: Store, number: int) -> Iterator[str]:
    columns = ["prompt_id", "chosen_response_id", "rejected_response_id", "reward_chosen", "reward_rejected"]
    table = store.table(number, "select", columns=columns)
    sample = store.table(number, "sample", columns=["response_id", "prompt_id", "num_tokens"])
    score = store.table(number, "score", columns=["response_id", "reward"])
    penalty = store.outcome(number, PairOutcome).length_penalty
    for side in ("chosen", "rejected"):
        ids = table[f"{side}_response_id"]
        row, scored = (pc.index_in(ids, other["response_id"].combine_chunks()) for other in (sample, score))
        unknown = row.null_count + scored.null_count
        if unknown:
            yield f"{unknown} {side} responses that were not sampled or not scored"
            continue
        strangers = pc.not_equal(sample["prompt_id"].take(row), table["prompt_id"])
        yield from _count(_true(strangers), f"pairs whose {side} response is another prompt's")
        with np.errstate(over="ignore"):  # of a response whose reward is beyond the largest float there is no pair
            reward = score["reward"].take(scored).to_numpy() - penalty * sample["num_tokens"].take(row).to_numpy()
        wrong = int((reward != table[f"reward_{side}"].to_numpy()).sum())
        off = f" less {penalty!r} a token" if penalty else ""
        yield from _count(wrong, f"pairs whose reward_{side} is not the response's reward{off}")
    not_better = pc.less_equal(table["reward_chosen"], table["reward_rejected"])
    yield from _count(_true(not_better), "pairs whose chosen response has no higher reward")
    candidates = store.table(number, "pair", CANDIDATES)
    if candidates.num_rows != table.num_rows:
        yield f"{table.num_rows} pairs of {candidates.num_rows} candidates"
    rules = config_of_round(store, number)["pairs"]
    # of a builder that gives one pair a prompt there is no such setting
    most = rules.get("max_per_prompt") if rules["build"] == "all" else 1
    if most is not None:
        over = pc.greater(table["prompt_id"].value_counts().field("counts"), most)
        yield from _count(_true(over), f"prompts with more than {most} pairs")


def _every_response_has_one_place(store: Store, number: int) -> Iterator[str]:
    pairs = store.table(number, "select", columns=["chosen_response_id", "rejected_response_id"])
    sides = [*pairs["chosen_response_id"].chunks, *pairs["rejected_response_id"].chunks]
    # a response may be in several pairs, but not in one and among the unused
    paired = pa.chunked_array(sides, pa.string()).unique()
    placed = pa.chunked_array([paired, *_column(store, number, "pair", "response_id").chunks])
    yield from _unique(placed, "in a pair and unused, or unused twice: response id")
    yield from _same(placed, _column(store, number, "sample", "response_id"), "pairs and unused together", "responses")


def _logprobs(store: Store, number: int) -> Iterator[str]:
    table = store.table(number, "logprobs", columns=["response_id", "policy_logp"])
    yield from _unique(table["response_id"], "response id")
    bad = ~np.isfinite(table["policy_logp"].to_numpy())
    yield from _count(int(bad.sum()), "log-probs that are not finite")
    pairs = store.table(number, "select", columns=["chosen_response_id", "rejected_response_id"])
    # a response that killed its worker has none
    known = {*table["response_id"].to_pylist(), *store.outcome(number, LogprobsOutcome).quarantined}
    paired = {*pairs["chosen_response_id"].to_pylist(), *pairs["rejected_response_id"].to_pylist()}
    yield from _count(len(paired - known), "paired responses without log-probs")


def _evaluation(store: Store, number: int) -> Iterator[str]:
    table = store.table(number, "evaluate", columns=["response_id", "token_ids", "reward", "drop_reason"])
    yield from _unique(table["response_id"], "response id")
    yield from _count(_true(pc.equal(pc.list_value_length(table["token_ids"]), 0)), "responses without token ids")
    yield from _count(_unexplained(table), "responses with neither a finite reward nor a reason")
    yield from _sampled_by(store, number, "evaluate", store.outcome(number, EvaluateOutcome).policy_digest)


def _sampled_by(store: Store, number: int, stage: str, digest: str) -> Iterator[str]:
    """Responses of a policy of the run name the weights that the stage recorded."""
    table = store.table(number, stage, columns=["policy_digest", "policy_round"])
    own = table["policy_digest"].filter(pc.is_valid(table["policy_round"]))
    yield from _count(_true(pc.not_equal(own, digest)), "responses that name another policy than the one recorded")


# the problem is reported at the first stage named
_RULES = (
    (("prompts",), _prompts),
    (("sample", "prompts"), _responses),
    (("score", "sample"), _rewards),
    (("select",), _pairs),
    (("select", "pair", "sample", "score"), _pairs_are_of_their_responses),
    (("pair", "select", "sample"), _every_response_has_one_place),
    (("logprobs", "select"), _logprobs),
    (("evaluate",), _evaluation),
)

# A dataset may lack token ids and rewards, and its chosen responses need not be the better ones.
_OF_SELECTIONS = tuple(
    (needs, rule) for needs, rule in _RULES if rule in (_rewards, _pairs, _every_response_has_one_place)
)


def _column(store: Store, number: int, stage: str, column: str) -> pa.ChunkedArray:
    return store.table(number, stage, columns=[column])[column]


def _true(mask: Any) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _count(count: int, what: str) -> Iterator[str]:
    if count:
        yield f"{count} {what}"


def _unexplained(table: pa.Table) -> int:
    finite = np.isfinite(table["reward"].to_numpy())
    return int((~finite & table["drop_reason"].is_null().to_numpy()).sum())


def _unique(column: pa.ChunkedArray, what: str) -> Iterator[str]:
    counted = column.value_counts()
    repeated = counted.filter(pc.greater(counted.field("counts"), 1))
    if len(repeated):
        yield f"{what} {repeated.field('values')[0].as_py()!r} appears more than once ({len(repeated)} such)"


def _same(found: pa.ChunkedArray, wanted: pa.ChunkedArray, what: str, of: str) -> Iterator[str]:
    """Whether two columns hold the same ids; each is free of repetitions by a rule of its own."""
    missing = _true(pc.invert(pc.is_in(wanted, value_set=found.combine_chunks())))
    strangers = _true(pc.invert(pc.is_in(found, value_set=wanted.combine_chunks())))
    yield from _count(missing, f"{of} that are not among the {what}")
    yield from _count(strangers, f"rows of the {what} that are not among the {of}")
