"""Makes the two models of the small world: a tiny policy and a tiny reward model, both trained from nothing.

Runs as a process of its own (`python -m selfplay.quickstart.models.world --out DIR --seed N`), started by
`quickstart/world.py`, so that the command line stays free of torch. It writes ordinary Hugging Face folders,
`DIR/policy` and `DIR/reward_model`, and `DIR/learning_curve.json`: what was measured on the way. Progress goes
to stdout, one JSON object a line. `DIR/early_policy` is the policy half-taught, for runs that mix a weaker model's
responses in (`sampling.mix`).

1. The policy, a Llama of half a million to a few million parameters, is fine-tuned on noisy demonstrations.
2. The reward model starts from the policy's weights and learns, with TRL's RewardTrainer, which of two of the
   policy's own answers the gold reward prefers: an imperfect proxy, as in life. Only here does training see the
   gold reward.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from selfplay.quickstart.models.policy import demonstrations, fine_tune
from selfplay.quickstart.models.reward import labelled_pairs, train_reward_model
from selfplay.quickstart.models.tokenizer import make_tokenizer
from selfplay.quickstart.recipe import Sizes


def say(stage: str, **facts: Any) -> None:
    """One line of progress. A parent that is gone breaks the pipe, and that ends this process: no orphan trains
    on.
    """
    print(json.dumps({"stage": stage, **facts}), flush=True)


def make(out: Path, seed: int, sizes: Sizes) -> None:
    """Write `out/policy`, `out/early_policy`, `out/reward_model` and `out/learning_curve.json`. `out` must exist and be empty."""
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
    model, curve = fine_tune(
        tokenizer, shown, seed, sizes, say, lambda early: early.save_pretrained(out / "early_policy")
    )
    tokenizer.save_pretrained(out / "early_policy")
    model.save_pretrained(out / "policy")
    tokenizer.save_pretrained(out / "policy")
    lap("policy")
    pairs = labelled_pairs(model, tokenizer, sizes.reward_pairs + sizes.reward_held_out_pairs, seed, sizes)
    lap("labelled pairs")
    accuracy = train_reward_model(out / "reward_model", out / "policy", tokenizer, pairs, seed, sizes, say)
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
