"""What a DPO round refuses, before training or after it: the starting policy stays, and no output is left."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from selfplay.core.errors import BackendError, ConfigError, DivergedError, ModelError
from selfplay.core.protocols import TrainLimits
from tests.helpers.tiny import make_tiny_llama
from tests.helpers.training import END, make_job, make_pairs, train, weights


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="module")
def pairs(policy: Path) -> list:
    return make_pairs(policy, 19)


def test_another_models_log_probs_are_refused(policy, other, tmp_path):
    with pytest.raises(BackendError, match="policy_logp") as caught:
        train(make_job(tmp_path, policy, make_pairs(other, 8)))
    assert "logprobs" in caught.value.hint
    assert not (tmp_path / "output").exists()


def test_another_models_reference_is_refused_where_it_must_be_the_policy(policy, other, tmp_path):
    pairs = make_pairs(policy, 8, reference=other)
    with pytest.raises(BackendError, match=r"must be 0\.693147"):
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


def test_weights_that_are_no_numbers_get_into_no_checkpoint(policy, pairs, tmp_path):
    """A step whose loss and gradient are ordinary, and whose update is beyond what a float holds."""
    job = make_job(tmp_path, policy, pairs, learning_rate=1e39, warmup_ratio=0.0, checkpoint_every=1)
    with pytest.raises(DivergedError, match=r"step 1 of \d+: values in .* are not finite"):
        train(job)
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*/.SEAL.json"))
    assert not (tmp_path / "output/policy").exists()


def test_a_policy_of_nan_stops_before_training(pairs, tmp_path):
    policy = make_tiny_llama(tmp_path / "nan")
    from safetensors.torch import save_file

    tensors = weights(policy)
    tensors["model.norm.weight"][0] = math.nan
    save_file(tensors, policy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackendError, match="nan"):
        train(make_job(tmp_path, policy, pairs))


def test_a_loss_that_is_not_a_number_stops_at_its_step(policy, pairs, tmp_path, monkeypatch):
    from selfplay.backends.trl.private_api import PairDPOTrainer

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


def test_a_gradient_beyond_its_limit_stops_before_anything_is_kept(policy, pairs, tmp_path):
    job = make_job(tmp_path, policy, pairs, checkpoint_every=1, limits=TrainLimits(max_grad_norm=1e-9))
    with pytest.raises(
        DivergedError, match=r"step 1 of 3: the gradient norm is .*; the limit gates\.max_grad_norm is 1e-09"
    ):
        train(job)
    assert not list(tmp_path.rglob("checkpoint-*")) and not (tmp_path / "output").exists()


def test_an_update_that_bf16_cannot_hold_is_an_error(policy, pairs, tmp_path):
    with pytest.raises(BackendError, match=r"none of .* in bfloat16"):
        train(make_job(tmp_path, policy, pairs[:8], learning_rate=1e-12, engine_dtype="bfloat16"))
    assert not (tmp_path / "output").exists()


def test_weights_that_exploded_are_not_a_policy(policy, pairs, tmp_path):
    with pytest.raises(BackendError, match="not finite"):
        train(make_job(tmp_path, policy, pairs[:8], learning_rate=1e38, canary_prompts=[pairs[0].prompt_token_ids]))
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "dp0"}, "unknown loss"),
        ({"loss": "simpo"}, "simpo_gamma_beta_ratio"),
        ({"schedule": "constant"}, "schedule"),
        ({"precision": "bf16"}, "CPU"),
        ({"precision": "float16"}, "precision"),
        ({"trl": {"weight_decai": 0.1}}, "weight_decay"),
        ({"trl": {"loss_type": "sigmoid", "loss_weights": [1.0]}}, "loss_weights"),
        ({"trl": {"f_divergence_type": "alpha"}}, "f_divergence_type"),
        ({"trl": {"f_divergence_type": "js_divergence", "loss_type": "nca_pair"}}, "TRL rejects the training settings"),
        ({"trl": {"loss_type": "exo_pair"}}, "Label smoothing"),
        ({"trl": {"loss_type": ["sigmoid", "hinge"], "loss_weights": [1.0]}}, "TRL refuses a value"),
    ],
)
def test_settings_that_cannot_work(policy, pairs, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(make_job(tmp_path, policy, pairs, **changes))


def test_a_missing_policy_folder(pairs, tmp_path):
    with pytest.raises(ModelError, match="no policy folder"):
        train(make_job(tmp_path, tmp_path / "nowhere", pairs))
