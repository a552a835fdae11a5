"""A DPO round with TRL on a tiny real model: what it computes, what it writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from selfplay.errors import BackendError, ConfigError, ModelError
from tiny import make_tiny_llama
from training import END, largest_difference, make_job, make_pairs, train, weights

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
    from selfplay.backends.trl_rows import RowOrder
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    pairs = make_pairs(policy, 16, reference=other)
    job = make_job(tmp_path, policy, pairs, reference_is_policy=False)
    ours = train(job)

    order = [pairs[row] for row in RowOrder(pairs, job.seed, job.batch_size)]
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
    assert largest_difference(weights(tmp_path / "output/policy"), {k: v.detach() for k, v in trained.items()}) < 1e-6


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
    assert result.checked_pairs == 19 and result.logp_error_max < 1e-5
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
        assert first.top_logps == pytest.approx(logps[first.top_ids].tolist(), abs=1e-6)


def test_canary_stops_at_the_end_token(policy, tmp_path):
    from selfplay.backends.policy_files import load_policy
    from selfplay.backends.trl_checks import record_canaries

    job = make_job(tmp_path, policy, [], canary_prompts=[[64, 65]], canary_tokens=4)
    model = load_policy(policy)
    all_four = record_canaries(model, job, frozenset())[0].positions
    assert len(all_four) == 4
    assert len(record_canaries(model, job, frozenset({all_four[1].top_ids[0]}))[0].positions) == 2


def test_micro_batch_does_not_change_the_result(policy, pairs, tmp_path):
    # 19 pairs in steps of 8: the last step holds 3, which micro-batches of 4, 2 and 1 cut differently
    results = {
        size: train(make_job(tmp_path / str(size), policy, pairs, micro_batch_size=size)) for size in (8, 4, 2, 1)
    }
    for size in (4, 2, 1):
        difference = largest_difference(
            weights(tmp_path / "8/output/policy"), weights(tmp_path / str(size) / "output/policy")
        )
        assert difference < 2e-5
        assert [s.loss for s in results[size].steps] == pytest.approx([s.loss for s in results[8].steps], abs=1e-5)


def test_order_of_pairs_does_not_change_the_result(policy, pairs, tmp_path):
    train(make_job(tmp_path / "a", policy, pairs))
    train(make_job(tmp_path / "b", policy, pairs[::-1]))
    assert largest_difference(weights(tmp_path / "a/output/policy"), weights(tmp_path / "b/output/policy")) == 0


def test_another_models_log_probs_are_refused(policy, other, tmp_path):
    with pytest.raises(BackendError, match="policy_logp") as caught:
        train(make_job(tmp_path, policy, make_pairs(other, 8)))
    assert "logprobs" in caught.value.hint
    assert not (tmp_path / "output").exists()


def test_another_models_reference_is_refused_where_it_must_be_the_policy(policy, other, tmp_path):
    pairs = make_pairs(policy, 8, reference=other)
    with pytest.raises(BackendError, match="must be 0.693147"):
        train(make_job(tmp_path, policy, pairs))


def test_nan_log_prob_in_the_table_is_refused(policy, pairs, tmp_path):
    broken = [*pairs[:7], dataclasses.replace(pairs[7], policy_logp_chosen=math.nan)]
    with pytest.raises(BackendError, match="pair07"):
        train(make_job(tmp_path, policy, broken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen_token_ids": [64] * 70 + [END]}, "max_length is 64"),
        ({"rejected_token_ids": []}, "no tokens"),
        ({"chosen_token_ids": [320, END]}, "vocabulary of 320"),
        ({"reference_logp_chosen": None}, "reference log-prob"),
        ({"pair_id": "pair00"}, "twice"),
    ],
)
def test_a_pair_that_cannot_be_trained_on_is_named(policy, pairs, tmp_path, change, message):
    bad = dataclasses.replace(pairs[1], **change)
    with pytest.raises(BackendError, match=rf"pair {bad.pair_id} .*{message}"):
        train(make_job(tmp_path, policy, [pairs[0], bad]))


def test_lora_is_merged_and_leaves_no_adapter(policy, pairs, tmp_path):
    from transformers import AutoModelForCausalLM

    lora = LORA | {"dropout": 0.1}
    result = train(make_job(tmp_path, policy, pairs, lora=lora, learning_rate=1e-2, epochs=2))
    start, final = weights(policy), weights(tmp_path / "output/policy")
    assert start.keys() == final.keys()
    assert {t.dtype for t in final.values()} == {torch.float32}
    adapted = [name for name in start if not torch.equal(start[name], final[name])]
    assert adapted and all("_proj" in name for name in adapted)
    assert result.steps[-1].loss < 0.6
    assert 0 < result.changed_fraction < 1
    AutoModelForCausalLM.from_pretrained(tmp_path / "output/policy", dtype=torch.float32)
    assert not list((tmp_path / "output").rglob("adapter*"))


def test_lora_dropout_is_not_switched_off(policy, pairs, tmp_path):
    train(make_job(tmp_path / "with", policy, pairs, lora=LORA | {"dropout": 0.5}, learning_rate=1e-2))
    train(make_job(tmp_path / "without", policy, pairs, lora=LORA, learning_rate=1e-2))
    assert largest_difference(weights(tmp_path / "with/output/policy"), weights(tmp_path / "without/output/policy")) > 0


def test_lora_targets_that_do_not_exist_are_named(policy, pairs, tmp_path):
    with pytest.raises(ConfigError, match="query_key_value") as caught:
        train(make_job(tmp_path, policy, pairs, lora=LORA | {"target_modules": ["q_proj", "query_key_value"]}))
    assert "q_proj" in caught.value.hint


def test_tied_embeddings_stay_tied(tmp_path):
    policy = make_tiny_llama(tmp_path / "tied", tied=True)
    pairs = make_pairs(policy, 8)
    train(make_job(tmp_path, policy, pairs, engine_dtype="bfloat16"))
    assert weights(tmp_path / "output/policy").keys() == weights(policy).keys()


def test_simpo_first_loss_is_the_formula(policy, pairs, tmp_path):
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


def test_a_policy_of_nan_stops_before_training(pairs, tmp_path):
    policy = make_tiny_llama(tmp_path / "nan")
    from safetensors.torch import save_file

    tensors = weights(policy)
    tensors["model.norm.weight"][0] = math.nan
    save_file(tensors, policy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackendError, match="nan"):
        train(make_job(tmp_path, policy, pairs))


def test_a_loss_that_is_not_a_number_stops_at_its_step(policy, pairs, tmp_path, monkeypatch):
    from selfplay.backends.trl_losses import PairDPOTrainer

    real = PairDPOTrainer.compute_loss

    def poisoned(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = real(self, model, inputs, return_outputs, num_items_in_batch)
        return loss * math.nan if self.state.global_step == 1 else loss

    monkeypatch.setattr(PairDPOTrainer, "compute_loss", poisoned)
    before = (policy / "model.safetensors").read_bytes()
    with pytest.raises(BackendError, match="step 2 of 3: the loss is nan"):
        train(make_job(tmp_path, policy, pairs, checkpoint_every=1))
    assert (policy / "model.safetensors").read_bytes() == before
    assert not (tmp_path / "output").exists()
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-1"]


def test_an_update_that_bf16_cannot_hold_is_an_error(policy, pairs, tmp_path):
    with pytest.raises(BackendError, match="none of .* in bfloat16"):
        train(make_job(tmp_path, policy, pairs[:8], learning_rate=1e-12, engine_dtype="bfloat16"))
    assert not (tmp_path / "output").exists()


def test_one_step_is_not_spent_on_warming_up(policy, pairs, tmp_path):
    result = train(make_job(tmp_path, policy, pairs[:8]))
    assert [step.learning_rate for step in result.steps] == [1e-3]
    assert any("warm-up" in note for note in result.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch_size": 3}, "does not divide"),
        ({"loss": "dp0"}, "unknown loss"),
        ({"loss": "simpo"}, "simpo_gamma_beta_ratio"),
        ({"schedule": "constant"}, "schedule"),
        ({"precision": "bf16"}, "CPU"),
        ({"precision": "float16"}, "precision"),
        ({"trl": {"weight_decai": 0.1}}, "weight_decay"),
        ({"trl": {"loss_type": "sigmoid", "loss_weights": [1.0]}}, "loss_weights"),
        ({"trl": {"f_divergence_type": "alpha", "loss_type": ["sigmoid", "nca_pair"]}}, "f_divergence_type"),
    ],
)
def test_settings_that_cannot_work(policy, pairs, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(make_job(tmp_path, policy, pairs, **changes))


def test_pass_through_keys_arrive(policy, pairs, tmp_path):
    result = train(make_job(tmp_path, policy, pairs, trl={"loss_type": "ipo", "max_grad_norm": 0.0}))
    assert result.first_loss == pytest.approx(25.0, abs=1e-4)  # 1 / (4 beta^2)
    assert result.expected_first_loss == pytest.approx(25.0)


def test_a_missing_policy_folder(pairs, tmp_path):
    with pytest.raises(ModelError, match="no policy folder"):
        train(make_job(tmp_path, tmp_path / "nowhere", pairs))


def test_the_model_is_released(policy, pairs, tmp_path):
    import gc
    import weakref

    from selfplay.backends import policy_files

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
