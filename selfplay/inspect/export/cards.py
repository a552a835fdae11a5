"""The cards of an export: the dataset's says how the data were made and the command that remakes them, a model's what it was
trained from and on. Nothing in them names the machine (config/anonymize.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfplay.config.strict_yaml import dump
from selfplay.core.escape import escape_markdown, markdown_code
from selfplay.core.format import markdown_table
from selfplay.inspect.documents.rounds import RoundSummary
from selfplay.inspect.documents.rounds_table import rounds_markdown
from selfplay.store.result_folder import ResultWriter

RECIPE = "recipe/config.yaml"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the cards say of a run. `settings` are neutral (config/anonymize.py), `pins` the digests of what the settings name;
    `rounds` are the numbers of each round; `splits` maps a round to its number of pairs by split; `base_model` is the policy's
    hub name, or the name of its folder; `dataset` the name under which the dataset is found. `from_dataset`: `selfplay select`
    made the pairs from a dataset. `identities` maps a round to the description of its config (see `content_identity`). `notes`
    are what a user of the dataset has to know."""

    name: str
    dataset: str
    base_model: str
    base_is_local: bool
    run_id: str
    settings: dict[str, Any]
    pins: dict[str, str]
    revisions: dict[str, str]
    versions: dict[str, str]
    rounds: list[RoundSummary]
    splits: dict[int, dict[str, int]]
    identities: dict[int, str]
    policies: dict[int, str]
    from_dataset: bool = False
    notes: Sequence[str] = ()


def config_name(round_number: int) -> str:
    """Name of a round as a dataset config."""
    return f"round_{round_number:03d}"


def content_identity(writer: ResultWriter, *folders: str) -> str:
    """The description of the config whose data are in these folders, as in "content sha256 5d41402abc4b2a76...". `datasets`
    caches what it loads from a local folder by the folder's name and the parameters of the config, not by the data: without a
    digest among these, two folders of one name would be served from each other's cache."""
    return f"content sha256 {writer.digest(*folders)}"


def front_matter(document: dict[str, Any]) -> str:
    """The YAML block with which a card begins."""
    return f"---\n{dump(document)}---\n"


def dataset_config(name: str, description: str, splits: dict[str, str], **more: Any) -> dict[str, Any]:
    """A config of a dataset's front matter: `splits` maps each split to its files. `description`: see `content_identity`."""
    files = [{"split": split, "path": path} for split, path in splits.items()]
    return {"config_name": name, "description": description, "data_files": files, **more}


def recipe(facts: Facts) -> str:
    """The settings as a config file, with what its places must hold."""
    lines = [
        f"# The settings of run {facts.run_id} that its data depend on; places are names, and must hold what they held:",
        *(f"#   {name}: sha256 {digest}" for name, digest in sorted(facts.pins.items())),
        *(f"#   {name}: {revision}" for name, revision in sorted(facts.revisions.items())),
        "# Made with " + ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items())),
    ]
    return "\n".join(lines) + "\n" + dump(facts.settings)


def dataset_card(facts: Facts) -> str:
    """README.md of the dataset; its front matter tells `load_dataset` which files are which config and split."""
    configs = [
        dataset_config(
            config_name(number),
            facts.identities[number],
            {split: f"{config_name(number)}/{split}/*.parquet" for split, count in splits.items() if count},
            **({"default": True} if number == max(facts.splits) else {}),
        )
        for number, splits in facts.splits.items()
        if any(splits.values())
    ]
    front = {
        "configs": configs,
        "tags": ["preference", "dpo", "self-play", "selfplay"],
        "task_categories": ["text-generation"],
    }
    newest = config_name(max(facts.splits))
    return "\n".join(
        [
            front_matter(front),
            f"# {escape_markdown(facts.name)}: preference pairs by {'selection' if facts.from_dataset else 'self-play'}\n",
            _what_it_is(facts),
            "## Reading it\n",
            f'    datasets.load_dataset("{facts.dataset}", "{newest}", split="kept")\n',
            "`prompt`, `chosen` and `rejected` are lists of messages, as TRL takes them.\n",
            *(f"{escape_markdown(note)}\n" for note in facts.notes),
            "## How it was made\n",
            _how(facts),
            f"To repeat it: `selfplay {_command(facts)}`, with the models, prompts and functions that it names. "
            "Seeds are derived from the run's; sampled tokens may differ on other hardware and with other versions.\n",
            "## Rounds\n",
            rounds_markdown(facts.rounds),
            "## Columns\n",
            _COLUMNS,
        ]
    )


