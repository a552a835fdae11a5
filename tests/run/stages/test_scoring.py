"""What a scorer is given in the loop: final answers out of token ids, by round and in the evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from selfplay.config.load import load_config
from selfplay.core.protocols import SampleRequest, SamplingSettings, ScoreItem
from selfplay.execution.progress import Reporter
from selfplay.run import driver
from tests.helpers.fakes import Fakes, FakeSampler, FakeScorer

THOUGHTS = ["<think>a</think>fine{}<|end|>", "<think>never closed{}<|end|>", "plain{}<|end|>", "<think>a</think>cut{}"]


class ThinkingSampler(FakeSampler):
    """Answers each prompt with THOUGHTS, in turn."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> pa.Table:
        table = super().sample(requests, settings)
        told = [THOUGHTS[i % 4].format(i) for i in table["response_index"].to_pylist()]
        ids = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in told]
        columns = {
            "token_ids": ids,
            "num_tokens": [len(one) for one in ids],
            "text": [self._tokenizer.decode(one, skip_special_tokens=True) for one in ids],
            "finish_reason": ["stop" if text.endswith("<|end|>") else "length" for text in told],
        }
        return pa.table({name: columns.get(name, table[name]) for name in table.column_names})


class CuriousScorer(FakeScorer):
    """Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[ScoreItem] = []

    def score(self, items: Sequence[ScoreItem]) -> pa.Table:
        self.items += items
        return super().score(items)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("sees", ["final", "full"])
def test_final_answers_come_from_token_ids(
    tiny_world: Path, write_config: Callable[..., Path], tmp_path: Path, sees: str, special: bool
) -> None:
    policy = shutil.copytree(tiny_world / "policy", tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=special)
    tokenizer.save_pretrained(policy)
    fakes = Fakes()
    fakes.sampler, fakes.scorer = ThinkingSampler(tokenizer), CuriousScorer()
    reward = {"model": str(tiny_world / "reward_model"), "sees": sees}
    config = write_config(policy={"model": str(policy)}, reward=reward, rounds=1, pairs={"allow_truncated": True})
    prepared = driver.preflight(load_config(config, []), config.parent, tmp_path / "run")
    driver.run(prepared, config.read_text(), [], Reporter(quiet=True), workers=fakes, until=(1, "score"))
    rounds = {item.response_id[-1]: item for item in fakes.scorer.items if "-r001-" in item.response_id}
    held_out = {item.response_id[-1]: item for item in fakes.scorer.items if "-e000-" in item.response_id}
    found = [(item.final_answer, item.no_answer) for _, item in sorted(rounds.items())]
    whole = (None, None)
    expected = [("fine0", None), (None, "unclosed_thinking"), whole, ("cut3", None)]
    assert found == (expected if sees == "final" else [whole] * 4)
    assert [(item.final_answer, item.no_answer) for _, item in sorted(held_out.items())][:2] == found[:2]
