"""From a YAML file and `key=value` overrides to a `Config`: errors name the setting, the value and the rule, with a hint."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from selfplay.config.named_files import METRIC, TEMPLATE, absolute_place, is_own_metric, is_template_file
from selfplay.config.schema import Config
from selfplay.config.strict_yaml import parse
from selfplay.core.errors import ConfigError

# settings that have another name now
RENAMED = {
    "cluster.call_timeout": "cluster.heartbeat_timeout",
    "cluster.max_quarantined": "cluster.max_poison_items",
    "selection.form": "selection.implicit_margin",
}


# of a configuration file, which is read whole
MAX_BYTES = 1 << 20


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read, override, validate, and make paths absolute. Raises ConfigError."""
    if not path.is_file():
        hint = (
            "Give the path of a YAML file; configs/ has examples and `selfplay quickstart --prepare-only` writes one."
        )
        raise ConfigError(f"no config file at {path}", hint)
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(
            f"{path} has more than {MAX_BYTES >> 20} MiB", "A configuration has a few kilobytes. Check the path."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}", "Save it as UTF-8.") from None
    document = parse(text, str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path} contains no settings", "It should begin like `policy: {model: ...}`.")
    for override in overrides:
        apply_override(document, override)
    return absolute_places(validate(document, str(path)), path.resolve().parent)


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value` in place; the value is read as YAML."""
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"`{override}` is not of the form key=value", "Write for example training.beta=0.2")
    *parents, last = name.strip().split(".")
    target = document
    for parent in parents:
        if target.get(parent) is None:
            target[parent] = {}
        target = target[parent]
        if not isinstance(target, dict):
            raise ConfigError(f"`{override}`: `{parent}` is a value, not a section", "See `selfplay config schema`.")
    target[last] = parse(value, f"the override {name}")


def validate(document: Mapping[str, Any], where: str) -> Config:
    """A document as a Config; every problem of it in one ConfigError."""
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        items = error.errors(include_url=False)
        # one for each setting: a value that fits none of several types has a problem with each of them
        problems = list({_setting(item): _explain(item) for item in reversed(items)}.values())[::-1]
        raise ConfigError(
            f"{where}: " + ("; ".join(problems) if len(problems) == 1 else "\n  - " + "\n  - ".join(problems)),
            "`selfplay config schema` lists every setting.",
        ) from None
    for name, value in _leaves(config.model_dump()):
        # settings are recorded as JSON in UTF-8, where these would become others
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}: `{name}` is {value}, which is not finite", "Give a finite number.")
        if isinstance(value, str) and any(0xD800 <= ord(character) < 0xE000 for character in value):
            raise ConfigError(
                f"{where}: `{name}` is {value!r}, which contains half of a surrogate pair", "Write the whole character."
            )
    return config


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all that is neither a section nor a list; keys of pass-through sections too, as values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield name, key
            yield from _leaves(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, name)
    else:
        yield name, value


def _setting(item: Any) -> str:
    """Dotted name of what a problem is about; pydantic adds the name of the type it tried."""
    name = ".".join(str(part) for part in item["loc"])
    return next((known for known in setting_names() if name.startswith(known + ".")), name)


def _explain(item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    name = _setting(item)
    kind = item["type"]
    if kind == "extra_forbidden" and name in RENAMED:
        return f"`{name}` is not a setting; its name is `{RENAMED[name]}`"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _keys_at(location[:-1]), n=1, cutoff=0.5)
        elsewhere = [key for key in setting_names() if key.split(".")[-1] == location[-1]]
        advice = near[0] if near else (elsewhere[0] if elsewhere else "")
        full = ".".join([*location[:-1], advice]) if near else advice
        return f"unknown setting `{name}`" + (f": did you mean `{full}`?" if advice else "")
    if kind == "missing":
        return f"`{name}` is missing: it has no default"
    message = item["msg"].removeprefix("Value error, ")
    if kind == "value_error" and isinstance(item.get("input"), (dict, BaseModel)):
        return f"{name}: {message}" if name else message
    return f"`{name}` is {item.get('input')!r}: {message}"


def _section(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


# stands in a setting's dotted name where a person puts a name of their own, as in reward.parts.NAME.weight
NAMED = "NAME"


def _is_named(annotation: Any) -> bool:
    """Whether a field holds sections by names that a person gives them."""
    return get_origin(annotation) is dict and _section(annotation) is not None


def _keys_at(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] | None = Config
    parts = iter(location)
    for part in parts:
        if model is None or part not in model.model_fields:
            return []
        annotation = model.model_fields[part].annotation
        model = _section(annotation)
        if _is_named(annotation) and next(parts, None) is None:
            return []
    return list(model.model_fields) if model else []


@functools.cache
def fields() -> tuple[tuple[str, Any], ...]:
    """(dotted name, pydantic field) of every setting that is no section, in order; NAMED stands for names that the user
    gives."""
    return tuple(_fields(Config, ""))


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            yield prefix + name, field
        elif _is_named(field.annotation):
            yield from _fields(section, f"{prefix}{name}.{NAMED}.")
        else:
            yield from _fields(section, f"{prefix}{name}.")


def setting_names() -> list[str]:
    """Dotted names of all settings."""
    return [name for name, _ in fields()]


PLACES = (
    "policy.model", "prompts.source", "sampling.mix.model", "reward.model", "reward.function",
    "reward.parts.NAME.model", "reward.parts.NAME.function", "evaluation.source", "evaluation.gold",
)  # fmt: skip


def absolute_places(config: Config, base: Path) -> Config:
    """Places that exist become absolute: looked for beside the config file first, then in the working directory. What exists
    in neither is left as it stands (a hub name, an importable module)."""
    document = config.model_dump()
    for place in PLACES:
        *sections, key = place.split(".")
        for _, section in values_of(document, sections):
            if section is not None and section[key] is not None:
                section[key] = absolute_place(section[key], [base, Path.cwd()], function=key in ("function", "gold"))
    for setting in (METRIC, TEMPLATE):
        name, key = setting.split(".")
        document[name][key] = _in_working_directory(setting, document[name][key], base)
    return Config.model_validate(document)


def _in_working_directory(setting: str, value: str | None, base: Path) -> str | None:
    """A file of the user's own: it stays as it is written, except where it only exists in the working directory."""
    function = setting == METRIC
    if value is None or not (is_own_metric(value) if function else is_template_file(value)):
        return value
    beside = absolute_place(value, [base], function=function)
    return value if beside != value else absolute_place(value, [Path.cwd()], function=function)


def values_of(section: Any, names: Sequence[str], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of a setting or section of a document: several where NAMED is in its name, null where what it is in is
    not there."""
    if not names:
        yield above, section
        return
    inner = section or {}
    for name in inner if names[0] == NAMED else names[:1]:
        yield from values_of(inner.get(name), names[1:], f"{above}.{name}" if above else name)


def looks_like_path(value: str) -> bool:
    """Whether a place that does not exist was meant as a path and not as a hub name (`org/name` or `name`)."""
    return (
        value.startswith((".", "/", "~"))
        or value.count("/") > 1
        or value.endswith((".jsonl", ".json", ".csv", ".parquet", ".gz"))
    )
