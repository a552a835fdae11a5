"""Finds the inputs that a configuration names: models, data, functions, templates. All missing ones are reported at once.

What a run was started with may have moved since, together with its configuration. A thing that is not in its old place is looked
for in the place that the known moves suggest, and taken from there where its content is the pinned one. Nothing is run here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from selfplay.config.named_files import METRIC, TEMPLATE, is_function, is_template_file
from selfplay.config.reward import RewardSource
from selfplay.config.schema import Config, EvaluationConfig, MixConfig, PolicyConfig, PromptsConfig
from selfplay.core.errors import ConfigError, MissingInputError
from selfplay.inputs.models.chat import read_chat_template
from selfplay.inputs.models.files import model_digest, model_folder
from selfplay.inputs.rows.files import local_path
from selfplay.inputs.rows.source import source_digest as data_digest
from selfplay.inputs.user_code.listing import named_functions
from selfplay.inputs.user_code.loading import source_digest, source_file
from selfplay.store.durable import sha256_bytes

ModelSection = PolicyConfig | RewardSource | MixConfig


@dataclass(frozen=True, slots=True)
class Moves:
    """The known moves of a project: pairs of an old and a new path of the same input."""

    pairs: tuple[tuple[Path, Path], ...] = ()

    def of(self, place: Path) -> Iterator[Path]:
        """Where something at `place` is now, if it moved together with one of the known things."""
        for old, new in self.pairs:
            yield Path(os.path.normpath(new / os.path.relpath(place, old)))


@dataclass(frozen=True, slots=True)
class _Place:
    """A setting that names something outside. `find` raises ConfigError where it is not there; `digest` is that of its pin."""

    setting: str
    value: str
    find: Callable[[str], object]
    digest: Callable[[str], str]

    @property
    def is_code(self) -> bool:
        """Whether it is a file or module that may be looked for in the configuration's folder."""
        return is_function(self.setting) or self.setting in (METRIC, TEMPLATE)

    @property
    def is_module(self) -> bool:
        """Whether it is a function of a module (`package.module:function`), and not of a file."""
        path, colon, _ = self.value.rpartition(":")
        return self.is_code and bool(colon) and not path.endswith(".py")


def named_models(config: Config) -> dict[str, ModelSection]:
    """Setting -> its section, for all models that a configuration names."""
    found: dict[str, ModelSection] = {"policy.model": config.policy}
    if config.sampling.mix is not None:
        found["sampling.mix.model"] = config.sampling.mix
    sources = config.reward.sources().items()
    return found | {f"{section}.model": source for section, source in sources if source.model is not None}


def named_data(config: Config) -> dict[str, PromptsConfig | EvaluationConfig]:
    """Setting -> its section, for the sources of prompts."""
    found: dict[str, PromptsConfig | EvaluationConfig] = {"prompts.source": config.prompts}
    return found if config.evaluation is None else found | {"evaluation.source": config.evaluation}


def locate_model(setting: str, section: ModelSection, revisions: Mapping[str, str]) -> Path:
    """The folder of the model that a section names. A hub model is the commit in `revisions` where this name was resolved before:
    a branch may have moved since. Raises ModelError."""
    assert section.model is not None, "the section names a model"
    model, _, commit = revisions.get(setting, "").rpartition("@")
    is_known = model == section.model and not Path(model).expanduser().is_dir()
    return model_folder(section.model, commit if is_known else section.revision)


def data_pin(section: PromptsConfig | EvaluationConfig, source: str, search_path: Path) -> str:
    """The digest that pins a run to a source of prompts."""
    return data_digest(source, section.split, search_path, subset=section.subset, revision=section.revision)


def find_search_path(config: Config, recorded: Path, moves: Moves, pins: Mapping[str, str]) -> Path:
    """The folder of the configuration: as it was recorded, or where it moved to if a function or template of it is there with its
    content. (Functions import from this folder, so that no other one may take its place.)"""
    if recorded.is_dir():
        return recorded
    for folder in moves.of(recorded):
        for place in _places(config, folder, {}, {}):
            if place.is_code and _is_in(place, recorded, folder, pins):
                return folder
    return recorded


