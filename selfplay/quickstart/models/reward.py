"""Makes the small world's reward model: TRL's RewardTrainer on pairs of the policy's own samples, labelled by
the gold reward.

This is the only place where training sees the gold reward, and it sees only which of two answers is better. A few thousand
such pairs make an imperfect proxy: about three of four held-out pairs are right.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast, TrainerCallback
from trl import RewardConfig, RewardTrainer

from selfplay.quickstart.models.policy import Report, conversation, sample
from selfplay.quickstart.recipe import Sizes
from selfplay.quickstart.tasks import gold, prompts


def labelled_pairs(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, num: int, seed: int, sizes: Sizes
) -> list[tuple[str, str, str]]:
    """(prompt, better, worse): two samples at temperature 1 for each of `num` prompts of the reward model's
    split, in the order of the gold reward. Prompts whose two samples are equally good give no pair.
    """
    asked = [row["prompt"] for row in prompts("reward_model", num, seed)]
    responses = sample(
        model, tokenizer, asked + asked, sizes.max_response_tokens, do_sample=True, temperature=1.0, top_k=0
    )
    pairs = []
    for prompt, first, second in zip(asked, responses[:num], responses[num:], strict=True):
        difference = gold(prompt, first) - gold(prompt, second)
        if difference:
            pairs.append((prompt, first, second) if difference > 0 else (prompt, second, first))
    return pairs


def preference_rows(pairs: Sequence[tuple[str, str, str]]) -> Dataset:
    """Pairs in TRL's conversational form: the whole conversation twice."""
    return Dataset.from_list(
        [
            {"chosen": conversation(prompt, better), "rejected": conversation(prompt, worse)}
            for prompt, better, worse in pairs
        ]
    )


class _Steps(TrainerCallback):
    """Reports every tenth step."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % 10 == 0:
            self._report("reward model", step=state.global_step, steps=state.max_steps)


def train_reward_model(
    folder: Path,
    policy: Path,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[tuple[str, str, str]],
    seed: int,
    sizes: Sizes,
    report: Report,
) -> dict[str, float]:
    """Train and save the reward model in `folder`, for one epoch. Returns the numbers of pairs and the accuracy on
    those held out. Raises ValueError when the policy's samples differ so little that there are too few pairs.
    """
    model = LlamaForSequenceClassification.from_pretrained(policy, num_labels=1, dtype=torch.float32)
    if len(pairs) < 2 * sizes.reward_held_out_pairs:
        raise ValueError(f"only {len(pairs)} pairs: the policy's samples hardly differ in gold reward; train it longer")
    held_out, train = pairs[: sizes.reward_held_out_pairs], pairs[sizes.reward_held_out_pairs :]
    scratch = folder.with_name(".reward_scratch")
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            output_dir=str(scratch),
            seed=seed,
            num_train_epochs=1,
            per_device_train_batch_size=sizes.reward_batch,
            per_device_eval_batch_size=128,
            learning_rate=sizes.reward_learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0.05,
            max_length=sizes.context,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            logging_steps=20,
            dataloader_num_workers=0,
        ),
        processing_class=tokenizer,
        train_dataset=preference_rows(train),
        eval_dataset=preference_rows(held_out),
        callbacks=[_Steps(report)],
    )
    trainer.train()
    facts = trainer.evaluate()
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"pairs": len(train), "held_out_pairs": len(held_out), "held_out_accuracy": facts["eval_accuracy"]}
