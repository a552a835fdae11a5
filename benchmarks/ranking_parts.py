"""The processes of benchmark `ranking`: `python -m benchmarks.ranking_parts PART ARGUMENT ...` prints one JSON line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.child import Clock, peak_bytes

KEEP = 0.4
_ROWS_AT_A_TIME = 1 << 20


def make(table: str, rows: str) -> dict[str, Any]:
    """A Parquet table of made-up numbers under the names of the pairs table."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator, writer, left = np.random.default_rng(0), None, int(rows)
    while left > 0:
        num, done = min(left, _ROWS_AT_A_TIME), int(rows) - left
        names = np.char.add("pair-", np.char.zfill(np.arange(done, done + num).astype("U8"), 8))
        columns: dict[str, Any] = {"pair_id": pa.array(names)}
        for side, mean in (("chosen", 1.0), ("rejected", 0.0)):
            tokens = generator.integers(8, 800, num)
            columns |= {
                f"reward_{side}": generator.normal(mean, 1.0, num),
                f"num_tokens_{side}": tokens,
                f"policy_logp_{side}": -generator.gamma(2.0, 0.4, num) * tokens,
            }
        piece = pa.table(columns)
        writer = writer or pq.ParquetWriter(table, piece.schema)
        writer.write_table(piece)
        left -= num
    assert writer is not None, "at least one row is asked for"
    writer.close()
    return {"table_bytes": Path(table).stat().st_size}


def ours(table: str, result: str) -> dict[str, Any]:
    """Read, rank and write as `selfplay select` does, by the package's own functions."""
    from selfplay.dataset_selection.candidates import ready_made
    from selfplay.dataset_selection.output.writing import ResultTable, write_tables
    from selfplay.dataset_selection.pipeline import pair_pool
    from selfplay.dataset_selection.reading.dataset import read_dataset
    from selfplay.selection.select import select
    from selfplay.store.result_folder import ResultWriter

    clock = Clock()
    with clock.part("read"):
        dataset = read_dataset(table)
        assert dataset.pairs is not None, "a table of numbers holds pairs"
        pairs = ready_made(dataset.pairs, None)
        pool = pair_pool(pairs.table, pairs.columns, pairs.reasons)
    with clock.part("rank"):
        selection = select(pool, metric="alignment_potential", keep=KEEP)
    with clock.part("write"):
        Path(result).mkdir()
        writer = ResultWriter(Path(result), Path(result) / ".work")
        write_tables(writer, ResultTable(dataset.pairs, pool, selection), selection)
        writer.commit({"kind": "benchmark"})
    size = sum(path.stat().st_size for path in Path(result).rglob("*.parquet"))
    return {"parts": clock.parts, "num_kept": selection.summary.num_kept, "result_bytes": size}


def bare(table: str) -> dict[str, Any]:
    """The released rule in bare numpy on the same columns, read with pyarrow and nothing checked."""
    import numpy as np
    import pyarrow.parquet as pq

    clock = Clock()
    with clock.part("read"):
        read = pq.read_table(table)
        column = {name: read[name].to_numpy() for name in read.column_names if name != "pair_id"}
    with clock.part("rule"):
        explicit = column["reward_chosen"] - column["reward_rejected"]
        implicit = np.abs(
            column["policy_logp_chosen"] / column["num_tokens_chosen"]
            - column["policy_logp_rejected"] / column["num_tokens_rejected"]
        )
        values = (explicit - explicit.mean()) / explicit.std() - (implicit - implicit.mean()) / implicit.std()
        kept = np.argsort(values)[::-1][: round(KEEP * len(values))]
    return {"parts": clock.parts, "num_kept": len(kept)}


def disk(path: str, num_bytes: str) -> dict[str, Any]:
    """As many bytes, written plainly and flushed to the disk."""
    block, left, clock = os.urandom(1 << 24), int(num_bytes), Clock()
    with clock.part("disk"), open(path, "wb") as file:
        while left > 0:
            left -= file.write(block[:left])
        file.flush()
        os.fsync(file.fileno())
    return {"parts": clock.parts}


def command(table: str, result: str, *more: str) -> dict[str, Any]:
    """The command as a user gives it, start-up, diagnostics and summary included; with `more` arguments."""
    started = time.perf_counter()
    line = ["select", table, "--metric", "alignment_potential", "--keep", str(KEEP), "--out", result, "--json", *more]
    subprocess.run([sys.executable, "-m", "selfplay", *line], check=True, stdout=subprocess.DEVNULL)
    seconds = round(time.perf_counter() - started, 3)
    # of the child; this process is small, so that what the child had of it before exec does not matter
    parts = {"command": {"seconds": seconds}}
    return {"parts": parts, "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "make": make, "ours": ours, "bare": bare, "disk": disk, "command": command,
}  # fmt: skip

if __name__ == "__main__":
    found = PARTS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({"peak_bytes": peak_bytes()} | found))
