"""Makes the two models of the small world: a tiny policy and a tiny reward model, both trained here from nothing.

Runs as a process of its own (`python -m selfplay.backends.small_world --out DIR --seed N`), started by `quickstart/world.py`, so
that the command line stays free of torch. It writes ordinary Hugging Face folders, `DIR/policy` and `DIR/reward_model`, and
`DIR/learning_curve.json`: what was measured on the way. Progress goes to stdout, one JSON object a line.

1. The policy, a Llama of half a million to a few million parameters, is fine-tuned on noisy demonstrations.
2. The reward model starts from the policy's weights and learns, with TRL's RewardTrainer, which of two of the policy's own
   answers the gold reward prefers: an imperfect proxy, as in life. Only here does training see the gold reward.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging
from trl import RewardConfig, RewardTrainer

from selfplay.backends.small_tokenizer import make_tokenizer
from selfplay.quickstart.demonstrations import demonstration
from selfplay.quickstart.recipe import Sizes
from selfplay.quickstart.tasks import gold, prompts

IGNORED = -100
"""Label of tokens that carry no loss (torch's cross entropy skips it)."""


def say(stage: str, **facts: Any) -> None:
    """One line of progress. A parent that is gone breaks the pipe, and that ends this process: no orphan trains on."""
    print(json.dumps({"stage": stage, **facts}), flush=True)


def conversation(prompt: str, response: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": prompt}]
    return turns if response is None else [*turns, {"role": "assistant", "content": response}]


def encode(tokenizer: PreTrainedTokenizerFast, conversations: Sequence[list[dict[str, str]]]) -> list[list[int]]:
    """Token ids of each conversation; one that ends in a user turn also gets the start of the assistant's."""
    texts = [
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=turns[-1]["role"] == "user")
        for turns in conversations
    ]
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


# --- the policy ------------------------------------------------------------------------------------------------------------


def demonstrations(num: int, seed: int, split: str) -> list[tuple[str, str]]:
    """`num` pairs of prompt and demonstration; from the split's 5,000th prompt on, prompts come again with new answers."""
    rng = random.Random(f"{seed}/demonstrations/{split}")
    rows = prompts(split, min(num, 5000), seed)
    return [(row["prompt"], demonstration(row["prompt"], rng)) for row in itertools.islice(itertools.cycle(rows), num)]


def batches(
    tokenizer: PreTrainedTokenizerFast, shown: Sequence[tuple[str, str]], batch_size: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and labels, both (batch, longest), padded on the right. Loss is on the response and its end token alone.

    Rows of like length share a batch, which halves the padding; the batches come in random order.
    """
    before = encode(tokenizer, [conversation(prompt) for prompt, _ in shown])
    whole = encode(tokenizer, [conversation(*pair) for pair in shown])
    order = sorted(range(len(shown)), key=lambda row: (len(whole[row]), rng.random()))
    starts = list(range(0, len(order), batch_size))
    rng.shuffle(starts)
    for start in starts:
        rows = order[start : start + batch_size]
        longest = max(len(whole[row]) for row in rows)
        ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
        labels = torch.full((len(rows), longest), IGNORED)
        for line, row in enumerate(rows):
            ids[line, : len(whole[row])] = torch.tensor(whole[row])
            labels[line, len(before[row]) : len(whole[row])] = torch.tensor(whole[row][len(before[row]) :])
        yield ids, labels


def response_loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the response tokens, in nats. No mask: padding comes after all that is looked at."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != IGNORED
    return F.cross_entropy(model.lm_head(hidden[wanted]), labels[:, 1:][wanted])


@torch.inference_mode()
def sample(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[str],
    max_tokens: int,
    batch_size: int = 512,
    **how: Any,
) -> list[str]:
    """One response for each prompt; `how` goes to `generate` (do_sample, temperature, top_p)."""
    model.eval()
    responses: list[str] = [""] * len(asked)
    ids = encode(tokenizer, [conversation(prompt) for prompt in asked])
    order = sorted(range(len(asked)), key=lambda row: len(ids[row]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        padded = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, padding_side="left", return_tensors="pt")
        out = model.generate(**padded, max_new_tokens=max_tokens, **how)
        texts = tokenizer.batch_decode(out[:, padded["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            responses[row] = text
    return responses


def mean_gold(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: Sequence[str], sizes: Sizes, **how: Any) -> float:
    responses = sample(model, tokenizer, asked, sizes.max_response_tokens, **how)
    return sum(gold(prompt, response) for prompt, response in zip(asked, responses, strict=True)) / len(asked)


def new_policy(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> LlamaForCausalLM:
    """An untrained policy. Input and output embeddings are untied: nothing that depends on tying can go wrong with it."""
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden,
        intermediate_size=sizes.feed_forward,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=False,
        initializer_range=0.08,
        dtype="float32",
        **ends,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # Answers copy words of the request, which is soonest learnt when a word looks alike going in and coming out.
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    model.generation_config = GenerationConfig(**ends)
    return model


def fine_tune(
    tokenizer: PreTrainedTokenizerFast, shown: Sequence[tuple[str, str]], seed: int, sizes: Sizes
) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    """The policy, and its learning curve: held-out loss and gold reward, sampled and greedy, at `curve_points` steps.

    Adam with a warmup of a twentieth of the steps, then a straight line down to zero. The held-out prompts are the reward
    model's: the policy never trains on those.
    """
    model = new_policy(tokenizer, sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=sizes.fine_tuning_learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    steps = sizes.fine_tuning_steps
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    held_out = demonstrations(sizes.curve_prompts, seed, "reward_model")
    held_out_batches = list(batches(tokenizer, held_out, len(held_out), random.Random(seed)))
    asked = [prompt for prompt, _ in held_out]
    curve: list[dict[str, float]] = []
    for step, (ids, labels) in enumerate(batches(tokenizer, shown, sizes.fine_tuning_batch, random.Random(seed)), start=1):
        model.train()
        loss = response_loss(model, ids, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            say("fine-tuning", step=step, steps=steps, loss=round(loss.item(), 4))
        if step % max(1, steps // sizes.curve_points) == 0 or step == steps:
            with torch.inference_mode():
                held_out_loss = sum(response_loss(model, *batch).item() for batch in held_out_batches) / len(held_out_batches)
            sampled = mean_gold(model, tokenizer, asked, sizes, do_sample=True, temperature=0.8, top_p=0.95, top_k=0)
            greedy = mean_gold(model, tokenizer, asked, sizes, do_sample=False)
            curve.append({"step": step, "loss": held_out_loss, "gold_sampled": sampled, "gold_greedy": greedy})
            say("learning curve", **curve[-1])
    return model, curve


# --- the reward model ------------------------------------------------------------------------------------------------------


def labelled_pairs(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, num: int, seed: int, sizes: Sizes
) -> list[tuple[str, str, str]]:
    """(prompt, better, worse): two samples at temperature 1 for each of `num` prompts of the reward model's split, in the
    order of the gold reward. Prompts whose two samples are equally good give no pair."""
    asked = [row["prompt"] for row in prompts("reward_model", num, seed)]
    responses = sample(model, tokenizer, asked + asked, sizes.max_response_tokens, do_sample=True, temperature=1.0, top_k=0)
    pairs = []
    for prompt, first, second in zip(asked, responses[:num], responses[num:], strict=True):
        difference = gold(prompt, first) - gold(prompt, second)
        if difference:
            pairs.append((prompt, first, second) if difference > 0 else (prompt, second, first))
    return pairs


def preference_rows(pairs: Sequence[tuple[str, str, str]]) -> Dataset:
    """Pairs in TRL's conversational form: the whole conversation twice."""
    return Dataset.from_list(
        [{"chosen": conversation(prompt, better), "rejected": conversation(prompt, worse)} for prompt, better, worse in pairs]
    )


def train_reward_model(
    folder: Path, policy: Path, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str, str]], seed: int, sizes: Sizes
) -> dict[str, float]:
    """Train and save the reward model in `folder`. Returns its pairwise accuracy, on its own pairs and on held-out ones."""
    model = LlamaForSequenceClassification.from_pretrained(policy, num_labels=1, dtype=torch.float32)
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
    )
    trainer.train()
    facts = trainer.evaluate()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"pairs": len(train), "held_out_pairs": len(held_out), "held_out_accuracy": facts["eval_accuracy"]}


