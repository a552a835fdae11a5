"""Makes the small world's policy: a tiny Llama, fine-tuned from nothing on noisy demonstrations, and sampled
from.

The loop itself does not use this module: it samples with vLLM, from the folder that is written here.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfplay.quickstart.demonstrations import demonstration
from selfplay.quickstart.recipe import Sizes
from selfplay.quickstart.tasks import gold, prompts

IGNORED = -100
"""Label of tokens that carry no loss."""

Report = Callable[..., None]
"""Takes a stage (a word for people) and numbers as keywords."""


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


def demonstrations(num: int, seed: int, split: str) -> list[tuple[str, str]]:
    """`num` pairs of prompt and demonstration; from the split's 5,000th prompt on, prompts come again with new
    answers.
    """
    rng = random.Random(f"{seed}/demonstrations/{split}")
    rows = prompts(split, min(num, 5000), seed)
    return [(row["prompt"], demonstration(row["prompt"], rng)) for row in itertools.islice(itertools.cycle(rows), num)]


def batches(
    tokenizer: PreTrainedTokenizerFast, shown: Sequence[tuple[str, str]], batch_size: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and labels, both (batch, longest), padded on the right. Loss is on the response and its end
    token alone.

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
    """Mean cross entropy of the response tokens, in nats. No mask: padding comes after all that is looked
    at.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != IGNORED
    return F.cross_entropy(model.lm_head(hidden[wanted]), labels[:, 1:][wanted])


@torch.inference_mode()  # type: ignore[untyped-decorator]
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


def mean_gold(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: Sequence[str], sizes: Sizes, **how: Any
) -> float:
    responses = sample(model, tokenizer, asked, sizes.max_response_tokens, **how)
    return sum(gold(prompt, response) for prompt, response in zip(asked, responses, strict=True)) / len(asked)


def new_policy(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> LlamaForCausalLM:
    """An untrained policy. Its output embedding is not tied to the input's: engines differ in how well they tie."""
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
    tokenizer: PreTrainedTokenizerFast,
    shown: Sequence[tuple[str, str]],
    seed: int,
    sizes: Sizes,
    report: Report,
    keep_early: Callable[[LlamaForCausalLM], None] = lambda model: None,
) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    """The policy, and its learning curve: at `curve_points` steps, the loss and the gold reward (sampled, greedy) on
    held-out prompts. `keep_early` is given the half-taught model at the first of these points.

    Adam with a warmup of a twentieth of the steps, then a straight line down to zero. The held-out prompts are
    the reward model's: the policy never trains on those.
    """
    model = new_policy(tokenizer, sizes)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=sizes.fine_tuning_learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    steps = sizes.fine_tuning_steps
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    held_out = demonstrations(sizes.curve_prompts, seed, "reward_model")
    held_out_batch = next(batches(tokenizer, held_out, len(held_out), random.Random(seed)))
    asked = [prompt for prompt, _ in held_out]
    curve: list[dict[str, float]] = []
    for step, (ids, labels) in enumerate(
        batches(tokenizer, shown, sizes.fine_tuning_batch, random.Random(seed)), start=1
    ):
        model.train()
        loss = response_loss(model, ids, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            report("fine-tuning", step=step, steps=steps, loss=round(loss.item(), 4))
        if step % max(1, steps // sizes.curve_points) == 0 or step == steps:
            with torch.inference_mode():
                held_out_loss = response_loss(model, *held_out_batch).item()
            sampled = mean_gold(model, tokenizer, asked, sizes, do_sample=True, temperature=0.8, top_p=0.95, top_k=0)
            greedy = mean_gold(model, tokenizer, asked, sizes, do_sample=False)
            curve.append({"step": step, "loss": held_out_loss, "gold_sampled": sampled, "gold_greedy": greedy})
            if len(curve) == 1:
                keep_early(model)
            report("learning curve", **curve[-1])
    return model, curve
