"""Tables that may be larger than memory: their blocks go into a file without a name, which is mapped.

What is read of a mapped file counts as memory of the process until the kernel wants it back or `release_pages` is called.
"""

from __future__ import annotations

import mmap
import tempfile
import weakref
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfplay.core.paths import nearest_existing
from selfplay.store.durable import translating_errors

_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
# Smaller tables stay in memory.
_IN_MEMORY = 64 << 20


class Spool:
    """Where tables are spooled: files in `folder`, or in the nearest folder above it that exists. They have no name, and are gone
    with their tables or with the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def filtered(self, table: pa.Table, is_kept: pa.Array) -> pa.Table:
        """The rows of a table for which `is_kept` is true."""
        kept, start = SpooledTable(table.schema, self), 0
        for batch in table.to_batches():
            kept.append(batch.filter(is_kept.slice(start, batch.num_rows)))
            start += batch.num_rows
            release_pages()
        return kept.done()


class SpooledTable:
    """A table that is put together block by block; without a `spool` it stays in memory."""

    def __init__(self, schema: pa.Schema, spool: Spool | None) -> None:
        self._schema, self._spool = schema, spool
        self._batches: list[pa.RecordBatch] = []
        self._num_bytes = 0
        self._file: Any = None
        self._writer: Any = None

    def append(self, batch: pa.RecordBatch) -> None:
        """Add a block of rows. Raises SelfplayError when it cannot be written."""
        self._batches.append(batch)
        self._num_bytes += batch.nbytes
        if self._spool is not None and self._num_bytes > _IN_MEMORY:
            self._write(self._spool.folder)

    def _write(self, folder: Path) -> None:
        place = nearest_existing(folder)
        with translating_errors(place, self._num_bytes):
            if self._writer is None:
                self._file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115  # closed in done()
                self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), self._schema)
            for batch in self._batches:
                self._writer.write_batch(batch)
        self._batches, self._num_bytes = [], 0

    def done(self) -> pa.Table:
        """The table of all rows."""
        if self._writer is None or self._spool is None:
            return pa.Table.from_batches(self._batches, self._schema)
        self._write(self._spool.folder)
        with self._file, translating_errors(self._spool.folder):
            self._writer.close()
            self._file.flush()
            mapped = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)
        _maps.add(mapped)
        return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).read_all()


def release_pages() -> None:
    """Give back the memory that holds what was read of mapped tables. The kernel keeps it as long as it has no better use for it,
    so that to read it again is fast."""
    for mapped in list(_maps):
        mapped.madvise(mmap.MADV_DONTNEED)
