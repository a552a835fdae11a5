"""Every address of the viewer in one place. Ids and filters go into the query string, names of runs are quoted."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from selfplay.inspect.viewer.catalogue import Kind
from selfplay.inspect.viewer.query import Query


class Addresses:
    """Addresses as templates ask for them; `number` is a round, None for a result of `select`."""

    @staticmethod
    def home(kind: Kind, name: str) -> str:
        return f"/{kind}/{quote(name, safe='')}"

    @classmethod
    def round(cls, name: str, number: int) -> str:
        return f"{cls.home('run', name)}/round/{number}"

    @classmethod
    def _base(cls, name: str, number: int | None) -> str:
        return cls.home("select", name) if number is None else cls.round(name, number)

    @classmethod
    def pairs(cls, name: str, number: int | None, query: Query | None = None) -> str:
        return f"{cls._base(name, number)}/pairs{query.encoded() if query else ''}"

    @classmethod
    def pair(cls, name: str, number: int | None, pair_id: str, query: Query | None = None) -> str:
        return f"{cls._base(name, number)}/pair{(query or Query()).encoded(id=pair_id)}"

    @classmethod
    def download(cls, name: str, number: int | None, form: str, query: Query) -> str:
        return f"{cls._base(name, number)}/download{query.encoded(paged=False, format=form)}"

    @classmethod
    def prompt(cls, name: str, number: int, prompt_id: str) -> str:
        return f"{cls.round(name, number)}/prompt?{urlencode({'id': prompt_id})}"

    @classmethod
    def against(cls, name: str, **parameters: object) -> str:
        given = {key: str(value) for key, value in parameters.items() if value not in (None, "", "evaluation")}
        return f"{cls.home('run', name)}/against" + (f"?{urlencode(given)}" if given else "")
