"""Sealed trainer checkpoints: a stopped round resumes to the same bits, and an injured checkpoint is never used."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from selfplay.backends.trl import checkpoints
from selfplay.backends.trl.trainer import TrlTrainer
from selfplay.core.errors import Interrupted
from selfplay.core.protocols import StepMetrics, TrainJob, TrainLimits
from selfplay.store import durable
from tests.helpers.tiny import make_tiny_llama
from tests.helpers.training import largest_difference, make_job, make_pairs, stop_at, train, weights

LORA = {"r": 4, "alpha": 8.0, "dropout": 0.1, "target_modules": "all-linear"}
JOB = {"epochs": 2, "checkpoint_every": 1}  # 19 pairs in steps of 8: 6 steps, the third and sixth with 3 pairs


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def pairs(policy: Path) -> list:
    return make_pairs(policy, 19)


@pytest.fixture(scope="module")
def uninterrupted(policy: Path, pairs: list, tmp_path_factory: pytest.TempPathFactory):
    """Result and folder of the round that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return train(make_job(folder, policy, pairs, **JOB)), folder


@pytest.fixture(scope="module")
def stopped(policy: Path, pairs: list, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the same round stopped in its fifth step: steps 3 and 4 are there."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        train(make_job(folder, policy, pairs, **JOB), stop_at(5))
    kept = folder / "checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["checkpoint-3", "checkpoint-4"]
    return kept


def copy_of(stopped: Path, folder: Path, policy: Path, pairs: list) -> TrainJob:
    shutil.copytree(stopped, folder / "checkpoints")
    return make_job(folder, policy, pairs, **JOB)


def test_a_resumed_round_ends_with_the_same_bits(policy, pairs, stopped, uninterrupted, tmp_path):
    result = train(copy_of(stopped, tmp_path, policy, pairs))
    whole, folder = uninterrupted
    assert result.resumed_from_step == 4
    assert result.steps == whole.steps and result.optimizer_steps == 6
    assert largest_difference(weights(tmp_path / "output/policy"), weights(folder / "output/policy")) == 0
    assert (tmp_path / "output/policy/model.safetensors").read_bytes() == (
        folder / "output/policy/model.safetensors"
    ).read_bytes()
    assert result.update_norm == whole.update_norm
    assert "resumed from the trainer checkpoint of step 4" in result.notes


def test_asked_to_stop_it_seals_a_checkpoint_first(policy, pairs, uninterrupted, tmp_path):
    # no checkpoints of its own accord: the one that is sealed is the stop's
    settings = {**JOB, "checkpoint_every": 0, "stop_file": str(tmp_path / "STOP")}
    job = make_job(tmp_path, policy, pairs, **settings)

    def ask(metrics: StepMetrics) -> None:
        if metrics.step == 2:
            (tmp_path / "STOP").touch()

    with pytest.raises(Interrupted, match=r"step [23] of 6 is kept"):
        train(job, ask)
    assert not (tmp_path / "output/policy").exists()
    (tmp_path / "STOP").unlink()
    _, folder = uninterrupted
    again = train(job)
    assert again.resumed_from_step in (2, 3)
    assert largest_difference(weights(tmp_path / "output/policy"), weights(folder / "output/policy")) == 0.0


def test_asked_to_stop_before_its_next_step_it_takes_none(policy, pairs, stopped, uninterrupted, tmp_path):
    kept = dataclasses.replace(copy_of(stopped, tmp_path, policy, pairs), stop_file=str(tmp_path / "STOP"))
    (tmp_path / "STOP").touch()
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "checkpoints").rglob("*"))
    for job, step in ((kept, 5), (dataclasses.replace(kept, checkpoint_dir=str(tmp_path / "none")), 1)):
        with pytest.raises(Interrupted, match=f"before step {step} of 6"):
            train(job)
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "checkpoints").rglob("*")) == before
    (tmp_path / "STOP").unlink()
    assert train(kept).resumed_from_step == 4
    assert largest_difference(weights(tmp_path / "output/policy"), weights(uninterrupted[1] / "output/policy")) == 0


