"""The sampler on real vLLM with tiny models: reproducible sampling, and weight changes that are right or refused.

One engine lives in this process; `serve` asks for a policy by folder, so tests do not depend on their order. A fresh engine
takes seconds: the tests of tied weights, which need one of their own, come last.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfplay.backends.vllm.engine_args import prepare_environment
from selfplay.backends.vllm.sampler import VllmSampler, check_engine_keys
from selfplay.core.errors import BackendError, ConfigError, DataError, ModelError, WeightSyncError, WorkerLostError
from selfplay.core.protocols import Canary, CanaryPosition, LogprobItem, SampleRequest, SamplingSettings, ScoreItem
from tests.helpers.families import FAMILIES, make_model
from tests.helpers.garbage import vllm_freezes_nothing
from tests.helpers.tiny import make_tiny_llama, make_tiny_reward_model

# Not by importing it: its environment must be prepared first.
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")]

END, LETTER = 257, 65
# Longer than a block of the prefix cache (32 tokens), else a stale cache could not show.
PROMPTS = [[259, *((7 * p + 3 * i) % 250 for i in range(40 + p)), END, 260] for p in range(6)]
REQUESTS = [SampleRequest(f"p{i}", ids, 1000 * i) for i, ids in enumerate(PROMPTS)]
SETTINGS = SamplingSettings(num_responses=3, temperature=1.0, max_tokens=24, stop_token_ids=(END, LETTER))
GREEDY = SamplingSettings(num_responses=1, temperature=0, max_tokens=24)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    folders = {f"m{seed}": make_tiny_llama(root / f"m{seed}", seed=seed) for seed in range(3)}
    folders |= {f"tied{seed}": make_tiny_llama(root / f"tied{seed}", seed=seed, tied=True) for seed in range(2)}
    return folders


@pytest.fixture(scope="module")
def engine():
    prepare_environment()
    vllm_freezes_nothing()
    return VllmSampler({"max_num_seqs": 16}, dtype="float32", max_model_len=128, seed=0)


@pytest.fixture
def sampler(engine, models):
    """The one engine, serving m0 at the start of each test."""
    return serve_kind(engine, models, "m")


@pytest.fixture
def tied_sampler(engine, models):
    """The one engine, serving tied0 at the start of each test."""
    return serve_kind(engine, models, "tied")


def serve_kind(engine, models, kind):
    """Serve the first model of a kind: in the engine that is there where it has one of this kind, else in another one. That a
    change in it reaches every part is taken for known, which saves the comparison with a fresh one."""
    served = engine._policy.folder.name if engine._policy is not None else ""
    if served and not served.startswith(kind):
        engine._drop_engine()
    engine._live_change_is_whole = True
    serve(engine, models[f"{kind}0"])
    return engine


def serve(sampler, folder: Path, canaries: Sequence[Canary] = ()):
    return sampler.load_policy(str(folder), folder.name, canaries)


def fresh(sampler, folder: Path, canaries: Sequence[Canary] = ()):
    """Serve `folder` by an engine of its own; the old one goes first, since two cannot live in one process."""
    sampler._drop_engine()
    return serve(sampler, folder, canaries)


def record_canaries(folder: Path, prompts=PROMPTS, tokens=8, top=5) -> list[Canary]:
    """What a trainer records: greedy continuations under plain transformers in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    canaries = []
    for prompt in prompts:
        ids, positions = list(prompt), []
        for _ in range(tokens):
            with torch.no_grad():
                logps = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            best = logps.topk(top)
            positions.append(CanaryPosition(best.indices.tolist(), best.values.tolist()))
            ids.append(positions[-1].top_ids[0])
        canaries.append(Canary(list(prompt), positions))
    return canaries


def by_response(table):
    return {(row["prompt_id"], row["response_index"]): row for row in table.to_pylist()}


# ---- sampling


