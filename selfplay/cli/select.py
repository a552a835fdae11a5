"""`selfplay select DATASET`: rank an existing preference dataset by any metric and keep the best part."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Grace


def command(
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="JSONL, JSON, CSV, Parquet (also .gz), a save_to_disk folder, or a dataset's name with --split."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Further settings as key=value: cluster.logprobs.replicas=2, pairs.min_gap=0.1"),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="One of several datasets, instead of DATASET: PATH or NAME=PATH. The column `source` has the name."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Metric that ranks the pairs: a name from `selfplay metrics`, or my_file.py:my_metric."),
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Fraction (0.4) or number (500) of the ranked pairs.")] = None,
    keep_lowest: Annotated[
        bool, typer.Option("--keep-lowest", help="Keep the lowest values of the metric instead of the highest.")
    ] = False,
    keep_per_group: Annotated[
        str | None,
        typer.Option(
            help="At most this fraction or number of each group's pairs, or one for each group: maths=0.5,code=200."
        ),
    ] = None,
    min_per_group: Annotated[
        int | None, typer.Option(help="Keep this number of pairs of each group before others.")
    ] = None,
    max_per_prompt: Annotated[
        int | None, typer.Option(help="Rank at most this number of pairs of each prompt, the first by the metric.")
    ] = None,
    keep_zero_margins: Annotated[
        bool, typer.Option("--keep-zero-margins", help="Rank pairs of equal rewards too, as the released rule does.")
    ] = False,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Keep only the first of pairs with the same texts.")
    ] = False,
    drop_reversed: Annotated[
        bool, typer.Option("--drop-reversed", help="Drop pairs that also occur with chosen and rejected exchanged.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result: a new one, or an unfinished selection.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Weight of the implicit margin in the alignment potential.")
    ] = None,
    implicit_margin: Annotated[
        str | None, typer.Option(help="Implicit margin: simpo (mean log-probs) or dpo (with a reference).")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Beta of the dpo implicit margin.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Use raw margins instead of z-scores.")] = False,
    policy: Annotated[
        str | None, typer.Option(help="Folder or hub name of the policy, which computes missing log-probs.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Reference model of the dpo implicit margin; another model than the policy.")
    ] = None,
    reward_model: Annotated[
        str | None, typer.Option(help="Reward model with one label, which computes missing rewards.")
    ] = None,
    reward_engine: Annotated[
        str | None, typer.Option(help="Library that computes the reward model: auto, vllm or transformers.")
    ] = None,
    reward_function: Annotated[
        str | None, typer.Option(help="Reward function instead of a model: module:function or file.py:function.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(help="Names of columns, OURS=THEIRS[,...]: reward_chosen=my_col,reward_rejected=my_other_col."),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="How pairs are built from several responses to a prompt: best_worst, all, random_pair, ..."),
    ] = None,
    group_column: Annotated[str | None, typer.Option(help="Rank within the groups of this column.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option of the metric: tau=1.0")] = None,
    embedding_model: Annotated[
        str | None, typer.Option(help="Model for the metric density, instead of the policy.")
    ] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(
            help="Chat template of the policy: a Jinja file, or `none` for a base model. Default: the tokenizer's own."
        ),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest prompt and response together, in tokens of the policy.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of a hub dataset, a save_to_disk folder, or a folder with several.")
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="Subset of a hub dataset, or of a folder whose README.md names several.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub dataset.")] = None,
    policy_revision: Annotated[
        str | None, typer.Option(help="Hub revision of the policy; its commit is recorded.")
    ] = None,
    reference_revision: Annotated[str | None, typer.Option(help="Hub revision of the reference.")] = None,
    reward_model_revision: Annotated[str | None, typer.Option(help="Hub revision of the reward model.")] = None,
    embedding_model_revision: Annotated[str | None, typer.Option(help="Hub revision of the embedding model.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is random.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the same settings; flags override it.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json on stdout.")] = False,
    grace: Grace = 25.0,
) -> None:
    """Rank an existing preference dataset and keep the best part.

    It uses the scores and log-probs of the dataset and computes missing ones with the given models. The same command continues an
    interrupted selection. The result is a folder that datasets.load_dataset, TRL, axolotl and LLaMA-Factory read.
    """
    flags = dict(locals())
    from selfplay.cli.select_view import view
    from selfplay.core.escape import escape_terminal
    from selfplay.core.terminal import note, write, write_json
    from selfplay.dataset_selection.pipeline import run
    from selfplay.dataset_selection.settings import load_settings
    from selfplay.execution.progress import Reporter

    named_elsewhere = config is not None or source is not None
    if dataset is not None and named_elsewhere and "=" in dataset and not Path(dataset).exists():
        overrides, dataset = [dataset, *(overrides or [])], None  # only overrides are left
    for name in ("overrides", "source", "option", "config", "json_output", "grace"):
        del flags[name]  # the others are settings of their names
    flags |= {
        "dataset": dataset, "sources": _sources(source), "out": str(out) if out is not None else None,
        "keep": _parsed("--keep", keep), "keep_per_group": _quotas(keep_per_group),
        "columns": _mapping("--columns", columns, empty=True) or None, "pairs": {"build": pairs} if pairs is not None else None,
        "options": {name: _parsed(f"--option {name}", value) for name, value in _mapping("--option", option).items()} or None,
    }  # fmt: skip
    given = {name: value for name, value in flags.items() if value is not None and value is not False}
    settings, notes = load_settings(given, overrides or [], config)
    for line in notes:
        note(f"note: {escape_terminal(line)}")
    outcome = run(settings, Reporter(), grace=grace, command=_shown(sys.argv[1:]))
    if outcome.was_there:
        note(f"{escape_terminal(settings.out)} already contains this selection: nothing is left to do")
    if json_output:
        write_json(outcome.summary)
    else:
        write(view(outcome.summary))
        kept, pairs_there = (outcome.summary["selection"][name] for name in ("num_kept", "num_pairs"))
        parts = [name for name, num in (("kept/", kept), ("dropped/", pairs_there - kept)) if num]
        note(f"\nin {escape_terminal(settings.out)}: {' and '.join(parts)} (for load_dataset), summary.json, README.md")


def _parsed(flag: str, text: str | None) -> Any:
    """As YAML reads it: 0.4 and 1.0 are fractions, 500 is a number of pairs."""
    from selfplay.config.strict_yaml import parse

    return None if text is None else parse(text, flag)


def _quotas(text: str | None) -> Any:
    """One number, or one for each group. Raises ConfigError."""
    flag = "--keep-per-group"
    if text is None or "=" not in text:
        return _parsed(flag, text)
    return {name: _parsed(flag, value) for name, value in _mapping(flag, [text]).items()}


def _sources(given: list[str] | None) -> dict[str, dict[str, str]] | None:
    """The datasets by their names; a dataset without one is called by its file's. Raises ConfigError."""
    from selfplay.core.errors import ConfigError

    found: dict[str, dict[str, str]] = {}
    for item in given or []:
        name, equals, place = item.partition("=")
        if not equals or Path(item).exists():
            name, place = Path(item).name.partition(".")[0], item
        if name in found:
            raise ConfigError(f"--source: two datasets are called {name!r}", f"Write --source NAME={place}.")
        found[name] = {"dataset": place}
    return found or None


