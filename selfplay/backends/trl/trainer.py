"""Stage *train*: one round of preference training with TRL, from a policy folder to the next one.

The order of events: settings and pairs are checked; the policy is loaded in float32; its log-probs are held
against the table; TRL trains, from the last intact checkpoint where there is one; canaries are recorded for the
engine that will load the policy; the policy is written, compared with the starting one, read again and hashed.
A failure on the way leaves `output_dir` without a policy, and the starting policy as it was.

torch and TRL are imported inside the functions: the driver names and checks this class without loading them.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from selfplay.backends.trl import checkpoints
from selfplay.core.protocols import StepMetrics, TrainJob, TrainResult, WrittenFile
from selfplay.store.manifest import hash_files

_VERSIONS = ("trl", "transformers", "torch", "peft", "accelerate")


class TrlTrainer:
    """Trains on the one GPU that its process sees, else on the CPU with `threads` threads. Holds no model
    between calls. Its libraries, whose import takes seconds, are loaded in the background from the start.

    torch's thread count is the process's: do not share one with a vLLM engine, whose CPU worker binds the
    threads.
    """

    def __init__(self, threads: int = 1, trust_remote_code: bool = False) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        self._threads, self._trust_remote_code = threads, trust_remote_code
        self._loading = threading.Thread(target=_load_libraries, name="load-libraries", daemon=True)
        self._loading.start()

    def train(self, job: TrainJob, progress: Callable[[StepMetrics | str], None]) -> TrainResult:
        """Train one round; see `TrainJob` and `TrainResult`. What `progress` raises stops the training and
        passes through.

        Raises ConfigError for settings that cannot work, ModelError for a policy folder that cannot be used,
        BackendError when a pair cannot be trained on, the log-probs are another model's, or the training
        diverges or changes nothing.
        """
        self._loading.join()
        _quiet()
        import torch

        torch.set_num_threads(self._threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return _train(job, device, progress, self._trust_remote_code)
        finally:
            # TRL's trainer and its model refer to each other; a second round must not need the memory of two
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _load_libraries() -> None:
    """Import what a training needs, without touching a device. Once in a process."""
    if "trl" in sys.modules:
        return
    # of this thread alone: it takes what the engine, which starts at the same time, leaves idle
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    _quiet()
    importlib.import_module("selfplay.backends.trl.make_trainer")
    importlib.import_module("selfplay.backends.trl.checks")
    # libraries stay: the collections at the end of a training need not walk through them
    gc.collect()
    gc.freeze()


def _quiet() -> None:
    """No bars, no telemetry, no warnings about what this file does on purpose. Before the first import of
    these libraries."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # reported in TrainResult.notes instead
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()


@dataclass(frozen=True, slots=True)
class _Fitted:
    """What TRL left: the final model (adapters merged, float32), the check before the first update, the mean log-prob
    of a token of chosen responses before and after, and the log."""

    model: Any
    start: Any
    logp_before: float
    logp_after: float
    steps: list[StepMetrics]
    resumed_from_step: int


