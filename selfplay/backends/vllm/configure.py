"""Asks the installed vLLM whether it would serve a policy, before a run begins and without weights, in a process of its own.

Reads the arguments of `VllmSampler` and the policy's `folder` on stdin and writes a list: why vLLM refuses the policy, then which
library its code lacks; each is empty where there is nothing to say.
"""

from __future__ import annotations

import json
import os
import sys

from selfplay.backends.vllm.sampler import VllmSampler


def main() -> None:
    """The child's side."""
    question = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # libraries print to stdout
    folder, refused, lacks = question.pop("folder"), "", ""
    try:
        VllmSampler(**question).try_to_configure(folder)
    except ImportError as error:
        lacks = str(error)
    except Exception as error:  # vLLM's start raises many kinds of exceptions
        refused = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    with os.fdopen(answer, "w") as file:
        file.write(json.dumps([refused, lacks]) + "\n")


if __name__ == "__main__":
    main()
