"""Checks pass-through keys against the installed vLLM and TRL, in a process of its own: `python -m selfplay.backends.check_keys`.

Before a run directory is made, since a misspelt key would otherwise be found by a worker. Reads {"engine": {...}, "loss": ...,
"trl": {...}} on stdin and writes the list of problems; the libraries are imported only for keys that are there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from selfplay.errors import BackendError


def find_problems(engine: dict[str, Any], loss: str, trl: dict[str, Any]) -> list[str]:
    """One message for each key that is unknown to the libraries or set by selfplay. Starts a child process if there is a key.

    Raises BackendError when the libraries cannot be imported.
    """
    if not engine and not trl:
        return []
    question = json.dumps({"engine": engine, "loss": loss, "trl": trl}, default=str)
    command = [sys.executable, "-m", "selfplay.backends.check_keys"]
    child = subprocess.run(command, input=question, capture_output=True, text=True, timeout=300, check=False)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"vLLM or TRL could not be imported: {last}", "`selfplay doctor` says what is wrong.")
    return [str(problem) for problem in json.loads(child.stdout.splitlines()[-1])]


def main() -> None:
    """The child's side."""
    question = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # libraries print
    problems: list[str] = []
    if question["engine"]:
        from selfplay.backends.vllm_sampler import check_engine_keys

        problems += check_engine_keys(question["engine"])
    if question["trl"]:
        from selfplay.backends.trl_keys import check_trl_keys

        problems += check_trl_keys(question["loss"], question["trl"])
    with os.fdopen(answer, "w") as file:
        file.write(json.dumps(problems) + "\n")


if __name__ == "__main__":
    main()