def _what_it_is(facts: Facts) -> str:
    if facts.from_dataset:
        return (
            f"The pairs of {markdown_code(str(facts.settings['dataset']))}, ranked. `kept` holds the best of them, best first; "
            "`dropped` all others, each with its `drop_reason`.\n"
        )
    return (
        f"{len(facts.splits)} rounds of pairs. In each, the current policy answered the prompts, a reward scored the "
        "responses, pairs were built and ranked, and the best were trained on before the next round. `kept` holds the pairs "
        "that were trained on, best first; `dropped` all others, each with its `drop_reason`.\n"
    )


def _command(facts: Facts) -> str:
    return f"select --config {RECIPE}" if facts.from_dataset else f"run {RECIPE}"


def _made_with(facts: Facts) -> list[tuple[str, str]]:
    """The settings that say most."""
    settings = facts.settings
    if facts.from_dataset:
        return [(name, markdown_code(_value(value))) for name, value in settings.items()]
    reward = settings["reward"]
    judged = reward.get("model") or reward.get("function") or ", ".join(sorted(reward.get("parts", {})))
    return [
        ("policy at the start", markdown_code(facts.base_model)),
        ("reward", markdown_code(str(judged))),
        ("prompts", markdown_code(str(settings["prompts"]["source"]))),
        ("pairs", markdown_code(_value(settings.get("pairs", {"build": "best_worst"})))),
        ("selection", markdown_code(_value({"metric": "alignment_potential", **settings.get("selection", {})}))),
    ]


def model_card(facts: Facts, round_number: int, digest: str) -> str:
    """README.md of the policy after a round."""
    front = {
        "base_model": facts.base_model,
        "datasets": [facts.dataset],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": [
            "dpo" if facts.settings["training"].get("loss", "dpo") == "dpo" else "simpo",
            "self-play",
            "selfplay",
        ],
    }
    row = next(row for row in facts.rounds if row.round == round_number)
    trained = facts.settings["training"]
    local = " (a folder of that name, not a hub model)" if facts.base_is_local else ""
    return "\n".join(
        [
            front_matter(front),
            f"# Policy after round {round_number} of {escape_markdown(facts.name)}\n",
            f"{markdown_code(facts.base_model)}{local} after {round_number} rounds of self-play: "
            "in each round it was trained on the best-ranked pairs of its own responses, "
            f"which a reward scored. The last round's pairs are `{config_name(round_number)}` of "
            f"{markdown_code(facts.dataset)}. float32 weights, sha256 over the files {markdown_code(digest[:16])}.\n",
            "## Held-out numbers\n",
            _held_out(row) or "None: the run had no evaluation.\n",
            "## Training\n",
            markdown_table(("", ""), [(f"`{name}`", markdown_code(_value(value))) for name, value in trained.items()]),
            "## How it was made\n",
            _how(facts),
        ]
    )


def _how(facts: Facts) -> str:
    rows = [
        *_made_with(facts),
        ("run", markdown_code(facts.run_id)),
        *((f"sha256 of {markdown_code(name)}", markdown_code(digest)) for name, digest in sorted(facts.pins.items())),
        *(
            (f"revision of {markdown_code(name)}", markdown_code(revision))
            for name, revision in sorted(facts.revisions.items())
        ),
        (
            "versions",
            escape_markdown(", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items()))),
        ),
    ]
    return markdown_table(("", ""), rows)


def _held_out(row: RoundSummary) -> str:
    numbers = {name: value for name, value in row.to_json().items() if name.startswith("eval_") and value is not None}
    return (
        markdown_table(("", ""), [(f"`{name}`", _value(value)) for name, value in numbers.items()]) if numbers else ""
    )


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


_COLUMNS = """\
| column | |
|---|---|
| `pair_id` `round` `prompt_id` | ids; equal prompts stay two prompts |
| `prompt` `chosen` `rejected` | messages; chosen and rejected are one assistant turn each |
| `chosen_response_id` `rejected_response_id` | ids of the responses in the run |
| `reward_chosen` `reward_rejected` `explicit_margin` | of the reward that labelled them |
| `policy_logp_...` `reference_logp_...` | natural log-probs, summed over the response's tokens, temperature 1 |
| `num_tokens_chosen` `num_tokens_rejected` | tokens of the policy's tokenizer, the sampled end token included |
| `implicit_margin` `alignment_potential` `metric_value` `rank` | what ranked the pair; 1 is the best |
| `kept` `drop_reason` | whether it was trained on, and why not |
| `source_file` `source_row` | where the prompt came from |
"""
