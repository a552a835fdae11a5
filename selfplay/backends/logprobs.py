"""Stage *logprobs*: teacher-forced log-probs of responses under a policy folder, with plain transformers.

One forward pass over the policy's own token ids at temperature 1: the model's distribution, not the one that
was sampled from after temperature and top-p. The trainer's reference log-probs come from here too.
"""

from __future__ import annotations

import gc
import inspect
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from transformers import AutoModelForCausalLM

from selfplay.backends.batches import token_batches
from selfplay.errors import BackendError, ConfigError, ModelError
from selfplay.protocols import LogprobItem

# Logits in one forward pass (rows x positions x vocabulary): 1 GiB in float32. A single long response may
# exceed it.
_MAX_LOGITS = 1 << 28
# Logits turned to float32 at a time.
_CHUNK_LOGITS = 1 << 25

LOGPROB_SCHEMA = pa.schema(
    [
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("logp", pa.float64(), nullable=False),
        pa.field("num_tokens", pa.int64(), nullable=False),
    ]
)


class TorchLogprobs:
    """Log-probs on the device of its process (CUDA where there is one, else the CPU); keeps the last model it
    loaded.

    `dtype` is the weights' and the forward pass's, by torch's name, and always passed on: transformers 5 would
    load what the checkpoint says. The softmax is in float32 in any case. `batch_tokens`: padded tokens in a
    forward pass. `threads`: CPU threads.
    """

    def __init__(
        self,
        *,
        dtype: str = "float32",
        batch_tokens: int = 16384,
        trust_remote_code: bool = False,
        threads: int = 1,
    ) -> None:
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"the log-prob dtype is {dtype!r}", "Use float32, bfloat16 or float16.")
        torch.set_num_threads(threads)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._batch_tokens, self._trust_remote_code = batch_tokens, trust_remote_code
        self._model: Any = None
        self._digest: str | None = None

    def logprobs(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        """Sums over each response's tokens, as LOGPROB_SCHEMA in item order; an empty response has 0.0.

        `digest` names the content of `folder`: a model with the same digest is not loaded again. Raises
        ModelError when the folder does not hold a complete causal language model, BackendError for token ids
        that the model cannot take and for log-probs that are not finite.
        """
        if digest != self._digest:
            self.release()
            self._model = _load(folder, self._dtype, self._trust_remote_code).to(self._device)
            self._digest = digest
        scored = [index for index, item in enumerate(items) if item.token_ids]
        self._check(folder, [items[index] for index in scored])
        lengths = [len(items[index].prompt_token_ids) + len(items[index].token_ids) for index in scored]
        # A batch takes logits from its shortest prompt's end on. Its rows have nearly the same length, so that
        # is about as many positions as its longest response has tokens.
        spans = [len(items[index].token_ids) for index in scored]
        sums = [0.0] * len(items)
        batches = token_batches(
            lengths, self._batch_tokens, rows_share=spans, batch_share=max(1, _MAX_LOGITS // self._vocab_size)
        )
        for batch in batches:
            chosen = [scored[position] for position in batch]
            for index, logp in zip(chosen, self._forward([items[i] for i in chosen]), strict=True):
                if not math.isfinite(logp):
                    raise BackendError(
                        f"the log-prob of response {items[index].response_id} under {folder} is {logp}",
                        "The weights hold values that are not finite, or the dtype is too narrow for them.",
                    )
                sums[index] = logp
        columns = [[item.response_id for item in items], sums, [len(item.token_ids) for item in items]]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, LOGPROB_SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=LOGPROB_SCHEMA)

    def release(self) -> None:
        """Free the model's memory; the next call loads again."""
        self._model, self._digest = None, None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _vocab_size(self) -> int:
        size: int = self._model.get_input_embeddings().weight.shape[0]
        return size

    def _check(self, folder: str, items: Sequence[LogprobItem]) -> None:
        config = self._model.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None)
        for item in items:
            tokens = len(item.prompt_token_ids) + len(item.token_ids)
            if not item.prompt_token_ids:
                raise BackendError(f"response {item.response_id} has no prompt tokens to be given", "")
            if longest is not None and tokens > longest:
                raise BackendError(
                    f"response {item.response_id} has {tokens} tokens with its prompt; {folder} takes {longest}",
                    "Lower sampling.max_tokens, or the length up to which prompts are admitted.",
                )
            highest = max(max(item.prompt_token_ids), max(item.token_ids))
            if highest >= self._vocab_size:
                raise BackendError(
                    f"response {item.response_id} has the token id {highest}; {folder} has {self._vocab_size}",
                    "These tokens come from another model's tokenizer.",
                )

    def _forward(self, items: list[LogprobItem]) -> list[float]:
        """Log-prob sums of one batch, padded on the right.

        The logits at position p predict token p + 1, so a response's tokens are judged from one position before
        its first to one before its last. Only the positions that some row needs go through the LM head.
        """
        rows = [[*item.prompt_token_ids, *item.token_ids] for item in items]
        width = max(map(len, rows))
        first = min(len(item.prompt_token_ids) for item in items) - 1
        input_ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self._device)
        keep: dict[str, Any] = {}
        if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            keep["logits_to_keep"] = torch.arange(first, width - 1, device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=input_ids, attention_mask=mask, use_cache=False, **keep).logits
        offset = first if keep else 0
        sums = []
        for row, item in enumerate(items):
            start = len(item.prompt_token_ids) - 1 - offset
            targets = torch.tensor(item.token_ids, device=self._device)
            sums.append(_sum_logps(logits[row, start : start + len(item.token_ids)], targets))
        return sums


def _sum_logps(logits_TV: torch.Tensor, targets_T: torch.Tensor) -> float:
    """Sum over T tokens of their log-probs (natural log): softmax in float32, piecewise; the sum in float64."""
    step = max(1, _CHUNK_LOGITS // logits_TV.shape[-1])
    total = 0.0
    for start in range(0, len(targets_T), step):
        logps_TV = torch.log_softmax(logits_TV[start : start + step].float(), dim=-1)
        logps_T = logps_TV.gather(-1, targets_T[start : start + step, None])
        total += float(logps_T.double().sum())
    return total


def _load(folder: str, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The policy in evaluation mode. Raises ModelError where a weight is missing: transformers would make it
    up."""
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelError(
            f"the policy in {folder} does not load: {type(error).__name__}: {str(error).splitlines()[0]}",
            "Check that the folder is complete: config.json and all safetensors files of one model.",
        ) from error
    if loading["missing_keys"]:
        names = sorted(loading["missing_keys"])
        raise ModelError(
            f"the policy in {folder} lacks {len(names)} weights ({names[0]}): they would be random numbers",
            "Use the complete model; check that config.json and the weights belong together.",
        )
    return model.eval()
