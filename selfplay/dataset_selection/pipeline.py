"""`selfplay select`: read a preference dataset, compute what is missing, rank, and write the kept and the dropped part.

The paper's first half, as a run of one round: the dataset is imported as the first stages of a run, the stages of a run compute
what is missing, and the pairs are ranked as in a run. Steps are functions that can be used (and timed) one by one: `read`,
`pair_pool`, `rank`, `summarise`, `write`; `run` calls them, holds the output folder, and continues a killed attempt.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.config.schema import Config
from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError, Interrupted, SelfplayError
from selfplay.core.outcomes import SelectOutcome
from selfplay.core.pool import Workers
from selfplay.core.records import Pair
from selfplay.core.redaction import find_secret
from selfplay.core.stages import READ
from selfplay.core.version import __version__
from selfplay.core.versions import versions
from selfplay.dataset_selection.building import BuiltPairs
from selfplay.dataset_selection.candidates import Pairs, ready_made
from selfplay.dataset_selection.computing import compute, plan
from selfplay.dataset_selection.importing import ROUND, shaped
from selfplay.dataset_selection.inputs import (
    check_tokenizer,
    resolve_inputs,
    resolve_metric,
    run_config,
    selected_code,
    with_given,
)
from selfplay.dataset_selection.needs import EMBEDDING, PROMPT_REWARDS, Needs
from selfplay.dataset_selection.output.card import card
from selfplay.dataset_selection.output.summary import dropped_examples, groupings, summarize
from selfplay.dataset_selection.output.writing import ResultTable, write_formats, write_tables, write_unused
from selfplay.dataset_selection.reading.dataset import OfflineDataset, read_dataset
from selfplay.dataset_selection.reading.several import SourceFacts, joined
from selfplay.dataset_selection.record import KIND, Record
from selfplay.dataset_selection.settings import SelectSettings, SourceSettings
from selfplay.execution.progress import Reporter
from selfplay.inputs.pinning import KEEP_SECRETS_OUT
from selfplay.inputs.resolve import Inputs
from selfplay.inspect.reading import finite
from selfplay.run.attempt import Attempt, attempt
from selfplay.run.code_trust import announce
from selfplay.run.driver import stage_settings
from selfplay.run.library_checks import check_reward_engines
from selfplay.run.stages.context import StageContext
from selfplay.run.worker_specs import MakeWorkers, lazy_ray_workers
from selfplay.selection.diagnostics.diagnose import diagnose
from selfplay.selection.diagnostics.groups import Grouping
from selfplay.selection.keep import Quotas
from selfplay.selection.metrics import Metric
from selfplay.selection.metrics.inputs import REWARDS
from selfplay.selection.reasons import DropReasons
from selfplay.selection.select import PairPool, Selection, select
from selfplay.store.durable import pretty_json, remove_tree
from selfplay.store.result_folder import ResultWriter
from selfplay.store.run import Store, now
from selfplay.store.spool import Spool

# Pairs in a shard of stage *select*.
_SHARD_PAIRS, _SHARD_NUMBERS = 25_000, 1 << 18


@dataclass(frozen=True)
class Outcome:
    """What `run` did: the summary, and whether it existed already."""

    summary: dict[str, Any]
    was_there: bool


# -------------------------------------------------------------------------------------------------------------- steps


def read(
    settings: SelectSettings, metric: Metric, spool: Spool | None = None
) -> tuple[OfflineDataset, list[SourceFacts]]:
    """The dataset; of several also what was read of each. `spool`: see `read_dataset`. Raises DataError and ConfigError."""
    columns = dict(settings.columns)
    if settings.group_column is not None:
        columns["group"] = settings.group_column
    if settings.groups_are_sources:
        del columns["group"]
    built = settings.pairs is not None and "build" in settings.pairs.model_fields_set

    def one(source: SourceSettings | SelectSettings) -> OfflineDataset:
        assert source.dataset is not None, "the settings name a dataset, or one for each source"
        dataset = read_dataset(
            source.dataset, split=source.split, subset=source.subset, revision=source.revision,
            columns={**columns, **source.columns}, wanted=[name for name in metric.inputs if name != "pair_id"],
            prefer="responses" if built else "pairs", spool=spool,
        )  # fmt: skip
        if built and dataset.kind == "pairs":
            raise ConfigError(
                f"{source.dataset} holds pairs, not several responses to a prompt: no pairs can be built",
                "Leave --pairs out; or name the columns of the responses with --columns.",
            )
        return dataset

    if not settings.sources:
        return one(settings), []
    datasets = {name: one(source) for name, source in settings.sources.items()}
    return joined(datasets, groups_are_sources=settings.groups_are_sources)


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
        # halved first: the sum of two large rewards may be no float
        made = {
            "prompt_reward_mean": chosen / 2 + rejected / 2,
            "prompt_reward_std": np.abs(chosen / 2 - rejected / 2),
        }
        columns = {**made, **columns}
    group_P = Grouping.of(pairs["group"]).code_P if within_groups else None
    prompt_P = Grouping.of(pairs["prompt_id"]).code_P if "prompt_id" in pairs.column_names else None
    return PairPool(
        pair_id=pairs["pair_id"], columns=columns, drop_reason_P=reasons, group_P=group_P, prompt_P=prompt_P
    )


def rank(settings: SelectSettings, metric: Metric, pool: PairPool, pairs: pa.Table) -> Selection:
    """Margins, metric, ranks and the cut. Raises ConfigError for quotas of groups that do not exist."""
    quotas = None
    if settings.keep_per_group is not None or settings.min_per_group is not None:
        groups = Grouping.of(pairs["group"])
        quotas = Quotas(
            group_P=groups.code_P, names=groups.names, most=settings.keep_per_group, least=settings.min_per_group or 0
        )
    if settings.max_per_prompt is not None and pool.prompt_P is None:
        raise ConfigError("max_per_prompt needs the prompts, and this is a table of numbers", "Leave it out.")
    return select(
        pool, metric=metric, keep=settings.keep, implicit_margin=settings.implicit_margin, weight=settings.weight,
        beta=settings.beta, standardize=settings.standardize, seed=settings.seed, options=settings.options, quotas=quotas,
        max_per_prompt=settings.max_per_prompt, keep_lowest=settings.keep_lowest, keep_zero_margins=settings.keep_zero_margins,
    )  # fmt: skip


def write(record: Record, pairs: Pairs, pool: PairPool, selection: Selection) -> tuple[ResultWriter, ResultTable]:
    """The tables of the result into the record's scratch; the caller adds formats, card and summary and commits."""
    writer = ResultWriter(record.root, record.output)
    result = ResultTable(pairs.table, pool, selection)
    write_tables(writer, result, selection)
    if pairs.built is not None and pairs.built.unused.num_rows:
        write_unused(writer, pairs.built.unused)
    return writer, result


