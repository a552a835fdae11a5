"""Asks vLLM before a run begins whether it would serve the policy, unless it is of a common kind. The question imports vLLM in
another process, which takes seconds."""

from __future__ import annotations

from dataclasses import replace

from selfplay.config.schema import Config
from selfplay.core.errors import ModelError
from selfplay.inputs.models.files import read_json
from selfplay.inputs.resolve import Inputs
from selfplay.run.pass_through_check import ask_library
from selfplay.run.worker_specs import worker_specs

# Model types that the supported versions of vLLM serve on every device; the tests run a round with each of them.
SERVED = {
    *("gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"),
    *("qwen3_moe", "smollm3"),
}


def check_engine(config: Config, inputs: Inputs) -> Inputs:
    """The inputs, with a warning where vLLM lacks a library for the policy on this machine. Raises ModelError for a policy that
    vLLM refuses."""
    folder = inputs.policy.folder
    if read_json(folder / "config.json").get("model_type") in SERVED and not config.policy.trust_remote_code:
        return inputs
    sampler = worker_specs(config, inputs)["sampler"]
    refused, lacks = ask_library("selfplay.backends.vllm.configure", {"folder": str(folder), **sampler.kwargs})
    if refused:
        raise ModelError(
            f"vLLM cannot serve the policy in {folder}: {refused}",
            "Choose a policy that the installed vLLM supports on this kind of device, or change sampling.engine.",
        )
    if lacks:
        warning = (
            f"policy.model: vLLM's code of this model needs a library that is not installed on this machine: {lacks}"
        )
        return replace(inputs, warnings=(*inputs.warnings, warning))
    return inputs
