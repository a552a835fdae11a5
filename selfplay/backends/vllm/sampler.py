"""The sampler of stage *sample* (and of *evaluate*): one vLLM engine that stays alive while its policy changes.

The only file that imports vllm (0.25.1 to 0.32), always inside functions and after `prepare_environment()`. Each request is
reproducible: it has its own seed, token ids in and out, and does not depend on the rest of the batch.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from selfplay.backends.policy_folder import PolicyFolder, check_finite, check_same_architecture, read_policy_folder
from selfplay.backends.vllm.canary import (
    MAX_TOP_LOGPS,
    TOLERANCES,
    CanaryVerdict,
    EngineToken,
    compare,
    differs,
    probes,
)
from selfplay.backends.vllm.engine_args import engine_arguments, key_problems, prepare_environment, resolve_dtype
from selfplay.backends.vllm.engine_stream import EngineStream, Request
from selfplay.backends.vllm.request_checks import check_requests, check_settings
from selfplay.core.errors import BackendError, ConfigError, WeightSyncError
from selfplay.core.protocols import Canary, SampleRequest, SamplingSettings, WeightSync
from selfplay.core.records import Response, schema
from selfplay.core.timing import part
from selfplay.inputs.models.chat import load_tokenizer
from selfplay.inputs.models.sizes import engine_overrides, load_config

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams
    from vllm.v1.engine.llm_engine import LLMEngine

_COLUMNS = ("prompt_id", "response_index", "seed", "token_ids", "num_tokens", "text", "finish_reason", "sampler_logp")
SAMPLE_SCHEMA = pa.schema([schema(Response).field(name) for name in _COLUMNS])
_SEEDS = 2**31


def check_engine_keys(engine: dict[str, Any]) -> list[str]:
    """The problems of the keys of `sampling.engine` for the installed vLLM, one message for each; empty if all are valid."""
    prepare_environment()
    from vllm.engine.arg_utils import EngineArgs

    return key_problems(engine, {field.name for field in dataclasses.fields(EngineArgs)})


class VllmSampler:
    """A `Sampler`. Its engine is built by the first `load_policy`; one object, and so one engine, a process. `sample` may be
    called from several threads at a time: their requests share the engine's batch.

    `engine`: arguments passed through to vLLM (`check_engine_keys`); `dtype`: "float32", "bfloat16" or "auto";
    `max_model_len`: longest prompt + response in tokens, None for the model's own.
    """

    def __init__(
        self,
        engine: dict[str, Any],
        dtype: str = "auto",
        max_model_len: int | None = None,
        seed: int = 0,
        trust_remote_code: bool = False,
    ) -> None:
        self._engine_keys = engine
        self._max_model_len = max_model_len
        self._seed = seed
        self._trust_remote_code = trust_remote_code
        prepare_environment()
        from vllm.platforms import current_platform

        self._on_cpu = current_platform.is_cpu()
        self._dtype = resolve_dtype(dtype, on_cpu=self._on_cpu)
        self._llm: LLM | None = None
        self._policy: PolicyFolder | None = None
        # the digest of the policy that is served, and how it was loaded
        self._served: tuple[str, WeightSync] | None = None
        # whether a change in the live engine is known to reach every part of it; set by the first change
        self._live_change_is_whole: bool | None = None
        self._tokenizer: Any = None
        self._stream = EngineStream(self._engine, self._drop_engine)

    def describe(self) -> dict[str, Any]:
        """Versions, device, dtype; max_model_len and max_num_seqs once there is an engine (null before); how full the engine was
        since the last call."""
        import torch
        import vllm
        from vllm.platforms import current_platform

        return {
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "device": current_platform.get_device_name(),
            "dtype": self._dtype,
            "max_model_len": self._llm.llm_engine.model_config.max_model_len if self._llm else None,
            "max_num_seqs": self._max_num_seqs() if self._llm else None,
            **dataclasses.asdict(self._stream.take_use()),
        }

    @part("loading")
    def load_policy(self, folder: str, digest: str, canaries: Sequence[Canary]) -> WeightSync:
        """Serve the policy in `folder`; if `digest` is served already, only report how it was loaded (0 seconds).

        Raises ModelError for a folder that cannot be served (the engine keeps serving what it served), and
        WeightSyncError when not even a fresh engine loads it or agrees with the canaries (nothing is served then).
        """
        return self._stream.call(self._load_policy, folder, digest, canaries)

    def _load_policy(self, folder: str, digest: str, canaries: Sequence[Canary]) -> WeightSync:
        started = time.perf_counter()
        if self._served is not None and self._served[0] == digest:
            return dataclasses.replace(self._served[1], seconds=0.0)
        policy = read_policy_folder(folder, trust_remote_code=self._trust_remote_code)
        if self._policy is not None:
            check_same_architecture(policy, self._policy)
        if not canaries:
            # the weights that canaries are of were checked by the trainer, and their files since then by digest
            check_finite(policy)

        how, reason, verdict = "loaded", "", None
        self._served = None
        if self._llm is not None and self._live_change_is_whole is False:
            how, reason = "rebuilt", "a change in the live engine leaves a part of it stale"
        elif self._llm is not None:
            how, reason, verdict = self._change_live(folder, canaries)
        if how != "reloaded":
            verdict = self._change_by_building(folder, canaries, reason)
        elif self._live_change_is_whole is None:
            how, reason, verdict = self._compare_with_fresh(folder, canaries)
        self._policy = policy
        change = WeightSync(
            how=how,
            seconds=round(time.perf_counter() - started, 3),
            canary_error=verdict.max_error if verdict else None,
            canary_positions=verdict.positions if verdict else 0,
            reason=reason,
        )
        self._served = (digest, change)
        return change

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> pa.Table:
        """Sample the responses that each request asks for; see `Sampler.sample` for the table.

        A response ends with the first of `stop_token_ids` (kept as its last token id, finish_reason "stop"; the model's
        own end token does not stop unless it is among them) or after `max_tokens` ("length"). `text` leaves out special
        tokens and the stop token. Raises ConfigError or DataError before anything is sampled, WorkerLostError when the
        engine fails (then load a policy again, better in another process).
        """
        if self._llm is None or self._served is None:
            raise BackendError("the sampler has no policy", "Call load_policy first.")
        check_settings(settings)
        try:
            _sampling_params(settings, 0)
        except _refusals() as error:
            raise ConfigError(f"vLLM rejects the sampling settings: {error}") from error
        model = self._llm.llm_engine.model_config
        vocab_size = model.get_vocab_size()
        check_requests(requests, settings.max_tokens, max_model_len=model.max_model_len, vocab_size=vocab_size)
        greedy = settings.temperature == 0
        jobs = [(r, i, (r.seed + i) % _SEEDS) for r in requests for i in r.indices(settings)]
        work = [(r.prompt_token_ids, _sampling_params(settings, None if greedy else seed)) for r, _, seed in jobs]
        completions = [output.outputs[0] for output in self._stream.generate(work)]
        outputs = [(list(found.token_ids), str(found.finish_reason)) for found in completions]
        odd = {reason for _, reason in outputs} - {"stop", "length"}
        if odd:
            raise BackendError(f"vLLM ended responses with {', '.join(sorted(odd))} instead of stop or length")
        token_ids = [ids for ids, _ in outputs]
        columns = [
            [request.prompt_id for request, _, _ in jobs],
            [index for _, index, _ in jobs],
            [seed for _, _, seed in jobs],
            token_ids,
            [len(ids) for ids in token_ids],
            [self._decode(ids[:-1] if reason == "stop" else ids) for ids, reason in outputs],
            [reason for _, reason in outputs],
            # vLLM adds up Python floats, which are float64; None where no log-probs were asked for
            [found.cumulative_logprob for found in completions],
        ]
        arrays = [pa.array(c, type=f.type) for c, f in zip(columns, SAMPLE_SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=SAMPLE_SCHEMA)

    # ---- weights

    def _change_live(self, folder: str, canaries: Sequence[Canary]) -> tuple[str, str, CanaryVerdict | None]:
        """New weights in the running engine: ("reloaded", "", verdict), or ("rebuilt", why it is needed, None)."""
        try:
            # With the old weights, so that the canary can only pass if the prefix cache is really emptied after it.
            self._continue_canaries(canaries)
            self._reload_weights(folder)
            self._repack_cpu_layers()
            self._reset_prefix_cache()
            verdict = self._check_canaries(canaries)
        # vLLM has no exception class for a failed change. The remedy is the same for all of them; the reason is recorded.
        except Exception as error:
            return "rebuilt", f"the live change failed: {type(error).__name__}: {error}", None
        if verdict is not None and verdict.miss:
            return "rebuilt", f"the canary failed after the live change: {verdict.miss}", None
        return "reloaded", "", verdict

    def _compare_with_fresh(self, folder: str, canaries: Sequence[Canary]) -> tuple[str, str, CanaryVerdict | None]:
        """After the first change that seems to have worked: build an engine on the same weights, which serves from here on,
        and compare the two. What the canary's tolerance hides (the experts of one layer, left as they were) shows here."""
        assert self._llm is not None
        model = self._llm.llm_engine.model_config
        prompts = canaries or probes(model.get_vocab_size(), model.max_model_len)
        live = self._continue_canaries(prompts)
        verdict = self._change_by_building(folder, canaries, "")
        miss = differs(live, self._continue_canaries(prompts), self._dtype)
        self._live_change_is_whole = not miss
        if miss:
            return "rebuilt", f"the live engine differs from a fresh one on the same weights: {miss}", verdict
        return "reloaded", "", verdict

    def _change_by_building(self, folder: str, canaries: Sequence[Canary], reason: str) -> CanaryVerdict | None:
        """A fresh engine on `folder`, checked with the canaries. Raises WeightSyncError (and leaves no engine)."""
        after = f" (rebuilt because {reason})" if reason else ""
        self._drop_engine()
        try:
            self._build(folder)
            verdict = self._check_canaries(canaries)
        except ConfigError:
            raise
        except Exception as error:  # vLLM's start raises many kinds of exceptions
            self._drop_engine()
            raise WeightSyncError(f"vLLM could not serve {folder}{after}: {type(error).__name__}: {error}") from error
        if verdict is not None and verdict.miss:
            self._drop_engine()
            raise WeightSyncError(
                f"a fresh engine on {folder} disagrees with the trainer{after}: {verdict.miss}",
                "Trainer and engine compute this model differently: compare dtype, attention and the model's code.",
            )
        return verdict

    def _build(self, folder: str) -> None:
        from vllm import LLM

        arguments = self._arguments(folder)
        self._tokenizer = load_tokenizer(folder, trust_remote_code=self._trust_remote_code)
        # vLLM collects garbage several times while it builds; what the libraries hold would be half of that time
        gc.freeze()
        self._llm = LLM(**arguments)

    def try_to_configure(self, folder: str) -> None:
        """Have vLLM check what it checks before it reads weights: its settings for the policy in `folder`, and its code of the
        architecture. Raises what vLLM raises, ImportError where its code needs a library that is not installed."""
        from vllm.engine.arg_utils import EngineArgs
        from vllm.model_executor.models import ModelRegistry

        arguments = self._arguments(folder)
        for name in load_config(folder, trust_remote_code=self._trust_remote_code).architectures or ():
            if name in ModelRegistry.models:
                # vLLM itself would only say that it cannot inspect the class
                ModelRegistry.models[name].load_model_cls()
        EngineArgs(**arguments).create_engine_config()

    def _arguments(self, folder: str) -> dict[str, Any]:
        config = load_config(folder, trust_remote_code=self._trust_remote_code)
        return engine_arguments(
            self._engine_keys,
            folder=folder,
            dtype=self._dtype,
            max_model_len=self._max_model_len,
            seed=self._seed,
            trust_remote_code=self._trust_remote_code,
            max_logprobs=MAX_TOP_LOGPS,
            composite=config.get_text_config() is not config,
            overrides=engine_overrides(config),
            cpu_config=config if self._on_cpu else None,
        )

    def _drop_engine(self) -> None:
        """Delete the engine before another is built: a second one breaks if the first is collected while it exists."""
        import torch

        self._llm = self._policy = self._served = None
        gc.collect()
        if not self._on_cpu:
            torch.cuda.empty_cache()

    def _reload_weights(self, folder: str) -> None:
        assert self._llm is not None
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})

    def _repack_cpu_layers(self) -> None:
        """On a CPU a tied output layer keeps a packed copy of the old embedding; pack it anew (a no-op on a GPU)."""
        assert self._llm is not None
        if self._on_cpu:
            self._llm.apply_model(_repack)

    def _reset_prefix_cache(self) -> None:
        assert self._llm is not None
        if not self._llm.reset_prefix_cache():  # it reports a failure only here, and raises nothing
            raise BackendError("vLLM did not reset its prefix cache")

    def _check_canaries(self, canaries: Sequence[Canary]) -> CanaryVerdict | None:
        """The verdict on what the engine serves now; None without canaries."""
        return compare(canaries, self._continue_canaries(canaries), TOLERANCES[self._dtype]) if canaries else None

    def _continue_canaries(self, canaries: Sequence[Canary]) -> list[list[EngineToken]]:
        """The engine's greedy continuations of the canaries' prompts, as long as the trainer's if there is room."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        assert self._llm is not None
        model = self._llm.llm_engine.model_config
        top = min(MAX_TOP_LOGPS, model.get_vocab_size())

        work: list[Request] = []
        for canary in canaries:
            room = model.max_model_len - len(canary.prompt_token_ids)
            params = SamplingParams(
                temperature=0.0,
                max_tokens=min(len(canary.positions), room),
                logprobs=top,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            work.append((canary.prompt_token_ids, params))
        completions = [output.outputs[0] for output in self._stream.generate_here(work)]
        return [
            [
                EngineToken(token_id, {i: entry.logprob for i, entry in seen.items()})
                for token_id, seen in zip(found.token_ids, found.logprobs, strict=True)
            ]
            for found in completions
        ]

    # ---- sampling

    def _engine(self) -> LLMEngine:
        assert self._llm is not None
        return self._llm.llm_engine

    def _max_num_seqs(self) -> int:
        assert self._llm is not None
        return int(self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs)

    def _decode(self, token_ids: list[int]) -> str:
        # By the tokenizer itself: the engine's own, incremental decoding differs between versions.
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _sampling_params(settings: SamplingSettings, seed: int | None) -> SamplingParams:
    """One response's sampling parameters, all of them explicit: nothing comes from the model's generation_config."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=1,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
        presence_penalty=settings.presence_penalty,
        frequency_penalty=settings.frequency_penalty,
        max_tokens=settings.max_tokens,
        seed=seed,
        stop_token_ids=list(settings.stop_token_ids),
        # The sampled token's alone. The engine is set to raw log-probs: the model's own, before temperature and penalties.
        logprobs=0 if settings.logprobs else None,
        flat_logprobs=True,
        # Else vLLM adds the tokenizer's and the generation_config's end tokens to the stop ids that are recorded.
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _refusals() -> tuple[type[Exception], ...]:
    """The exceptions of vLLM for an invalid sampling parameter: its own since 0.26 or later, ValueError before."""
    from vllm.exceptions import VLLMValidationError

    return (ValueError, VLLMValidationError)


def _repack(model: Any) -> int:
    """Runs inside the worker, on vLLM's model: give each packed CPU layer that kept its weight a new packed copy."""
    packed = [m for m in model.modules() if hasattr(m, "cpu_linear") and m.weight.numel()]
    for layer in packed:
        layer.quant_method.process_weights_after_loading(layer)
    return len(packed)
