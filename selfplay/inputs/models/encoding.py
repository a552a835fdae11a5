"""The one way in which a tokenizer is asked for token ids of a text: nothing put before or behind it, errors with a reason."""

from __future__ import annotations

from typing import Any

from selfplay.core.errors import DataError


def encode(tokenizer: Any, text: str, **how: Any) -> list[int]:
    """Token ids of a text by itself. Raises DataError where the tokenizer fails: one without an unknown token has no ids for a
    character that it does not know."""
    try:
        return list(tokenizer(text, add_special_tokens=False, **how)["input_ids"])
    except Exception as error:  # the library in Rust raises nothing more special
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"the tokenizer (a {type(tokenizer).__name__}) cannot encode {text[:60]!r}: {reason}",
            "Change the text. If it fails for ordinary text, tokenizer_class in tokenizer_config.json does not fit the files.",
        ) from error


def single_token(tokenizer: Any, text: str) -> int | None:
    """The id of a string that is one token of its own; None where it is written with several, or not at all."""
    try:
        ids = encode(tokenizer, text)
    except DataError:
        return None
    return int(ids[0]) if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None
