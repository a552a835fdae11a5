"""The first half of resolving inputs: all that a configuration names is found, checked and digested. Nothing of it runs.

What a resume or a fork compares with the recorded pins, and the list of the code that would run, are known after it. `resolve`
then loads functions and tokenizers. Cheap checks come first, so that a missing folder or a reward model without a score head is
said before a large file is digested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selfplay.config.schema import Config, EvaluationConfig, PromptsConfig
from selfplay.core.errors import ConfigError
from selfplay.core.redaction import find_secret
from selfplay.inputs.models.chat import read_chat_template
from selfplay.inputs.models.files import model_digest, refuse_adapter, refuse_foreign_code, snapshot_commit
from selfplay.inputs.models.foreign import refuse_links, refuse_named_elsewhere
from selfplay.inputs.models.preflight import PolicyInfo, RewardModelInfo, check_policy, check_reward_model
from selfplay.inputs.places import (
    ModelSection,
    Moves,
    data_pin,
    find_places,
    find_search_path,
    locate_model,
    named_data,
    named_models,
)
from selfplay.inputs.prompts import PromptSource, load_prompts
from selfplay.inputs.user_code.listing import Code, cluster_code, function_code, model_code, named_functions
from selfplay.store.durable import sha256_bytes

KEEP_SECRETS_OUT = (
    "Remove it: settings are recorded with the run. Libraries and your functions read it from the environment."
)


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model's local folder and the sha256 over its files' names and contents."""

    folder: Path
    digest: str


@dataclass(frozen=True)
class Pinned:
    """The inputs that a configuration names, found and digested.

    `config` and `search_path` are those that were asked for, with the present places of what has moved. `pins` maps a setting's
    name to the sha256 of what it named, `revisions` to NAME@COMMIT where that was a hub model. `rewards` and `reward_infos` are
    by section (`reward`, or `reward.parts.NAME`). `template` is the chat template that was given. `code` is all code of users and
    models that `resolve` and the workers will run.
    """

    config: Config
    search_path: Path
    policy: PinnedModel
    policy_info: PolicyInfo
    rewards: dict[str, PinnedModel]
    reward_infos: dict[str, RewardModelInfo]
    mix: PinnedModel | None
    prompts: PromptSource
    evaluation: PromptSource | None
    template: str | None
    pins: dict[str, str]
    revisions: dict[str, str]
    code: tuple[Code, ...]


def pin(
    config: Config,
    search_path: Path,
    revisions: Mapping[str, str] | None = None,
    *,
    moves: Moves | None = None,
    pins: Mapping[str, str] | None = None,
) -> Pinned:
    """Find, check and digest all inputs, without running any of them. `search_path` is the config's folder.

    For a run that has begun: `revisions` are those that an earlier attempt found, so that a hub model stays the one it was;
    `moves` and `pins` are what is known of things that moved, and the digests that they must have.

    Raises ConfigError, ModelError, DataError, and MissingInputError for all that is missing.
    """
    refuse_secrets(config)
    moves, recorded = moves or Moves(), search_path
    search_path = find_search_path(config, recorded, moves, pins or {})
    config, folders, moved = find_places(config, search_path, recorded, revisions or {}, moves, pins or {})
    found: dict[str, str] = {}
    # the engine serves the second model of `mix` in the policy's place, and with the policy's trust
    own_code = {
        setting
        for setting, section in named_models(config).items()
        if _runs_own_code(config.policy if setting == "sampling.mix.model" else section)
    }
    for setting, section in named_models(config).items():
        _admit_model(setting, section, folders[setting], found, runs_code=setting in own_code)
    template = read_chat_template(config.policy.chat_template, search_path)
    info = check_policy(folders["policy.model"], chat_template_needed=template is None)
    sources = {name: source for name, source in config.reward.sources().items() if source.model is not None}
    reward_infos = {
        name: check_reward_model(folders[f"{name}.model"], trust_remote_code=source.trust_remote_code)
        for name, source in sources.items()
    }
    if config.sampling.mix is not None:
        _check_mixed(folders["sampling.mix.model"], folders["policy.model"], info)
    prompts = _load(config.prompts, config.policy.system_prompt, search_path)
    evaluation = _load(config.evaluation, config.policy.system_prompt, search_path) if config.evaluation else None
    models = {
        setting: PinnedModel(folder, moved.get(setting) or model_digest(folder)) for setting, folder in folders.items()
    }
    made = {setting: model.digest for setting, model in models.items()}
    for setting, data in named_data(config).items():
        made[setting] = moved.get(setting) or data_pin(data, data.source, search_path)
    functions = named_functions(config)
    code = [function_code(name, spec, search_path, what=what) for name, (spec, what) in functions.items()]
    made |= {piece.setting: piece.pin for piece in code}
    code += [model_code(setting, folders[setting], made[setting]) for setting in folders if setting in own_code]
    if config.cluster.address is not None:
        code.append(cluster_code(config.cluster.address))
    if template is not None:
        made["policy.chat_template"] = sha256_bytes(template.encode())
    return Pinned(
        config=config,
        search_path=search_path,
        policy=models["policy.model"],
        policy_info=info,
        rewards={name: models[f"{name}.model"] for name in sources},
        reward_infos=reward_infos,
        mix=models.get("sampling.mix.model"),
        prompts=prompts,
        evaluation=evaluation,
        template=template,
        pins=made,
        revisions=found,
        code=tuple(code),
    )


