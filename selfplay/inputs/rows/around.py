"""Columns that may belong to a conversation and that are not read: each is named in a note, none goes along unsaid."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from selfplay.inputs.rows.looks import Look
from selfplay.inputs.rows.names import plain
from selfplay.inputs.rows.roles import ROLES
from selfplay.inputs.rows.survey import Kind, Survey

_WORDS = frozenset(
    ("system", "preprompt", "persona", "tool", "tools", "function", "functions", "history", "past", "prev", "previous", "prior",
     "turns", "dialog", "dialogue", "dialogues", "conversation", "conversations", "messages", "context", "contexts", "ctx",
     "ctxs", "document", "documents", "doc", "docs", "passage", "passages", "evidence", "retrieved", "background", "knowledge",
     "memory", "instruction", "instructions", "input", "prompt", "question", "query", "problem",
     "thinking", "thought", "thoughts", "reasoning", "cot", "scratchpad", "demonstrations", "shots", "prefix", "suffix")
)  # fmt: skip
# Whatever else such a name says: an image's path, the turn that a message answers, who says it.
_STRONG = frozenset(
    ("image", "images", "img", "picture", "pictures", "photo", "audio", "audios", "sound", "speech", "video", "videos",
     "attachment", "attachments", "media", "parent")
)  # fmt: skip
# A name with one of these is about a thing, it does not hold it.
_ABOUT = frozenset(
    ("id", "ids", "hash", "sha256", "num", "number", "count", "n", "length", "len", "tokens", "type", "kind", "source", "model",
     "name", "date", "time", "timestamp", "language", "lang", "category", "index", "score", "rating", "fingerprint", "stats")
)  # fmt: skip
_KINDS: tuple[Kind, ...] = ("messages", "dialogue", "dialogues", "turns", "media")
_ANSWERS = frozenset(
    alias for ours in ("chosen", "rejected", "responses", "response") for alias in (ours, *ROLES[ours].aliases)
)
# Texts that stand beside a conversation by their nature: other answers, and what was written about one.
_SAID_OF_IT = frozenset(
    ("answer", "answers", "response", "responses", "output", "outputs", "completion", "completions", "generation", "generations",
     "solution", "target", "targets", "reference", "label", "chosen", "rejected", "critique", "rationale", "rationales",
     "explanation", "feedback", "comment", "comments", "judge", "judgement", "judgment", "annotation", "annotations", "metadata",
     "meta", "info", "error", "raw", "labelling", "config", "configs", "url", "license", "description", "title")
)  # fmt: skip
_LOOKS: dict[Look, str] = {
    "templated": "look like the output of a chat template, they are read as plain texts",
    "ended": "end in the text of a control token, which is read as plain text (remove it)",
    "null": "are 'None', 'nan' or the like, they are read as texts (write null for no value)",
    "damaged": "look as if they were encoded twice (bytes, entities of HTML, UTF-8 that was read as Latin-1)",
}
_TEXTS = ("chosen", "rejected", "response", "response_a", "response_b")
# Fields of messages that say nothing to a model.
_OF_A_MESSAGE = frozenset(
    ("id", "index", "weight", "loss", "loss_weight", "train", "score", "rating", "rank", "model", "language", "lang", "hash",
     "timestamp", "created", "num_tokens", "type")
)  # fmt: skip


def unread(found: Survey, others: Iterable[str], used: Collection[str]) -> Iterator[str]:
    """Notes on those of some columns, and of the fields beside those that are used, that by their names or their values may
    belong to a conversation, and on fields of messages beside their text. `used`: columns and fields that are read."""
    roots = {name.rpartition(".")[0] for name in used if name not in found.columns}
    beside = [name for name in found.fields if name.rpartition(".")[0] in roots and name not in used]
    prose = {*found.look_like("prose", [*others, *beside])}
    names = [repr(name) for name in others if name not in roots and _may_belong(name, found.kind(name), name in prose)]
    names += [repr(name) for name in beside if _may_belong(name.rpartition(".")[2], None, name in prose)]
    if names:
        yield f"{', '.join(names)}: not used as part of the conversation, only text turns are read"
    for look, said in _LOOKS.items():
        if looking := [repr(name) for name in found.look_like(look, used)]:
            yield f"{', '.join(looking)}: some texts {said}"
    extras = [repr(name) for name in found.extras if name.lower() not in _OF_A_MESSAGE]
    if extras:
        yield f"the messages also have {', '.join(extras)}: not used, only their role and content are read"


def lists_as_text(found: Survey, names: Mapping[str, str]) -> Iterator[str]:
    """A note on answers that hold lists of texts as text: such a text may be the answer itself, or a list that another program
    wrote into CSV. `names`: role -> column. (Where the prompt is written so too, they are the turns of a dialogue.)"""
    answers = [repr(names[ours]) for ours in _TEXTS if ours in names and found.look_like("listed", [names[ours]])]
    if answers and not found.look_like("listed", [names.get("prompt", "")]):
        yield f"{', '.join(answers)}: some texts look like lists of texts, they are read as plain texts (write lists as JSONL)"


def _may_belong(name: str, kind: Kind | None, is_prose: bool) -> bool:
    spelled = plain(name)
    if spelled in _ANSWERS:
        return False
    if kind in _KINDS:
        return True
    words = {*spelled.split("_")}
    if is_prose and not words & _SAID_OF_IT:
        return True
    return bool(words & _STRONG) or (kind != "number" and bool(words & _WORDS) and not words & _ABOUT)
