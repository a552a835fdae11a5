"""Training jobs on a tiny random model: pairs of byte text, with log-probs from a plain forward pass of our own."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfplay.core.protocols import StepMetrics, TrainJob, TrainPair, TrainResult

END = 257  # `<|end|>` in tiny.py's tokenizer
LETTERS = range(64, 90)  # "a" to "z" there


def plain_logps(folder: Path, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
    """Summed log-probs, one sequence at a time, with nothing but a forward pass and a log-softmax."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums = []
    for prompt, response in zip(prompts, responses, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0]
        logps = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
        sums.append(float(logps.gather(1, torch.tensor(response)[:, None]).double().sum()))
    return sums


def make_pairs(policy: Path, num: int, *, reference: Path | None = None, seed: int = 0) -> list[TrainPair]:
    """`num` pairs of random letters that end with the end token; `reference` defaults to the policy."""
    rng = random.Random(seed)

    def letters(low: int, high: int) -> list[int]:
        return [rng.choice(LETTERS) for _ in range(rng.randint(low, high))]

    prompts = [letters(3, 9) for _ in range(num)]
    chosen = [[*letters(2, 14), END] for _ in range(num)]
    rejected = [[*letters(2, 14), END] for _ in range(num)]
    columns = [plain_logps(policy, prompts, chosen), plain_logps(policy, prompts, rejected)]
    if reference is None:
        columns += columns
    else:
        columns += [plain_logps(reference, prompts, chosen), plain_logps(reference, prompts, rejected)]
    rows = zip(prompts, chosen, rejected, *columns, strict=True)
    return [TrainPair(f"pair{number:02}", *row) for number, row in enumerate(rows)]


def make_job(folder: Path, policy: Path, pairs: list[TrainPair], **changes: Any) -> TrainJob:
    """A job whose output and checkpoints go below `folder`."""
    job = TrainJob(
        pairs=pairs,
        policy_dir=str(policy),
        output_dir=str(folder / "output"),
        checkpoint_dir=str(folder / "checkpoints"),
        seed=7,
        loss="dpo",
        beta=0.1,
        gamma_beta_ratio=None,
        learning_rate=1e-3,
        epochs=1,
        batch_size=8,
        micro_batch_size=4,
        max_length=64,
        warmup_ratio=0.1,
        schedule="cosine",
        precision="float32",
        engine_dtype="float32",
        checkpoint_every=0,
        reference_is_policy=True,
    )
    return replace(job, **changes)


def train(job: TrainJob, progress: Any = None) -> TrainResult:
    """One round with the real trainer."""
    from selfplay.backends.trl.trainer import TrlTrainer

    def steps(event: StepMetrics | str) -> None:
        if isinstance(event, StepMetrics) and progress is not None:
            progress(event)

    return TrlTrainer(threads=1).train(job, steps)


def stop_at(step: int) -> Any:
    """A progress callback that breaks the training off at an optimizer step, as a kill would: nothing is cleaned up."""

    def progress(metrics: StepMetrics) -> None:
        if metrics.step == step:
            raise KeyboardInterrupt(f"stopped at step {step}")

    return progress


def weights(folder: str | Path) -> dict[str, Any]:
    """The tensors of a one-file model folder."""
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def largest_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)
