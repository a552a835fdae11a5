"""Benchmark `training`: a round of DPO over TRL's own trainer and over a plain loop, on the same pairs in the same steps.

All alternatives have one thread and take turns in one process. Stock TRL is given the rows as token ids, and the micro-batch
that is fastest here; the training alone is compared. The plain loop is what a script without any check does: load, AdamW on
batches sorted by length, save. It is given the log-probs of the reference, as the stage is; the whole stage is compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, Given, Measured, alternate, median_of, ratios
from benchmarks.forward_work import VOCABULARY, make_model, padded, seconds
from selfplay.core.protocols import LogprobItem, TrainJob, TrainPair

BATCH = 16
# about 2 million parameters
SIZES = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 6}
# of prompts and of responses, in tokens
MEAN_LENGTH, SIGMA = 40, 0.6


def measure(given: Given) -> Measured:
    """Ratios of processor time."""
    import torch

    torch.set_num_threads(1)
    with given.scratch() as root:
        job = make_job(make_model(root / "policy", SIZES, is_reward=False), root, given.scaled(64))
        losses: dict[str, list[float]] = {}
        size = min((4, 8, BATCH), key=lambda size: stock(job, size, losses))
        runs: dict[str, Callable[[], float]] = {
            "ours": partial(ours, job, losses),
            "stock": partial(stock, job, size, losses),
            "stage": partial(seconds, partial(stage, job)),
            "loop": partial(seconds, partial(plain, job)),
        }
        found = alternate(runs, given.num_runs)
    error = max(abs(one - other) for one, other in zip(losses["ours"], losses["stock"], strict=True))
    what = f"{len(job.pairs)} pairs, steps of {BATCH}, {MEAN_LENGTH} tokens a prompt and a response, 2 M parameters, one thread"
    more: dict[str, Any] = {"unit": "x", "clock": "processor"}
    return Measured(
        [
            median_of("training_stock_trl_over_ours", ratios(found["stock"], found["ours"]),
                      work=what, bar=1.3, at_least=True, **more),
            Figure("training_largest_difference_of_losses", error, "loss", "a step, against stock TRL", bar=1e-4),
            median_of("training_stage_over_plain_loop", ratios(found["stage"], found["loop"]), work=what, **more),
        ],
        {"seconds": found, "losses": losses, "micro_batch_of_stock": size},
    )  # fmt: skip


def make_job(policy: Path, root: Path, num_pairs: int) -> TrainJob:
    """A job on pairs of random tokens with log-normal lengths."""
    from selfplay.backends.transformers.logprobs import TorchLogprobs

    generator = np.random.default_rng(0)

    def tokens() -> list[int]:
        length = int(np.clip(generator.lognormal(np.log(MEAN_LENGTH) - SIGMA**2 / 2, SIGMA), 2, 5 * MEAN_LENGTH))
        return [int(token) for token in generator.integers(8, VOCABULARY, length)]

    rows = [(tokens(), tokens(), tokens()) for _ in range(num_pairs)]
    items = [LogprobItem("", prompt, response) for prompt, *both in rows for response in both]
    logps = TorchLogprobs(threads=1).logprobs(str(policy), "policy", items)["logp"].to_pylist()
    pairs = [
        TrainPair(f"pair{number:05}", *row, *logps[2 * number : 2 * number + 2], *logps[2 * number : 2 * number + 2])
        for number, row in enumerate(rows)
    ]
    return TrainJob(
        pairs=pairs, policy_dir=str(policy), output_dir=str(root / "output"), checkpoint_dir=str(root / "checkpoints"),
        seed=0, loss="dpo", beta=0.1, gamma_beta_ratio=None, learning_rate=5e-5, epochs=1, batch_size=BATCH,
        micro_batch_size=BATCH, max_length=1024, warmup_ratio=0.1, schedule="cosine", precision="float32",
        engine_dtype="float32", checkpoint_every=0, reference_is_policy=True,
        canary_prompts=[(pair.prompt_token_ids + pair.chosen_token_ids)[:80] for pair in pairs[:4]],
    )  # fmt: skip


def stage(job: TrainJob) -> None:
    """All that the worker does."""
    from selfplay.backends.trl.trainer import TrlTrainer

    shutil.rmtree(job.output_dir, ignore_errors=True)
    TrlTrainer(threads=1).train(job, lambda event: None)


def ours(job: TrainJob, losses: dict[str, list[float]]) -> float:
    """Processor seconds of the training alone."""
    import torch
    from transformers import AutoTokenizer

    from selfplay.backends.trl.config import make_args
    from selfplay.backends.trl.make_trainer import make_trainer
    from selfplay.backends.trl.policy_files import load_policy

    model, tokenizer = load_policy(Path(job.policy_dir)), AutoTokenizer.from_pretrained(job.policy_dir)
    trainer = make_trainer(job, make_args(job, torch.device("cpu"), []), model, tokenizer, None)
    trainer.share_prompts(True)
    return timed(trainer, losses, "ours")


def stock(job: TrainJob, size: int, losses: dict[str, list[float]]) -> float:
    """Processor seconds of TRL's DPOTrainer with its own reference model, in micro-batches of `size` pairs."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from selfplay.backends.trl.rows import RowOrder, trl_table

    class OnTokens(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    order = list(RowOrder(job.pairs, job.seed))
    args = DPOConfig(
        job.checkpoint_dir, beta=job.beta, learning_rate=job.learning_rate, per_device_train_batch_size=size,
        gradient_accumulation_steps=job.batch_size // size, num_train_epochs=1, warmup_steps=job.warmup_ratio,
        lr_scheduler_type=job.schedule, bf16=False, use_cpu=True, gradient_checkpointing=False, report_to="none",
        logging_steps=1, save_strategy="no", train_sampling_strategy="sequential", disable_tqdm=True, max_length=None,
        optim="adamw_torch_fused", dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = OnTokens(
        model=AutoModelForCausalLM.from_pretrained(job.policy_dir, dtype="float32"),
        args=args,
        processing_class=AutoTokenizer.from_pretrained(job.policy_dir),
        train_dataset=Dataset(trl_table([job.pairs[row] for row in order], reference=False)),
    )
    return timed(trainer, losses, "stock")


def timed(trainer: Any, losses: dict[str, list[float]], name: str) -> float:
    """Processor seconds of a trainer's training; its losses are kept by name."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    taken = seconds(trainer.train)
    losses[name] = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return taken


def plain(job: TrainJob, size: int = 4) -> None:
    """Load, train in micro-batches of `size` pairs, save."""
    import torch
    from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

    model = AutoModelForCausalLM.from_pretrained(job.policy_dir, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.learning_rate, weight_decay=0.0, fused=True)
    num_steps = job.max_steps or -(-len(job.pairs) // job.batch_size)
    schedule = get_cosine_schedule_with_warmup(optimizer, 1, num_steps)
    for numbers in islice(_batches(job), num_steps):
        pairs = sorted(
            (job.pairs[number] for number in numbers),
            key=lambda pair: (
                -len(pair.prompt_token_ids) - max(len(pair.chosen_token_ids), len(pair.rejected_token_ids))
            ),
        )
        for first in range(0, len(pairs), size):
            some = pairs[first : first + size]
            rows = [(pair.prompt_token_ids, pair.chosen_token_ids) for pair in some]
            rows += [(pair.prompt_token_ids, pair.rejected_token_ids) for pair in some]
            logits = model(**padded([prompt + response for prompt, response in rows]), use_cache=False).logits
            logps = [
                torch.log_softmax(logits[row, len(prompt) - 1 : len(prompt) + len(response) - 1], dim=-1)
                .gather(-1, torch.tensor(response)[:, None])
                .sum()
                for row, (prompt, response) in enumerate(rows)
            ]
            margin = torch.stack(logps[: len(some)]) - torch.stack(logps[len(some) :])
            reference = torch.tensor([_reference_margin(pair) for pair in some])
            loss = -torch.nn.functional.logsigmoid(job.beta * (margin - reference)).sum() / len(pairs)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(job.output_dir)


def _batches(job: TrainJob) -> Iterator[list[int]]:
    """The rows of each optimizer step, without end."""
    from selfplay.backends.trl.rows import RowOrder

    order = RowOrder(job.pairs, job.seed)
    for epoch in count():
        order.set_epoch(epoch)
        rows = list(order)
        yield from (rows[start : start + job.batch_size] for start in range(0, len(rows), job.batch_size))


def _reference_margin(pair: TrainPair) -> float:
    assert pair.reference_logp_chosen is not None and pair.reference_logp_rejected is not None
    return pair.reference_logp_chosen - pair.reference_logp_rejected
