"""The model behind stage *logprobs*: loads one, caches the last by digest, and pads batches for a forward pass.

Log-probs (logprobs.py), next-token probabilities and embeddings (hidden_states.py) share it: they run in one worker on one loaded
model.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from selfplay.backends.transformers.attention import check_attention
from selfplay.backends.transformers.device import this_device, torch_dtype
from selfplay.backends.transformers.loading import load_complete
from selfplay.backends.transformers.padding import pad_right
from selfplay.backends.transformers.positions import usable_positions
from selfplay.backends.transformers.shared_prompt import SharedPrompts
from selfplay.core.errors import BackendError
from selfplay.inputs.models.sizes import load_config


class ModelCache:
    """The model that was loaded last, on the device of its process (CUDA where there is one, else the CPU).

    `dtype` ("auto": by the device) is that of the weights and the forward pass. It is always passed on: transformers 5
    would use the checkpoint's. `threads`: CPU threads.
    """

    def __init__(self, *, dtype: str, trust_remote_code: bool, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = this_device()
        self._dtype = torch_dtype(dtype, self.device, "the log-prob dtype")
        self._trust_remote_code = trust_remote_code
        self.model: Any = None
        self._key: tuple[str, bool] | None = None
        self.shared_prompts: Any = None
        self._attention_is_checked = False
        self._longest: int | None = None

    def use(self, folder: str, digest: str, *, causal: bool = True) -> None:
        """Hold the model in `folder`; one with the same `digest` is not loaded again. `causal: False` admits a model
        that is no language model (an encoder). Raises ModelError when the folder does not hold a complete model."""
        if self._key is not None and self._key[0] == digest and (self._key[1] or not causal):
            return
        self.release()
        causal = causal or _is_causal(folder, self._trust_remote_code)
        self.model = load(folder, self._dtype, self._trust_remote_code, causal).to(self.device)
        self._key = (digest, causal)
        self.shared_prompts = SharedPrompts(self.model)
        self._longest = usable_positions(self.model)
        self._attention_is_checked = False

    def use_dtype(self, dtype: str) -> None:
        """Load models in another dtype from here on."""
        self._dtype = torch_dtype(dtype, self.device, "the log-prob dtype")
        self.release()

    def release(self) -> None:
        """Free the model's memory; the next call loads again."""
        if self.model is None:
            return
        self.model, self.shared_prompts, self._key = None, None, None
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
        longest = self._longest
        if longest is not None and len(token_ids) > longest:
            raise BackendError(
                f"{name} has {len(token_ids)} tokens with its prompt; {folder} takes at most {longest}",
                "Lower sampling.max_tokens or training.max_length.",
            )
        highest = max(token_ids)
        if highest >= self.vocab_size:
            raise BackendError(
                f"{name} has the token id {highest}; {folder} has {self.vocab_size}",
                "These tokens come from another model's tokenizer.",
            )

    def check_attention(self, folder: str, rows: Sequence[Sequence[int]]) -> None:
        """Compare the attention with eager attention on a few of the first `rows`, once for each loaded model. Raises
        BackendError if they differ."""
        if not self._attention_is_checked:
            check_attention(self.model, folder, rows)
            self._attention_is_checked = True

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask of a batch, padded on the right to its longest row."""
        return pad_right(rows, 0, self.device)


def _is_causal(folder: str, trust_remote_code: bool) -> bool:
    """Whether the config names a causal language model."""
    architectures = load_config(folder, trust_remote_code=trust_remote_code).architectures
    return bool({*(architectures or [])} & {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()})


def load(folder: str, dtype: torch.dtype, trust_remote_code: bool, causal: bool = True) -> Any:
    """The model in evaluation mode. Raises as `load_complete`."""
    # an encoder's pooler reads the last hidden states, and those are all that is used of an encoder
    kind, optional = (AutoModelForCausalLM, ()) if causal else (AutoModel, ("pooler.",))
    return load_complete(kind, folder, dtype, "policy", trust_remote_code=trust_remote_code, optional=optional).eval()
