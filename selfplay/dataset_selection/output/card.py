"""The dataset card (README.md) of a result: how it was made, what is in it, how trainers read it. No paths of the machine."""

from __future__ import annotations

from typing import Any

from selfplay.core.escape import escape_markdown, markdown_code, one_line
from selfplay.core.format import markdown_table
from selfplay.dataset_selection.output.writing import DROPPED, KEPT, UNUSED, ResultTable
from selfplay.inspect.export import formats
from selfplay.inspect.export.cards import content_identity, dataset_config, front_matter
from selfplay.store.result_folder import ResultWriter


def card(summary: dict[str, Any], command: str, result: ResultTable, writer: ResultWriter) -> str:
    """The card as Markdown with its YAML front matter, which tells `load_dataset` what the splits are. The tables are in
    `writer`: each config is described by the digest of its files, see `content_identity`."""
    selection, dataset, metric = summary["selection"], summary["dataset"], summary["metric"]
    counts = {KEPT: selection["num_kept"], DROPPED: selection["num_pairs"] - selection["num_kept"]}
    building = summary["pair_building"]
    splits = {name: f"{name}/*.parquet" for name, count in counts.items() if count}
    configs = [dataset_config("default", content_identity(writer, KEPT, DROPPED), splits)]
    if building is not None and building["unused"]:
        configs.append(dataset_config(UNUSED, content_identity(writer, UNUSED), {UNUSED: f"{UNUSED}/*.parquet"}))
    parts = [
        front_matter({"configs": configs, "tags": ["preference", "dpo", "selfplay"]}),
        f"# {selection['num_kept']} of {selection['num_pairs']} preference pairs, by {markdown_code(metric['name'])}\n",
        f"Made from {markdown_code(dataset['name'])} (sha256 {markdown_code(dataset['sha256'][:16])}) with `selfplay select`. "
        "The split `kept` is ordered by rank, best first; `dropped` holds all others, each with its `drop_reason`.\n",
        f"    {one_line(command)}\n" if command else "",
        markdown_table(
            ("", ""),
            [
                (
                    "metric",
                    f"{markdown_code(metric['name'])}: "
                    f"{escape_markdown(metric['formula'])} ({escape_markdown(metric['direction'])})",
                ),
                ("source of the metric", escape_markdown(metric["source"])),
                ("implicit margin", _implicit_margin(summary)),
                ("keep", _keep(selection)),
                ("seed", str(selection["seed"])),
                *(
                    (
                        name,
                        f"{markdown_code(place['name'])}{_revision(place)}, sha256 {markdown_code(place['sha256'][:16])}",
                    )
                    for name, place in summary["models"].items()
                ),
            ],
        ),
        "## Counts\n",
        markdown_table(("", "pairs"), _counts(summary)),
        "## Numbers\n",
        markdown_table(("", "value"), _numbers(selection)),
        _formats(summary, result),
        "## Versions\n",
        ", ".join(
            f"{escape_markdown(name)} {escape_markdown(version)}" for name, version in summary["versions"].items()
        )
        + "\n",
    ]
    if summary["notes"]:
        parts += ["## Notes\n", "\n".join(f"- {escape_markdown(note)}" for note in summary["notes"]) + "\n"]
    return "\n".join(part for part in parts if part)


def _revision(place: dict[str, str]) -> str:
    return f" at {markdown_code(place['revision'])}" if "revision" in place else ""


def _implicit_margin(summary: dict[str, Any]) -> str:
    selection = summary["selection"]
    scale = "z-scored over the pool" if selection["standardize"] else "raw"
    if summary["settings"]["group_column"] is not None:
        scale += f", within the groups of {markdown_code(summary['settings']['group_column'])}"
    beta = f", beta {selection['beta']}" if selection["beta"] is not None else ""
    return f"{selection['implicit_margin']}{beta}, weight {selection['weight']}, {scale}"


def _keep(selection: dict[str, Any]) -> str:
    limits = ("keep_per_group", "min_per_group", "max_per_prompt")
    said = [str(selection["keep"])]
    said += [f"{name} {markdown_code(str(selection[name]))}" for name in limits if selection[name] is not None]
    said += [name for name in ("keep_lowest", "keep_zero_margins") if selection[name]]
    return ", ".join(said)


def _counts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    selection = summary["selection"]
    rows = [("rows read", str(summary["dataset"]["num_rows"]))]
    rows += [
        (f"rows that cannot be used: {markdown_code(name)}", str(count))
        for name, count in summary["bad_rows"]["reasons"].items()
    ]
    rows += [("pairs", str(selection["num_pairs"]))]
    rows += [(f"dropped: {markdown_code(name)}", str(count)) for name, count in selection["drop_reasons"].items()]
    return [*rows, ("kept", str(selection["num_kept"]))]


def _numbers(selection: dict[str, Any]) -> list[tuple[str, str]]:
    names = (
        "cut_value", "explicit_margin_mean", "explicit_margin_std", "implicit_margin_abs_mean", "implicit_margin_abs_std",
        "effective_beta", "length_gap_mean", "length_gap_kept_mean",
    )  # fmt: skip
    return [(f"`{name}`", f"{selection[name]:.6g}") for name in names if selection[name] is not None]


def _formats(summary: dict[str, Any], result: ResultTable) -> str:
    if not result.has_text:
        return '## Reading it\n\n    datasets.load_dataset(FOLDER, split="kept")\n\nA table of numbers without texts.\n'
    skipped = summary["num_not_alternating"]
    warning = (
        f"\n{skipped} of the kept pairs have prompts that are not user and assistant in turn: LLaMA-Factory skips those.\n"
        if skipped
        else ""
    )
    return f"""## Reading it

TRL (`prompt`, `chosen` and `rejected` are lists of messages):

    datasets.load_dataset(FOLDER, split="kept")

LLaMA-Factory: `dataset_dir: FOLDER/{formats.FOLDER}` and `dataset: {formats.NAME}`.

axolotl: the section in `{formats.AXOLOTL}`:

{_indented(formats.axolotl(formats.FILE).decode())}
{warning}"""


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