# ---------------------------------------------------------------------------------------------------------------- run


def run(
    settings: SelectSettings,
    reporter: Reporter,
    *,
    grace: float = 25.0,
    workers: MakeWorkers = lazy_ray_workers,
    command: str = "",
) -> Outcome:
    """The whole selection. `command` is what the card says it was made with; `workers` replaces Ray (tests)."""
    if secret := find_secret(json.dumps(settings.model_dump(mode="json"), ensure_ascii=False)):
        raise ConfigError(f"a setting holds {secret}", KEEP_SECRETS_OUT)
    record = Record(Path(settings.out).expanduser().absolute())
    code = selected_code(settings)
    announce(code, reporter.say)
    metric = resolve_metric(settings)
    inputs = resolve_inputs(settings, metric, record.revisions(), code)
    with _same_command(record):
        dataset, sources = read(settings, metric, Spool(record.root))
    _report_what_was_read(dataset, sources, reporter)
    content = {**dict(sorted(inputs.pins.items())), "dataset": dataset.digest}
    identity = {"settings": settings.identity(), "content": content, "version": __version__}
    if (found := record.finished(identity)) and not record.has_leftovers():
        return Outcome(found["summary"], True)
    with _same_command(record), record.holding():
        if found := record.finished(identity):  # another process may have finished it meanwhile
            record.discard_leftovers()
            return Outcome(found["summary"], True)
        rules = settings.pairs.rules() if settings.pairs is not None else None
        needs, given = plan(settings, metric, dataset, rules)
        inputs = with_given(inputs, given)
        check_tokenizer(needs, inputs)
        config = run_config(settings)
        check_reward_engines(config, inputs)
        usable = dataset.pairs if dataset.pairs is not None else dataset.responses
        assert usable is not None
        store, fingerprint, continued = record.begin(settings, config, inputs, identity, needs, usable.num_rows)
        if continued:
            reporter.say(f"continuing the unfinished selection in {settings.out}")
        document = {"config": config.model_dump(mode="json"), "identity": identity}
        again = "The same command continues the work."
        with (
            attempt(store, document, reporter, grace, None, again) as current,
            _workers(workers, config, inputs, current, store, needs) as pools,
        ):
            context = StageContext(
                store, stage_settings(config), inputs, pools, fingerprint, current.number, versions(), reporter,
                current.stop, from_dataset=True, on_loading=reporter.loading,
                on_timing=lambda number, stage, spent: reporter.committed(number, stage, spent.seconds()),
            )  # fmt: skip
            pairs = _pairs(context, settings, dataset, needs)
            summary = _finish(context, record, settings, metric, dataset, sources, pairs, identity, command)
    return Outcome(summary, False)


