"""Benchmark `logprobs`: tokens of responses in a second, over plain loops of transformers on the same token ids, and the whole
stage with the log-probs of the engine over the stage with a forward pass.

A plain loop pads batches of the size that is fastest here, takes the log-softmax of all positions, and adds up those of the
response. Each alternative runs in turns, in one process with one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.figures import Figure, Given, Measured
from benchmarks.forward_work import MEDIUM, Work, best, make_model, make_work, padded, processor_ratio, turns
from benchmarks.logprobs_stage import stage_seconds

BATCH_SIZES = (4, 8, 16)


def measure(given: Given) -> Measured:
    """Ratios of tokens per second."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from selfplay.backends.transformers.logprobs import TorchLogprobs
    from selfplay.core.protocols import LogprobItem

    torch.set_num_threads(1)
    with given.scratch() as folder:
        make_model(folder, MEDIUM, is_reward=False)
        ours = TorchLogprobs(threads=1)
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)

        def items(work: Work) -> list[LogprobItem]:
            prompts = [tokenizer(text).input_ids for text in work.prompts]
            return [
                LogprobItem(str(row), prompts[prompt], tokenizer(text).input_ids)
                for row, (prompt, text) in enumerate(work.responses)
            ]

        def loop(asked: Sequence[LogprobItem], size: int, *, is_sorted: bool) -> list[float]:
            rows = [[*item.prompt_token_ids, *item.token_ids] for item in asked]
            order = sorted(range(len(rows)), key=lambda row: -len(rows[row])) if is_sorted else [*range(len(rows))]
            sums = [0.0] * len(rows)
            with torch.inference_mode():
                for start in range(0, len(order), size):
                    batch = order[start : start + size]
                    inputs = padded([rows[row] for row in batch])
                    logps = torch.log_softmax(plain(**inputs, use_cache=False).logits[:, :-1], dim=-1)
                    taken = logps.gather(-1, inputs["input_ids"][:, 1:, None])[:, :, 0].double()
                    for place, row in enumerate(batch):
                        first = len(asked[row].prompt_token_ids) - 1
                        sums[row] = float(taken[place, first : first + len(asked[row].token_ids)].sum())
            return sums

        def compared(work: Work) -> tuple[dict[str, list[float]], float]:
            asked = items(work)
            size = best({size: partial(loop, asked, size, is_sorted=True) for size in BATCH_SIZES})
            found = ours.logprobs(str(folder), "9M", asked)["logp"].to_pylist()
            exact = loop(asked, size, is_sorted=True)
            error = max(
                abs(one - other) / len(item.token_ids) for one, other, item in zip(found, exact, asked, strict=True)
            )
            runs: dict[str, Callable[[], Any]] = {
                "ours": lambda: ours.logprobs(str(folder), "9M", asked),
                "sorted": lambda: loop(asked, size, is_sorted=True),
                "given order": lambda: loop(asked, size, is_sorted=False),
            }
            return turns(runs, given.num_runs), error

        pairs, error = compared(make_work(given.scaled(24), 2, 16, 60))
        shared, shared_error = compared(make_work(given.scaled(6), 8, 60, 60))
        ours.release()
        stages, stage_error = stage_seconds(given, folder / "stage")
    what = "responses of 60 words, policy of 9 M parameters, one thread"
    of_pairs = f"{given.scaled(24)} prompts of 16 words with 2 {what}"
    of_shared = f"{given.scaled(6)} prompts of 60 words with 8 {what}"
    of_stage = f"the whole stage, {given.scaled(256)} pairs of a round, policy as that of the quickstart"
    return Measured(
        [
            processor_ratio(
                "logprobs_over_loop_in_given_order", pairs["given order"], pairs["ours"], of_pairs, bar=1.5
            ),
            processor_ratio("logprobs_over_sorted_loop", pairs["sorted"], pairs["ours"], of_pairs, bar=1.0),
            processor_ratio(
                "logprobs_shared_prompts_over_sorted_loop", shared["sorted"], shared["ours"], of_shared, bar=1.3
            ),
            Figure(
                "logprobs_largest_error", max(error, shared_error), "nats a token", "against the sorted loop", bar=1e-5
            ),
            processor_ratio("logprobs_stage_engine_over_model", stages["model"], stages["engine"], of_stage, bar=3.0),
            Figure("logprobs_stage_engine_error", stage_error, "nats a token", "engine against model, 64 responses"),
        ],
        {"seconds_pairs": pairs, "seconds_shared_prompts": shared, "seconds_stage": stages},
    )
