"""Checks that only vLLM and TRL can make before a run starts, in a process that imports the libraries."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

from selfplay.config.schema import Config
from selfplay.core.errors import BackendError, ConfigError, ModelError
from selfplay.inputs.models.files import read_json
from selfplay.inputs.resolve import Inputs
from selfplay.run.worker_specs import worker_specs

# Importing vLLM takes seconds, on a busy machine minutes.
_SECONDS = 600
# Model types that the supported versions of vLLM serve on every device; the tests run a round with each of them.
SERVED = {
    *("gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"),
    *("qwen3_moe", "smollm3"),
}


def check_pass_through(config: Config) -> None:
    """Raise ConfigError for keys of vLLM and TRL that are not passed on."""
    if problems := find_problems(dict(config.sampling.engine), config.training.loss, dict(config.training.trl)):
        raise ConfigError("; ".join(problems), "Leave them out, or set what the message names.")


def check_reward_engines(config: Config, inputs: Inputs) -> None:
    """Raise ConfigError for a reward model with `engine: vllm` whose architecture vLLM does not support."""
    asked = {section: source for section, source in config.reward.sources().items() if source.engine == "vllm"}
    folders = {section: inputs.rewards[section].folder for section in asked}
    problems = _pooling_problems(
        tuple((str(folders[section]), source.trust_remote_code) for section, source in asked.items())
    )
    for section, problem in zip(asked, problems, strict=True):
        if problem:
            raise ConfigError(
                f"{section}.engine is vllm, but vLLM cannot compute the rewards of {folders[section]}: {problem}",
                f"Set {section}.engine to auto or transformers.",
            )


def check_engine(config: Config, inputs: Inputs) -> Inputs:
    """Ask vLLM whether it would serve the policy, unless it is of a common kind: the question takes seconds. Returns the inputs,
    with a warning where vLLM lacks a library for the policy on this machine. Not asked where the workers are on a cluster, whose
    devices are others. Raises ModelError for a policy that vLLM refuses."""
    folder = inputs.policy.folder
    if config.cluster.address is not None:
        return inputs
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


def find_problems(engine: dict[str, Any], loss: str, trl: dict[str, Any]) -> list[str]:
    """One message for each key that the libraries do not know or that selfplay sets. Starts a child process if there is a key.

    Raises BackendError when the libraries cannot be imported.
    """
    question = {"engine": engine, "loss": loss, "trl": trl}
    return ask_library("selfplay.backends.pass_through", question) if engine or trl else []


@functools.cache
def _pooling_problems(models: tuple[tuple[str, bool], ...]) -> list[str]:
    """Why vLLM cannot compute each model (folder, trust_remote_code); empty where it can."""
    return ask_library("selfplay.backends.pass_through", {"pooling": models}) if models else []


def ask_library(module: str, question: dict[str, Any]) -> list[str]:
    """The sentences with which a module of `backends` answers a question, in a process of its own. Raises BackendError when its
    libraries cannot be imported."""
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", module],
            input=json.dumps(question, default=str), capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BackendError(
            f"{module} did not answer within {_SECONDS} s", "Run `selfplay doctor` to find the cause."
        ) from None
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"vLLM or TRL could not be imported: {last}", "Run `selfplay doctor` to find the cause.")
    return [str(answer) for answer in json.loads(child.stdout.splitlines()[-1])]
