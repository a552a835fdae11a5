"""Rewards with vLLM's pooling runner: one engine for a sequence-classification model with one label."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfplay.backends.reward_rows import last_token
from selfplay.backends.vllm.engine_args import prepare_environment, resolve_dtype
from selfplay.backends.vllm.engine_stream import EngineStream
from selfplay.backends.vllm.pooling_args import pooling_arguments
from selfplay.inputs.models.sizes import load_config

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine


def pooling_problem(folder: str, *, trust_remote_code: bool = False) -> str:
    """Why vLLM cannot compute the rewards of the model in `folder`; empty where it supports the architecture."""
    prepare_environment()
    from vllm import EngineArgs
    from vllm.model_executor.model_loader.utils import get_model_cls
    from vllm.model_executor.models.interfaces_base import is_text_generation_model

    arguments = EngineArgs(
        folder, runner="pooling", model_impl="vllm", skip_tokenizer_init=True, trust_remote_code=trust_remote_code
    )
    try:
        config = arguments.create_model_config()
        code = get_model_cls(config)
    except (ValueError, ImportError) as error:  # what vLLM and pydantic raise for a config that they refuse
        return " ".join(str(error).split())[:300]
    # of a body alone (Gemma 3's text model) vLLM makes a reward model that does not find its weights by their names
    if config.convert_type == "classify" and not is_text_generation_model(code):
        return f"its code for {config.architecture} is that of the model without a head: it loads no reward model"
    return ""


class PoolingEngine:
    """The raw score of token ids, on the device of this process. One object a process at a time.

    `dtype`: "float32", "bfloat16" or "auto"; `max_length`: tokens of the longest row; `batch_tokens`: those of a step.
    `pad_token_id` is the padding token of the model's config: transformers takes the score of the last token that is another one.
    `weight_bytes`: memory of the weights. Raises whatever vLLM raises where it cannot load the model.
    """

    def __init__(
        self,
        folder: str,
        *,
        dtype: str,
        max_length: int,
        batch_tokens: int,
        pad_token_id: int | None,
        weight_bytes: int,
        trust_remote_code: bool = False,
    ) -> None:
        prepare_environment()
        self._pad_token_id = pad_token_id
        self._llm: LLMEngine | None = None
        self._stream = EngineStream(self._engine, self._drop)
        self._stream.call(self._build, folder, dtype, max_length, batch_tokens, weight_bytes, trust_remote_code)

    def rewards(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The score of each row, in float32 whatever the model's dtype. Raises WorkerLostError when the engine fails."""
        from vllm import PoolingParams

        raw = PoolingParams(task="classify", use_activation=False)
        if self._reads_last:
            rows = [row[: last_token(row, self._pad_token_id) + 1] for row in rows]
        return [float(found.outputs.data[0]) for found in self._stream.generate([(list(row), raw) for row in rows])]

    def close(self) -> None:
        """Free the engine's memory: another one may then be built."""
        self._stream.call(self._drop)

    def _drop(self) -> None:
        import torch

        self._llm = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _build(
        self, folder: str, dtype: str, max_length: int, batch_tokens: int, weight_bytes: int, trust_remote_code: bool
    ) -> None:
        import torch
        from vllm import EngineArgs
        from vllm.config import PoolerConfig
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine

        on_cpu = current_platform.is_cpu()
        arguments = pooling_arguments(
            folder=folder,
            dtype=resolve_dtype(dtype, on_cpu=on_cpu),
            max_length=max_length,
            batch_tokens=batch_tokens,
            trust_remote_code=trust_remote_code,
            config=load_config(folder, trust_remote_code=trust_remote_code),
            weight_bytes=weight_bytes,
            device_bytes=None if on_cpu else torch.cuda.mem_get_info()[1],
        )
        # as in the sampler: vLLM collects garbage while it builds
        gc.freeze()
        pooler = PoolerConfig(task="classify", use_activation=False)
        self._llm = LLMEngine.from_engine_args(EngineArgs(**arguments, pooler_config=pooler))
        # the others take the first token's, of an encoder
        self._reads_last = self._llm.model_config.pooler_config.seq_pooling_type == "LAST"

    def _engine(self) -> LLMEngine:
        assert self._llm is not None
        return self._llm
