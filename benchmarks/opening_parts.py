"""The processes of benchmark `opening`: `python -m benchmarks.opening_parts PART ARGUMENT ...` prints one JSON line."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.child import Clock, peak_bytes

# five responses to a prompt, and every two of them are a pair
NUM_RESPONSES = 5
TWO = [(one, other) for one in range(NUM_RESPONSES) for other in range(one + 1, NUM_RESPONSES)]
# as stage *select* cuts; of responses as with sampling.shard_size: 4096
PAIRS_IN_SHARD, RESPONSES_IN_SHARD = 25_000, 20_480
PROMPT_LETTERS, RESPONSE_LETTERS = 80, 400
KEEP = 0.4


def make(root: str, rows: str) -> dict[str, Any]:
    """A run with one round of that many pairs, made-up numbers and texts under the names of the real tables."""
    from selfplay.core.outcomes import Outcome
    from selfplay.inspect.query.tables import table_of
    from selfplay.store.run import Store

    num_prompts = max(int(rows) // len(TWO), 1)
    settings = {"rounds": 1, "pairs": {"build": "all"}, "selection": {}}
    store = Store.create(Path(root), {"resolved.json": json.dumps(settings).encode(), "pins.json": b"{}"})
    made = _Made(num_prompts)
    tables: dict[str, Callable[[], Iterator[Any]]] = {
        "prompts": made.prompts, "sample": made.responses, "score": made.rewards, "pair": made.unused,
        "logprobs": made.logprobs, "select": made.pairs,
    }  # fmt: skip
    for stage, shards in tables.items():
        writer = store.writer(1, stage, "f" * 64, [])
        for index, table in enumerate(shards()):
            writer.write_shard(index, table)
        writer.commit(1, "2026-01-01T00:00:00Z", 1.0, Outcome())
    pairs = table_of(store, 1, "pairs")
    files = list(Path(root).rglob("*.parquet"))
    return {
        "pair_id": pairs.take([pairs.num_rows - 1], ["pair_id"])["pair_id"][0].as_py(),
        "num_pairs": num_prompts * len(TWO),
        "num_responses": num_prompts * NUM_RESPONSES,
        "num_files": len(files),
        "table_bytes": sum(path.stat().st_size for path in files),
    }


class _Made:
    """Tables shard by shard; each draws from a generator of its own."""

    def __init__(self, num_prompts: int) -> None:
        import numpy as np

        self.num_prompts = num_prompts
        letters = np.frombuffer(b"etaoinshrdlu          .,", np.uint8)
        self._letters = np.random.default_rng(0).choice(letters, 1 << 22)

    def _text(self, generator: Any, num: int, length: int) -> Any:
        import numpy as np
        import pyarrow as pa

        starts = generator.integers(0, len(self._letters) - length, num)
        data = self._letters[starts[:, None] + np.arange(length)]
        offsets = np.arange(num + 1, dtype=np.int32) * length
        return pa.StringArray.from_buffers(num, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data)))

    @staticmethod
    def _turns(role: str, texts: Any) -> Any:
        import numpy as np
        import pyarrow as pa

        turns = pa.StructArray.from_arrays([pa.repeat(role, len(texts)), texts], ["role", "content"])
        return pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1), pa.int32()), turns)

    @staticmethod
    def _ids(prompt: Any, *indices: Any) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        names = pc.binary_join_element_wise("p", pc.utf8_lpad(pa.array(prompt).cast(pa.string()), 8, "0"), "")
        if not indices:
            return names
        parts = [pa.array(index).cast(pa.string()) for index in indices]
        return pc.binary_join_element_wise(names, "r001", *parts, "-")

    def _shards(self, num: int, size: int) -> Iterator[Any]:
        import numpy as np

        for start in range(0, num, size):
            yield np.arange(start, min(start + size, num))

    def prompts(self) -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa

        from selfplay.core.records import Prompt, schema

        generator = np.random.default_rng(1)
        for rows in self._shards(self.num_prompts, 65_536):
            num = len(rows)
            columns = {
                "prompt_id": self._ids(rows), "round": pa.repeat(1, num), "source_file": pa.repeat("train.jsonl", num),
                "source_row": rows + 1, "messages": self._turns("user", self._text(generator, num, PROMPT_LETTERS)),
                "prompt_token_ids": self._tokens(generator, num, 16), "num_prompt_tokens": pa.repeat(16, num),
                "columns_json": pa.repeat("{}", num), "drop_reason": pa.nulls(num, pa.string()),
            }  # fmt: skip
            yield pa.table(columns).cast(schema(Prompt))

    @staticmethod
    def _tokens(generator: Any, num: int, length: int) -> Any:
        import numpy as np
        import pyarrow as pa

        flat = pa.array(generator.integers(0, 32_000, num * length), pa.int32())
        return pa.ListArray.from_arrays(pa.array(np.arange(num + 1) * length, pa.int32()), flat)

    def responses(self) -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa

        from selfplay.core.records import Response, schema

        generator = np.random.default_rng(2)
        for rows in self._shards(self.num_prompts * NUM_RESPONSES, RESPONSES_IN_SHARD):
            prompt, index, num = rows // NUM_RESPONSES, rows % NUM_RESPONSES, len(rows)
            columns = {
                "response_id": self._ids(prompt, index), "prompt_id": self._ids(prompt), "round": pa.repeat(1, num),
                "response_index": index, "seed": rows, "token_ids": self._tokens(generator, num, 80),
                "num_tokens": generator.integers(8, 800, num), "text": self._text(generator, num, RESPONSE_LETTERS),
                "finish_reason": pa.repeat("stop", num), "policy_digest": pa.repeat("a" * 64, num),
                "policy_round": pa.repeat(0, num), "sampler_logp": pa.nulls(num, pa.float64()),
            }  # fmt: skip
            yield pa.table(columns).cast(schema(Response))

    def rewards(self) -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa

        from selfplay.core.records import Reward, schema

        generator = np.random.default_rng(3)
        for rows in self._shards(self.num_prompts * NUM_RESPONSES, RESPONSES_IN_SHARD):
            columns = {
                "response_id": self._ids(rows // NUM_RESPONSES, rows % NUM_RESPONSES),
                "reward": generator.normal(0, 1, len(rows)), "gold_reward": generator.normal(0, 1, len(rows)),
                "drop_reason": pa.nulls(len(rows), pa.string()),
            }  # fmt: skip
            yield pa.table(columns).cast(schema(Reward))

    def unused(self) -> Iterator[Any]:
        from selfplay.core.records import Unused, schema

        yield schema(Unused).empty_table()

    def logprobs(self) -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa

        from selfplay.core.records import Logprobs, schema

        generator = np.random.default_rng(4)
        for rows in self._shards(self.num_prompts * NUM_RESPONSES, RESPONSES_IN_SHARD):
            logp = -generator.gamma(2.0, 40.0, len(rows))
            columns = {
                "response_id": self._ids(rows // NUM_RESPONSES, rows % NUM_RESPONSES),
                "policy_logp": logp, "reference_logp": logp, "num_tokens": generator.integers(8, 800, len(rows)),
            }  # fmt: skip
            yield pa.table(columns).cast(schema(Logprobs))

    def pairs(self) -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa

        from selfplay.core.records import Pair, schema

        generator = np.random.default_rng(5)
        total = self.num_prompts * len(TWO)
        order, two = generator.permutation(total), np.array(TWO)
        for rows in self._shards(total, PAIRS_IN_SHARD):
            num, prompt, which = len(rows), order[rows] // len(TWO), two[order[rows] % len(TWO)]
            kept = rows < KEEP * total
            columns: dict[str, Any] = {
                "pair_id": self._ids(prompt, which[:, 0], which[:, 1]), "round": pa.repeat(1, num),
                "prompt_id": self._ids(prompt), "prompt": self._turns("user", self._text(generator, num, PROMPT_LETTERS)),
                "rank": rows + 1, "kept": kept, "explicit_margin": generator.gamma(2.0, 0.5, num),
                "implicit_margin": generator.normal(0, 1, num), "alignment_potential": 4.0 - 8.0 * rows / total,
                "metric_value": 4.0 - 8.0 * rows / total,
                "drop_reason": pa.array(["not_selected"] * num, pa.string(), mask=kept),
            }  # fmt: skip
            for side, at in (("chosen", 0), ("rejected", 1)):
                columns[side] = self._turns("assistant", self._text(generator, num, RESPONSE_LETTERS))
                columns[f"{side}_response_id"] = self._ids(prompt, which[:, at])
                columns[f"num_tokens_{side}"] = generator.integers(8, 800, num)
                for name in ("reward", "policy_logp", "reference_logp"):
                    columns[f"{name}_{side}"] = generator.normal(0, 1, num)
            yield pa.table({name: columns[name] for name in schema(Pair).names}).cast(schema(Pair))


def command(*line: str) -> dict[str, Any]:
    """A command as a user gives it, start-up included."""
    started = time.perf_counter()
    called = [sys.executable, "-m", "selfplay", *line]
    done = subprocess.run(called, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seconds = round(time.perf_counter() - started, 3)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        # of the child; this process is small, so that what the child had of it before exec does not matter
        "peak_bytes": used.ru_maxrss * 1024,
        "num_bytes_shown": len(done.stdout),
    }


def column(root: str, name: str) -> dict[str, Any]:
    """The least that a sort must do: one column of the pairs, read by pyarrow's own scanner, nothing checked."""
    import pyarrow.dataset as ds

    clock = Clock()
    with clock.part("read"):
        table = ds.dataset(Path(root) / "rounds/001/select", format="parquet").to_table(columns=[name])
    return {"parts": clock.parts, "rows": table.num_rows}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {"make": make, "command": command, "column": column}

if __name__ == "__main__":
    found = PARTS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({"peak_bytes": peak_bytes()} | found))
