"""The section `reward` of a run: one reward, or several that are combined."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from selfplay.config.section import Section, refuse, require_commit
from selfplay.config.tags import content, identity, resource


class RewardSource(Section):
    """One reward: a model or a Python function."""

    model: str | None = content(None, "folder or hub name of a sequence-classification reward model with one label")
    function: str | None = content(None, "module:function or file.py:function")
    revision: str | None = identity(None, "hub revision of the model; resolved and recorded")
    sees: Literal["final", "full"] = identity(
        "final", "what a reward model sees of a response; final: without the thinking; full: all of it"
    )
    max_length: int | None = identity(None, "longest conversation in tokens; the model's own limit if not set", ge=1)
    dtype: Literal["auto", "float32", "bfloat16"] = identity("auto", "auto: float32 on a CPU, bfloat16 on a GPU")
    engine: Literal["auto", "vllm", "transformers"] = identity(
        "auto",
        "what computes the rewards of a model; auto: vllm on a GPU, where it supports the model and agrees with transformers on "
        "a few responses, else transformers",
    )
    batched: bool = identity(False, "the function takes the lists of one prompt's responses and returns a list")
    trust_remote_code: bool = identity(False, "run the model's own code; needs a pinned revision")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.function is not None:
            refuse(
                self,
                ("revision", "sees", "max_length", "dtype", "engine", "trust_remote_code"),
                "needs reward.model",
            )
        if self.model is not None and self.batched:
            raise ValueError("`batched` needs reward.function")
        require_commit(self.revision, trust_remote_code=self.trust_remote_code)
        return self


class RewardPart(RewardSource):
    """One of several rewards that are combined."""

    weight: float = identity(1.0, "factor of its normalised reward; negative: a penalty")

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if (self.model is None) == (self.function is None):
            raise ValueError("give exactly one of `model` and `function`")
        if self.weight == 0:
            raise ValueError("`weight: 0` gives the part no effect: leave it out, or give it another weight")
        return self


# `reward_NAME` is a column: these are columns with another meaning
_NO_PART_NAMES = ("reward", "gold", "chosen", "rejected", "fresh")


class RewardConfig(RewardSource):
    """What labels the responses: a reward model, a Python function, or several of them combined."""

    parts: dict[str, RewardPart] = identity(
        {}, "several rewards by name, in the place of `model` and `function`: their weighted sum is the reward"
    )
    normalize: Literal["zscore", "none"] = identity(
        "zscore", "of the parts, before they are weighted: zscore over the round's responses, or the raw numbers"
    )
    max_failed: float = resource(
        0.1, "stop when more than this fraction of a shard fails (of each part by itself)", ge=0, le=1
    )
    batch_tokens: int | None = resource(None, "tokens in a padded batch of a model; by the device if not set", ge=1)

    def sources(self) -> dict[str, RewardSource]:
        """What gives rewards, by the dotted name of its section: `reward` itself, or each part, in the order of their names."""
        if not self.parts:
            return {"reward": self}
        return {f"reward.parts.{name}": self.parts[name] for name in sorted(self.parts)}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum((self.model is not None, self.function is not None, bool(self.parts))) != 1:
            raise ValueError("give exactly one of `model` and `function`, or several rewards under `parts`")
        if not self.parts:
            refuse(self, ("normalize",), "needs reward.parts")
            return self
        theirs = ("revision", "sees", "max_length", "dtype", "engine", "batched", "trust_remote_code")
        refuse(self, theirs, "belongs to a part: set it under reward.parts.NAME")
        for name in self.parts:
            if not (name.isascii() and name.isidentifier()) or name in _NO_PART_NAMES:
                raise ValueError(
                    f"{name!r} cannot be the name of a part: its column is reward_NAME, so use letters, digits and _ "
                    f"(no digit first), and none of {', '.join(_NO_PART_NAMES)}"
                )
        return self
