"""The metadata of a dataset's folder: the front matter of its README.md, and `.huggingface.yaml`, whose keys come first.

Source: https://huggingface.co/docs/hub/datasets-manual-configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfplay.config.strict_yaml import parse
from selfplay.core.errors import ConfigError, DataError
from selfplay.store.layout import COMMIT as MANIFEST

CARD = "README.md"
STANDALONE = ".huggingface.yaml"
NAME_A_FILE = "Name one of its data files in place of the folder."
_MAX_CARD = 1 << 20  # bytes that are looked through


def card_entry(folder: Path, key: str, word: str = "") -> tuple[Path, Any]:
    """The file that has a key, and the key's value; None as the value where no file has it, or its value has not the `word`. Only
    the key is parsed. What selfplay wrote (a folder with a manifest) has no card. Raises DataError for invalid YAML."""
    for card in (folder / STANDALONE, folder / CARD) if not (folder / MANIFEST).exists() else ():
        block = _block(_lines(card), key)
        if block is None:
            continue
        if word not in block:
            break
        try:
            return card, parse(block, str(card))[key]
        except ConfigError as error:
            said = f"Its `{key}` says how the folder is read. Fix it. {NAME_A_FILE}"
            raise DataError(error.message, said) from None
    return folder / CARD, None


def _lines(card: Path) -> list[str]:
    """The lines of a card's YAML behind the line that opens it."""
    if not card.is_file():
        return []
    with card.open("rb") as file:
        lines = file.read(_MAX_CARD).decode("utf-8-sig", errors="replace").splitlines()
    if card.name == STANDALONE:
        return ["", *lines]
    return lines if lines and lines[0].rstrip() == "---" else []


def _block(lines: list[str], key: str) -> str | None:
    """A key with what is below it, behind as many empty lines as stand before it, so that errors name the right line."""
    block: list[str] = []
    for number, line in enumerate(lines[1:], 1):
        if (block and line[:1] not in (" ", "-", "#", "")) or line.rstrip() == "---":
            break
        if line.startswith(f"{key}:"):
            block = [""] * number
        if block:
            block.append(line)
    return "\n".join(block) or None
