"""A changed value of every setting, with what the change means: the table that drift is tested by."""

from __future__ import annotations

from typing import Any

from selfplay.config.load import validate
from selfplay.config.schema import Config
from selfplay.config.tags import Tag

BASE: dict[str, Any] = {
    "policy": {"model": "org/policy", "revision": "0" * 40},
    "prompts": {"source": "org/prompts", "per_round": 8},
    "sampling": {"max_tokens": 8, "engine": {"max_num_seqs": 4}, "mix": {"model": "org/second"}},
    "reward": {"model": "org/reward", "revision": "0" * 40},
    "training": {"beta": 0.1, "learning_rate": 1e-5, "batch_size": 4, "lora": {}, "reference": "initial"},
    "evaluation": {"source": "org/held"},
    "rounds": 2,
}
FUNCTION = {"reward": {"function": "m:reward"}}
PARTS = {"reward": {"parts": {"NAME": {"model": "org/reward", "revision": "0" * 40}, "short": {"function": "m:short"}}}}
FUNCTION_PART = {"reward": {"parts": {"NAME": {"function": "m:reward"}, "short": {"function": "m:short"}}}}
SIMPO = {
    "training": {"beta": 1.0, "learning_rate": 1e-5, "batch_size": 4, "loss": "simpo", "simpo_gamma_beta_ratio": 0.3}
}
DPO_FORM = {"selection": {"implicit_margin": "dpo", "first_round_metric": "random"}}

