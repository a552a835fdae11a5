"""How the prompts of a stage are asked of the engines: how many in a call, and how many calls at a time.

An engine is kept full by more requests than it has slots, whatever the shards are: small calls, of which it serves many at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from selfplay.core.pool import IN_FLIGHT
from selfplay.core.protocols import SampleRequest

# Responses of a call: enough that a call costs little, few enough that the last calls end together.
RESPONSES_PER_CALL = 32
# Requests of the calls that an engine holds, by its slots. Many of them have ended, because a call lasts as long as its longest
# response: with five times the slots, a free slot finds a request that waits (`python -m benchmarks orchestration`).
LOOKAHEAD = 5
# Calls that an engine's worker serves at a time, each on a thread of its own that waits.
MAX_CALLS = 128


def request_size(max_num_seqs: int, num_responses: int) -> tuple[int, int]:
    """Prompts in a call, and calls that an engine with `max_num_seqs` slots holds."""
    wanted = LOOKAHEAD * max_num_seqs
    size = max(1, RESPONSES_PER_CALL // num_responses, math.ceil(wanted / MAX_CALLS / num_responses))
    return size, max(IN_FLIGHT, math.ceil(wanted / size / num_responses))


def request_size_of(engines: Iterable[Mapping[str, Any]], num_responses: int) -> tuple[int | None, int]:
    """The same for the engines of a pool, as they describe themselves. One that says nothing of slots gets whole shards."""
    slots = [engine.get("max_num_seqs") for engine in engines]
    known = [int(found) for found in slots if found is not None]
    return request_size(min(known), num_responses) if known else (None, IN_FLIGHT)


def expected_tokens(before: pa.Table | None) -> Callable[[SampleRequest], float]:
    """How long the responses to a prompt may become: as long as the longest of `before` (prompt_id, num_tokens: responses of an
    earlier policy) or, for prompts that it does not have, longer for longer prompts, and behind the others."""
    known: dict[str, int] = {}
    if before is not None:
        longest = before.group_by("prompt_id").aggregate([("num_tokens", "max")])
        known = dict(zip(longest["prompt_id"].to_pylist(), longest["num_tokens_max"].to_pylist(), strict=True))

    def expected(request: SampleRequest) -> float:
        num_tokens = known.get(request.prompt_id)
        return float(num_tokens) if num_tokens is not None else -1.0 / (1 + len(request.prompt_token_ids))

    return expected
