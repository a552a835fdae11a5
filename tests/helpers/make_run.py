"""A small run made through the Store API, with the tables and metrics that the stages write; no model is involved.

The numbers are made up from a seed, the rules are real: pairing, selection and evaluation are the package's own.
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.config.load import validate
from selfplay.core.outcomes import RewardEngine, from_json
from selfplay.core.records import EvaluationResponse, Logprobs, Pair, Prompt, Response, Reward, to_table
from selfplay.core.stages import CANDIDATES, stage_named, stages_of
from selfplay.core.timing import PARTS
from selfplay.run.stages.evaluation_metrics import summarize
from selfplay.run.stages.pair import candidate_table, pair_outcome, unused_table
from selfplay.run.stages.score import score_outcome
from selfplay.selection.pairing import Pairing, PairRules, build_pairs
from selfplay.selection.responses import ResponsePool, response_pool
from selfplay.selection.select import PairPool, select
from selfplay.store.durable import pretty_json
from selfplay.store.run import Store, now
from tests.helpers.outcomes import DOCUMENTS

NUM_PROMPTS = 12
NUM_RESPONSES = 4
CREATED = "2026-01-02T03:04:05Z"
HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07 evil \u202etxt.exe\u2066 \x9b31m \r\n[bold red]markup[/] \u200b\U000e0041 עברית 👩\u200d🔬"
)

Rows = list[Any]


def config(rounds: int, rules: PairRules) -> dict[str, Any]:
    """A valid configuration, as attempts record it."""
    document = {
        "policy": {"model": "/models/policy"},
        "prompts": {"source": "/data/train.jsonl", "column": "question", "per_round": NUM_PROMPTS},
        "sampling": {"num_responses": NUM_RESPONSES, "temperature": 0.8, "max_tokens": 8, "shard_size": 5},
        "reward": {"model": "/models/reward"},
        "pairs": dataclasses.asdict(rules),
        "selection": {"keep": 0.5},
        "training": {"beta": 0.1, "learning_rate": 1e-4, "batch_size": 2},
        "evaluation": {"source": "/data/test.jsonl", "num_prompts": 6},
        "rounds": rounds,
    }
    return validate(document, "make_run").model_dump(mode="json")


def make_run(
    root: Path,
    *,
    rounds: int = 2,
    stop: tuple[int, str] | None = None,
    outcome: str | None = "complete",
    **changes: Any,
) -> Store:
    """A run of `rounds`, ended before the stage `stop`; `outcome` None: killed. `changes` go to `Maker`."""
    settings = pretty_json(config(rounds, changes.get("rules", PairRules())))
    files = {
        "given.yaml": b"rounds: 2\n", "overrides.json": b"[]\n", "resolved.json": settings, "pins.json": b"{}\n",
        "revisions.json": b"{}\n",
        "search_path.json": b'"/data"\n',
    }  # fmt: skip
    store = Store.create(root, files)
    store.begin_attempt({"pid": 4242, "host": "here", "config": json.loads(settings), "versions": {"selfplay": "0"}})
    maker = Maker(store, **changes)
    for number in range(rounds + 1):
        for stage in stages_of(number):
            if (number, stage) == stop:
                if outcome is not None:
                    message = "" if outcome == "complete" else f"{outcome} on purpose"
                    store.end_attempt(1, outcome, message)
                return store
            getattr(maker, stage)(number)
    if outcome is not None:
        store.end_attempt(1, outcome, "")
    return store


@dataclasses.dataclass
class Maker:
    """Writes one stage after the other. `text` stands in the first prompt and its first response; `gold_gain` and
    `reward_gain` are what each round adds to the held-out means; `fields` change a stage's metrics ((round, stage) ->
    metrics); `rules` say how pairs are built."""

    store: Store
    text: str = "hello"
    gold_gain: float = 0.1
    reward_gain: float = 0.1
    fields: dict[tuple[int, str], dict[str, Any]] = dataclasses.field(default_factory=dict)
    rules: PairRules = dataclasses.field(default_factory=PairRules)

    def _commit(
        self, number: int, stage: str, reads: list[tuple[int, str]], rows: list[Any], metrics: dict[str, Any]
    ) -> None:
        """Tables (name, shards of rows) of a stage, committed."""
        writer = self.store.writer(number, stage, "f" * 64, reads)
        for name, shards in rows:
            for index, table in enumerate(shards):
                writer.write_shard(index, table, name)
        if stage == "train" and not metrics["skipped"]:
            scratch = self.store.scratch(number) / "output" / "policy"
            scratch.mkdir(parents=True)
            (scratch / "model.safetensors").write_bytes(bytes(range(256)) * 4)
            (scratch / "config.json").write_text('{"model_type": "llama"}')
            writer.adopt_folder(scratch, "policy")
        recorded = {**metrics, **self.fields.get((number, stage), {})}
        if recorded.get("skipped"):  # of a training that did not take place nothing else is recorded
            recorded = {name: recorded[name] for name in DOCUMENTS["train"]} | {"optimizer_steps": 0}
        writer.commit(1, CREATED, 1.5, from_json(stage_named(stage).outcome, recorded))

    def _prompts(self, number: int) -> Rows:
        count = NUM_PROMPTS if number else 6
        return [
            Prompt(
                f"p{number}-{i:03d}", number, "/data/train.jsonl", i,
                [{"role": "user", "content": f"{self.text if i == 0 else 'say'} {i}"}], [1, 5, 9], 3,
                json.dumps({"topic": i}),
                "too_long_for_context" if i == count - 1 and number else None,
            )
            for i in range(count)
        ]  # fmt: skip

    def prompts(self, number: int) -> None:
        rows = self._prompts(number)
        reasons = {"too_long_for_context": 1} if number else {}
        metrics = {
            "num_prompts": len(rows), "num_admitted": len(rows) - len(reasons), "drop_reasons": reasons,
            "num_bad_rows": 0, "bad_rows": [], "prompt_tokens": 3 * len(rows),
        }  # fmt: skip
        self._commit(number, "prompts", [], [("", [to_table(Prompt, rows)])], metrics)

    def _responses(self, number: int) -> Rows:
        rows = []
        for prompt in self._prompts(number):
            for index in range(NUM_RESPONSES if prompt.drop_reason is None else 0):
                generator = random.Random(f"{prompt.prompt_id}-{index}")
                tokens = [generator.randrange(3, 50) for _ in range(generator.randint(1, 7))] + [2]
                cut = generator.random() < 0.1
                text = self.text if prompt.prompt_id.endswith("000") and index == 0 else f"answer {tokens[0]}"
                rows.append(
                    Response(
                        f"{prompt.prompt_id}-r{number:03d}-{index}", prompt.prompt_id, number, index, 7 + index, tokens,
                        len(tokens), text, "length" if cut else "stop", "a" * 64, number - 1,
                    )
                )  # fmt: skip
        return rows

    def sample(self, number: int) -> None:
        rows = self._responses(number)
        metrics = {
            "num_prompts": NUM_PROMPTS - 1, "num_responses": len(rows),
            "num_tokens": sum(row.num_tokens for row in rows),
            "num_truncated": sum(row.finish_reason == "length" for row in rows), "policy_digest": "a" * 64,
            "num_duplicates": len(rows) - len({(row.prompt_id, row.text) for row in rows}),
            "num_tokens_sampled": sum(row.num_tokens for row in rows),
            "weight_changes": [_change("reloaded")], "engines": [{"device": "cpu"}], "sampling_seconds": 1.25,
            "stop_token_ids": [2], "drop_reasons": {}, "quarantined": {}, "num_mixed": 0,
            "timing": {"driver": _parts(waiting=1.25, writing=0.25), "sampler-0": _parts(loading=0.5, computing=1.0)},
        }  # fmt: skip
        reads = [(number, "prompts"), *([(number - 1, "train")] if number > 1 else [])]
        half = len(rows) // 2
        tables = [to_table(Response, rows[:half]), to_table(Response, rows[half:])]
        self._commit(number, "sample", reads, [("", tables)], metrics)

    def _rewards(self, number: int) -> Rows:
        rows: Rows = []
        for row in self._responses(number):
            value = random.Random(row.response_id + "reward").random()
            bad = row.prompt_id.endswith("003") and row.response_index == 1
            rows.append(Reward(row.response_id, None if bad else value, None, "reward_not_finite" if bad else None))
        return rows

    def score(self, number: int) -> None:
        table = to_table(Reward, self._rewards(number))
        reads = [(number, "prompts"), (number, "sample")]
        engines = {"reward": RewardEngine("transformers", "the reward model runs on a CPU")}
        outcome = score_outcome(table, combined=None, gold_drop_reasons={}, gold_lacks=[], engines=engines)
        self._commit(number, "score", reads, [("", [table])], outcome.to_json())

    def _pool(self, number: int) -> ResponsePool:
        responses, rewards = self._responses(number), self._rewards(number)
        return response_pool(
            prompt_ids=[row.prompt_id for row in responses],
            response_index=[row.response_index for row in responses],
            rewards=[row.reward for row in rewards],
            texts=[row.text for row in responses],
            finish_reasons=[row.finish_reason for row in responses],
            drop_reasons=[row.drop_reason for row in rewards],
            num_tokens=[row.num_tokens for row in responses],
        )

    def _pairing(self, number: int) -> Pairing:
        return build_pairs(self._pool(number), self.rules, 0)

    def pair(self, number: int) -> None:
        import pyarrow as pa

        pairing = self._pairing(number)
        ids = pa.array([row.response_id for row in self._responses(number)])
        metrics = pair_outcome(self._pool(number), pairing, []).to_json()
        reads = [(number, "sample"), (number, "score")]
        tables = [(CANDIDATES, [candidate_table(ids, pairing)]), ("", [unused_table(ids, pairing)])]
        self._commit(number, "pair", reads, tables, metrics)

    def _logprobs(self, number: int) -> Rows:
        responses = self._responses(number)
        pairing = self._pairing(number)
        paired = sorted({*pairing.chosen_P.tolist(), *pairing.rejected_P.tolist()})
        logps = {row: -2.0 * responses[row].num_tokens * random.Random(row).random() for row in paired}
        return [
            Logprobs(responses[row].response_id, logps[row], logps[row], responses[row].num_tokens) for row in paired
        ]

    def logprobs(self, number: int) -> None:
        table = to_table(Logprobs, self._logprobs(number))
        metrics = {
            "num_responses": table.num_rows, "policy_digest": "a" * 64, "reference_digest": "a" * 64,
            "reference_is_policy": True, "quarantined": {}, "made_for_metric": {},
        }  # fmt: skip
        self._commit(number, "logprobs", [(number, "pair"), (number, "sample")], [("", [table])], metrics)

    def select(self, number: int) -> None:
        responses, pairing = self._responses(number), self._pairing(number)
        logprobs = {row.response_id: row for row in self._logprobs(number)}
        prompts = {row.prompt_id: row for row in self._prompts(number)}
        pairs = []
        rewards = zip(pairing.reward_chosen_P.tolist(), pairing.reward_rejected_P.tolist(), strict=True)
        for chosen, rejected in zip(pairing.chosen_P.tolist(), pairing.rejected_P.tolist(), strict=True):
            better, worse = next(rewards)
            one, two = responses[chosen], responses[rejected]
            first, second = logprobs[one.response_id], logprobs[two.response_id]
            pairs.append(
                Pair(
                    f"{one.prompt_id}-r{number:03d}-{one.response_index}-{two.response_index}", number, one.prompt_id,
                    prompts[one.prompt_id].messages, [{"role": "assistant", "content": one.text}],
                    [{"role": "assistant", "content": two.text}], one.response_id, two.response_id,
                    better, worse, better - worse, first.policy_logp,
                    second.policy_logp, first.reference_logp, second.reference_logp, one.num_tokens, two.num_tokens,
                )
            )  # fmt: skip
        pairs, summary = _selected(pairs)
        table = to_table(Pair, pairs)
        reads = [(number, stage) for stage in ("prompts", "sample", "score", "pair", "logprobs")]
        self._commit(number, "select", reads, [("", [table])], summary)

    def train(self, number: int) -> None:
        step = {
            "step": 12, "num_steps": 12, "loss": 0.61, "learning_rate": 1e-4, "grad_norm": 1.5,
            "rewards_accuracy": 0.75, "rewards_margin": 0.2,
        }  # fmt: skip
        metrics = {
            "skipped": False, "policy_round": number, "policy_digest": "b" * 64, "num_pairs": 5, "optimizer_steps": 12,
            "num_pairs_quarantined": 0,
            "resumed_from_step": 0, "first_loss": 0.6931, "expected_first_loss": 0.6931, "checked_pairs": 5,
            "logp_error_max": 1e-6, "logp_error_mean": 1e-7, "update_norm": 0.25, "changed_fraction": 0.98,
            "seconds": 1.4, "steps": [step], "canaries": [{"prompt_token_ids": [1], "positions": []}],
            "versions": {}, "notes": [],
        }  # fmt: skip
        reads = [(number, stage) for stage in ("prompts", "sample", "logprobs", "select")]
        self._commit(number, "train", [*reads, *([(number - 1, "train")] if number > 1 else [])], [], metrics)

    def _evaluation(self, number: int) -> Any:
        rows = []
        for prompt in self._prompts(0):
            for mode in ("sampled", "greedy"):
                base = random.Random(f"{prompt.prompt_id}{mode}").random() * 0.3
                rows.append(
                    EvaluationResponse(
                        f"{prompt.prompt_id}-e{number:03d}-{mode[0]}0", prompt.prompt_id, number, mode, 0, 7,
                        [5, 6, 2], 3,
                        f"answer {prompt.prompt_id}", "stop", "b" * 64, number,
                        base + number * self.reward_gain, base + number * self.gold_gain, None,
                    )
                )  # fmt: skip
        return to_table(EvaluationResponse, rows)

    def evaluate(self, number: int) -> None:
        table = self._evaluation(number)
        initial, previous = (self._evaluation(other) for other in (0, number - 1)) if number else (None, None)
        metrics = {
            "weight_changes": [_change("reloaded" if number else "loaded")], "policy_digest": "b" * 64,
            "eval_quarantined": {},
            **dataclasses.asdict(summarize(table, initial, previous, 0, gold=True, gold_drop_reasons={})),
        }  # fmt: skip
        reads = [(0, "prompts"), *([(0, "evaluate"), (number - 1, "evaluate"), (number, "train")] if number else [])]
        self._commit(number, "evaluate", sorted(set(reads)), [("", [table])], metrics)


def _parts(**seconds: float) -> dict[str, float]:
    return {**dict.fromkeys(PARTS, 0.0), **seconds}


def _change(how: str, reason: str = "") -> dict[str, Any]:
    return {"how": how, "seconds": 0.25, "canary_error": 1e-6, "canary_positions": 8, "reason": reason}


def _selected(pairs: Rows) -> tuple[Rows, dict[str, Any]]:
    def column(name: str) -> Any:
        return np.array([getattr(pair, name) for pair in pairs])

    numbers = ("reward", "num_tokens", "policy_logp", "reference_logp")
    names = [f"{name}_{side}" for name in numbers for side in ("chosen", "rejected")]
    pool = PairPool(pair_id=[pair.pair_id for pair in pairs], columns={name: column(name) for name in names})
    chosen = select(pool, metric="alignment_potential", keep=0.5)
    done = [
        dataclasses.replace(
            pair,
            implicit_margin=float(chosen.implicit_margin_P[row]),
            alignment_potential=float(chosen.alignment_potential_P[row]),
            metric_value=float(chosen.metric_value_P[row]),
            rank=int(chosen.rank_P[row]) or None,
            kept=bool(chosen.kept_P[row]),
            drop_reason=chosen.drop_reason_P[row],
        )
        for row, pair in enumerate(pairs)
    ]
    done.sort(key=lambda pair: (pair.rank is None, pair.rank, pair.pair_id))
    return done, dataclasses.asdict(chosen.summary)


if __name__ == "__main__":
    import sys

    print(make_run(Path(sys.argv[1])).layout.root, now())
