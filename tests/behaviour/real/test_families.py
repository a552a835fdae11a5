"""One round of tiny models of the families that people train, on the real vLLM, transformers and TRL, against plain
computations. `make test` has a third of the matrix, `make families` all of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from selfplay.backends.policy_folder import check_same_architecture, read_policy_folder
from selfplay.core.protocols import LogprobItem, SampleRequest, SamplingSettings, ScoreItem, TrainPair
from selfplay.core.records import Message
from tests.helpers.engine_process import EngineProcess, engine_process
from tests.helpers.families import FAMILIES, Plain, dpo_loss, make_model
from tests.helpers.training import END, make_job, train, weights

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")]

# `make test` trains adapters of those whose linear layers are not the usual ones
LORA_IN_MAKE_TEST = ("qwen3-moe", "gpt2")
IN_MAKE_TEST = ("gemma2", "qwen3-moe", "granite", "gpt2", "gemma3-composite")
LORA = {"r": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}
WORDS = ("lamp", "boat", "chair", "drum")
MESSAGES: list[list[Message]] = [
    [{"role": "user", "content": f"Say something long about the {word}, please."}] for word in WORDS
]
SAMPLED = SamplingSettings(num_responses=2, temperature=1.0, max_tokens=12, stop_token_ids=(END,))
GREEDY = SamplingSettings(num_responses=1, temperature=0.0, max_tokens=8, stop_token_ids=(END,))
BETA = 0.1


@dataclass(frozen=True)
class Start:
    """A family's first policy, and what the engine sampled from it: two responses to each of the prompts."""

    folder: Path
    prompts: list[list[int]]
    rows: list[dict[str, Any]]
    plain: Plain

    @functools.cached_property
    def items(self) -> list[LogprobItem]:
        return [LogprobItem(f"r{i}", self.prompts[i // 2], row["token_ids"]) for i, row in enumerate(self.rows)]

    @functools.cached_property
    def plain_logps(self) -> list[float]:
        return [self.plain.logp(item.prompt_token_ids, item.token_ids) for item in self.items]


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with engine_process() as process:
        yield process


@pytest.fixture(scope="module")
def starts(engine: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return functools.cache(lambda name: start(engine, name, tmp_path_factory.mktemp(name)))


def requests(prompts: list[list[int]]) -> list[SampleRequest]:
    return [SampleRequest(f"p{number}", prompt, 100 * number) for number, prompt in enumerate(prompts)]


def start(engine: EngineProcess, name: str, root: Path) -> Start:
    from selfplay.inputs.models.chat import ChatRenderer, load_tokenizer

    folder = make_model(FAMILIES[name], root / "policy")
    tokenizer = load_tokenizer(folder)
    prompts = [ChatRenderer(tokenizer).prompt(messages) for messages in MESSAGES]
    assert prompts == [
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) for messages in MESSAGES
    ]
    engine.fresh({"engine": {"max_num_seqs": 8, "kv_cache_memory_bytes": 1 << 24}, "max_model_len": 128})
    assert engine.call("load_policy", str(folder), "start", ()).how == "loaded"
    rows = engine.call("sample", requests(prompts), SAMPLED).to_pylist()
    for row in rows:
        assert row["text"] == tokenizer.decode(row["token_ids"], skip_special_tokens=True)
    plain = Plain(folder)
    check_greedy(engine, plain, prompts)
    return Start(folder, prompts, rows, plain)


def check_greedy(engine: EngineProcess, plain: Plain, prompts: list[list[int]]) -> None:
    continued = engine.call("sample", requests(prompts), GREEDY)["token_ids"].to_pylist()
    assert continued == [plain.greedy(prompt, GREEDY.max_tokens, END) for prompt in prompts]


def matrix() -> list[Any]:
    return [
        pytest.param(name, lora, id=f"{name}-{'lora' if lora else 'full'}", marks=marks)
        for name, family in FAMILIES.items()
        if family.engine
        for lora in (None, LORA)
        for marks in [[] if name in (LORA_IN_MAKE_TEST if lora else IN_MAKE_TEST) else [pytest.mark.families]]
    ]


@pytest.mark.parametrize(("name", "lora"), matrix())
def test_a_round(name: str, lora: dict[str, Any] | None, engine: EngineProcess, starts: Any, tmp_path: Path) -> None:
    from selfplay.backends.transformers.logprobs import TorchLogprobs

    begun: Start = starts(name)
    logps = TorchLogprobs().logprobs(str(begun.folder), "start", begun.items)["logp"].to_pylist()
    assert logps == pytest.approx(begun.plain_logps, abs=1e-4)

    # a reference that is not the policy, so that the first loss says something
    pairs = [
        TrainPair(
            f"pair{k}", begun.prompts[k], begun.items[2 * k].token_ids, begun.items[2 * k + 1].token_ids,
            logps[2 * k], logps[2 * k + 1], logps[2 * k] - 2.0 * k, logps[2 * k + 1] + 1.0,
        )
        for k in range(len(begun.prompts))
    ]  # fmt: skip
    job = make_job(
        tmp_path, begun.folder, pairs, beta=BETA, learning_rate=1e-2 if lora else 1e-3, max_steps=3, batch_size=4,
        micro_batch_size=4, max_length=128, warmup_ratio=0.0, reference_is_policy=False, lora=lora,
        canary_prompts=[[*pair.prompt_token_ids, *pair.chosen_token_ids] for pair in pairs],
    )  # fmt: skip
    result = train(job)
    losses = [
        dpo_loss(
            BETA,
            begun.plain_logps[2 * k], begun.plain_logps[2 * k + 1],
            pair.reference_logp_chosen, pair.reference_logp_rejected,
        )
        for k, pair in enumerate(pairs)
    ]  # fmt: skip
    expected = sum(losses) / len(losses) + begun.plain.balancing_loss(
        [[*item.prompt_token_ids, *item.token_ids] for item in begun.items]
    )
    assert result.first_loss == pytest.approx(expected, abs=1e-5)
    # dropout that a config switches on would show here
    assert result.steps[0].loss == pytest.approx(expected, abs=1e-5)

    trained = tmp_path / "output/policy"
    check_same_architecture(read_policy_folder(trained), read_policy_folder(begun.folder))
    assert weights(trained).keys() == weights(begun.folder).keys()
    change = engine.call("load_policy", str(trained), f"{name} {bool(lora)}", result.canaries)
    assert change.how == "reloaded" or "live" in change.reason
    assert change.canary_error < 1e-4
    check_greedy(engine, Plain(trained), begun.prompts)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in IN_MAKE_TEST else [pytest.mark.families])
        for name, family in FAMILIES.items()
        if family.reward
    ],
)
def test_rewards(name: str, tmp_path: Path) -> None:
    from selfplay.backends.transformers.reward_model import RewardModel

    folder = make_model(FAMILIES[name], tmp_path / "reward", reward=True, seed=5)
    texts = ["a lamp.", "A boat goes over the water, and nobody sees it.", "", "lamp" * 12]
    items = [ScoreItem(f"r{i}", messages, text) for i, (messages, text) in enumerate(zip(MESSAGES, texts, strict=True))]
    scorer = RewardModel(str(folder))
    plain = Plain(folder, reward=True)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    right = [
        plain.reward(
            tokenizer.apply_chat_template(
                [*item.messages, {"role": "assistant", "content": item.response}], return_dict=False
            )
        )
        for item in items
    ]
    assert scorer.score(items)["reward"].to_pylist() == pytest.approx(right, abs=1e-4)
    assert len({round(reward, 3) for reward in right}) == len(right)
