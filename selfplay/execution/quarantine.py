"""How a shard whose worker dies in it is got through: halved until the one prompt (or response) that kills is alone, which
is then given up with a reason, instead of killing workers for ever.

A whole shard may cost two workers, for a death may have nothing to do with it; a half of one costs one before it is halved again;
a single item two before it is given up. Everything else of the shard is asked as ever, and comes back in its order: its
rows are those of an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa

from selfplay.core.errors import BackendError
from selfplay.core.pool import Call, Killed, Pool
from selfplay.execution.row_check import check_answered, rows_asked

Item = TypeVar("Item")

PATIENCE = 2
# The reason that is kept; what the workers died of is said, and stands in their logs.
QUARANTINED = "quarantined: its worker died twice"


@dataclass(frozen=True)
class GiveUp(Generic[Item]):
    """What is done about an item that kills its worker. `name`: what it is called; `rows`: the rows in the place of its answer,
    given the reason (None: nothing can stand there, so the stage ends); `most`: how many may be given up."""

    name: Callable[[Item], str]
    rows: Callable[[Item, str], pa.Table] | None = None
    most: int = 0


@dataclass(frozen=True, slots=True)
class Piece(Generic[Item]):
    """Items of one shard from `start` on; -1: the whole shard."""

    shard: int
    start: int
    items: Sequence[Item]

    def __str__(self) -> str:
        first = max(self.start, 0)
        return f"shard {self.shard}, items {first} to {first + len(self.items) - 1}"

    @property
    def patience(self) -> int:
        """Workers that it may cost."""
        return PATIENCE if self.start == -1 or len(self.items) == 1 else 1

    def halves(self) -> list[Piece[Item]]:
        """Its first and its second half."""
        first, middle = max(self.start, 0), len(self.items) // 2
        return [
            Piece(self.shard, first, self.items[:middle]),
            Piece(self.shard, first + middle, self.items[middle:]),
        ]


@dataclass(frozen=True, slots=True)
class Answer:
    """A shard's answer: its table, and what was given up in it (name, reason)."""

    table: pa.Table
    given_up: list[tuple[str, str]]


class TooManyGivenUp(BackendError):
    """More items were given up than `GiveUp.most`."""


def answers(
    pool: Pool,
    method: str,
    shards: Iterable[tuple[int, Sequence[Item]]],
    arguments: Callable[[Sequence[Item]], tuple[Any, ...]],
    give_up: GiveUp[Item] | None,
    say: Callable[[str], None],
    what: str,
    is_stopped: Callable[[], bool] = lambda: False,
    num_given_up: int = 0,
) -> Iterator[tuple[int, Answer]]:
    """The answer to each shard, in the order of completion; shards that had to be halved come last.

    `shards` is read as workers become free. Where nothing can be given up an item that kills its worker raises BackendError.
    `what` names the work in messages. Once `is_stopped`, nothing is halved further: those shards have no answer.
    `num_given_up` were given up before, by an earlier attempt.
    """
    halved: dict[int, _Halved[Item]] = {}
    pieces: Iterable[Piece[Item]] = (Piece(index, -1, items) for index, items in shards)
    while True:
        killed: list[tuple[Piece[Item], Killed]] = []
        for piece, result in _ask(pool, method, pieces, arguments, what):
            for line in pool.news():
                say(line)
            if isinstance(result, Killed):
                killed.append((piece, result))
            elif piece.start == -1:
                yield piece.shard, Answer(result, [])
            else:
                halved[piece.shard].tables[piece.start] = result
        for line in pool.news():
            say(line)
        halves: list[Piece[Item]] = []
        for piece, death in killed:
            whole = halved.setdefault(piece.shard, _Halved())
            if len(piece.items) > 1:
                say(f"{what}: {piece} killed its worker ({death.reason}); it is halved to find what does")
                halves += piece.halves()
                continue
            name, rows = _give_up(piece, death, give_up, num_given_up, what)
            num_given_up += 1
            say(f"{what}: {name} is {QUARANTINED} ({death.reason}); the run goes on without it")
            whole.tables[max(piece.start, 0)] = rows
            whole.given_up.append((name, QUARANTINED))
        if not halves:
            break
        if is_stopped():
            return
        pieces = halves
    for index, whole in sorted(halved.items()):
        tables = [whole.tables[start] for start in sorted(whole.tables)]
        yield index, Answer(pa.concat_tables(tables, promote_options="permissive"), whole.given_up)


def _give_up(
    piece: Piece[Item], death: Killed, give_up: GiveUp[Item] | None, num_before: int, what: str
) -> tuple[str, pa.Table]:
    """The name of a single item that killed its worker, and the rows in its place. Raises BackendError where it cannot be
    given up, or is one too many."""
    item = piece.items[0]
    name = give_up.name(item) if give_up is not None else str(piece)
    if give_up is None or give_up.rows is None:
        raise BackendError(
            f"{what}: {name} killed its worker {death.deaths} times ({death.reason}), and the stage cannot do without it"
            f"{death.worker}",
            "What is kept is safe. Out of memory is the usual reason: free some, or lower what the worker takes at once, and go "
            "on.",
        )
    if num_before >= give_up.most:
        raise TooManyGivenUp(
            f"{what}: {num_before + 1} have killed their workers twice, {name} the last ({death.reason}); "
            f"cluster.max_quarantined is {give_up.most}{death.worker}",
            "What is kept is safe. So many have a common cause: the workers' logs say what they died of. Mend it and go on (or "
            "with a larger cluster.max_quarantined).",
        )
    return name, give_up.rows(item, QUARANTINED)


class _Halved(Generic[Item]):
    """What has come of a shard that was halved: tables by the place of their first item, and what was given up."""

    def __init__(self) -> None:
        self.tables: dict[int, pa.Table] = {}
        self.given_up: list[tuple[str, str]] = []


def _ask(
    pool: Pool,
    method: str,
    pieces: Iterable[Piece[Item]],
    arguments: Callable[[Sequence[Item]], tuple[Any, ...]],
    what: str,
) -> Iterator[tuple[Piece[Item], Any]]:
    sent: list[Piece[Item]] = []
    wanted: dict[int, list[object] | None] = {}

    def calls() -> Iterator[Call]:
        for piece in pieces:
            sent.append(piece)
            given = arguments(piece.items)
            wanted[len(sent) - 1] = rows_asked(given)
            yield Call(len(sent) - 1, given, piece.patience)

    for key, result in pool.map(method, calls()):
        rows = wanted.pop(key)
        if rows is not None and not isinstance(result, Killed):
            check_answered(f"{what}: {sent[key]}", rows, result)
        yield sent[key], result