def test_rows_come_in_order_with_seeds_counted_on(sampler):
    last = dataclasses.replace(REQUESTS[1], prompt_id="last", seed=2**31 - 2)
    rows = sampler.sample([REQUESTS[0], last], SETTINGS).to_pylist()
    assert [(r["prompt_id"], r["response_index"], r["seed"]) for r in rows] == [
        *(("p0", i, i) for i in range(3)),
        ("last", 0, 2**31 - 2),
        ("last", 1, 2**31 - 1),
        ("last", 2, 0),
    ]
    assert all(r["num_tokens"] == len(r["token_ids"]) for r in rows)


def test_a_seed_decides_whatever_else_is_in_the_batch(sampler):
    together = by_response(sampler.sample(REQUESTS, SETTINGS))
    backwards = by_response(sampler.sample(REQUESTS[::-1], SETTINGS))
    alone = by_response(sampler.sample([REQUESTS[3]], SETTINGS))
    assert backwards == together
    assert alone.items() <= together.items()
    assert len({tuple(r["token_ids"]) for r in together.values()}) == len(together)
    # Response i is what a request with seed + i gives as its first.
    moved = dataclasses.replace(REQUESTS[3], seed=REQUESTS[3].seed + 2)
    one = sampler.sample([moved], dataclasses.replace(SETTINGS, num_responses=1)).to_pylist()[0]
    assert one["token_ids"] == together["p3", 2]["token_ids"]


def test_the_sampled_end_token_is_kept_and_only_the_stop_ids_given_end_a_response(sampler):
    many = dataclasses.replace(SETTINGS, num_responses=16, max_tokens=60)
    rows = sampler.sample(REQUESTS, many).to_pylist()
    assert {r["finish_reason"] for r in rows} == {"stop", "length"}
    assert {r["token_ids"][-1] for r in rows if r["finish_reason"] == "stop"} == {END, LETTER}
    for row in rows:
        stops = [t for t in row["token_ids"] if t in (END, LETTER)]
        assert len(stops) == (row["finish_reason"] == "stop")
        assert row["finish_reason"] == "stop" or row["num_tokens"] == 60
        assert "<|" not in row["text"]
        assert "b" not in row["text"]  # id 65 decodes to "b", which is no special token: left out as the stop token
    # Neither the tokenizer's nor the generation_config's end token stops what was not asked to stop.
    free = sampler.sample(REQUESTS, dataclasses.replace(many, stop_token_ids=())).to_pylist()
    assert {r["finish_reason"] for r in free} == {"length"}
    assert any(END in r["token_ids"][:-1] for r in free)


def test_the_models_generation_config_plays_no_part(sampler, models):
    assert json.loads((models["m0"] / "generation_config.json").read_text())["top_k"] == 5
    one = SamplingSettings(num_responses=60, temperature=1.0, max_tokens=1)
    assert len({r["token_ids"][0] for r in sampler.sample(REQUESTS[:1], one).to_pylist()}) > 5


def test_greedy_takes_the_most_likely_tokens_and_no_seed(sampler, models):
    want = [[p.top_ids[0] for p in c.positions] for c in record_canaries(models["m0"], tokens=24)]
    assert sampler.sample(REQUESTS, GREEDY)["token_ids"].to_pylist() == want
    moved = [dataclasses.replace(r, seed=r.seed + 1) for r in REQUESTS]
    assert sampler.sample(moved, GREEDY)["token_ids"].to_pylist() == want


def test_log_probs_are_the_models_own_whatever_the_sampling(sampler, models):
    from selfplay.backends.transformers.logprobs import TorchLogprobs

    settings = dataclasses.replace(SETTINGS, temperature=0.7, top_p=0.8, repetition_penalty=1.3, logprobs=True)
    rows = sampler.sample(REQUESTS, settings).to_pylist()
    items = [LogprobItem(str(i), PROMPTS[int(row["prompt_id"][1:])], row["token_ids"]) for i, row in enumerate(rows)]
    exact = TorchLogprobs().logprobs(str(models["m0"]), "m0", items)["logp"].to_pylist()
    assert [row["sampler_logp"] for row in rows] == pytest.approx(exact, abs=1e-4)
    # the same tokens as without them, which cost nothing
    plain = sampler.sample(REQUESTS, dataclasses.replace(settings, logprobs=False))
    assert plain["token_ids"].to_pylist() == [row["token_ids"] for row in rows]
    assert plain["sampler_logp"].null_count == plain.num_rows


