"""Checks what only vLLM and TRL know before a run starts, in a process that imports the libraries."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

from selfplay.config.schema import Config
from selfplay.core.errors import BackendError, ConfigError
from selfplay.inputs.resolve import Inputs


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
    child = subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=json.dumps(question, default=str), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"vLLM or TRL could not be imported: {last}", "Run `selfplay doctor` to find the cause.")
    return [str(answer) for answer in json.loads(child.stdout.splitlines()[-1])]
