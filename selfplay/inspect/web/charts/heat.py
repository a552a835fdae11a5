"""A table of shares, each cell as dark as its share is large, with the number in it."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from selfplay.inspect.web.charts.frame import WIDTH, drawing, rect, shorten, text, width_of

# the darkest cell still carries its number in the ink of the page with AA contrast (tests/inspect/web/test_web_contrast.py)
DARKEST = 0.7
_MOST = 44.0


def heat_map(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    shares: Sequence[Sequence[float | None]],
    *,
    row_title: str,
    column_title: str,
) -> Markup:
    """Shares from 0 to 1 by row and column (None: nothing to say). There is at least one row and column."""
    left = min(140.0, max(width_of(words) for words in [*rows, row_title]) + 12)
    side = min(_MOST, (WIDTH - left) / len(columns))
    height = min(side, 26.0)
    drawn = [text(left, 10, column_title, "unit"), text(0, 26, row_title, "unit")]
    labels = side >= max(width_of(words) for words in columns)
    every = 1 if labels else -(-len(columns) // 8)
    for index, words in enumerate(columns):
        if index % every == 0:
            drawn.append(text(left + side * (index + 0.5), 26, words, "tick mid"))
    said = []
    for number, words in enumerate(rows):
        y = 32 + height * number
        drawn.append(text(left - 8, y + height / 2 + 4, shorten(words, left - 10), "tick end"))
        for index, share in enumerate(shares[number]):
            x = left + side * index
            if share is None:
                continue
            tip = f"{row_title} {words}, {column_title} {columns[index]}: {share:.0%}"
            drawn.append(rect(x + 0.5, y + 0.5, side - 1, height - 1, "cell", tip, DARKEST * min(max(share, 0.0), 1.0)))
            drawn.append(rect(x + 0.5, y + 0.5, side - 1, height - 1, "cell-frame"))
            if side >= 30:
                drawn.append(text(x + side / 2, y + height / 2 + 4, f"{share:.0%}", "mid"))
        known = [(column, share) for column, share in zip(columns, shares[number], strict=True) if share is not None]
        said.append(f"{row_title} {words}: " + ", ".join(f"{column} {share:.0%}" for column, share in known))
    return drawing(name, title, "; ".join(said) + ".", 32 + height * len(rows) + 4, drawn)