def test_no_requests_give_an_empty_table(sampler):
    assert sampler.sample([], SETTINGS).num_rows == 0


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ([], "prompt bad is empty"),
        ([1] * 105, "prompt bad has 105 tokens; with max_tokens 24 it exceeds the engine's max_model_len of 128"),
        ([1, 320], "outside of the model's vocabulary of 320"),
    ],
)
def test_prompts_that_would_break_the_call_are_refused_by_name(sampler, token_ids, message):
    with pytest.raises(DataError, match=message):
        sampler.sample([REQUESTS[0], SampleRequest("bad", token_ids, 0)], SETTINGS)
    assert sampler.sample([REQUESTS[0], SampleRequest("fits", [1] * 104, 0)], SETTINGS).num_rows == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0, "num_responses": 2}, "greedy sampling gives one response"),
        ({"temperature": 0.001}, "temperature 0.001 is below 0.01"),
        ({"top_p": 1.5}, "vLLM rejects the sampling settings: .*top_p"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(sampler, change, message):
    with pytest.raises(ConfigError, match=message):
        sampler.sample(REQUESTS, dataclasses.replace(SETTINGS, **change))


def test_calls_of_several_threads_share_the_batch_and_get_their_own_rows(sampler):
    sampler.describe()
    alone = [sampler.sample([request], SETTINGS) for request in REQUESTS]
    before = sampler.describe()
    with ThreadPoolExecutor(len(REQUESTS)) as threads:
        together = list(threads.map(lambda request: sampler.sample([request], SETTINGS), REQUESTS))
    after = sampler.describe()
    assert together == alone
    assert after["num_steps"] < before["num_steps"]
    assert after["mean_occupancy"] > before["mean_occupancy"]


def test_an_engine_that_fails_is_lost_to_every_call_and_can_be_loaded_again(sampler, models, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sampler._llm.llm_engine, "step", lambda: 1 / 0)
        with ThreadPoolExecutor(3) as threads:
            calls = [threads.submit(sampler.sample, [request], SETTINGS) for request in REQUESTS[:3]]
        assert {type(call.exception()) for call in calls} <= {WorkerLostError, BackendError}
        lost = [call.exception() for call in calls if isinstance(call.exception(), WorkerLostError)]
        assert lost and "vLLM failed in a step: ZeroDivisionError" in str(lost[0])
    with pytest.raises(BackendError, match="has no policy"):
        sampler.sample(REQUESTS, SETTINGS)
    assert serve(sampler, models["m0"]).how == "loaded"
    assert sampler.sample(REQUESTS, SETTINGS).num_rows == 18


def test_describe_and_engine_keys(sampler):
    said = sampler.describe()
    assert (said["dtype"], said["max_model_len"], said["max_num_seqs"]) == ("float32", 128, 16)
    assert said["vllm"] and said["torch"] and said["device"]
    assert check_engine_keys({"max_num_seqs": 4, "gpu_memory_utilization": 0.5}) == []
    assert [p.split()[0] for p in check_engine_keys({"max_num_seq": 4, "seed": 1})] == [
        "sampling.engine.max_num_seq",
        "sampling.engine.seed",
    ]


# ---- weights


def test_a_fresh_engine_agrees_with_a_plain_forward_pass(sampler, models):
    change = fresh(sampler, models["m0"], record_canaries(models["m0"], tokens=16, top=10))
    assert (change.how, change.reason, change.canary_positions) == ("loaded", "", 96)
    assert change.canary_error is not None and change.canary_error <= 1e-4


def test_what_is_served_already_is_only_reported(sampler, models):
    change = serve(sampler, models["m1"])
    again = sampler.load_policy("/nowhere", "m1", ())
    assert again == dataclasses.replace(change, seconds=0.0)


def check_live_change(sampler, folder: Path) -> None:
    """A live change to this policy gives what a fresh engine gives."""
    canaries = record_canaries(folder)
    live = serve(sampler, folder, canaries)
    assert (live.how, live.reason) == ("reloaded", "")
    assert live.canary_error is not None and live.canary_error <= 1e-4
    seen = [sampler.sample(REQUESTS, s) for s in (SETTINGS, GREEDY)], sampler._continue_canaries(canaries)
    assert fresh(sampler, folder).how == "loaded"
    assert ([sampler.sample(REQUESTS, s) for s in (SETTINGS, GREEDY)], sampler._continue_canaries(canaries)) == seen


def test_a_live_change_equals_a_fresh_engine(sampler, models):
    check_live_change(sampler, models["m1"])


def test_a_skipped_cache_reset_is_caught(sampler, models, monkeypatch):
    monkeypatch.setattr(VllmSampler, "_reset_prefix_cache", lambda self: None)
    change = serve(sampler, models["m1"], record_canaries(models["m1"]))
    assert change.how == "rebuilt"
    assert "canary failed after the live change: canary" in change.reason
    assert change.canary_error is not None and change.canary_error <= 1e-4


def test_a_live_change_that_fails_is_rebuilt_with_the_reason(sampler, models, monkeypatch):
    monkeypatch.setattr(sampler._llm, "reset_prefix_cache", lambda: False)
    change = serve(sampler, models["m1"], record_canaries(models["m1"]))
    assert change.how == "rebuilt"
    assert change.reason == "the live change failed: BackendError: vLLM did not reset its prefix cache"
    assert change.canary_error is not None and change.canary_error <= 1e-4


def test_a_fresh_engine_that_misses_is_an_error_and_serves_nothing(sampler, models):
    with pytest.raises(WeightSyncError, match=r"a fresh engine on .*m1 disagrees with the trainer .rebuilt because"):
        serve(sampler, models["m1"], record_canaries(models["m2"]))
    with pytest.raises(BackendError, match="has no policy"):
        sampler.sample(REQUESTS, SETTINGS)


def spoil(folder: Path, name: str, value: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name)
    if value is not None:
        tensors[name] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "bad lacks model.norm.weight"),
        (torch.ones(32), "model.norm.weight .32., not .64."),
        (torch.full((64,), float("nan")), "NaN or infinite values in model.norm.weight"),
    ],
)
def test_a_bad_folder_is_refused_and_the_old_policy_keeps_serving(sampler, tmp_path, value, message):
    before, served = sampler.sample(REQUESTS, SETTINGS), sampler._llm
    bad = make_tiny_llama(tmp_path / "bad", seed=5)
    spoil(bad, "model.norm.weight", value)
    for folder, said in ((bad, message), (tmp_path / "absent", "no policy folder .*absent")):
        with pytest.raises(ModelError, match=said):
            serve(sampler, folder)
    assert sampler._llm is served
    assert sampler.sample(REQUESTS, SETTINGS) == before


