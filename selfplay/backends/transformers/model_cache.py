"""The model behind stage *logprobs*: loading one, keeping the last by digest, and padded batches for a forward pass.

Shared by log-probs (logprobs.py), Ask-LLM (ask_llm.py) and embeddings (embeddings.py), which run in one worker on one
loaded model.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from selfplay.core.errors import BackendError, ConfigError, ModelError


class ModelCache:
    """The model that was loaded last, on the device of its process (CUDA where there is one, else the CPU).

    `dtype` is the weights' and the forward pass's, by torch's name, and always passed on: transformers 5 would
    load what the checkpoint says. `threads`: CPU threads.
    """

    def __init__(self, *, dtype: str, trust_remote_code: bool, threads: int) -> None:
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"the log-prob dtype is {dtype!r}", "Use float32, bfloat16 or float16.")
        torch.set_num_threads(threads)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._trust_remote_code = trust_remote_code
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = None
        self._key: tuple[str, bool] | None = None

    def use(self, folder: str, digest: str, *, causal: bool = True) -> None:
        """Hold the model in `folder`; one with the same `digest` is not loaded again. `causal: False` admits a model
        that is no language model (an encoder). Raises ModelError when the folder does not hold a complete model."""
        if self._key is not None and self._key[0] == digest and (self._key[1] or not causal):
            return
        self.release()
        causal = causal or _is_causal(folder, self._trust_remote_code)
        self.model = load(folder, self._dtype, self._trust_remote_code, causal).to(self.device)
        self._key = (digest, causal)

    def release(self) -> None:
        """Free the model's memory; the next call loads again."""
        self.model, self._key = None, None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding matrix."""
        size: int = self.model.get_input_embeddings().weight.shape[0]
        return size

    def check(self, folder: str, name: str, token_ids: Sequence[int]) -> None:
        """Raise BackendError for token ids that the model cannot take; `name` says whose they are."""
        if not token_ids:
            raise BackendError(f"{name} has no tokens", "")
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and len(token_ids) > longest:
            raise BackendError(
                f"{name} has {len(token_ids)} tokens with its prompt; {folder} takes {longest}",
                "Lower sampling.max_tokens, or the length up to which prompts are admitted.",
            )
        highest = max(token_ids)
        if highest >= self.vocab_size:
            raise BackendError(
                f"{name} has the token id {highest}; {folder} has {self.vocab_size}",
                "These tokens come from another model's tokenizer.",
            )

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask of a batch, padded on the right to its longest row."""
        width = max(map(len, rows))
        input_ids = [[*row, *[0] * (width - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        return torch.tensor(input_ids, device=self.device), torch.tensor(mask, device=self.device)


def _is_causal(folder: str, trust_remote_code: bool) -> bool:
    """Whether the config names a causal language model."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _does_not_load(folder, error) from error
    return bool({*(config.architectures or [])} & {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()})


def load(folder: str, dtype: torch.dtype, trust_remote_code: bool, causal: bool = True) -> Any:
    """The model in evaluation mode. Raises ModelError where a weight is missing: transformers would make it up."""
    kind = AutoModelForCausalLM if causal else AutoModel
    try:
        model, loading = kind.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise _does_not_load(folder, error) from error
    # an encoder's pooler reads the last hidden states, which are what is wanted of it
    names = sorted(name for name in loading["missing_keys"] if causal or not name.startswith("pooler."))
    if names:
        raise ModelError(
            f"the policy in {folder} lacks {len(names)} weights ({names[0]}): they would be random numbers",
            "Use the complete model; check that config.json and the weights belong together.",
        )
    return model.eval()


def _does_not_load(folder: str, error: Exception) -> ModelError:
    lines = str(error).splitlines()
    return ModelError(
        f"the policy in {folder} does not load: {type(error).__name__}: {lines[0] if lines else ''}",
        "Check that the folder is complete: config.json and all safetensors files of one model.",
    )
