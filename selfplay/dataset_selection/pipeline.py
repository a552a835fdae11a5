"""`selfplay select`: read a preference dataset, compute what is missing, rank, and write the kept and the dropped part.

The paper's first half. The steps are functions that can be used (and timed) one by one: `read`, `pair_pool`, `rank`,
`summarise`, `write`; `run` walks them, holds the output folder, and goes on where a killed attempt stopped.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selfplay.core.errors import ConfigError, Interrupted, SelfplayError
from selfplay.core.redaction import find_secret
from selfplay.core.version import __version__
from selfplay.core.versions import versions
from selfplay.dataset_selection.building import BuiltPairs
from selfplay.dataset_selection.computing import Computing
from selfplay.dataset_selection.missing_columns import computed, numbers
from selfplay.dataset_selection.models import Models, resolve_models
from selfplay.dataset_selection.needs import EMBEDDING, PROMPT_REWARDS
from selfplay.dataset_selection.output.card import card
from selfplay.dataset_selection.output.summary import dropped_examples, groupings, summarize
from selfplay.dataset_selection.output.work_folder import KIND, WorkFolder, finished
from selfplay.dataset_selection.output.writing import ResultTable, write_formats, write_tables, write_unused
from selfplay.dataset_selection.reading.dataset import OfflineDataset, read_dataset
from selfplay.dataset_selection.settings import RANKING, SelectSettings
from selfplay.dataset_selection.workers import LazyPools, MakePools, ray_pools
from selfplay.execution.progress import Reporter, libraries_to
from selfplay.execution.signals import StopFlag, ended_by_stop, signals
from selfplay.inputs.resolve import KEEP_SECRETS_OUT
from selfplay.inputs.user_code.metrics import load_metric, metric_digest
from selfplay.inspect.reading import finite
from selfplay.selection.diagnostics.diagnose import diagnose
from selfplay.selection.diagnostics.groups import Grouping
from selfplay.selection.metrics import Metric
from selfplay.selection.metrics.inputs import REWARDS
from selfplay.selection.reasons import DropReasons
from selfplay.selection.select import PairPool, Selection, select
from selfplay.store.durable import pretty_json
from selfplay.store.result_folder import ResultWriter
from selfplay.store.run import now


@dataclass(frozen=True)
class Outcome:
    """What `run` did: the summary, and whether it stood there already."""

    summary: dict[str, Any]
    was_there: bool


@dataclass
class UnderWay:
    """What the work by shards needs of its surroundings."""

    reporter: Reporter
    stop: StopFlag = field(default_factory=StopFlag)


# -------------------------------------------------------------------------------------------------------------- steps


def metric_of(settings: SelectSettings) -> Metric:
    """The metric, with its options checked. Raises ConfigError."""
    metric = load_metric(settings.metric, Path.cwd())
    metric.check_options(settings.options)
    # a person's own metric goes by its file's name, wherever that lies
    if metric.where is None:
        return metric
    name = settings.identity()["metric"]
    return replace(metric, name=name, formula=name if metric.formula == metric.name else metric.formula)


def read(settings: SelectSettings, metric: Metric) -> OfflineDataset:
    """The dataset. Raises DataError and ConfigError."""
    columns = dict(settings.columns)
    if settings.group_column is not None:
        columns["group"] = settings.group_column
    built = settings.pairs is not None and "build" in settings.pairs.model_fields_set
    dataset = read_dataset(
        settings.dataset, split=settings.split, subset=settings.subset, revision=settings.revision, columns=columns,
        wanted=[name for name in metric.inputs if name != "pair_id"], prefer="responses" if built else "pairs",
    )  # fmt: skip
    if built and dataset.kind == "pairs":
        raise ConfigError(
            f"{settings.dataset} holds pairs, not several responses a prompt: there are no pairs to be built",
            "Leave --pairs out; or name the columns of the responses with --columns.",
        )
    return dataset


def pair_pool(
    pairs: pa.Table,
    columns: Mapping[str, Any],
    reasons: DropReasons,
    *,
    within_groups: bool = False,
    wanted: Collection[str] = (),
) -> PairPool:
    """The pairs as `select` takes them. `within_groups`: metrics are standardised within the groups of the column `group`.
    `wanted`: columns that the metric reads; what follows from others is made for pairs with texts and where it is wanted."""
    columns = dict(columns)
    if set(REWARDS) <= columns.keys() and ("chosen" in pairs.column_names or set(PROMPT_REWARDS) & set(wanted)):
        # of two responses a prompt
        chosen, rejected = (np.asarray(columns[name], dtype=np.float64) for name in REWARDS)
        made = {"prompt_reward_mean": (chosen + rejected) / 2, "prompt_reward_std": np.abs(chosen - rejected) / 2}
        columns = {**made, **columns}
    group_P = Grouping.of(pairs["group"]).code_P if within_groups else None
    return PairPool(pair_id=pairs["pair_id"], columns=columns, drop_reason_P=reasons, group_P=group_P)


def rank(settings: SelectSettings, metric: Metric, pool: PairPool) -> Selection:
    """Margins, metric, ranks and the cut."""
    return select(
        pool, metric=metric, keep=settings.keep, implicit_margin=settings.implicit_margin, weight=settings.weight,
        beta=settings.beta, standardize=settings.standardize, seed=settings.seed, options=settings.options,
    )  # fmt: skip


def write(
    work: WorkFolder, pairs: pa.Table, pool: PairPool, selection: Selection, *, unused: pa.Table | None = None
) -> tuple[ResultWriter, ResultTable]:
    """The tables of the result into the work folder; the caller adds formats, card and summary and commits."""
    writer = work.output()
    result = ResultTable(pairs, pool, selection)
    write_tables(writer, result, selection)
    if unused is not None:
        write_unused(writer, unused)
    return writer, result


# ---------------------------------------------------------------------------------------------------------------- run


def run(
    settings: SelectSettings,
    reporter: Reporter,
    *,
    grace: float = 25.0,
    make_pools: MakePools = ray_pools,
    command: str = "",
) -> Outcome:
    """The whole selection. `command` is what the card says it was made with; `make_pools` replaces Ray (tests)."""
    if name := find_secret(json.dumps(settings.model_dump(mode="json"), ensure_ascii=False)):
        raise ConfigError(f"a setting holds the value of the environment variable {name}", KEEP_SECRETS_OUT)
    metric = metric_of(settings)
    models = resolve_models(settings)
    dataset = read(settings, metric)
    _say_what_was_read(dataset, reporter)
    content = {**dict(models.pins), "dataset": dataset.digest}
    if (digest := metric_digest(settings.metric, Path.cwd())) is not None:
        content["metric"] = digest
    identity = {"settings": settings.identity(), "content": content, "version": __version__}
    root = Path(settings.out).expanduser().absolute()
    work = WorkFolder(root)
    if (found := _there(root, identity)) and not work.has_leftovers():
        return found
    with _explained(settings), work.holding():
        if found := _there(root, identity):  # another one may have finished meanwhile
            return found
        if work.begin(_of_computing(identity, dataset)):
            reporter.say(f"going on with what an earlier attempt left in {settings.out}")
        with _underway(work, reporter, grace) as under_way:
            summary = _select(
                settings, metric, models, dataset, content, identity, work, under_way, make_pools, command
            )
    return Outcome(summary, False)


def _of_computing(identity: Mapping[str, Any], dataset: OfflineDataset) -> dict[str, Any]:
    """What must be equal for what was computed to be of use: the identity without what only ranks and cuts, and how many
    rows can be used (fewer where a metric of one's own reads a column that is no number everywhere)."""
    settings = {name: value for name, value in identity["settings"].items() if name not in RANKING}
    settings["usable rows"] = dataset.num_rows - dataset.bad_rows.count
    content = {name: value for name, value in identity["content"].items() if name != "metric"}
    return {**identity, "settings": settings, "content": content}


def _there(root: Path, identity: Mapping[str, Any]) -> Outcome | None:
    commit = finished(root, identity)
    return Outcome(commit["summary"], True) if commit is not None else None


def _select(
    settings: SelectSettings,
    metric: Metric,
    models: Models,
    dataset: OfflineDataset,
    content: dict[str, str],
    identity: dict[str, Any],
    work: WorkFolder,
    under_way: UnderWay,
    make_pools: MakePools,
    command: str,
) -> dict[str, Any]:
    rules = settings.pairs.rules() if settings.pairs is not None else None
    for name, commit in models.commits:
        under_way.reporter.say(f"{name}: {getattr(settings, name)} at commit {commit}")
    with LazyPools(make_pools, settings, models, work.folder / "logs") as pools:
        computing = Computing(settings, models, work, pools, under_way)
        pairs, built, filled = computed(computing, dataset, metric, rules)
    columns = {**numbers(pairs), **filled.columns}
    assert filled.reasons is not None
    pool = pair_pool(
        pairs, columns, filled.reasons, within_groups=settings.group_column is not None, wanted=metric.inputs
    )
    under_way.stop.check()
    selection = rank(settings, metric, pool)
    _refuse_no_pair(settings, selection)
    under_way.reporter.say(f"ranked {selection.summary.num_ranked} pairs, kept {selection.summary.num_kept}")
    summary = summarise(
        settings, metric, dataset, pairs, pool, selection, content=content, built=built, notes=filled.notes,
        commits=dict(models.commits),
    )  # fmt: skip
    under_way.stop.check()
    unused = built.unused if built is not None and built.unused.num_rows else None
    writer, result = write(work, pairs, pool, selection, unused=unused)
    if result.has_text:
        summary["num_not_alternating"] = write_formats(writer, result, selection)
    else:
        summary["notes"].append(
            "The dataset is a table of numbers: the formats of other trainers (texts) are left out."
        )
    writer.add("summary.json", pretty_json(summary))
    writer.add("README.md", card(summary, command, result).encode())
    writer.commit({"kind": KIND, "identity": identity, "summary": summary, "created": now(), "versions": versions()})
    return summary


def _refuse_no_pair(settings: SelectSettings, selection: Selection) -> None:
    ranked = selection.summary.num_ranked
    if ranked and not selection.summary.num_kept:
        raise ConfigError(
            f"keep {settings.keep} of {ranked} ranked pairs is no pair at all",
            f"Give a larger fraction (above {0.5 / ranked:.2g}), or a number of pairs. Nothing is computed twice.",
        )


def summarise(
    settings: SelectSettings,
    metric: Metric,
    dataset: OfflineDataset,
    pairs: pa.Table,
    pool: PairPool,
    selection: Selection,
    *,
    content: Mapping[str, str],
    built: BuiltPairs | None = None,
    notes: list[str] | None = None,
    commits: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The document that goes to summary.json."""
    with np.errstate(over="ignore", invalid="ignore"):  # moments of numbers near the end of a float's range
        diagnostics = diagnose(
            pool,
            selection,
            groups=groupings(pairs, settings),
            prompt=Grouping.of(pairs["prompt_id"]) if "prompt_id" in pairs.column_names else None,
            num_read=dataset.num_rows,
            bad=dataset.bad_rows.counts,
        )
    document = summarize(
        settings=settings, metric=metric, dataset=dataset, content=content, built=built, selection=selection,
        diagnostics=diagnostics, notes=notes or [], versions={"selfplay": __version__, **versions()},
        embedding_left_out=EMBEDDING in pool.columns, commits=commits or {},
    )  # fmt: skip
    document |= {"dropped_examples": dropped_examples(pairs, selection), "num_not_alternating": 0}
    found: dict[str, Any] = json.loads(pretty_json(finite(document)))  # as it will be read: lists, no tuples
    return found


def _say_what_was_read(dataset: OfflineDataset, reporter: Reporter) -> None:
    kind = "pairs" if dataset.kind == "pairs" else "responses of several a prompt"
    table = dataset.pairs if dataset.pairs is not None else dataset.responses
    assert table is not None
    reporter.say(f"read {dataset.num_rows} rows: {table.num_rows} {kind}, {dataset.bad_rows.count} bad rows")
    for ours, theirs in sorted(dataset.recognised.items()):
        if ours != theirs:
            reporter.say(f"recognised: {ours} is column {theirs!r}")
    for line in dataset.notes:
        reporter.say(f"note: {line}")
    for row in dataset.bad_rows.examples[:5]:
        reporter.say(f"bad row: {row}")


@contextlib.contextmanager
def _underway(work: WorkFolder, reporter: Reporter, grace: float) -> Iterator[UnderWay]:
    under_way = UnderWay(reporter)
    reporter.open_log(work.folder / "log.txt", work.folder / "events.jsonl")
    with (
        libraries_to(work.folder / "libraries.log") as people,
        reporter.speaking_to(people),
        signals(under_way.stop, grace, reporter),
    ):
        try:
            yield under_way
        except KeyboardInterrupt:
            raise Interrupted("stopped at once; what was kept is kept", "", under_way.stop.exit_code or 130) from None
        except SelfplayError as error:
            raise ended_by_stop(under_way.stop, error) or error from None


@contextlib.contextmanager
def _explained(settings: SelectSettings) -> Iterator[None]:
    """Hints that speak of a run's `resume` say what to do here: give the same command again."""
    try:
        yield
    except Interrupted as error:
        raise Interrupted(
            "stopped as asked; what was computed is kept", "The same command goes on where it was.", error.exit_code
        ) from None
    except SelfplayError as error:
        error.hint = error.hint.replace("`selfplay resume`", "the same command")
        raise
