"""Checks pass-through keys against the installed vLLM and TRL, in a process of its own.

Before a run directory is made, since a misspelt key would otherwise be found by a worker. Reads {"engine": {...}, "loss": ...,
"trl": {...}} on stdin and writes the list of problems; the libraries are imported only for keys that are there.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """The child's side."""
    question = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # libraries print
    problems: list[str] = []
    if question["engine"]:
        from selfplay.backends.vllm.sampler import check_engine_keys

        problems += check_engine_keys(question["engine"])
    if question["trl"]:
        from selfplay.backends.trl.pass_through import check_trl_keys

        problems += check_trl_keys(question["loss"], question["trl"])
    with os.fdopen(answer, "w") as file:
        file.write(json.dumps(problems) + "\n")


if __name__ == "__main__":
    main()
