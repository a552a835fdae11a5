"""A large run with hostile texts, made through the real store: `python -m benchmarks.hostile_run FOLDER [RESPONSES]`.

Markup and script, escape sequences, bidirectional and invisible characters, right-to-left text, emoji, responses of 100 kB, empty
ones: in prompts, responses and columns. Numbers are made up from a seed; pairs, selection and evaluation follow the real rules.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.config.load import validate
from selfplay.core.outcomes import (
    EvaluateOutcome,
    LogprobsOutcome,
    Outcome,
    PairOutcome,
    PromptsOutcome,
    SampleOutcome,
    SelectOutcome,
    Training,
    TrainOutcome,
)
from selfplay.core.protocols import StepMetrics, WeightSync
from selfplay.core.records import EvaluationResponse, Logprobs, Pair, Prompt, Response, Reward, Unused, schema, to_table
from selfplay.core.stages import CANDIDATES
from selfplay.run.stages.evaluation_metrics import summarize
from selfplay.run.stages.score import score_outcome
from selfplay.selection.select import PairPool, select
from selfplay.store.durable import pretty_json
from selfplay.store.run import Store

NUM_RESPONSES = 5
NUM_EVALUATED = 256
RESPONSES_IN_SHARD, PAIRS_IN_SHARD = 20_480, 25_000
CREATED = "2026-01-02T03:04:05Z"
DIGEST = "a" * 64
Made = tuple[Iterable[pa.Table], Outcome]

OWNED = "window.owned = true"
HOSTILE = (
    f"<script>{OWNED}</script>",
    f"</p></section><script>{OWNED}</script>",
    f"<img src=x onerror='{OWNED}'>",
    f"\" onmouseover=\"{OWNED}\" x=\"",
    f"<svg/onload={OWNED}><style>*{{display:none}}</style>",
    f"<a href=\"javascript:{OWNED}\">a link</a> <iframe srcdoc='<script>parent.owned=1</script>'></iframe>",
    "{{ 7 * 7 }} {% for x in y %} ${7*7} #{7*7} <%= 7*7 %>",
    "</title></textarea></style><base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "\x1b[2J\x1b[31mred\x1b[0m \x1b]0;owned\x07 bell\x08\x08 nul\x00 \x9b31m",
    "left \u202eright to left override\u202c, \u2066isolated\u2069, zero\u200bwidth",
    "soft\u00adhyphen, \ufeffmark, tag \U000e0041",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd, "
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 (abc) 123.",
    "\U0001f469\u200d\U0001f52c \U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd \u2764\ufe0f \u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "Z\u0351\u036b\u0343\u036a\u0302A\u0334\u0335\u031cL\u0320\u0348G\u0321O\u0489 " * 4,
    "a" * 400 + " no space in it",
    "line\nline\r\nline\rline\u2028line\u2029line\ttab",
    "",
)  # fmt: skip
ORDINARY = (
    "The lamp stood on the table, and nobody had lit it for years. Then a letter came.",
    "To add two fractions, bring them to one denominator, add the numerators, and cut what both share.",
    "Once there was a boat. It went down the river and met a goat who asked for a song.",
    "I cannot say for certain. Three things speak for it, and one speaks against it: the price.",
)
LONG = 100_000


def make(root: Path, num_responses: int = 1_000_000) -> Store:
    """The run: round 0 evaluated, round 1 whole."""
    made = _Made(max(num_responses // NUM_RESPONSES, 8))
    document = {
        "policy": {"model": "/models/policy"},
        "prompts": {"source": "/data/train.jsonl", "column": "question", "per_round": made.num_prompts},
        "sampling": {"num_responses": NUM_RESPONSES, "temperature": 0.8, "max_tokens": 32_768},
        "reward": {"model": "/models/reward"},
        "selection": {"keep": 0.4},
        "training": {"beta": 0.1, "learning_rate": 1e-6, "batch_size": 128},
        "evaluation": {"source": "/data/test.jsonl", "num_prompts": NUM_EVALUATED},
        "rounds": 1,
    }
    settings = pretty_json(validate(document, "hostile_run").model_dump(mode="json"))
    files = {"given.yaml": b"rounds: 1\n", "overrides.json": b"[]\n", "resolved.json": settings, "pins.json": b"{}\n"}
    store = Store.create(root, {**files, "search_path.json": b'"/data"\n'})
    store.begin_attempt({"pid": 1, "host": "here", "config": json.loads(settings), "versions": {"selfplay": "0"}})
    done: list[tuple[int, str]] = []
    for number, stage in ((0, "prompts"), (0, "evaluate"), *((1, name) for name in _ROUND)):
        writer = store.writer(number, stage, "f" * 64, done)
        tables, outcome = getattr(made, stage)(number)
        if stage == "pair":
            writer.write_shard(0, made.candidates(), CANDIDATES)
        for index, table in enumerate(tables):
            writer.write_shard(index, table)
        if stage == "train":
            policy = store.scratch(1) / "output" / "policy"
            policy.mkdir(parents=True)
            (policy / "config.json").write_text('{"model_type": "llama"}')
            writer.adopt_folder(policy, "policy")
        writer.commit(1, CREATED, 60.0, outcome)
        done = [*done, (number, stage)]
    store.end_attempt(1, "complete")
    return store


_ROUND = ("prompts", "sample", "score", "pair", "logprobs", "select", "train", "evaluate")


class _Made:
    """The tables of a stage as shards, and its outcome."""

    def __init__(self, num_prompts: int) -> None:
        generator = np.random.default_rng(0)
        self.num_prompts, self.total = num_prompts, num_prompts * NUM_RESPONSES
        prose = [" ".join(generator.choice(ORDINARY, size=size)) for size in generator.integers(1, 12, 400)]
        mixed = [f"{generator.choice(prose)} {text} {generator.choice(ORDINARY)}" for text in HOSTILE for _ in range(8)]
        # one response in some thousands is long
        long = [(" ".join(generator.choice(prose, size=400)) + HOSTILE[index])[:LONG] for index in range(4)]
        self.pool = pa.array([*prose, *mixed, *HOSTILE, *long])
        weights = np.array([1.0] * len(prose) + [0.4] * (len(mixed) + len(HOSTILE)) + [0.1] * len(long))
        self.which = generator.choice(len(self.pool), self.total, p=weights / weights.sum())
        self.num_tokens = np.maximum(pc.utf8_length(self.pool).to_numpy()[self.which] // 4, 1)
        self.reward_PN = generator.normal(0, 1, (num_prompts, NUM_RESPONSES))
        self.gold = (0.6 * self.reward_PN + generator.normal(0, 1, self.reward_PN.shape)).ravel()
        self.best, self.worst = self.reward_PN.argmax(1), self.reward_PN.argmin(1)
        self.logp = -generator.gamma(2.0, 0.6, self.total) * np.minimum(self.num_tokens, 2000)

    # ------------------------------------------------------------------ what rows are made of

    @staticmethod
    def ids(round_number: int, prompt: Any, *indices: Any) -> pa.Array:
        """Ids of prompts; with indices those of their responses or pairs."""
        number = pc.utf8_lpad(pa.array(prompt).cast(pa.string()), 8, "0")
        name = pc.binary_join_element_wise("e" if round_number == 0 else "p", number, "")
        if not indices:
            return name
        return pc.binary_join_element_wise(name, "r001", *(pa.array(part).cast(pa.string()) for part in indices), "-")

    def texts(self, rows: Any) -> pa.Array:
        """Texts of responses: those of the pool, told apart by their number (but the empty ones)."""
        taken = self.pool.take(pa.array(self.which[rows]))
        numbered = pc.binary_join_element_wise(taken, pa.array(rows).cast(pa.string()), " no. ")
        return pc.if_else(pc.equal(taken, ""), "", numbered)

    def prompt_texts(self, prompt: Any) -> pa.Array:
        """Every other one is hostile."""
        hostile = pa.array([*HOSTILE, *ORDINARY * 4]).take(pa.array(prompt % (len(HOSTILE) + 4 * len(ORDINARY))))
        return pc.binary_join_element_wise("Say something about", pa.array(prompt).cast(pa.string()), hostile, " ")

    @staticmethod
    def turns(role: str, texts: pa.Array) -> pa.Array:
        turns = pa.StructArray.from_arrays([pa.repeat(role, len(texts)), texts], ["role", "content"])
        return pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1), pa.int32()), turns)

    @staticmethod
    def tokens(lengths: Any) -> pa.Array:
        """Token ids of these lengths."""
        ends = np.concatenate([[0], np.cumsum(lengths)])
        flat = pa.array(np.resize(np.arange(5, 900), int(ends[-1])), pa.int32())
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat)

    def shards(self, total: int, size: int) -> Iterator[Any]:
        for start in range(0, total, size):
            yield np.arange(start, min(start + size, total))

    # ------------------------------------------------------------------ stages

    def prompts(self, number: int) -> Made:
        count = self.num_prompts if number else NUM_EVALUATED
        outcome = PromptsOutcome(
            num_prompts=count,
            num_admitted=count,
            drop_reasons={},
            num_bad_rows=0,
            bad_rows=[],
            prompt_tokens=12 * count,
        )
        columns_json = json.dumps({HOSTILE[0]: HOSTILE[3], "topic": "odd"})

        def tables() -> Iterator[pa.Table]:
            rows, num = np.arange(count), count
            columns = {
                "prompt_id": self.ids(number, rows), "round": pa.repeat(number, num),
                "source_file": pa.repeat(f"/data/{HOSTILE[2]}.jsonl", num), "source_row": rows + 1,
                "messages": self.turns("user", self.prompt_texts(rows)), "prompt_token_ids": self.tokens(np.full(num, 12)),
                "num_prompt_tokens": pa.repeat(12, num), "columns_json": pa.repeat(columns_json, num),
                "drop_reason": pa.nulls(num, pa.string()),
            }  # fmt: skip
            yield pa.table(columns).cast(schema(Prompt))

        return tables(), outcome

    def sample(self, number: int) -> Made:
        num_tokens = int(self.num_tokens.sum())
        outcome = SampleOutcome(
            num_prompts=self.num_prompts, num_responses=self.total, num_tokens=num_tokens, num_truncated=0, num_duplicates=0,
            drop_reasons={}, quarantined={}, policy_digest=DIGEST, weight_changes=[_CHANGE], engines=[{"device": "cpu"}],
            num_tokens_sampled=num_tokens, sampling_seconds=50.0, num_mixed=0, stop_token_ids=[2],
        )  # fmt: skip

        def tables() -> Iterator[pa.Table]:
            for rows in self.shards(self.total, RESPONSES_IN_SHARD):
                prompt, index, num = rows // NUM_RESPONSES, rows % NUM_RESPONSES, len(rows)
                columns = {
                    "response_id": self.ids(1, prompt, index), "prompt_id": self.ids(1, prompt), "round": pa.repeat(1, num),
                    "response_index": index, "seed": rows, "token_ids": self.tokens(self.num_tokens[rows]),
                    "num_tokens": self.num_tokens[rows], "text": self.texts(rows), "finish_reason": pa.repeat("stop", num),
                    "policy_digest": pa.repeat(DIGEST, num), "policy_round": pa.repeat(0, num),
                    "sampler_logp": pa.nulls(num, pa.float64()),
                }  # fmt: skip
                yield pa.table(columns).cast(schema(Response))

        return tables(), outcome

    def score(self, number: int) -> Made:
        rows = np.arange(self.total)
        table = pa.table(
            {
                "response_id": self.ids(1, rows // NUM_RESPONSES, rows % NUM_RESPONSES), "reward": self.reward_PN.ravel(),
                "gold_reward": self.gold, "drop_reason": pa.nulls(self.total, pa.string()),
            }
        ).cast(schema(Reward))  # fmt: skip
        cuts = [table.slice(start, RESPONSES_IN_SHARD) for start in range(0, self.total, RESPONSES_IN_SHARD)]
        return cuts, score_outcome(table, combined=None, gold_drop_reasons={}, gold_lacks=[])

    def pair(self, number: int) -> Made:
        used = np.zeros((self.num_prompts, NUM_RESPONSES), dtype=bool)
        used[np.arange(self.num_prompts), self.best] = used[np.arange(self.num_prompts), self.worst] = True
        rows = np.flatnonzero(~used.ravel())
        reasons = np.where(rows % 97 == 0, f"reward_error: {HOSTILE[2]}", "not_extreme")
        table = pa.table(
            {"response_id": self.ids(1, rows // NUM_RESPONSES, rows % NUM_RESPONSES), "reason": pa.array(reasons)}
        ).cast(schema(Unused))
        counts = dict(zip(*(part.tolist() for part in np.unique(reasons, return_counts=True)), strict=True))
        gaps = self.num_tokens[self._rows(self.best)] - self.num_tokens[self._rows(self.worst)]
        outcome = PairOutcome(
            num_pairs=self.num_prompts, num_prompts_paired=self.num_prompts, unused_reasons=counts, length_penalty=0.0,
            length_fit=None, length_gap_mean=float(gaps.mean()), gates_forced=[],
        )  # fmt: skip
        return [table], outcome

    def candidates(self) -> pa.Table:
        """Best and worst response of each prompt."""
        prompt = np.arange(self.num_prompts)
        return pa.table(
            {
                "chosen_response_id": self.ids(1, prompt, self.best),
                "rejected_response_id": self.ids(1, prompt, self.worst),
                "reward_chosen": self.reward_PN.max(1),
                "reward_rejected": self.reward_PN.min(1),
                "prompt_reward_mean": self.reward_PN.mean(1),
                "prompt_reward_std": self.reward_PN.std(1),
            }
        )

    def logprobs(self, number: int) -> Made:
        rows = np.unique(np.concatenate([self._rows(self.best), self._rows(self.worst)]))
        table = pa.table(
            {
                "response_id": self.ids(1, rows // NUM_RESPONSES, rows % NUM_RESPONSES), "policy_logp": self.logp[rows],
                "reference_logp": self.logp[rows], "num_tokens": self.num_tokens[rows],
            }
        ).cast(schema(Logprobs))  # fmt: skip
        cuts = [table.slice(start, RESPONSES_IN_SHARD) for start in range(0, len(rows), RESPONSES_IN_SHARD)]
        outcome = LogprobsOutcome(
            num_responses=len(rows), quarantined={}, policy_digest=DIGEST, reference_digest=DIGEST,
            reference_is_policy=True, made_for_metric={},
        )  # fmt: skip
        return cuts, outcome

    def _rows(self, index: Any) -> Any:
        return np.arange(self.num_prompts) * NUM_RESPONSES + index

    def select(self, number: int) -> Made:
        rows = {"chosen": self._rows(self.best), "rejected": self._rows(self.worst)}
        prompt = np.arange(self.num_prompts)
        ids = self.ids(1, prompt, self.best, self.worst)
        numbers: dict[str, Any] = {}
        for side, at in rows.items():
            numbers |= {
                f"reward_{side}": self.reward_PN.ravel()[at], f"num_tokens_{side}": self.num_tokens[at],
                f"policy_logp_{side}": self.logp[at], f"reference_logp_{side}": self.logp[at],
            }  # fmt: skip
        chosen = select(PairPool(pair_id=ids, columns=numbers), metric="alignment_potential", keep=0.4)
        order = np.argsort(np.where(chosen.rank_P == 0, len(prompt) + 1, chosen.rank_P), kind="stable")
        margins = {
            name: getattr(chosen, f"{name}_P")
            for name in ("explicit_margin", "implicit_margin", "alignment_potential", "metric_value")
        }

        def tables() -> Iterator[pa.Table]:
            for places in self.shards(self.num_prompts, PAIRS_IN_SHARD):
                at = order[places]
                num = len(at)
                columns: dict[str, Any] = {
                    "pair_id": ids.take(pa.array(at)), "round": pa.repeat(1, num), "prompt_id": self.ids(1, at),
                    "prompt": self.turns("user", self.prompt_texts(at)),
                    "rank": pa.array(chosen.rank_P[at], mask=chosen.rank_P[at] == 0), "kept": chosen.kept_P[at],
                    "drop_reason": pa.array(chosen.drop_reason_P.at(at).tolist(), pa.string()),
                    **{name: values[at] for name, values in {**numbers, **margins}.items()},
                }  # fmt: skip
                for side, row in rows.items():
                    columns[side] = self.turns("assistant", self.texts(row[at]))
                    columns[f"{side}_response_id"] = self.ids(1, at, row[at] % NUM_RESPONSES)
                yield pa.table({name: columns[name] for name in schema(Pair).names}).cast(schema(Pair))

        return tables(), SelectOutcome(summary=chosen.summary)

    def train(self, number: int) -> Made:
        step = StepMetrics(
            step=600,
            num_steps=600,
            loss=0.6,
            learning_rate=1e-6,
            grad_norm=1.0,
            rewards_accuracy=0.7,
            rewards_margin=0.2,
        )
        training = Training(
            num_pairs=2 * self.num_prompts // 5, num_pairs_quarantined=0, resumed_from_step=0, first_loss=0.6931,
            expected_first_loss=0.6931, checked_pairs=8, logp_error_max=1e-6, logp_error_mean=1e-7, update_norm=0.3,
            changed_fraction=0.9, seconds=60.0, steps=[step], canaries=[], versions={}, notes=[],
        )  # fmt: skip
        outcome = TrainOutcome(
            skipped=False, policy_round=1, policy_digest=DIGEST, optimizer_steps=600, training=training
        )
        return [], outcome

    def evaluate(self, number: int) -> Made:
        tables = [self._evaluation(other) for other in range(number + 1)]
        before = tables[0] if number else None
        evaluation = summarize(tables[-1], before, before, 0, gold=True, gold_drop_reasons={})
        outcome = EvaluateOutcome(
            weight_changes=[_CHANGE], policy_digest=DIGEST, eval_quarantined={}, evaluation=evaluation
        )
        return tables[-1:], outcome

    def _evaluation(self, number: int) -> pa.Table:
        generator = np.random.default_rng(number)
        rows = []
        for prompt in range(NUM_EVALUATED):
            for mode in ("sampled", "greedy"):
                text = self.pool[int(generator.integers(len(self.pool)))].as_py()
                reward = float(generator.normal(0.3 * number, 1))
                rows.append(
                    EvaluationResponse(
                        f"e{prompt:08d}-e{number:03d}-{mode[0]}0", f"e{prompt:08d}", number, mode, 0, 7, [5, 6, 2],
                        max(len(text) // 4, 1), text, "stop", DIGEST, number, reward, reward + float(generator.normal()), None,
                    )
                )  # fmt: skip
        return to_table(EvaluationResponse, rows)


_CHANGE = WeightSync("loaded", 0.25, 1e-6, 8, "")


if __name__ == "__main__":
    root = make(Path(sys.argv[1]), *map(int, sys.argv[2:3])).layout.root
    sizes = [path.stat().st_size for path in root.rglob("*.parquet")]
    print(json.dumps({"num_responses": int(sys.argv[2]) if sys.argv[2:] else 1_000_000, "table_bytes": sum(sizes)}))