# ---- tied weights


def test_a_live_change_of_tied_weights_equals_a_fresh_engine(tied_sampler, models):
    check_live_change(tied_sampler, models["tied1"])


def test_a_tied_output_layer_left_stale_is_caught(tied_sampler, models, monkeypatch):
    monkeypatch.setattr(VllmSampler, "_repack_cpu_layers", lambda self: None)
    change = serve(tied_sampler, models["tied1"], record_canaries(models["tied1"]))
    assert change.how == "rebuilt"
    assert "canary failed after the live change: canary" in change.reason
    assert change.canary_error is not None and change.canary_error <= 1e-4


def test_a_stale_part_that_the_canary_tolerates_is_found_by_the_first_change(
    tied_sampler, models, tmp_path, monkeypatch
):
    near = Path(shutil.copytree(models["tied0"], tmp_path / "near"))
    tensors = load_file(near / "model.safetensors")
    noise = torch.randn(tensors["model.embed_tokens.weight"].shape, generator=torch.Generator().manual_seed(0))
    tensors["model.embed_tokens.weight"] += 2e-5 * noise
    save_file(tensors, near / "model.safetensors", metadata={"format": "pt"})
    with monkeypatch.context() as patch:
        patch.setattr(tied_sampler, "_live_change_is_whole", None)
        patch.setattr(VllmSampler, "_repack_cpu_layers", lambda self: None)
        change = serve(tied_sampler, near, record_canaries(near))
        assert change.how == "rebuilt"
        assert "the live engine differs from a fresh one on the same weights: log-probs differ by" in change.reason
        again = serve(tied_sampler, models["tied0"])
        assert (again.how, again.reason) == ("rebuilt", "a change in the live engine leaves a part of it stale")
        # a second model of `sampling.mix` comes without canaries
        patch.setattr(tied_sampler, "_live_change_is_whole", None)
        change = serve(tied_sampler, models["tied1"])
        assert change.how == "rebuilt"
        assert "differs from a fresh one" in change.reason