def _mapping(flag: str, given: list[str] | None, *, empty: bool = False) -> dict[str, str]:
    """`a=b,c=d`, given once or several times; `empty` allows `a=`. Raises ConfigError."""
    from selfplay.core.errors import ConfigError

    found: dict[str, str] = {}
    for item in (part for text in given or [] for part in text.split(",")):
        name, equals, value = item.partition("=")
        if not equals or not name.strip() or not (empty or value.strip()):
            raise ConfigError(
                f"{flag} {item!r} is not of the form NAME=VALUE", "Write for example reward_chosen=my_column."
            )
        if found.setdefault(name.strip(), value.strip()) != value.strip():
            raise ConfigError(f"{flag} names {name.strip()} twice", "Name it once.")
    return found


def _shown(arguments: list[str]) -> str:
    """The command as it may travel with the result: of paths only the last part."""
    shown = []
    for argument in arguments:
        # of `--flag=VALUE` and of an override `some.key=VALUE` the value
        found = re.fullmatch(r"(--[a-z-]+=|[a-z_]+(?:\.[a-z_]+)*=)(.*)", argument, re.DOTALL)
        head, tail = found.groups() if found else ("", argument)
        path, colon, function = tail.partition(":")
        is_path = path.startswith(("/", "~", ".")) or (path.count("/") >= 1 and Path(path).exists())
        shown.append(head + (Path(path).name + colon + function if is_path else tail))
    return "selfplay " + shlex.join(shown)
