"""Imports the libraries of an engine in a worker that has no model yet."""

from __future__ import annotations

from selfplay.backends.vllm.engine_args import prepare_environment


def import_engine() -> None:
    """Import vLLM. Call it before anything else imports it."""
    prepare_environment()
    from vllm import LLM  # noqa: F401
