"""Loads a model without its weights: what loading it would refuse, and how its tensors are named, before anything runs.

The model is built on torch's device "meta", which has shapes and no values, so that this takes a second at any size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.core.errors import ModelError
from selfplay.inputs.models.files import weight_headers

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model without weights, as transformers builds it. `warnings`: which tensors of its files it has no place for."""

    model: Any
    warnings: tuple[str, ...]


def check_policy_loads(folder: Path, *, trust_remote_code: bool = False) -> Loaded:
    """The policy in `folder`, as the trainer loads it. Raises ModelError if weights are missing or of another
    shape, or if the tensors that training writes have no counterpart among those of the folder, which the engine reads."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    loaded = check_language_model_loads(folder, "policy", trust_remote_code=trust_remote_code)
    model = loaded.model
    # as save_pretrained names and cuts them
    saved = revert_weight_conversion(model, remove_tied_weights_from_state_dict(model.state_dict(), model))
    published_names(folder, saved, weight_headers(folder), model.base_model_prefix)
    return loaded


def check_language_model_loads(folder: Path, name: str, *, trust_remote_code: bool = False) -> Loaded:
    """A model that gives log-probs and is not trained. Raises ModelError if weights are missing or of another shape."""
    from transformers import AutoModelForCausalLM

    return _without_weights(AutoModelForCausalLM, folder, name, trust_remote_code)


def check_reward_model_loads(folder: Path, *, trust_remote_code: bool = False) -> Loaded:
    """The reward model in `folder`. Raises ModelError if weights are missing or of another shape."""
    from transformers import AutoModelForSequenceClassification

    return _without_weights(AutoModelForSequenceClassification, folder, "reward model", trust_remote_code)


def published_names(folder: Path, saved: Iterable[str], published: Iterable[str], prefix: str) -> dict[str, str]:
    """For each tensor that transformers saves the name that it has in the model's published `folder`: the same, or without
    the `prefix` of the architecture's body (GPT-2), or with it. Raises ModelError where there is none."""
    known = set(published)
    names: dict[str, str] = {}
    for name in saved:
        forms = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
        found = next((form for form in forms if form in known), None)
        if found is None:
            raise ModelError(
                f"the weights in {folder} have no tensor {name}, which training writes: the engine could not load the "
                "trained policy in the place of this one",
                "Load the model with transformers and save it with save_pretrained, and use that folder.",
            )
        names[name] = found
    return names


def _without_weights(kind: Any, folder: Path, name: str, trust_remote_code: bool) -> Loaded:
    from huggingface_hub.errors import StrictDataclassError

    try:
        with _quiet():
            model, loading = kind.from_pretrained(
                str(folder),
                device_map="meta",
                dtype="float32",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    # a config class validates with an exception of its own; a model's own code may end its process
    except (
        StrictDataclassError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, SystemExit,
    ) as error:  # fmt: skip
        raise does_not_load(folder, name, error) from error
    refuse_missing(folder, name, loading["missing_keys"])
    unused = sorted(loading["unexpected_keys"])
    said = (
        f"{len(unused)} of the tensors of the {name} in {folder} are not part of a {type(model).__name__} and are left out "
        f"({_first(unused)}): if it was trained with them, it computes other numbers here"
    )
    return Loaded(model, (said,) if unused else ())


def refuse_missing(folder: str | Path, name: str, missing: Iterable[str]) -> None:
    """Raise ModelError if transformers would fill weights of a model with random numbers."""
    if lacking := sorted(missing):
        raise ModelError(
            f"the {name} in {folder} lacks {len(lacking)} weights ({_first(lacking)}): they would be random numbers",
            "Use the complete model; check that config.json and the weights belong together.",
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def does_not_load(folder: str | Path, name: str, error: BaseException) -> ModelError:
    """The error for a folder that transformers cannot load."""
    lines = str(error).splitlines()
    return ModelError(
        f"the {name} in {folder} does not load: {type(error).__name__}: {lines[0] if lines else ''}",
        "Check that the folder is complete (config.json and all safetensors files of one model) and that transformers supports "
        "the architecture.",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and reports on stderr, which is for the person who started a run."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
