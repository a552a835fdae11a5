"""Tiny random models of the families that people train, as ordinary Hugging Face folders, and plain computations on them.

Plain: transformers with eager attention, one sequence at a time, without padding. Nothing here is shared with the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.tiny import make_tokenizer

_BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}
_WINDOW = 32  # shorter than the test's sequences


@dataclass(frozen=True, slots=True)
class Family:
    """`kind` is transformers' model type, `settings` what its config has beside the sizes; `text` are those of the language
    model inside a composite one. `reward`: whether transformers has a reward model (sequence classification) of it;
    `engine`: whether vLLM serves it on a CPU in float32.
    `attention`: factor on the query and key weights, so that a soft cap or a sink matters."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] | None = None
    reward: bool = True
    engine: bool = True
    attention: float = 1.0


_CAPPED = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": _WINDOW}
_MOE = {"head_dim": 32, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

FAMILIES: dict[str, Family] = {
    "llama": Family("llama", {"tie_word_embeddings": False}),
    "llama-tied": Family("llama", {"tie_word_embeddings": True}),
    "qwen2": Family("qwen2", {"tie_word_embeddings": True}),
    "qwen3": Family("qwen3", {"head_dim": 32}),
    "qwen3-moe": Family("qwen3_moe", _MOE),
    "gemma2": Family(
        "gemma2", {**_CAPPED, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 30.0}, attention=3.0
    ),
    "gemma3": Family("gemma3_text", {**_CAPPED, "layer_types": ["sliding_attention", "full_attention"]}),
    "mistral": Family("mistral", {"sliding_window": _WINDOW, "head_dim": 32}),
    "phi3": Family("phi3", {"original_max_position_embeddings": 256}),
    "olmo2": Family("olmo2", reward=True),
    "granite": Family(
        "granite", {"attention_dropout": 0.1, "logits_scaling": 2.0, "residual_multiplier": 0.5}, reward=False
    ),
    "gpt-neox": Family("gpt_neox", {"attention_dropout": 0.1, "hidden_dropout": 0.1}),
    "gpt2": Family("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256}),
    "smollm3": Family("smollm3", {"no_rope_layers": [1, 0]}),
    "gemma3-composite": Family(
        "gemma3",
        {"vision_config": _VISION, "mm_tokens_per_image": 4},
        text={**_CAPPED, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "qwen3.5-composite": Family(
        "qwen3_5",
        {
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 2,
                "out_hidden_size": 64,
                "deepstack_visual_indexes": [],
            },
            "tie_word_embeddings": False,
        },
        text={
            "num_hidden_layers": 4,
            "head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
        },
        engine=False,
    ),
}


def make_model(family: Family, folder: Path, *, reward: bool = False, seed: int = 0) -> Path:
    """A random model of a family with the byte-level tokenizer of tiny.py, saved as its own architecture."""
    import torch
    import transformers

    tokenizer = make_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    sizes = {"vocab_size": 320, **_BASE}
    if family.text is None:
        config = transformers.AutoConfig.for_model(family.kind, **{**sizes, **ids, **family.settings})
    else:
        config = transformers.AutoConfig.for_model(
            family.kind, text_config={**sizes, **ids, **family.text}, **ids, **family.settings
        )
    if reward:
        config.num_labels = 1
    config.architectures = None
    mapping = (
        transformers.AutoModelForSequenceClassification
        if reward
        else transformers.AutoModelForCausalLM
        if family.text is None
        else transformers.AutoModelForImageTextToText
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mapping.from_config(config, dtype=torch.float32)
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 and "score" not in name:
                scale = family.attention if any(part in name for part in ("q_proj", "k_proj")) else 1.0
                torch.nn.init.normal_(weight, std=0.15 * scale)
            if "score" in name:
                torch.nn.init.normal_(weight, std=0.5)
    model.generation_config = transformers.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Plain:
    """A model in eager attention, one sequence at a time."""

    def __init__(self, folder: Path, *, reward: bool = False) -> None:
        import torch
        import transformers

        mapping = transformers.AutoModelForSequenceClassification if reward else transformers.AutoModelForCausalLM
        self._torch = torch
        self.model = mapping.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    def logits(self, token_ids: list[int]) -> Any:
        """Logits of one sequence, T x V."""
        with self._torch.no_grad():
            return self.model(self._torch.tensor([token_ids]), use_cache=False).logits[0].float()

    def reward(self, token_ids: list[int]) -> float:
        """The score of one conversation."""
        with self._torch.no_grad():
            return float(self.model(self._torch.tensor([token_ids])).logits[0, 0])

    def logp(self, prompt: list[int], response: list[int]) -> float:
        """Sum over the response's tokens."""
        logps = self._torch.log_softmax(self.logits([*prompt, *response]), dim=-1)[len(prompt) - 1 : -1]
        return float(logps.gather(1, self._torch.tensor(response)[:, None]).double().sum())

    def balancing_loss(self, rows: list[list[int]]) -> float:
        """What a mixture of experts adds to the loss of one batch of rows: its load-balancing loss by its coefficient; 0.0 for
        other models."""
        config = self.model.config.get_text_config()
        if not hasattr(config, "router_aux_loss_coef"):
            return 0.0
        width = max(map(len, rows))
        tensor = self._torch.tensor
        with self._torch.no_grad():
            output = self.model(
                input_ids=tensor([[*row, *[0] * (width - len(row))] for row in rows]),
                attention_mask=tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
                output_router_logits=True,
            )
        return float(config.router_aux_loss_coef * output.aux_loss)

    def greedy(self, prompt: list[int], num_tokens: int, end: int) -> list[int]:
        """The greedy continuation, the end token included."""
        token_ids: list[int] = []
        while len(token_ids) < num_tokens and end not in token_ids:
            token_ids.append(int(self.logits([*prompt, *token_ids])[-1].argmax()))
        return token_ids


def dpo_loss(beta: float, chosen: float, rejected: float, reference_chosen: float, reference_rejected: float) -> float:
    """-log sigmoid(beta * margin) of one pair (Rafailov et al., 2023)."""
    return math.log1p(math.exp(-beta * ((chosen - reference_chosen) - (rejected - reference_rejected))))
