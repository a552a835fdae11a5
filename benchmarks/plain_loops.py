"""The plain versions that a round and its parts are compared with: batch loops of transformers, a bare vLLM engine, TRL's trainer
that samples online. Each is what a careful user would write for this work alone, with nothing recorded and nothing checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.forward_work import padded
from benchmarks.training import plain
from selfplay.core.protocols import TrainJob

BATCH_SIZES = (4, 8, 16, 32, 64)
MICRO_BATCHES = (4, 8, 16)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses are sampled; `num_responses` to each prompt."""

    num_responses: int
    temperature: float
    top_p: float
    max_tokens: int
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RoundWork:
    """What a round did, for the plain versions to do again. `policy` is the folder of the weights that it sampled from and
    trained; `seeds` has a list for each prompt. A response is a prompt's number, its text, and its token ids. `paired` are the
    numbers of the responses whose log-probs are needed. `job` trains on the kept pairs."""

    policy: str
    messages: list[list[dict[str, str]]]
    prompt_token_ids: list[list[int]]
    seeds: list[list[int]]
    sampling: Sampling
    responses: list[tuple[int, str, list[int]]]
    paired: list[int]
    job: TrainJob


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of wall and of processor."""

    wall: float
    processor: float


def took(function: Callable[[], Any]) -> Took:
    """What a call takes in this process."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return Took(time.perf_counter() - wall, time.process_time() - processor)


# ---- the engine


def load_engine(folder: str, max_model_len: int) -> Any:
    """A vLLM engine with the arguments that selfplay found to be the fastest on a CPU, and a tokenizer."""
    from selfplay.backends.vllm.engine_args import engine_arguments, prepare_environment

    prepare_environment()
    import torch
    from transformers import AutoConfig
    from vllm import LLM

    on_cpu = not torch.cuda.is_available()
    arguments = engine_arguments(
        {}, folder=folder, dtype="float32" if on_cpu else "bfloat16", max_model_len=max_model_len, seed=0,
        trust_remote_code=False, max_logprobs=20, cpu_config=AutoConfig.from_pretrained(folder) if on_cpu else None,
    )  # fmt: skip
    return LLM(**{**arguments, "skip_tokenizer_init": False})


def generate(engine: Any, work: RoundWork, *, seeded: bool) -> list[tuple[int, str, list[int]]]:
    """Bare `LLM.generate`. With seeds a request is a response, which has a seed of its own; without, it is a prompt."""
    from vllm import SamplingParams

    sampling = work.sampling
    common: dict[str, Any] = {
        "temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens,
        "stop_token_ids": list(sampling.stop_token_ids),
    }  # fmt: skip
    if seeded:
        asked = [(row, SamplingParams(seed=seed, **common)) for row, seeds in enumerate(work.seeds) for seed in seeds]
    else:
        asked = [(row, SamplingParams(n=sampling.num_responses, **common)) for row in range(len(work.prompt_token_ids))]
    prompts = [{"prompt_token_ids": work.prompt_token_ids[row]} for row, _ in asked]
    outputs = engine.generate(prompts, [params for _, params in asked], use_tqdm=False)
    return [
        (row, found.text, list(found.token_ids))
        for (row, _), output in zip(asked, outputs, strict=True)
        for found in output.outputs
    ]


def change_weights(engine: Any, folder: str) -> None:
    """Give the engine other weights."""
    engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
    assert engine.reset_prefix_cache()


# ---- the batch loops


def rewards(model: Any, tokenizer: Any, work: RoundWork, size: int) -> list[float]:
    """Rewards of all responses, in batches of `size` that are sorted by length."""
    import torch

    rows = []
    for prompt, text, _ in work.responses:
        turns = [*work.messages[prompt], {"role": "assistant", "content": text}]
        rows.append(tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False).input_ids)
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    found = [0.0] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            values = model(**padded([rows[row] for row in batch])).logits[:, 0].tolist()
            for row, value in zip(batch, values, strict=True):
                found[row] = value
    return found


def logps(
    model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], size: int, *, is_sorted: bool = True
) -> list[float]:
    """Log-prob sums of responses, given as (prompt, response) token ids, in batches of `size`."""
    import torch

    whole = [[*prompt, *response] for prompt, response in rows]
    order = sorted(range(len(rows)), key=lambda row: -len(whole[row])) if is_sorted else [*range(len(rows))]
    sums = [0.0] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            inputs = padded([whole[row] for row in batch])
            found = torch.log_softmax(model(**inputs, use_cache=False).logits[:, :-1], dim=-1)
            taken = found.gather(-1, inputs["input_ids"][:, 1:, None])[:, :, 0].double()
            for place, row in enumerate(batch):
                first = len(rows[row][0]) - 1
                sums[row] = float(taken[place, first : first + len(rows[row][1])].sum())
    return sums