def test_a_resume_at_the_end_of_an_epoch(policy, pairs, stopped, uninterrupted, tmp_path):
    job = copy_of(stopped, tmp_path, policy, pairs)
    shutil.rmtree(tmp_path / "checkpoints/checkpoint-4")
    assert train(job).resumed_from_step == 3
    assert largest_difference(weights(tmp_path / "output/policy"), weights(uninterrupted[1] / "output/policy")) == 0


def test_a_resume_after_the_last_step_trains_no_more(policy, pairs, uninterrupted, tmp_path):
    result, folder = uninterrupted
    job = copy_of(folder / "checkpoints", tmp_path, policy, pairs)
    (tmp_path / "output/policy").mkdir(parents=True)  # the kill came while the policy was written
    again = train(job, stop_at(6))
    assert again.resumed_from_step == 6 and again.steps == result.steps
    assert largest_difference(weights(tmp_path / "output/policy"), weights(folder / "output/policy")) == 0


def test_a_resume_with_another_micro_batch_is_the_same_round(policy, pairs, stopped, uninterrupted, tmp_path):
    job = dataclasses.replace(copy_of(stopped, tmp_path, policy, pairs), micro_batch_size=1)
    result = train(job)
    assert result.resumed_from_step == 4
    assert [s.loss for s in result.steps] == pytest.approx([s.loss for s in uninterrupted[0].steps], abs=1e-4)
    difference = largest_difference(weights(tmp_path / "output/policy"), weights(uninterrupted[1] / "output/policy"))
    assert difference < 2e-4


@pytest.mark.parametrize(
    "loss",
    [
        {"lora": LORA, "learning_rate": 1e-2, "schedule": "linear", "warmup_ratio": 0.3},
        # micro-batches of 2, the last of an epoch of 1
        {"loss": "simpo", "gamma_beta_ratio": 0.3, "micro_batch_size": 2},
    ],
)
def test_lora_with_dropout_and_simpo_resume_to_the_same_bits(policy, pairs, tmp_path, loss):
    settings = {"checkpoint_every": 2, "epochs": 2, "reference_is_policy": "lora" in loss} | loss
    undisturbed = train(make_job(tmp_path / "whole", policy, pairs, **settings))
    with pytest.raises(KeyboardInterrupt):
        train(make_job(tmp_path / "killed", policy, pairs, **settings), stop_at(5))
    again = train(make_job(tmp_path / "killed", policy, pairs, **settings))
    assert again.resumed_from_step == 4 and again.steps == undisturbed.steps
    whole, resumed = (weights(tmp_path / name / "output/policy") for name in ("whole", "killed"))
    assert largest_difference(whole, resumed) == 0


def test_max_steps_repeat_the_pairs_and_resume_to_the_same_bits(policy, pairs, uninterrupted, tmp_path):
    # 19 pairs in steps of 8: what two epochs take is the same training; 7 steps are two passes and a third's first
    same = train(make_job(tmp_path / "same", policy, pairs, max_steps=6))
    assert same.optimizer_steps == 6
    whole = weights(uninterrupted[1] / "output/policy")
    assert largest_difference(weights(tmp_path / "same/output/policy"), whole) == 0
    settings = {"max_steps": 7, "checkpoint_every": 2}
    result = train(make_job(tmp_path / "whole", policy, pairs, **settings))
    assert (result.optimizer_steps, result.steps[-1].num_steps) == (7, 7)
    assert result.steps[-1].learning_rate < result.steps[2].learning_rate
    with pytest.raises(KeyboardInterrupt):
        train(make_job(tmp_path / "killed", policy, pairs, **settings), stop_at(7))
    resumed = train(make_job(tmp_path / "killed", policy, pairs, **settings))
    assert (resumed.resumed_from_step, resumed.optimizer_steps) == (6, 7)
    both = [weights(tmp_path / name / "output/policy") for name in ("whole", "killed")]
    assert largest_difference(*both) == 0


