"""Files of every format and compression give the same rows, with file and row."""

import bz2
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import DataError
from selfplay.inputs.rows.source import open_source
from selfplay.inputs.rows.survey import survey

ROWS = [{"q": f"question {number}", "n": number} for number in range(5)]


def write(path: Path) -> None:
    """ROWS in the format of the file's name."""
    table = pa.Table.from_pylist(ROWS)
    bare = path.with_suffix("") if path.suffix in (".gz", ".bz2", ".zst") else path
    if bare.suffix == ".parquet":
        pq.write_table(table, bare)
    elif bare.suffix == ".feather":
        pyarrow.feather.write_feather(table, str(bare), chunksize=2)
    elif bare.suffix == ".arrow":
        with pa.OSFile(str(bare), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    else:
        bare.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    if bare != path:
        content = bare.read_bytes()
        bare.unlink()
        codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
        if codec is None:
            path.write_bytes(bz2.compress(content))
        else:
            with pa.output_stream(str(path), compression=codec) as packed:
                packed.write(content)


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "feather", "arrow"])
def test_formats_and_compressions(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"a.{kind}{suffix}"
    write(path)
    source = open_source(str(path))
    assert survey(source).columns == ("q", "n")
    assert [row.values for row in source.rows()] == ROWS
    assert [(row.file, row.row) for row in source.rows()] == [(path.name, number) for number in range(1, 6)]
    if kind != "jsonl":
        tables = [(first, table.to_pydict()) for _, first, table in source.tables(["n"], batch_size=2)]
        assert tables == [(1, {"n": [0, 1]}), (3, {"n": [2, 3]}), (5, {"n": [4]})]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_a_truncated_file_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    write(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        list(open_source(str(path)).rows())
