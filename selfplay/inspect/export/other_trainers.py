"""The kept pairs of a run for those who train elsewhere: one JSONL file a round and the settings that axolotl and LLaMA-Factory
read it by (`export --format`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selfplay.core.errors import ConfigError
from selfplay.inspect.export import formats
from selfplay.inspect.export.cards import config_name
from selfplay.inspect.export.control_text import ControlTextCount
from selfplay.inspect.export.tables import pairs
from selfplay.store.result_folder import ResultWriter
from selfplay.store.run import Store

FORMATS = ("axolotl", "llama-factory", "jsonl")


def write_format(
    writer: ResultWriter, store: Store, rounds: Sequence[int], kind: str
) -> tuple[dict[int, dict[str, int]], list[str]]:
    """`round_NNN.jsonl` of each round, best pair first, and `axolotl.yaml` or `dataset_info.json`. Returns the pairs by round
    and notes for the user. Raises ConfigError when no pair was kept."""
    counts: dict[int, dict[str, int]] = {}
    skipped, typed = 0, ControlTextCount()
    for number in rounds:
        rows = 0

        def lines(number: int = number) -> Iterator[bytes]:
            nonlocal rows, skipped
            for table in typed.of(pairs(store, number, kept=True)):
                rows += table.num_rows
                skipped += formats.num_not_alternating(table)
                yield b"".join(formats.plain_lines(table) if kind == "jsonl" else formats.lines(table))

        writer.add_pieces(f"{config_name(number)}.jsonl", lines())
        counts[number] = {"kept": rows}
    if not any(count["kept"] for count in counts.values()):
        raise ConfigError("no pair was kept in these rounds", "`selfplay show RUN ROUND` shows the reasons.")
    names = [config_name(number) for number in rounds]
    if kind == "axolotl":
        writer.add("axolotl.yaml", formats.axolotl(*(f"{name}.jsonl" for name in names)))
    if kind == "llama-factory":
        writer.add("dataset_info.json", formats.dataset_info({name: f"{name}.jsonl" for name in names}))
    notes = typed.notes()
    if kind == "llama-factory" and skipped:
        notes.append(f"{skipped} pairs have prompts that are not user and assistant in turn: LLaMA-Factory skips those")
    return counts, notes