def _flip_bit(folder: Path, name: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _swap(folder: Path) -> None:
    other = folder.parent / "checkpoint-3"
    (folder / "optimizer.pt").write_bytes((other / "optimizer.pt").read_bytes())


def _link(folder: Path) -> None:
    (folder / "scheduler.pt").rename(folder.parent / "elsewhere")
    (folder / "scheduler.pt").symlink_to(folder.parent / "elsewhere")


def _link_to_another(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "checkpoint-3")


def _link_of_the_seal(folder: Path) -> None:
    (folder / checkpoints.SEAL).rename(folder.parent / "elsewhere")
    (folder / checkpoints.SEAL).symlink_to(folder.parent / "elsewhere")


INJURIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no optimizer": (lambda c: (c / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "no scheduler": (lambda c: (c / "scheduler.pt").unlink(), "scheduler.pt is missing"),
    "flipped bit in the weights": (lambda c: _flip_bit(c, "model.safetensors"), "model.safetensors is damaged"),
    "flipped bit in the optimizer": (lambda c: _flip_bit(c, "optimizer.pt"), "optimizer.pt is damaged"),
    "truncated": (lambda c: os.truncate(c / "model.safetensors", 1000), "model.safetensors has 1000 bytes"),
    "of another step": (_swap, "optimizer.pt is damaged"),
    "empty folder": (_empty, "it is empty"),
    "half written": (lambda c: (c / checkpoints.SEAL).unlink(), "not sealed"),
    "half a seal": (lambda c: os.truncate(c / checkpoints.SEAL, 100), "seal cannot be read"),
    "seal of another shape": (lambda c: (c / checkpoints.SEAL).write_text("[]"), "seal cannot be read"),
    "a pickle put beside": (lambda c: (c / "pytorch_model.bin").write_bytes(b"x"), "pytorch_model.bin is not in"),
    "a hidden file put beside": (lambda c: (c / ".other.pt").write_bytes(b"x"), ".other.pt is not in"),
    "a link": (_link, "scheduler.pt is missing"),
    "a link to another checkpoint": (_link_to_another, "it is not a folder"),
    "a link in the place of the seal": (_link_of_the_seal, "SEAL.json is a symbolic link"),
}


@pytest.mark.parametrize("injury", INJURIES)
def test_an_injured_checkpoint_is_named(policy, pairs, stopped, tmp_path, injury):
    job = copy_of(stopped, tmp_path, policy, pairs)
    injure, reason = INJURIES[injury]
    injure(tmp_path / "checkpoints/checkpoint-4")
    found = checkpoints.find(Path(job.checkpoint_dir), checkpoints.fingerprint(job))
    assert found.step == 3 and found.folder == tmp_path / "checkpoints/checkpoint-3"
    ((folder, said),) = found.rejected
    assert folder.name == "checkpoint-4" and reason in said


def test_a_checkpoint_on_a_bad_sector_is_named(policy, pairs, stopped, tmp_path, monkeypatch):
    job = copy_of(stopped, tmp_path, policy, pairs)
    read = durable.sha256_file

    def failing(path: Path) -> str:
        if path.parent.name == "checkpoint-4" and path.name == "optimizer.pt":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(durable, "sha256_file", failing)
    found = checkpoints.find(Path(job.checkpoint_dir), checkpoints.fingerprint(job))
    assert found.step == 3
    assert [reason for _, reason in found.rejected] == ["it cannot be read (Input/output error)"]


def test_a_round_goes_on_from_the_last_intact_checkpoint(policy, pairs, stopped, uninterrupted, tmp_path):
    job = copy_of(stopped, tmp_path, policy, pairs)
    (tmp_path / "checkpoints/checkpoint-5").mkdir()
    _flip_bit(tmp_path / "checkpoints/checkpoint-4", "model.safetensors")
    result = train(job)
    assert result.resumed_from_step == 3
    said = "\n".join(result.notes)
    assert "checkpoint-5 is invalid and was deleted: it is empty" in said
    assert "checkpoint-4 is invalid and was deleted: model.safetensors is damaged" in said
    assert largest_difference(weights(tmp_path / "output/policy"), weights(uninterrupted[1] / "output/policy")) == 0
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-5", "checkpoint-6"]