@contextlib.contextmanager
def _workers(
    make: MakeWorkers, config: Config, inputs: Inputs, current: Attempt, store: Store, needs: Needs
) -> Iterator[Workers]:
    """Workers where something is left to compute; otherwise no stage that asks one is run."""
    if all(store.is_committed(ROUND, stage) for stage in needs.stages):
        yield cast(Workers, None)
        return
    with make(config, inputs, current.folder) as workers:
        yield workers


def _pairs(context: StageContext, settings: SelectSettings, dataset: OfflineDataset, needs: Needs) -> Pairs:
    for name, model in context.inputs.revisions.items():
        context.reporter.say(f"{name}: {model.replace('@', ' at commit ')}")
    rules = settings.pairs.rules() if settings.pairs is not None else None
    if dataset.pairs is not None and "chosen" not in dataset.pairs.column_names:
        return ready_made(dataset.pairs, rules, keep_zero_margins=settings.keep_zero_margins)
    return compute(context, settings, dataset, needs, rules)


def _finish(
    context: StageContext,
    record: Record,
    settings: SelectSettings,
    metric: Metric,
    dataset: OfflineDataset,
    sources: Sequence[SourceFacts],
    pairs: Pairs,
    identity: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Rank the pairs, and write and publish the result."""
    pool = pair_pool(
        pairs.table, pairs.columns, pairs.reasons, within_groups=settings.group_column is not None, wanted=metric.inputs
    )
    context.stop.check()
    selection = rank(settings, metric, pool, pairs.table)
    _refuse_no_pair(settings, selection)
    context.reporter.say(f"ranked {selection.summary.num_ranked} pairs, kept {selection.summary.num_kept}")
    commits = {name: model.rpartition("@")[2] for name, model in context.inputs.revisions.items()}
    summary = summarise(
        settings, metric, dataset, pairs.table, pool, selection, content=identity["content"], built=pairs.built,
        notes=pairs.notes, commits=commits, sources=sources,
    )  # fmt: skip
    context.stop.check()
    writer, result = write(record, pairs, pool, selection)
    if result.has_text:
        summary["num_not_alternating"], said = write_formats(writer, result, selection)
        summary["notes"] += said
    else:
        summary["notes"].append(
            "The dataset is a table of numbers: the formats of other trainers (texts) are left out."
        )
    writer.add("summary.json", pretty_json(summary))
    writer.add("README.md", card(summary, command, result, writer).encode())
    _commit_selection(context, result, selection)
    facts = {"kind": KIND, "identity": identity, "summary": summary, "created": now(), "versions": versions()}
    writer.commit(facts)
    remove_tree(record.output)
    return summary


def _commit_selection(context: StageContext, result: ResultTable, selection: Selection) -> None:
    """Commit stage *select*: the pairs, kept ones first, by rank, with the columns that the pairs of a run have, and each
    pair's group (pairs of one prompt may be of several)."""
    if context.store.is_committed(ROUND, "select"):
        return
    started, writer = time.monotonic(), context.writer(ROUND, "select")
    kept = {name: writer.shards(name) for name in ("", READ)}
    rank_P = np.where(selection.rank_P > 0, selection.rank_P, len(selection.rank_P) + 1)
    order = np.argsort(rank_P, kind="stable")
    size = _SHARD_PAIRS if result.has_text else _SHARD_NUMBERS
    for index, start in enumerate(range(0, max(len(order), 1), size)):
        rows = result.rows(order[start : start + size])
        if "group" in rows.column_names and index not in kept[READ]:
            groups = rows["group"].cast(pa.string())
            writer.write_shard(index, pa.table({"pair_id": rows["pair_id"], "group": groups}), READ)
        if index in kept[""]:
            continue
        columns = {name: rows[name] for name in rows.column_names}
        if result.has_text and "chosen_response_id" not in columns:
            for side in ("chosen", "rejected"):
                columns[f"{side}_response_id"] = pc.binary_join_element_wise(rows["pair_id"], side, "/")
        writer.write_shard(index, shaped(Pair, columns, rows.num_rows))
    context.commit(writer, started, SelectOutcome(summary=selection.summary))


def _refuse_no_pair(settings: SelectSettings, selection: Selection) -> None:
    ranked = selection.summary.num_ranked
    if ranked and not selection.summary.num_kept:
        raise ConfigError(
            f"keep {settings.keep} of {ranked} ranked pairs keeps no pair",
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
    sources: Sequence[SourceFacts] = (),
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
        embedding_left_out=EMBEDDING in pool.columns, commits=commits or {}, sources=sources,
    )  # fmt: skip
    document |= {"dropped_examples": dropped_examples(pairs, selection), "num_not_alternating": 0}
    found: dict[str, Any] = json.loads(pretty_json(finite(document)))  # as it will be read: lists, no tuples
    return found


def _report_what_was_read(dataset: OfflineDataset, sources: Sequence[SourceFacts], reporter: Reporter) -> None:
    kind = "pairs" if dataset.kind == "pairs" else "responses"
    table = dataset.pairs if dataset.pairs is not None else dataset.responses
    assert table is not None
    reporter.say(f"read {dataset.num_rows} rows: {table.num_rows} {kind}, {dataset.bad_rows.count} bad rows")
    for name, recognised in {each.name: each.recognised for each in sources}.items() or (("", dataset.recognised),):
        for ours, theirs in sorted(recognised.items()):
            if ours != theirs:
                reporter.say(f"recognised: {f'{name}: ' if name else ''}{ours} is column {theirs!r}")
    for line in dataset.notes:
        reporter.say(f"note: {line}")
    for line in dataset.bad_rows.lines(dataset.num_rows):
        reporter.say(line)


@contextlib.contextmanager
def _same_command(record: Record) -> Iterator[None]:
    """Where a hint names a run's `resume`, name the same command, which continues a selection."""
    try:
        yield
    except Interrupted as error:
        raise Interrupted(error.message, "The same command continues the work.", error.exit_code) from None
    except SelfplayError as error:
        resume = f"`{shell_command('resume', record.folder)}"
        error.hint = error.hint.replace(f"{resume} reward.", "`the same command with ").replace(
            f"{resume}`", "the same command"
        )
        error.hint = error.hint.replace("`selfplay resume`", "the same command")
        raise
