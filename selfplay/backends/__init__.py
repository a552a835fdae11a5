"""The models: vLLM samples, transformers scores and computes log-probs, TRL trains. The only rooms that import torch,
vllm and trl; may import inputs, store, config, selection, core."""
