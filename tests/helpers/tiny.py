"""Tiny random models with a byte-level tokenizer, made on the spot as ordinary Hugging Face folders (safetensors).

Shared by every test that needs a real model. transformers is imported inside the functions: collecting stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

NUM_BYTES = 256
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
MIN_VOCAB_SIZE = NUM_BYTES + len(SPECIAL_TOKENS)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(*, pad_token: bool = True) -> Any:
    """A byte-level tokenizer: ids 0..255 are bytes, then SPECIAL_TOKENS; `<|end|>` is its end token; no BOS."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    named = {"eos_token": "<|end|>"} | ({"pad_token": "<|pad|>"} if pad_token else {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _llama_config(tokenizer: Any, hidden: int, layers: int, vocab_size: int, tied: bool, **more: Any) -> Any:
    from transformers import LlamaConfig

    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"vocab_size is {vocab_size}; the tokenizer needs {MIN_VOCAB_SIZE}")
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # wide, so that log-probs of different tokens and different seeds are far apart
        dtype="float32",
        **more,
    )


def make_tiny_llama(
    folder: str | Path,
    *,
    seed: int = 0,
    tied: bool = False,
    hidden: int = 64,
    layers: int = 2,
    vocab_size: int = 320,
    dtype: str = "float32",
) -> Path:
    """A random LlamaForCausalLM with tokenizer, chat template and generation_config in `folder`; returns the folder.

    Two seeds give two unrelated models of the same architecture. Ids from MIN_VOCAB_SIZE up have no text.
    """
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM

    folder = Path(folder)
    tokenizer = make_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_llama_config(tokenizer, hidden, layers, vocab_size, tied))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=0.6,
        top_k=5,
    )
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_reward_model(
    folder: str | Path,
    *,
    seed: int = 0,
    pad_token: bool = True,
    hidden: int = 64,
    layers: int = 2,
    vocab_size: int = 320,
) -> Path:
    """A random LlamaForSequenceClassification with one label, float32, in `folder`; returns the folder.

    `pad_token=False`: neither the tokenizer nor the config names a pad token, as with many published reward models.
    """
    import torch
    from transformers import LlamaForSequenceClassification

    folder = Path(folder)
    tokenizer = make_tokenizer(pad_token=pad_token)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(
            _llama_config(tokenizer, hidden, layers, vocab_size, tied=False, num_labels=1)
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
