"""Checks the pass-through keys of vLLM and TRL before a run starts, in a process that imports the libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from selfplay.config.schema import Config
from selfplay.core.errors import BackendError, ConfigError


def check_pass_through(config: Config) -> None:
    """Raise ConfigError for keys of vLLM and TRL that are not passed on."""
    if problems := find_problems(dict(config.sampling.engine), config.training.loss, dict(config.training.trl)):
        raise ConfigError("; ".join(problems), "Leave them out, or set what the message names.")


def find_problems(engine: dict[str, Any], loss: str, trl: dict[str, Any]) -> list[str]:
    """One message for each key that the libraries do not know or that selfplay sets. Starts a child process if there is a key.

    Raises BackendError when the libraries cannot be imported.
    """
    if not engine and not trl:
        return []
    question = json.dumps({"engine": engine, "loss": loss, "trl": trl}, default=str)
    command = [sys.executable, "-P", "-m", "selfplay.backends.pass_through"]
    child = subprocess.run(command, input=question, capture_output=True, text=True, timeout=300, check=False)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"vLLM or TRL could not be imported: {last}", "Run `selfplay doctor` to find the cause.")
    return [str(problem) for problem in json.loads(child.stdout.splitlines()[-1])]