# setting -> (tag, another value, sections of the base in which that value is allowed)
ROLE: dict[str, Any] = {"replicas": 2, "num_cpus": 1.0, "num_gpus": 1.0, "threads": 2, "resources": {"x": 1.0}}
SETTINGS: dict[str, tuple[Tag, Any, dict[str, Any]]] = {
    "policy.model": ("content", "org/other", {}),
    "policy.revision": ("identity", "1" * 40, {}),
    "policy.dtype": ("identity", "float32", {}),
    "policy.chat_template": ("identity", "none", {}),
    "policy.chat_template_kwargs": ("identity", {"enable_thinking": False}, {}),
    "policy.system_prompt": ("identity", "Be brief.", {}),
    "policy.trust_remote_code": ("identity", True, {}),
    "prompts.source": ("content", "org/more", {}),
    "prompts.split": ("identity", "train", {}),
    "prompts.subset": ("identity", "main", {}),
    "prompts.revision": ("identity", "v2", {}),
    "prompts.column": ("identity", "question", {}),
    "prompts.id_column": ("identity", "id", {}),
    "prompts.per_round": ("identity", 9, {}),
    "prompts.order": ("identity", "same", {}),
    "sampling.num_responses": ("identity", 4, {}),
    "sampling.temperature": ("identity", 0.8, {}),
    "sampling.top_p": ("identity", 0.9, {}),
    "sampling.top_k": ("identity", 5, {}),
    "sampling.min_p": ("identity", 0.1, {}),
    "sampling.repetition_penalty": ("identity", 1.1, {}),
    "sampling.presence_penalty": ("identity", 0.1, {}),
    "sampling.frequency_penalty": ("identity", 0.1, {}),
    "sampling.max_tokens": ("identity", 9, {}),
    "sampling.mix.model": ("content", "org/other", {}),
    "sampling.mix.revision": ("identity", "1" * 40, {}),
    "sampling.mix.num_responses": ("identity", 2, {}),
    "sampling.mix.share": ("identity", 0.5, {}),
    "sampling.shard_size": ("resource", 8, {}),
    "reward.model": ("content", "org/other", {}),
    "reward.function": ("content", "n:reward", FUNCTION),
    "reward.revision": ("identity", "1" * 40, {}),
    "reward.sees": ("identity", "full", {}),
    "reward.max_length": ("identity", 99, {}),
    "reward.dtype": ("identity", "float32", {}),
    "reward.engine": ("identity", "transformers", {}),
    "reward.batched": ("identity", True, FUNCTION),
    "reward.max_failed": ("resource", 0.5, {}),
    "reward.batch_tokens": ("resource", 4096, {}),
    "reward.trust_remote_code": ("identity", True, {}),
    "reward.parts.NAME.model": ("content", "org/other", PARTS),
    "reward.parts.NAME.function": ("content", "n:reward", FUNCTION_PART),
    "reward.parts.NAME.revision": ("identity", "1" * 40, PARTS),
    "reward.parts.NAME.sees": ("identity", "full", PARTS),
    "reward.parts.NAME.max_length": ("identity", 99, PARTS),
    "reward.parts.NAME.dtype": ("identity", "float32", PARTS),
    "reward.parts.NAME.engine": ("identity", "transformers", PARTS),
    "reward.parts.NAME.batched": ("identity", True, FUNCTION_PART),
    "reward.parts.NAME.trust_remote_code": ("identity", True, PARTS),
    "reward.parts.NAME.weight": ("identity", -0.5, PARTS),
    "reward.normalize": ("identity", "none", PARTS),
    "pairs.build": ("identity", "all", {}),
    "pairs.max_per_prompt": ("identity", 2, {"pairs": {"build": "all"}}),
    "pairs.min_gap": ("identity", 0.1, {}),
    "pairs.max_similarity": ("identity", 0.9, {}),
    "pairs.max_length_gap": ("identity", 64, {}),
    "pairs.min_reward_chosen": ("identity", 0.5, {}),
    "pairs.max_reward_rejected": ("identity", 0.5, {}),
    "pairs.length_penalty": ("identity", "auto", {}),
    "pairs.allow_truncated": ("identity", True, {}),
    "selection.metric": ("identity", "random", {}),
    "selection.options": ("identity", {"tau": 2.0}, {"selection": {"metric": "rs_dpo"}}),
    "selection.group_column": ("identity", "topic", {}),
    "selection.weight": ("identity", 2.5, {}),
    "selection.implicit_margin": ("identity", "dpo", {}),
    "selection.standardize": ("identity", False, {}),
    "selection.beta": ("identity", 0.3, DPO_FORM),
    "selection.keep": ("identity", 0.4, {}),
    "selection.keep_lowest": ("identity", True, {"selection": {"keep": 0.4}}),
    "selection.keep_per_group": ("identity", 0.5, {"selection": {"group_column": "topic"}}),
    "selection.min_per_group": ("identity", 5, {"selection": {"group_column": "topic", "keep": 0.4}}),
    "selection.max_per_prompt": ("identity", 2, {"pairs": {"build": "all"}}),
    "selection.first_round_metric": ("identity", "full", DPO_FORM),
    "selection.logprobs.source": ("identity", "model", {}),
    "training.loss": ("identity", "simpo", {}),
    "training.start": ("identity", "initial", {}),
    "training.reference": ("identity", "previous", {}),
    "training.data": ("identity", "accumulated", {}),
    "training.beta": ("identity", 0.2, {}),
    "training.simpo_gamma_beta_ratio": ("identity", 0.5, SIMPO),
    "training.learning_rate": ("identity", 1e-6, {}),
    "training.epochs": ("identity", 2, {}),
    "training.max_steps": ("identity", 7, {}),
    "training.batch_size": ("identity", 8, {}),
    "training.micro_batch_tokens": ("resource", 512, {}),
    "training.micro_batch_size": ("resource", 2, {}),
    "training.max_length": ("identity", 64, {}),
    "training.warmup_ratio": ("identity", 0.0, {}),
    "training.schedule": ("identity", "linear", {}),
    "training.precision": ("identity", "float32", {}),
    "training.gradient_checkpointing": ("resource", True, {}),
    "training.checkpoint_every": ("resource", 5, {}),
    "training.lora.r": ("identity", 8, {}),
    "training.lora.alpha": ("identity", 8.0, {}),
    "training.lora.dropout": ("identity", 0.1, {}),
    "training.lora.target_modules": ("identity", ["q_proj"], {}),
    "evaluation.source": ("content", "org/other", {}),
    "evaluation.split": ("identity", "test", {}),
    "evaluation.subset": ("identity", "main", {}),
    "evaluation.revision": ("identity", "v2", {}),
    "evaluation.column": ("identity", "question", {}),
    "evaluation.id_column": ("identity", "id", {}),
    "evaluation.num_prompts": ("identity", 3, {}),
    "evaluation.num_responses": ("identity", 2, {}),
    "evaluation.greedy": ("identity", False, {}),
    "evaluation.max_tokens": ("identity", 4, {}),
    "evaluation.gold": ("content", "m:gold", {"evaluation": {"source": "org/held", "gold": "n:gold"}}),
    "cluster.address": ("resource", "10.0.0.1:6379", {}),
    "cluster.overlap": ("resource", True, {}),
    **{f"cluster.sampler.{key}": ("resource", value, {}) for key, value in ROLE.items()},
    **{f"cluster.scorer.{key}": ("resource", value, {}) for key, value in ROLE.items()},
    **{f"cluster.logprobs.{key}": ("resource", value, {}) for key, value in ROLE.items()},
    **{f"cluster.trainer.{key}": ("resource", value, {}) for key, value in ROLE.items() if key != "replicas"},
    "cluster.retries": ("resource", 5, {}),
    "cluster.start_timeout": ("resource", 60.0, {}),
    "tracking.to": ("resource", ["mlflow"], {"tracking": {"to": ["wandb"]}}),
    "tracking.project": ("resource", "mine", {"tracking": {"to": ["wandb"]}}),
    "tracking.log_text": ("resource", True, {"tracking": {"to": ["wandb"]}}),
    "storage.keep_policies": ("resource", "all", {}),
    "storage.keep_trainer_checkpoints": ("resource", 2, {}),
    "storage.check_free_space": ("resource", False, {}),
    "cluster.heartbeat_timeout": ("resource", 0.0, {}),
    "cluster.max_poison_items": ("resource", 0, {}),
    "gates.max_empty": ("resource", 1.0, {}),
    "gates.max_truncated": ("resource", 1.0, {}),
    "gates.max_repeated": ("resource", 1.0, {}),
    "gates.max_identical": ("resource", 1.0, {}),
    "gates.max_loss": ("resource", None, {}),
    "gates.max_grad_norm": ("resource", 50.0, {}),
    "gates.max_update": ("resource", 2.0, {}),
    "report.every": ("resource", 2, {}),
    "report.redact": ("resource", True, {}),
    "rounds": ("extendable", 3, {}),
    "seed": ("identity", 1, {}),
}  # fmt: skip
# what has one value only, and what passes through key by key (tested below)
NOT_TO_BE_CHANGED = {"cluster.trainer.replicas", "sampling.engine", "training.trl"}
# a value that is allowed only together with another one
TOGETHER: dict[str, dict[str, Any]] = {
    "selection.implicit_margin": {"selection.first_round_metric": "random"},
    "training.loss": {"training.simpo_gamma_beta_ratio": 0.3, "training.reference": "previous"},
}


def config(document: dict[str, Any], **settings: Any) -> Config:
    """`document` with dotted settings replaced."""
    sections = {name: dict(value) if isinstance(value, dict) else value for name, value in document.items()}
    for name, value in settings.items():
        *parents, last = name.split(".")
        target = sections
        for parent in parents:
            target[parent] = dict(target.get(parent) or {})
            target = target[parent]
        target[last] = value
    return validate(sections, "here")