def refuse_secrets(config: Config) -> None:
    """Raise ConfigError for a setting that holds a secret: settings are recorded."""
    if secret := find_secret(json.dumps(config.model_dump(mode="json"), ensure_ascii=False)):
        raise ConfigError(f"the configuration holds {secret}", KEEP_SECRETS_OUT)


def find_model(name: str, section: ModelSection, known: Mapping[str, str], found: dict[str, str]) -> Path:
    """The folder of the model that a section names. That of a hub name is noted in `found`, and is the commit in `known`
    where this name was resolved before (see `locate_model`)."""
    folder = locate_model(name, section, known)
    _admit_model(name, section, folder, found, runs_code=_runs_own_code(section))
    return folder


def _admit_model(name: str, section: ModelSection, folder: Path, found: dict[str, str], *, runs_code: bool) -> None:
    """Refuse what loading the folder would take from elsewhere, and note the commit of a hub model in `found`."""
    assert section.model is not None, "the section names a model"
    refuse_links(folder)
    refuse_adapter(folder)
    refuse_named_elsewhere(folder)
    if runs_code:
        refuse_foreign_code(folder)
    if not Path(section.model).expanduser().is_dir() and (commit := snapshot_commit(folder) or ""):
        found[name] = f"{section.model}@{commit}"


def _runs_own_code(section: ModelSection) -> bool:
    return bool(getattr(section, "trust_remote_code", False))  # a second model of `mix` has no such setting


def _load(section: PromptsConfig | EvaluationConfig, system_prompt: str | None, base: Path) -> PromptSource:
    return load_prompts(
        section.source, section.column, split=section.split, subset=section.subset, revision=section.revision,
        id_column=section.id_column, system_prompt=system_prompt, base_dir=base,
    )  # fmt: skip


def _check_mixed(folder: Path, policy_folder: Path, policy: PolicyInfo) -> None:
    """The second model that responses are sampled from is another training of the policy: its token ids go through the policy for
    log-probs and training, and one engine serves both in turn. Raises ConfigError where it is not."""
    info = check_policy(folder, chat_template_needed=False)
    tokenizers = [(path / "tokenizer.json").read_bytes() for path in (folder, policy_folder)]
    differs = [
        name for name in ("architecture", "num_params", "vocab_size") if getattr(info, name) != getattr(policy, name)
    ]
    if tokenizers[0] != tokenizers[1] or differs:
        raise ConfigError(
            f"sampling.mix.model {folder} differs from the policy in its {', '.join(differs) or 'tokenizer'}",
            "Its responses go through the policy token by token: use another training of the same model.",
        )
