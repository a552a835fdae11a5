"""A DPO round with TRL on a tiny real model: what it computes, what it writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from selfplay.store.durable import sha256_file
from tests.helpers.tiny import make_tiny_llama
from tests.helpers.training import largest_difference, make_job, make_pairs, train, weights

LORA = {"r": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="module")
def pairs(policy: Path) -> list:
    return make_pairs(policy, 19)


def test_cached_reference_equals_stock_dpo_trainer_with_a_reference_model(policy, other, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from selfplay.backends.trl.rows import RowOrder

    pairs = make_pairs(policy, 16, reference=other)
    job = make_job(tmp_path, policy, pairs, reference_is_policy=False)
    ours = train(job)

    order = [pairs[row] for row in RowOrder(pairs, job.seed)]
    tokenizer = AutoTokenizer.from_pretrained(policy)
    # Stock TRL takes text, and appends the end token itself; bytes are tokens here, so the ids come out the same.
    text = {
        "prompt": [tokenizer.decode(pair.prompt_token_ids) for pair in order],
        "chosen": [tokenizer.decode(pair.chosen_token_ids[:-1]) for pair in order],
        "rejected": [tokenizer.decode(pair.rejected_token_ids[:-1]) for pair in order],
    }
    stock = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32),
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(text),
        args=DPOConfig(
            str(tmp_path / "stock"), beta=job.beta, learning_rate=job.learning_rate, per_device_train_batch_size=4,
            gradient_accumulation_steps=2, num_train_epochs=1, warmup_steps=0.1, lr_scheduler_type="cosine",
            bf16=False, use_cpu=True, gradient_checkpointing=False, report_to="none", logging_steps=1,
            save_strategy="no", train_sampling_strategy="sequential", disable_tqdm=True, max_length=None,
        ),
    )  # fmt: skip
    assert stock.train_dataset[0]["chosen_ids"] == order[0].chosen_token_ids
    stock.train()

    losses = [row["loss"] for row in stock.state.log_history if "loss" in row]
    assert [step.loss for step in ours.steps] == pytest.approx(losses, abs=1e-5)
    assert ours.optimizer_steps == len(losses) == 2
    trained = dict(stock.model.named_parameters())
    difference = largest_difference(weights(tmp_path / "output/policy"), {k: v.detach() for k, v in trained.items()})
    # Adam divides a gradient by its size: of the smallest gradients even the rounding moves a weight by a part of the step
    assert difference < job.learning_rate / 100


def test_no_reference_forward_and_no_reference_model(policy, pairs, tmp_path, monkeypatch):
    from trl import DPOTrainer

    def forbidden(*args, **kwargs):
        raise AssertionError("a reference forward")

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", forbidden)
    monkeypatch.setattr("trl.trainer.dpo_trainer.create_model_from_path", forbidden)
    train(make_job(tmp_path, policy, pairs[:8]))
    train(make_job(tmp_path / "lora", policy, pairs[:8], lora=LORA, learning_rate=1e-2))


def test_result_and_folders(policy, pairs, tmp_path):
    seen = []
    job = make_job(
        tmp_path, policy, pairs, engine_dtype="bfloat16", epochs=2, canary_prompts=[pairs[0].prompt_token_ids]
    )
    result = train(job, seen.append)

    assert result.optimizer_steps == 6 and result.resumed_from_step == 0
    assert seen == result.steps
    assert [step.step for step in seen] == [1, 2, 3, 4, 5, 6] and {step.num_steps for step in seen} == {6}
    assert seen[0].learning_rate == 0 and seen[1].learning_rate == pytest.approx(1e-3)
    assert result.first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert result.expected_first_loss == math.log(2)
    written = {file.path: (file.num_bytes, file.sha256) for file in result.files}
    assert written == {
        path.relative_to(tmp_path / "output").as_posix(): (path.stat().st_size, sha256_file(path))
        for path in (tmp_path / "output").rglob("*")
        if path.is_file()
    }
    assert result.checked_pairs == 16 and result.logp_error_max < 1e-5
    assert result.versions["device"] == "cpu" and result.versions["trl"]
    assert seen[-1].rewards_accuracy > 0.9

    start, final, engine = weights(policy), weights(tmp_path / "output/policy"), weights(tmp_path / "output/engine")
    assert {t.dtype for t in final.values()} == {torch.float32}
    assert all(torch.equal(engine[name], final[name].bfloat16()) for name in final)
    squares = sum(float((final[name] - start[name]).double().square().sum()) for name in start)
    assert result.update_norm == pytest.approx(math.sqrt(squares), rel=1e-6)
    changed = sum(int((final[n].bfloat16() != start[n].bfloat16()).sum()) for n in start)
    assert result.changed_fraction == changed / sum(t.numel() for t in start.values())

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "output/policy" / name).read_bytes() == (policy / name).read_bytes()
    for name, dtype in (("policy", "float32"), ("engine", "bfloat16")):
        config = json.loads((tmp_path / "output" / name / "config.json").read_text())
        before = json.loads((policy / "config.json").read_text())
        assert config == before | {"dtype": dtype}


def test_canaries_are_the_final_weights_greedy_continuation(policy, pairs, tmp_path):
    from transformers import AutoModelForCausalLM

    prompts = [pair.prompt_token_ids for pair in pairs[:3]]
    result = train(make_job(tmp_path, policy, pairs[:8], canary_prompts=prompts, canary_tokens=5))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "output/policy", dtype=torch.float32)
    for prompt, canary in zip(prompts, result.canaries, strict=True):
        ids = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=5,
            temperature=None, top_k=None,
        )  # fmt: skip
        assert canary.prompt_token_ids == prompt
        assert [position.top_ids[0] for position in canary.positions] == ids[0, len(prompt) :].tolist()
        logps = torch.log_softmax(model(torch.tensor([prompt])).logits[0, -1], dim=-1)
        first = canary.positions[0]
        assert len(first.top_ids) == 5
        # the pass that records them is over more tokens: float32 rounds differently
        assert first.top_logps == pytest.approx(logps[first.top_ids].tolist(), abs=1e-5)


def test_canaries_do_not_depend_on_the_guess(policy, pairs, tmp_path, monkeypatch):
    from selfplay.backends.trl import checks
    from selfplay.backends.trl.policy_files import load_policy

    job = make_job(tmp_path, policy, [], canary_prompts=[pair.prompt_token_ids for pair in pairs[:2]], canary_tokens=6)
    model = load_policy(policy)
    right = checks.record_canaries(model, job, frozenset())
    monkeypatch.setattr(checks, "_guess", lambda model, rows, num: [[1] * num for _ in rows])
    for canary, expected in zip(checks.record_canaries(model, job, frozenset()), right, strict=True):
        assert [position.top_ids for position in canary.positions] == [p.top_ids for p in expected.positions]
        for position, other in zip(canary.positions, expected.positions, strict=True):
            assert position.top_logps == pytest.approx(other.top_logps, abs=1e-5)


def test_canary_stops_at_the_end_token(policy, tmp_path):
    from selfplay.backends.trl.checks import record_canaries
    from selfplay.backends.trl.policy_files import load_policy

    job = make_job(tmp_path, policy, [], canary_prompts=[[64, 65]], canary_tokens=4)
    model = load_policy(policy)
    all_four = record_canaries(model, job, frozenset())[0].positions
    assert len(all_four) == 4
    assert len(record_canaries(model, job, frozenset({all_four[1].top_ids[0]}))[0].positions) == 2


def test_micro_batch_does_not_change_the_result(policy, other, tmp_path):
    # 19 pairs in steps of 8: the last step holds 3, which micro-batches cut differently. With a reference of its own no margin is
    # 0 but for rounding, which would decide on the accuracy.
    pairs = make_pairs(policy, 19, reference=other)
    job = partial(make_job, policy=policy, pairs=pairs, reference_is_policy=False)
    results = {
        8: train(job(tmp_path / "8", micro_batch_size=8)),
        3: train(job(tmp_path / "3", micro_batch_size=3)),
        "tokens": train(job(tmp_path / "tokens", micro_batch_size=8, micro_batch_tokens=60)),
    }
    for size in (3, "tokens"):
        difference = largest_difference(
            weights(tmp_path / "8/output/policy"), weights(tmp_path / str(size) / "output/policy")
        )
        assert difference < 2e-5
        assert [s.loss for s in results[size].steps] == pytest.approx([s.loss for s in results[8].steps], abs=1e-5)
        # means over the pairs of a step, however they are cut
        for name in ("rewards_accuracy", "rewards_margin"):
            expected = [getattr(step, name) for step in results[8].steps]
            assert [getattr(step, name) for step in results[size].steps] == pytest.approx(expected, abs=1e-5)


def test_prompts_are_not_shared_where_that_changes_the_log_probs(policy, pairs, tmp_path, monkeypatch):
    from selfplay.backends.trl import response_head

    shared = train(make_job(tmp_path / "shared", policy, pairs[:8]))
    real, asked = response_head.share_prompts, []

    def broken(input_ids, labels, dtype):
        asked.append(len(input_ids))
        rows = real(input_ids, labels, dtype)
        return dataclasses.replace(rows, attention_mask=torch.zeros_like(rows.attention_mask))

    monkeypatch.setattr(response_head, "share_prompts", broken)
    apart = train(make_job(tmp_path / "apart", policy, pairs[:8]))
    # once, by the check before the first update
    assert sum(asked) == 2 * 8
    assert apart.logp_error_max < 1e-5
    assert [s.loss for s in apart.steps] == pytest.approx([s.loss for s in shared.steps], abs=1e-5)


def test_order_of_pairs_does_not_change_the_result(policy, pairs, tmp_path):
    train(make_job(tmp_path / "a", policy, pairs))
    train(make_job(tmp_path / "b", policy, pairs[::-1]))
    assert largest_difference(weights(tmp_path / "a/output/policy"), weights(tmp_path / "b/output/policy")) == 0


def test_tied_embeddings_stay_tied(tmp_path):
    policy = make_tiny_llama(tmp_path / "tied", tied=True)
    pairs = make_pairs(policy, 8)
    train(make_job(tmp_path, policy, pairs, engine_dtype="bfloat16"))
    assert weights(tmp_path / "output/policy").keys() == weights(policy).keys()


def test_simpo_first_loss_is_the_formula(policy, tmp_path):
    pairs = make_pairs(policy, 16)  # all of which are checked
    job = make_job(
        tmp_path, policy, pairs, loss="simpo", beta=2.0, gamma_beta_ratio=0.3, reference_is_policy=False, epochs=2
    )
    result = train(job)
    margins = [
        pair.policy_logp_chosen / len(pair.chosen_token_ids) - pair.policy_logp_rejected / len(pair.rejected_token_ids)
        for pair in pairs
    ]
    # -log sigmoid(beta * margin - gamma), gamma = ratio * beta
    expected = sum(math.log1p(math.exp(-(2.0 * margin - 0.6))) for margin in margins) / len(pairs)
    assert result.first_loss == pytest.approx(expected, abs=1e-5)
    assert result.expected_first_loss is None
    assert result.logp_error_max < 1e-5
    assert any("experimental" in note for note in result.notes)
    assert result.steps[-1].loss < result.first_loss


def test_simpo_needs_no_reference_and_its_lora_works(policy, pairs, tmp_path):
    bare = [dataclasses.replace(p, reference_logp_chosen=None, reference_logp_rejected=None) for p in pairs]
    result = train(
        make_job(
            tmp_path, policy, bare, loss="simpo", gamma_beta_ratio=0.3, beta=2.0, reference_is_policy=False, lora=LORA
        )
    )
    assert result.changed_fraction > 0


def test_one_step_is_not_spent_on_warming_up(policy, pairs, tmp_path):
    result = train(make_job(tmp_path, policy, pairs[:8]))
    assert [step.learning_rate for step in result.steps] == [1e-3]
    assert any("warm-up" in note for note in result.notes)


def test_pass_through_keys_arrive(policy, pairs, tmp_path):
    result = train(make_job(tmp_path, policy, pairs, trl={"loss_type": "ipo", "max_grad_norm": 0.0}))
    assert result.first_loss == pytest.approx(25.0, abs=1e-4)  # 1 / (4 beta^2)
    assert result.expected_first_loss == pytest.approx(25.0)


def test_the_model_is_released(policy, pairs, tmp_path):
    import gc
    import weakref

    from selfplay.backends.trl import policy_files

    models = []
    real = policy_files.load_policy

    def load(folder, **kwargs):
        models.append(weakref.ref(model := real(folder, **kwargs)))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_files, "load_policy", load)
        for number in range(2):
            train(make_job(tmp_path / str(number), policy, pairs[:8]))
    gc.collect()
    assert models and all(model() is None for model in models)


@pytest.mark.parametrize("lora", [None, LORA])
def test_gradient_checkpointing_is_only_a_resource(policy, pairs, tmp_path, lora):
    for name, on in (("on", True), ("off", False)):
        train(make_job(tmp_path / name, policy, pairs, lora=lora, gradient_checkpointing=on))
    assert largest_difference(weights(tmp_path / "on/output/policy"), weights(tmp_path / "off/output/policy")) < 1e-6


def test_under_bf16_autocast_weights_moments_and_canaries_stay_float32(policy, pairs, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    from selfplay.backends.trl import config as trl_config

    # as on a GPU: a CPU has the same autocast, only slowly
    monkeypatch.setattr(trl_config, "uses_bf16", lambda job, device: True)
    prompt = pairs[0].prompt_token_ids
    job = make_job(tmp_path, policy, pairs, precision="auto", checkpoint_every=3, canary_prompts=[prompt])
    result = train(job)
    assert result.logp_error_max > 1e-4 and result.logp_error_mean < 0.02
    assert {t.dtype for t in weights(tmp_path / "output/policy").values()} == {torch.float32}
    optimizer = torch.load(tmp_path / "checkpoints/checkpoint-3/optimizer.pt", weights_only=True)
    assert {m.dtype for state in optimizer["state"].values() for m in state.values()} == {torch.float32}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "output/policy", dtype=torch.float32)
    logps = torch.log_softmax(model(torch.tensor([prompt])).logits[0, -1], dim=-1)
    first = result.canaries[0].positions[0]
    assert first.top_logps == pytest.approx(logps[first.top_ids].tolist(), abs=1e-5)


def test_nothing_is_printed_and_nothing_is_sent(policy, pairs, tmp_path, capfd, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("telemetry")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", forbidden)
    for _ in range(2):
        train(make_job(tmp_path, policy, pairs, checkpoint_every=1))
    assert capfd.readouterr() == ("", "")


def test_a_bf16_policy_with_an_odd_generation_config(tmp_path):
    policy = make_tiny_llama(tmp_path / "bf16", dtype="bfloat16")
    # transformers refuses to save such a generation config; published models have them
    (policy / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6, "eos_token_id": [257, 3]}')
    (policy / ".COMMIT.json").write_text("{}")
    (policy / "original").mkdir()
    train(make_job(tmp_path, policy, make_pairs(policy, 8), checkpoint_every=1, learning_rate=1e-6))
    made = tmp_path / "output/policy"
    final, start = weights(made), weights(policy)
    assert {t.dtype for t in start.values()} == {torch.bfloat16} and {t.dtype for t in final.values()} == {
        torch.float32
    }
    # at this learning rate the update is smaller than bf16's spacing, and float32 keeps it
    assert 0 < largest_difference(final, {name: t.float() for name, t in start.items()}) < 1e-5
    assert (made / "generation_config.json").read_bytes() == (policy / "generation_config.json").read_bytes()
    assert json.loads((made / "config.json").read_text())["dtype"] == "float32"
    assert not (made / ".COMMIT.json").exists() and not (made / "original").exists()


@pytest.mark.parametrize("shares", [True, False])
def test_chosen_responses_are_measured_without_the_rejected_ones(policy, pairs, tmp_path, shares):
    from transformers import AutoTokenizer

    from selfplay.backends.trl.config import make_args
    from selfplay.backends.trl.make_trainer import make_trainer
    from selfplay.backends.trl.policy_files import load_policy

    job = make_job(tmp_path, policy, pairs)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    trainer = make_trainer(job, make_args(job, torch.device("cpu"), []), load_policy(policy), tokenizer, None)
    trainer.share_prompts(shares)
    both, alone = trainer.measure(range(19)), trainer.measure(range(19), only_chosen=True)
    assert alone.chosen_logps == pytest.approx(both.chosen_logps, abs=1e-3)
    assert alone.chosen_logps == pytest.approx([pair.policy_logp_chosen for pair in pairs], abs=1e-3)