def test_what_became_of_checkpoints_is_said_before_the_first_step(policy, pairs, stopped, tmp_path):
    """A training that is killed again has no result to say it in, and the rejected ones are gone then."""
    job = copy_of(stopped, tmp_path, policy, pairs)
    _flip_bit(tmp_path / "checkpoints/checkpoint-4", "model.safetensors")
    said = []

    def until_a_step(event: StepMetrics | str) -> None:
        if isinstance(event, StepMetrics):
            raise KeyboardInterrupt
        said.append(event)

    with pytest.raises(KeyboardInterrupt):
        TrlTrainer(threads=1).train(job, until_a_step)
    assert len(said) == 2 and said[1] == "resumed from the trainer checkpoint of step 3"
    assert said[0].startswith(
        "trainer checkpoint checkpoint-4 is invalid and was deleted: model.safetensors is damaged"
    )


def test_without_an_intact_one_the_round_starts_over(policy, pairs, stopped, uninterrupted, tmp_path):
    job = copy_of(stopped, tmp_path, policy, pairs)
    for name in ("checkpoint-3", "checkpoint-4"):
        (tmp_path / "checkpoints" / name / "optimizer.pt").unlink()
    result = train(job)
    assert result.resumed_from_step == 0
    assert any("from its start" in note for note in result.notes)
    assert largest_difference(weights(tmp_path / "output/policy"), weights(uninterrupted[1] / "output/policy")) == 0


@pytest.mark.parametrize("change", [{"seed": 8}, {"beta": 0.2}, {"trl": {"weight_decay": 0.1}}, {"lora": LORA}])
def test_a_checkpoint_of_another_job_is_not_used(policy, pairs, stopped, tmp_path, change):
    job = dataclasses.replace(copy_of(stopped, tmp_path, policy, pairs), **change)
    found = checkpoints.find(Path(job.checkpoint_dir), checkpoints.fingerprint(job))
    assert found.folder is None
    assert {reason for _, reason in found.rejected} == {"it belongs to a job with other pairs or settings"}


def test_every_field_of_a_job_is_in_its_fingerprint_or_known_not_to_matter(policy, pairs, tmp_path):
    job = make_job(tmp_path, policy, pairs)
    free = {
        "policy_dir": "elsewhere", "output_dir": "elsewhere", "checkpoint_dir": "elsewhere", "micro_batch_size": 2,
        "engine_dtype": "bfloat16", "checkpoint_every": 3, "gradient_checkpointing": True, "canary_prompts": [[1]],
        "canary_tokens": 1, "stop_file": "elsewhere", "limits": TrainLimits(1.0), "keep_checkpoints": 2,
        "micro_batch_tokens": 64,
    }  # fmt: skip
    bound = {
        "pairs": pairs[1:], "seed": 8, "loss": "simpo", "beta": 0.2, "gamma_beta_ratio": 0.3, "learning_rate": 1.0,
        "epochs": 9, "max_steps": 5, "batch_size": 16, "max_length": 65, "warmup_ratio": 0.2, "schedule": "linear",
        "precision": "bf16", "reference_is_policy": False, "lora": LORA, "trl": {"weight_decay": 0.1},
    }  # fmt: skip
    assert free.keys() | bound.keys() == {field.name for field in dataclasses.fields(TrainJob)}
    same = checkpoints.fingerprint(job)
    for name, value in free.items():
        assert checkpoints.fingerprint(dataclasses.replace(job, **{name: value})) == same, name
    for name, value in bound.items():
        assert checkpoints.fingerprint(dataclasses.replace(job, **{name: value})) != same, name
    nudged = dataclasses.replace(pairs[0], policy_logp_chosen=pairs[0].policy_logp_chosen + 1e-6)
    assert checkpoints.fingerprint(dataclasses.replace(job, pairs=[nudged, *pairs[1:]])) != same


def test_an_incomplete_checkpoint_is_never_sealed(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"optimizer\.pt"):
        checkpoints.seal(tmp_path, 1, "f")
    assert not (tmp_path / checkpoints.SEAL).exists()


def test_the_seal_lists_every_file(stopped):
    folder = stopped / "checkpoint-4"
    seal = json.loads((folder / checkpoints.SEAL).read_text())
    assert seal["step"] == 4
    assert {row["path"] for row in seal["files"]} == {path.name for path in folder.iterdir()} - {checkpoints.SEAL}
    assert all(len(row["sha256"]) == 64 for row in seal["files"])
