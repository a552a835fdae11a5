"""The models: vLLM samples, transformers scores and computes log-probs, TRL trains. Only worker processes import this room, so its
modules may import torch, vllm and trl. May import inputs, store, config, selection, core."""