def _train(
    job: TrainJob, device: Any, progress: Callable[[StepMetrics | str], None], trust_remote_code: bool
) -> TrainResult:
    from selfplay.backends.trl.checks import check_saved, measure_update, record_canaries
    from selfplay.backends.trl.config import check_job
    from selfplay.backends.trl.policy_files import load_policy, save_policy
    from selfplay.backends.trl.ruin import Condition, check_policy, uncertainty
    from selfplay.inputs.models.chat import load_tokenizer, stop_token_ids
    from selfplay.inputs.models.preflight import generation_eos_ids

    started = time.monotonic()
    notes: list[str] = []
    check_job(job, device)
    source, output = Path(job.policy_dir), Path(job.output_dir)
    model = load_policy(source, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    fitted = _fit(job, model, tokenizer, device, progress, notes)
    model = fitted.model
    canaries = record_canaries(model, job, frozenset(stop_token_ids(tokenizer, generation_eos_ids(source))))
    for name in ("policy", "engine"):
        if (output / name).exists():
            notes.append(f"an unfinished {name}/ of an earlier attempt was replaced")
            shutil.rmtree(output / name)
    try:
        with ThreadPoolExecutor() as threads:
            # the weights are compared with those of the start while they are written, and hashed while they are read again
            measuring = threads.submit(measure_update, model, job, trust_remote_code=trust_remote_code)
            save_policy(model, source, output / "policy")
            update = measuring.result()
            condition = Condition(fitted.logp_before, fitted.logp_after, update.ratio, uncertainty(canaries))
            check_policy(condition, job, model.get_input_embeddings().weight.shape[0])
            hashing = threads.submit(hash_files, output, "policy")
            check_saved(model, output / "policy", trust_remote_code=trust_remote_code)
            files = hashing.result()
        if job.engine_dtype == "bfloat16":
            import torch

            # last: this rounds the weights in place
            save_policy(model.to(torch.bfloat16), source, output / "engine")
            files += hash_files(output, "engine")
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    return TrainResult(
        optimizer_steps=len(fitted.steps),
        resumed_from_step=fitted.resumed_from_step,
        first_loss=fitted.start.loss,
        expected_first_loss=fitted.start.expected_loss,
        checked_pairs=fitted.start.num_pairs,
        logp_error_max=fitted.start.error_max,
        logp_error_mean=fitted.start.error_mean,
        update_norm=update.norm,
        update_ratio=update.ratio,
        chosen_logp_before=fitted.logp_before,
        chosen_logp_after=fitted.logp_after,
        changed_fraction=update.changed_fraction,
        seconds=time.monotonic() - started,
        steps=fitted.steps,
        canaries=canaries,
        versions=_versions() | {"device": device.type},
        notes=notes,
        files=[WrittenFile(entry.path, entry.num_bytes, entry.sha256) for entry in files],
    )


@cache
def _versions() -> dict[str, str]:
    """Of the libraries. Each is parsed from a file, once in a process."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS}


def _fit(
    job: TrainJob,
    model: Any,
    tokenizer: Any,
    device: Any,
    progress: Callable[[StepMetrics | str], None],
    notes: list[str],
) -> _Fitted:
    """Check the start and let TRL train; on return the optimizer and TRL's trainer are out of scope."""
    from transformers import PrinterCallback

    from selfplay.backends.trl.callback import StepCallback, step_metrics
    from selfplay.backends.trl.checks import check_start, chosen_logps, merge_adapters
    from selfplay.backends.trl.config import make_args, make_peft_config, uses_bf16
    from selfplay.backends.trl.make_trainer import make_trainer
    from selfplay.backends.trl.rows import check_pairs

    check_pairs(job, model.get_input_embeddings().weight.shape[0])
    peft_config = make_peft_config(job, model)
    trainer = make_trainer(job, make_args(job, device, notes), model, tokenizer, peft_config)
    # with its bar switched off, transformers prints each log line instead
    trainer.remove_callback(PrinterCallback)
    # on a GPU the kernels for plain causal attention may gain more than this saves
    trainer.share_prompts(device.type == "cpu")
    shares = trainer.shares_prompts
    start = check_start(trainer, job, bf16=uses_bf16(job, device))
    if shares and not trainer.shares_prompts:
        notes.append(
            "each response is computed with its prompt: with a prompt shared by a pair this model has other log-probs"
        )
    job_fingerprint = checkpoints.fingerprint(job)
    trainer.add_callback(StepCallback(progress, job_fingerprint, job.stop_file, job.keep_checkpoints, job.limits))
    found = _resume_point(job, job_fingerprint, notes, progress)
    trainer.train(resume_from_checkpoint=str(found.folder) if found.folder else None)
    logps = chosen_logps(trainer, job)
    # without the autocast that accelerate wraps around a bf16 forward
    final = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    steps = [
        step_metrics(log, log["step"], trainer.state.max_steps) for log in trainer.state.log_history if "loss" in log
    ]
    return _Fitted(merge_adapters(final, job) if peft_config else final, start, *logps, steps, found.step)


def _resume_point(
    job: TrainJob, job_fingerprint: str, notes: list[str], progress: Callable[[StepMetrics | str], None]
) -> checkpoints.Found:
    """The newest intact checkpoint. Rejected ones are named in `notes`, and at once, and deleted: this training would
    write over them."""

    def say(note: str) -> None:
        notes.append(note)
        progress(note)

    found = checkpoints.find(Path(job.checkpoint_dir), job_fingerprint)
    for folder, reason in found.rejected:
        say(f"trainer checkpoint {folder.name} is invalid and was deleted: {reason}")
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        else:
            shutil.rmtree(folder)
    if found.step:
        say(f"resumed from the trainer checkpoint of step {found.step}")
    elif found.rejected:
        say("no intact trainer checkpoint: the round is trained from its start")
    return found