def make(out: Path, seed: int, sizes: Sizes) -> None:
    """Write `out/policy`, `out/reward_model` and `out/learning_curve.json`. `out` must exist and be empty."""
    torch.manual_seed(seed)
    seconds: dict[str, float] = {}
    clock = time.monotonic()

    def lap(part: str) -> None:
        nonlocal clock
        now = time.monotonic()
        seconds[part] = round(now - clock, 2)
        clock = now
        say(part, seconds=seconds[part])

    shown = demonstrations(sizes.fine_tuning_steps * sizes.fine_tuning_batch, seed, "fine_tuning")
    tokenizer = make_tokenizer((text for pair in shown for text in pair), sizes.vocabulary, sizes.context)
    lap("tokenizer")
    model, curve = fine_tune(tokenizer, shown, seed, sizes)
    model.save_pretrained(out / "policy")
    tokenizer.save_pretrained(out / "policy")
    lap("policy")
    pairs = labelled_pairs(model, tokenizer, sizes.reward_pairs + sizes.reward_held_out_pairs, seed, sizes)
    lap("labelled pairs")
    accuracy = train_reward_model(out / "reward_model", out / "policy", tokenizer, pairs, seed, sizes)
    lap("reward model")
    record = {
        "num_parameters": sum(weights.numel() for weights in model.parameters()),
        "fine_tuning": curve,
        "reward_model": accuracy,
        "seconds": seconds,
    }
    (out / "learning_curve.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the models of the small world.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--sizes", type=json.loads, default={}, help="JSON object: fields of Sizes")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    make(options.out, options.seed, Sizes(**options.sizes))


if __name__ == "__main__":
    main()