def _is_in(place: _Place, recorded: Path, folder: Path, pins: Mapping[str, str]) -> bool:
    """Whether a function or template of the configuration's folder `recorded` is in `folder`, with its content."""
    if place.is_module:
        module = place.value.partition(":")[0].split(".")
        beside = any(Path(folder, *module[:-1], name).exists() for name in (module[-1], f"{module[-1]}.py"))
        return beside and _has_content(place, place.value, pins)
    return _where_it_moved(place, recorded, Moves(((recorded, folder),)), pins) is not None


def find_places(
    config: Config,
    search_path: Path,
    recorded: Path,
    revisions: Mapping[str, str],
    moves: Moves,
    pins: Mapping[str, str],
) -> tuple[Config, dict[str, Path], dict[str, str]]:
    """The configuration with the places where things are now, the folder of each model by its setting, and the digests of what
    has moved.

    `recorded` is the folder of the configuration before it moved to `search_path`; `pins` are the digests that a moved thing must
    have. Raises MissingInputError with all that is missing.
    """
    folders: dict[str, Path] = {}
    document = config.model_dump()
    missing: dict[str, ConfigError] = {}
    moved: dict[str, str] = {}
    for place in _places(config, search_path, revisions, folders):
        try:
            place.find(place.value)
        except ConfigError as error:
            new = _where_it_moved(place, recorded, moves, pins)
            if new is None:
                missing[place.setting] = error
            else:
                _set(document, place.setting, new)
                place.find(new)
                moved[place.setting] = pins[place.setting]
    if missing:
        raise _missing(missing)
    return Config.model_validate(document), folders, moved


def _places(
    config: Config, search_path: Path, revisions: Mapping[str, str], folders: dict[str, Path]
) -> Iterator[_Place]:
    for setting, model in named_models(config).items():

        def find_model(value: str, setting: str = setting, model: ModelSection = model) -> None:
            folders[setting] = locate_model(setting, model.model_copy(update={"model": value}), revisions)

        assert model.model is not None, "the section names a model"
        yield _Place(setting, model.model, find_model, lambda value: model_digest(model_folder(value)))
    for setting, data in named_data(config).items():

        def digest_data(value: str, data: PromptsConfig | EvaluationConfig = data) -> str:
            return data_pin(data, value, search_path)

        yield _Place(setting, data.source, partial(local_path, base_dir=search_path), digest_data)
    for setting, (function, what) in named_functions(config).items():
        find = partial(source_file, search_path=search_path, what=what)
        yield _Place(setting, function, find, partial(source_digest, search_path=search_path, what=what))
    template = config.policy.chat_template
    if template is not None and is_template_file(template):
        yield _Place(
            TEMPLATE,
            template,
            partial(read_chat_template, base_dir=search_path),
            lambda value: sha256_bytes(str(read_chat_template(value, search_path)).encode()),
        )


def _where_it_moved(place: _Place, recorded: Path, moves: Moves, pins: Mapping[str, str]) -> str | None:
    """The place of the same content that the known moves lead to; None where there is none."""
    if place.is_module:  # it moves with the configuration's folder
        return None
    path, colon, function = place.value.rpartition(":") if place.is_code else (place.value, "", "")
    for candidate in moves.of(Path(recorded, Path(path).expanduser())):
        value = f"{candidate}{colon}{function}"
        if candidate.exists() and _has_content(place, value, pins):
            return value
    return None


def _has_content(place: _Place, value: str, pins: Mapping[str, str]) -> bool:
    try:
        return place.digest(value) == pins.get(place.setting)
    except ConfigError:  # something else is there, or nothing
        return False


def _set(document: dict[str, Any], setting: str, value: str) -> None:
    *sections, last = setting.split(".")
    for section in sections:
        document = document[section]
    document[last] = value


def _missing(errors: Mapping[str, ConfigError]) -> MissingInputError:
    lines = [f"{setting}: {error.message}" for setting, error in errors.items()]
    if len(errors) == 1:
        return MissingInputError(lines[0], next(iter(errors.values())).hint, tuple(errors))
    return MissingInputError(
        f"{len(errors)} things that the configuration names do not exist:\n    " + "\n    ".join(lines),
        "Correct these settings.",
        tuple(errors),
    )