# ---- rewards with the pooling runner: here, because vLLM takes longer to import than anything else of these tests


def test_rewards_of_vllm_are_those_of_transformers(engine, tmp_path):
    from selfplay.backends.reward_engines import NUM_COMPARED, RewardEngines
    from selfplay.backends.vllm.pooling_engine import pooling_problem

    engine._drop_engine()  # one engine a process
    folder = make_tiny_reward_model(tmp_path / "reward")
    rewards = RewardEngines(str(folder), dtype="float32")
    user = {"role": "user", "content": "How are you?"}
    several = [user, {"role": "assistant", "content": "Fine."}, {"role": "user", "content": "And now, after all this?"}]
    room = 512 - len(rewards._rows.render(ScoreItem("", [user], ""))[0])
    asked = [
        *(ScoreItem(f"same-{i}", several, "word " * i) for i in range(5)),
        ScoreItem("empty", [user], ""),
        # the model's config has this padding token: transformers takes the score of the token before it
        ScoreItem("ends-with-pad", [user], "as typed <|pad|>"),
        ScoreItem("longest", [user], "x" * room),
        ScoreItem("too-long", [user], "x" * (room + 1)),
        ScoreItem("thoughts", [user], "<think>long</think>\n\nfine", final_answer="fine"),
        ScoreItem("endless", [user], "<think>endless", no_answer="unclosed_thinking"),
    ]
    exact = rewards.score(asked)
    compared = rewards.compare(asked)
    assert compared["response_id"].to_pylist() == [item.response_id for item in asked]
    assert compared["engine_reward"].null_count == len(asked) - NUM_COMPARED
    found = rewards.score(asked, "vllm")
    assert found["drop_reason"].to_pylist() == exact["drop_reason"].to_pylist() == [
        *[None] * 8, "too_long_for_reward_model", None, "unclosed_thinking",
    ]  # fmt: skip
    pairs = [
        (ours, plain) for ours, plain in zip(found["reward"].to_pylist(), exact["reward"].to_pylist(), strict=True)
    ]
    assert all((ours is None) == (plain is None) for ours, plain in pairs)
    numbers = [pair for pair in pairs if None not in pair]
    assert [ours for ours, _ in numbers] == pytest.approx([plain for _, plain in numbers], abs=1e-5)
    assert len({round(plain, 3) for _, plain in numbers}) == len(numbers), (
        "a model that scores all alike proves nothing"
    )
    rewards._free()

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["XLNetForSequenceClassification"]}))
    assert "XLNetForSequenceClassification" in pooling_problem(str(folder))
    body = make_model(FAMILIES["gemma3"], tmp_path / "gemma3", reward=True)
    assert "its code for Gemma3TextForSequenceClassification is that of the model without a head" in pooling_problem(
        str(body)
    )
