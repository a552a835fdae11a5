"""Exported texts that spell a control token ("<|im_end|>" typed by a user): text here, a token for many trainers' tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

# The control tokens of common models; which ones another trainer's tokenizer has is not known here.
_CONTROL = (
    r"<\|[A-Za-z0-9_]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(bos|eos|pad|unk|start_of_turn|end_of_turn)>"
    r"|\[/?INST\]|<</?SYS>>"
)


class ControlTextCount:
    """Counts the pairs that pass through it and whose prompt, chosen or rejected messages spell a control token."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables."""
        for table in tables:
            self._count += _num_pairs(table)
            yield table

    def notes(self) -> list[str]:
        """What is to be said, if anything."""
        if not self._count:
            return []
        return [
            f"{self._count} pairs contain a string that spells a control token, such as <|im_end|> or </s>. It is text here; the "
            "tokenizer of another trainer may read it as the token. Remove these pairs if that trainer does."
        ]


def _num_pairs(table: pa.Table) -> int:
    found: set[int] = set()
    for name in ("prompt", "chosen", "rejected"):
        start = 0
        for messages in table.column(name).chunks:
            texts = pc.struct_field(messages.flatten(), "content")
            pair_T = pc.list_parent_indices(messages).filter(
                pc.fill_null(pc.match_substring_regex(texts, _CONTROL), False)
            )
            found.update(start + pair for pair in pair_T.to_pylist())
            start += len(messages)
    return len(found)
