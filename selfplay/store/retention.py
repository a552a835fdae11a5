"""Which policies of a run are kept on disk and which may be deleted (`storage.keep_policies`, `selfplay gc`). Datasets are kept.

The last two are always kept: later stages sample from them, train them and are compared with them. So is the best by the held-out
judge. No later stage needs a policy that may be deleted now: the reference *initial* is the user's own model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfplay.core.outcomes import EvaluateOutcome
from selfplay.store.run import Store
from selfplay.store.tombstone import policy_files

LEAST = 2


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """The policy of a round: its size in bytes, whether it was deleted before, and why it is kept (empty: it may be deleted)."""

    round: int
    num_bytes: int
    removed: bool
    keep_reason: str


def trained_rounds(store: Store) -> list[int]:
    """Rounds that trained a policy of their own, ascending."""
    return [
        number
        for number in store.rounds()
        if store.is_committed(number, "train")
        and any(entry.path.startswith("policy/") for entry in store.commit_of(number, "train").files)
    ]


def stored_policies(store: Store, keep: int | None) -> list[StoredPolicy]:
    """Every policy that the run trained, oldest first. `keep` is how many of the newest are kept, 2 or more; None: all."""
    rounds = trained_rounds(store)
    newest = rounds if keep is None else rounds[-max(keep, LEAST) :]
    best, judged = best_policy(store)
    held = []
    for number in rounds:
        num_bytes = sum(entry.num_bytes for entry in policy_files(store.commit_of(number, "train").files))
        keep_reason = ""
        if number in rounds[-LEAST:]:
            keep_reason = "one of the last two"
        elif number in newest:
            keep_reason = f"one of the last {keep}" if keep is not None else "all stay"
        if number == best:
            keep_reason = f"the best ({judged})" + (f", {keep_reason}" if keep_reason else "")
        held.append(StoredPolicy(number, num_bytes, store.tombstone(number) is not None, keep_reason))
    return held


def best_policy(store: Store) -> tuple[int | None, str]:
    """The round whose policy did best on the held-out prompts, the earliest of equals, and by which number; None where
    nothing was judged."""
    found: list[tuple[float, int, str]] = []
    trained = trained_rounds(store)
    for number in store.rounds():
        if number < min(trained, default=number + 1) or not store.is_committed(number, "evaluate"):
            continue
        evaluation = store.outcome(number, EvaluateOutcome).evaluation
        judge = evaluation.eval_judge if evaluation else "reward"
        value = (evaluation.eval_gold_mean if judge == "gold" else evaluation.eval_reward_mean) if evaluation else None
        if value is not None:
            # a round that trained nothing was judged with the policy that it carried over
            policy = max(other for other in trained if other <= number)
            found.append((-value, policy, f"held-out {judge} {value:.3f}"))
    if not found:
        return None, ""
    _, number, judged = min(found, key=lambda item: (item[0], item[1]))
    return number, judged


def collect(store: Store, keep: int | None, why: str) -> list[StoredPolicy]:
    """Delete every policy that may be deleted; returns those. Needs the run's lock."""
    taken = [held for held in stored_policies(store, keep) if not held.keep_reason and not held.removed]
    for held in taken:
        store.delete_policy(held.round, why)
    return taken


def gc_document(store: Store, keep: int | None, *, dry_run: bool) -> dict[str, Any]:
    """The document of `gc --json`: every policy, whether it is (or, in a dry run, would be) deleted, and the bytes."""
    policies = stored_policies(store, keep)
    if not dry_run:
        store.clean_work()
        collect(store, keep, f"gc --keep-policies {keep}")
    rows = [
        {
            "round": held.round,
            "num_bytes": held.num_bytes,
            "action": "gone" if held.removed else "keep" if held.keep_reason else "remove",
            "why": "deleted before" if held.removed else held.keep_reason or "neither among the last nor the best",
        }
        for held in policies
    ]
    return {
        "schema_version": 1,
        "run": str(store.layout.root),
        "keep": keep,
        "dry_run": dry_run,
        "policies": rows,
        "removed_bytes": sum(row["num_bytes"] for row in rows if row["action"] == "remove"),
        "kept_bytes": sum(row["num_bytes"] for row in rows if row["action"] == "keep"),
    }
