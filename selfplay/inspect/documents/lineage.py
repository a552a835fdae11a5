"""From policy to policy: what each was trained from and on, by digest (`report`). Read off the commits; no table is opened."""

from __future__ import annotations

from typing import Any

from selfplay.core.outcomes import EvaluateOutcome, TrainOutcome
from selfplay.inspect.reading import SCHEMA_VERSION
from selfplay.store.layout import REMOVED
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force, is_selection


def lineage_document(store: Store) -> dict[str, Any]:
    """Rows under `policies`, one for each round that has its policy: `policy_digest` (of the files), `commit` (sha256 of the
    commit that holds it: of *train*, in round 0 of the evaluation that looked at it), `trained_from` and `reference` (rounds;
    null in round 0 and where nothing was trained), `selects` (round and commit of the pairs), `num_pairs`, `optimizer_steps`,
    `same_as` (the round whose policy it is, where training was skipped), `inherited` (from another run), `files_removed` (by
    gc: the commit is kept)."""
    training = {} if is_selection(store) else config_in_force(store)["training"]
    inherited = store.forked_from.keys() if store.forked_from else {}
    policies = []
    for number in store.rounds():
        row = _starting(store) if number == 0 else _trained(store, number, training)
        if row is not None:
            policies.append(row | {"inherited": (number, "train" if number else "evaluate") in inherited})
    fork = store.forked_from
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": store.run_id,
        "forked_from": {"run": fork.run, "num_stages": len(fork.stages)} if fork else None,
        "policies": policies,
    }


def _starting(store: Store) -> dict[str, Any] | None:
    evaluation = store.outcome_if_committed(0, EvaluateOutcome)
    if evaluation is None:
        return None
    absent = dict.fromkeys(("trained_from", "reference", "num_pairs", "optimizer_steps", "same_as"))
    commit = store.digest_of(0, "evaluate")
    return {"round": 0, "policy_digest": evaluation.policy_digest, "commit": commit} | absent | {
        "selects": [], "files_removed": False,
    }  # fmt: skip


def _trained(store: Store, number: int, settings: dict[str, Any]) -> dict[str, Any] | None:
    train = store.outcome_if_committed(number, TrainOutcome)
    if train is None:
        return None
    skipped, training = train.skipped, train.training
    inputs = store.commit_of(number, "train").inputs
    selects = [
        {"round": int(name.partition("/")[0]), "commit": digest}
        for name, digest in sorted(inputs.items())
        if name.endswith("/select")
    ]
    reference = settings["reference"] if settings["loss"] == "dpo" else None
    return {
        "round": number,
        "policy_digest": train.policy_digest,
        "commit": store.digest_of(number, "train"),
        "trained_from": None if skipped else _policy_round(store, number, settings["start"]),
        "reference": None if skipped or reference is None else _policy_round(store, number, reference),
        "num_pairs": training.num_pairs if training else None,
        "optimizer_steps": train.optimizer_steps,
        "same_as": train.policy_round if skipped else None,
        "selects": selects,
        "files_removed": (store.layout.stage(number, "train") / REMOVED).is_file(),
    }


def _policy_round(store: Store, number: int, which: str) -> int:
    """The round whose policy is meant by `initial` or `previous` in a round: a skipped one has that of a round before it."""
    if which == "initial" or number == 1:
        return 0
    return store.outcome(number - 1, TrainOutcome).policy_round
