"""The settings of one `selfplay select`: from flags, from a YAML file that says the same things, or both (a flag wins).

Keys are the flags' names with underscores. What makes a selection the selection it is (its identity) is everything but the
places, for whose content digests stand, and `cluster`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from selfplay.config.load import RENAMED, apply_override
from selfplay.config.named_files import without_folder
from selfplay.config.reward import RewardConfig, RewardPart
from selfplay.config.running import ClusterConfig
from selfplay.config.schema import PairsConfig
from selfplay.config.section import Section
from selfplay.config.strict_yaml import parse
from selfplay.core.errors import ConfigError
from selfplay.dataset_selection.places import FUNCTIONS, PLACES, absolute_places
from selfplay.selection.keep import num_to_keep
from selfplay.selection.keep_limits import check_limits

# Of models that are hub names; the commit that each resolves to is recorded.
REVISIONS = ("policy_revision", "reference_revision", "reward_model_revision", "embedding_model_revision")
# Not part of what a selection is.
_FREE = ("out", "cluster", "max_failed")
# What only ranks and cuts: nothing that is computed of a pair depends on it.
RANKING = (
    "metric", "options", "keep", "keep_lowest", "keep_per_group", "min_per_group", "max_per_prompt", "weight",
    "implicit_margin", "beta", "raw",
)  # fmt: skip
# The column that says which source a pair comes from, where there are several.
SOURCE = "source"
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class SourceSettings(Section):
    """One of several datasets: see `open_source` for the names, and `SelectSettings.columns`, which these go before."""

    dataset: str
    split: str | None = None
    subset: str | None = None
    revision: str | None = None
    columns: dict[str, str] = {}


class RewardParts(Section):
    """Several rewards, as the parts of `reward` in the config of a run."""

    parts: dict[str, RewardPart] = Field(min_length=1)
    normalize: Literal["zscore", "none"] = "zscore"

    @model_validator(mode="after")
    def _checked(self) -> Self:
        RewardConfig(parts=self.parts, normalize=self.normalize)  # the names of the parts
        if any(part.trust_remote_code for part in self.parts.values()):
            raise ValueError("`trust_remote_code` is a setting of runs: `select` runs no code of models")
        return self


class SelectSettings(Section):
    """One selection; see docs/select.md."""

    dataset: str | None
    sources: dict[str, SourceSettings] = {}
    out: str
    split: str | None = None
    subset: str | None = None
    revision: str | None = None
    columns: dict[str, str] = {}
    metric: str = "alignment_potential"
    options: dict[str, float] = {}
    keep: float | int
    keep_lowest: bool = False
    keep_per_group: float | int | dict[str, float | int] | None = None
    min_per_group: int | None = Field(None, ge=1)
    max_per_prompt: int | None = Field(None, ge=1)
    keep_zero_margins: bool = False
    drop_duplicates: bool = False
    drop_reversed: bool = False
    weight: float = Field(1.0, ge=0)
    implicit_margin: Literal["simpo", "dpo"] = "simpo"
    beta: float | None = Field(None, gt=0)
    raw: bool = False
    policy: str | None = None
    reference: str | None = None
    reward_model: str | None = None
    reward_function: str | None = None
    reward_engine: Literal["auto", "vllm", "transformers"] = "auto"
    reward: RewardParts | None = None
    embedding_model: str | None = None
    policy_revision: str | None = None
    reference_revision: str | None = None
    reward_model_revision: str | None = None
    embedding_model_revision: str | None = None
    chat_template: str | None = None
    max_length: int | None = Field(None, ge=2)
    pairs: PairsConfig | None = None
    group_column: str | None = None
    seed: int = 0
    shard_size: int = Field(64, ge=1)
    max_failed: float = Field(0.1, ge=0, le=1)
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        document = dict(document)
        if isinstance(document.get("pairs"), str):
            document["pairs"] = {"build": document["pairs"]}
        if isinstance(document.get("sources"), dict):
            document["sources"] = {
                name: {"dataset": source} if isinstance(source, str) else source
                for name, source in document["sources"].items()
            }
            document.setdefault("dataset", None)
        if document.get("metric") == "full" or document.get("keep_per_group") is not None:
            document.setdefault("keep", 1.0)
        keep = document.get("keep", 1.0)
        if isinstance(keep, bool) or not isinstance(keep, int | float):
            percent = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", keep) if isinstance(keep, str) else None
            part = f"{float(percent[1]) / 100:g}" if percent else "0.4"
            raise ValueError(
                f"`keep` is {keep!r}: give a fraction above 0 and up to 1.0 (as {part}), or a whole number of pairs"
            )
        return document

    @model_validator(mode="after")
    def _combination(self) -> Self:
        if isinstance(self.keep, int) and self.keep == 1:
            raise ValueError("`keep: 1` may mean one pair or all: write 1.0 for all pairs")
        num_to_keep(0, self.keep)
        columns = [self.columns, *(source.columns for source in self.sources.values())]
        check_limits(
            keep=self.keep,
            keep_lowest=self.keep_lowest,
            keep_per_group=self.keep_per_group,
            min_per_group=self.min_per_group,
            max_per_prompt=self.max_per_prompt,
            has_groups=self.group_column is not None or any(one.get("group") for one in columns),
        )
        self._check_sources()
        if self.implicit_margin == "dpo" and self.beta is None:
            raise ValueError("implicit_margin: dpo needs `beta` (0.1 is a common value)")
        if self.implicit_margin == "simpo" and self.beta is not None:
            raise ValueError("`beta` needs implicit_margin: dpo; simpo has none")
        if sum(given is not None for given in (self.reward_model, self.reward_function, self.reward)) > 1:
            raise ValueError("give one of `reward_model`, `reward_function` and `reward.parts`")
        if self.reward_engine != "auto" and self.reward_model is None:
            raise ValueError("`reward_engine` needs `reward_model`; a part has its own, reward.parts.NAME.engine")
        if self.group_column is not None and self.columns.get("group", self.group_column) != self.group_column:
            raise ValueError("`group_column` and `columns: {group: ...}` name different columns")
        for name in ("reference", "chat_template", "max_length"):
            if getattr(self, name) is not None and self.policy is None:
                raise ValueError(f"`{name}` is about the tokenizer and context of `policy`, which is not set")
        for name in REVISIONS:
            model = name.removesuffix("_revision")
            if getattr(self, name) is not None and getattr(self, model) is None:
                raise ValueError(f"`{name}` is the revision of `{model}`, which is not set")
        return self

    def _check_sources(self) -> None:
        if (self.dataset is None) == (not self.sources):
            raise ValueError(
                "`dataset` and `sources` are both given: name every dataset under `sources` (--source)"
                if self.sources
                else "`sources` names no dataset"
            )
        for name in self.sources:
            if not _SOURCE_NAME.fullmatch(name):
                raise ValueError(f"a source cannot be called {name!r}: use letters, digits, `.`, `_` and `-`")
        theirs = [name for name in ("split", "subset", "revision") if getattr(self, name) is not None]
        if self.sources and theirs:
            raise ValueError(f"`{theirs[0]}` belongs to one source: set it under sources.NAME.{theirs[0]}")

    @property
    def dataset_name(self) -> str:
        """What is said of the dataset, or of all of them."""
        return self.dataset if self.dataset is not None else " + ".join(self.sources)

    @property
    def groups_are_sources(self) -> bool:
        """Whether the group of a pair is its source."""
        return bool(self.sources) and SOURCE in (self.group_column, self.columns.get("group"))

    def rewards(self) -> RewardConfig:
        """The rewards that are computed, as those of a run."""
        return RewardConfig.model_construct(
            model=self.reward_model, function=self.reward_function, revision=self.reward_model_revision,
            engine=self.reward_engine,
            max_failed=self.max_failed, parts=self.reward.parts if self.reward is not None else {},
            normalize=self.reward.normalize if self.reward is not None else "zscore",
        )  # fmt: skip

    @property
    def has_rewards(self) -> bool:
        """Whether rewards can be computed."""
        return self.reward_model is not None or self.reward_function is not None or self.reward is not None

    @property
    def standardize(self) -> bool:
        """Whether both margins are z-scored over the pool."""
        return not self.raw

    def identity(self) -> dict[str, Any]:
        """What must be equal for two commands to be the same selection, content of files aside."""
        document = self.model_dump(mode="json", exclude={*PLACES, *REVISIONS, *_FREE})
        for name in FUNCTIONS:
            document[name] = document[name] and without_folder(document[name])
        for source in document["sources"].values():
            del source["dataset"]
        for part in (document["reward"] or {"parts": {}})["parts"].values():
            part |= {"model": None, "revision": None, "function": part["function"] and without_folder(part["function"])}
        return document


def load_settings(
    flags: Mapping[str, Any], overrides: Sequence[str] = (), config: Path | None = None
) -> tuple[SelectSettings, list[str]]:
    """Settings out of flags (what was not given is left out), `key=value` overrides and a YAML file; and a line for each key of
    the file that a flag overrules. Places are made absolute: a flag's are relative to the working directory, a file's to the
    file's folder first. Raises ConfigError."""
    document: dict[str, Any] = {}
    where = "the command line"
    if config is not None:
        if not config.is_file():
            raise ConfigError(f"no config file at {config}", "docs/select.md has an example.")
        read = parse(config.read_text(encoding="utf-8"), str(config))
        if not isinstance(read, dict):
            raise ConfigError(f"{config} holds no settings", "It should begin like `dataset: pairs.jsonl`.")
        document = absolute_places(read, config.resolve().parent)
        where = str(config)
    given = dict(flags)
    for override in overrides:
        apply_override(given, override)
    given = absolute_places(given, Path.cwd())
    notes = []
    for name, value in given.items():
        if name in document and isinstance(document[name], dict) and isinstance(value, dict):
            value = _merged(document[name], value)
        if name in document and document[name] != value:
            notes.append(f"{name}: the command line's value instead of {config}'s")
        document[name] = value
    return _validated(document, where), notes


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `below` with those of `above` in their place, key by key at every depth."""
    return {**below} | {
        name: _merged(below[name], value) if isinstance(below.get(name), dict) and isinstance(value, dict) else value
        for name, value in above.items()
    }


def _validated(document: Mapping[str, Any], where: str) -> SelectSettings:
    try:
        return SelectSettings.model_validate(document)
    except ValidationError as error:
        problems = {".".join(map(str, item["loc"][:1])): item for item in error.errors(include_url=False)}
        lines = [_explained(item) for item in problems.values()]
        raise ConfigError(
            f"{where}: " + ("; ".join(lines) if len(lines) == 1 else "\n  - " + "\n  - ".join(lines)),
            "`selfplay select --help` lists the flags, docs/select.md the keys of a file.",
        ) from None


def _explained(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    renamed = RENAMED.get(name) or RENAMED.get(f"selection.{name}")
    if item["type"] == "extra_forbidden" and renamed is not None:
        return (
            f"`{name}` is not a setting; its name is `{renamed if '.' in name else renamed.removeprefix('selection.')}`"
        )
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, SelectSettings.model_fields, n=1, cutoff=0.5)
        return f"unknown setting `{name}`" + (f": did you mean `{near[0]}`?" if near else "")
    if item["type"] == "missing":
        return f"`{name}` is missing: " + {
            "keep": "give the part to keep: --keep 0.4 (a fraction) or --keep 500 (pairs)",
            "out": "give the folder of the result with --out",
            "dataset": "name the dataset, or several with --source",
        }.get(name, "it has no default")
    message = item["msg"].removeprefix("Value error, ")
    return message if item["type"] == "value_error" else f"`{name}` is {item.get('input')!r}: {message}"