def paired_rows(work: RoundWork) -> list[tuple[list[int], list[int]]]:
    """Prompt and response, as token ids, of the responses whose log-probs are needed."""
    return [(work.prompt_token_ids[work.responses[row][0]], work.responses[row][2]) for row in work.paired]


def load_reward_model(folder: str) -> tuple[Any, Any]:
    """A reward model in float32 and its tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def load_policy(folder: str) -> Any:
    """A policy in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


# ---- warm processes: each holds its models between calls

_held: dict[str, Any] = {}


def start_engine(folder: str, max_model_len: int) -> None:
    """In the engine's process: load it."""
    _held["engine"] = load_engine(folder, max_model_len)


def time_engine(work: RoundWork) -> dict[str, Took]:
    """In the engine's process: `weights`, `sample` and `sample without seeds`, each with an empty prefix cache."""
    engine = _held["engine"]
    weights = took(lambda: change_weights(engine, work.policy))
    seeded = took(lambda: generate(engine, work, seeded=True))
    assert engine.reset_prefix_cache()
    return {
        "weights": weights,
        "sample": seeded,
        "sample without seeds": took(lambda: generate(engine, work, seeded=False)),
    }


def make_policy(folder: Path, tokenizer_of: Path, sizes: dict[str, int]) -> None:
    """A random Llama with the tokenizer of another folder."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, dtype="float32", **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def start_loops(reward_model: str, work: RoundWork) -> None:
    """In the process of the loops: load the reward model, and find the fastest batches for this work."""
    import torch

    torch.set_num_threads(1)
    model, tokenizer = load_reward_model(reward_model)
    policy, rows = load_policy(work.policy), paired_rows(work)
    _held.update(reward_model=model, tokenizer=tokenizer)
    plain(work.job)  # what the first training imports
    _held["sizes"] = {
        "score": _fastest(BATCH_SIZES, lambda size: rewards(model, tokenizer, work, size)),
        "logprobs": _fastest(BATCH_SIZES, lambda size: logps(policy, rows, size)),
        "train": _fastest(MICRO_BATCHES, lambda size: plain(work.job, size)),
    }


def _fastest(sizes: Sequence[int], loop: Callable[[int], Any]) -> int:
    seconds = {size: took(lambda size=size: loop(size)).processor for size in sizes}  # type: ignore[misc]
    return min(seconds, key=seconds.__getitem__)


def sizes_of_loops() -> dict[str, int]:
    """In the process of the loops: the fastest batches."""
    found: dict[str, int] = _held["sizes"]
    return found


def time_loops(work: RoundWork) -> dict[str, Took]:
    """In the process of the loops: `score`, `logprobs` with the loading of the policy, and `train` from loading to saving."""
    sizes, rows = _held["sizes"], paired_rows(work)
    return {
        "score": took(lambda: rewards(_held["reward_model"], _held["tokenizer"], work, sizes["score"])),
        "logprobs": took(lambda: logps(load_policy(work.policy), rows, sizes["logprobs"])),
        "train": took(lambda: plain(work.job, sizes["train"])),
    }


def time_online_dpo(work: RoundWork, folder: str) -> Took:
    """In the process of the loops: TRL's OnlineDPOTrainer for the same prompts and as many updates. Only its training is timed:
    the models are loaded before."""
    import copy

    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    job, sampling = work.job, work.sampling
    assert sampling.num_responses == 2 and job.max_steps is not None
    args = OnlineDPOConfig(
        folder, per_device_train_batch_size=len(work.messages) // job.max_steps, max_steps=job.max_steps, beta=job.beta,
        learning_rate=job.learning_rate, temperature=sampling.temperature, top_p=sampling.top_p, top_k=0,
        max_new_tokens=sampling.max_tokens, max_length=job.max_length, bf16=False, use_cpu=True,
        gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=job.max_steps,
        optim="adamw_torch_fused", dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = OnlineDPOTrainer(
        model=load_policy(work.policy), reward_funcs=copy.deepcopy(_held["reward_model"]), args=args,
        train_dataset=Dataset.from_dict({"prompt": work.messages}), processing_class=AutoTokenizer.from_pretrained(work.policy),
        reward_processing_classes=_held["tokenizer"],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return took(trainer.train)
