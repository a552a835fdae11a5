"""Checks pass-through keys and reward models against the installed vLLM and TRL, in its own process.

It runs before a run directory is created: otherwise a worker would find a misspelt key. Reads {"engine": {...}, "loss": ...,
"trl": {...}} on stdin, or {"pooling": [[FOLDER, TRUST_REMOTE_CODE], ...]}, and writes the list of problems; a library is imported
only if there is a key for it. The problems of reward models are one for each, empty where vLLM can compute it.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """The child's side."""
    question = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # libraries print to stdout
    problems: list[str] = []
    if question.get("pooling"):
        from selfplay.backends.vllm.pooling_engine import pooling_problem

        problems += [pooling_problem(folder, trust_remote_code=trust) for folder, trust in question["pooling"]]
    if question.get("engine"):
        from selfplay.backends.vllm.sampler import check_engine_keys

        problems += check_engine_keys(question["engine"])
    if question.get("trl"):
        from selfplay.backends.trl.pass_through import check_trl_keys

        problems += check_trl_keys(question["loss"], question["trl"])
    with os.fdopen(answer, "w") as file:
        file.write(json.dumps(problems) + "\n")


if __name__ == "__main__":
    main()
