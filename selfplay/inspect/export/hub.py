"""Uploading an export to the Hugging Face hub: a dataset repository, and a model repository for each exported policy.

Private unless asked otherwise. The token is the one that huggingface_hub finds by itself (HF_TOKEN, or a login); it is never
read here. huggingface_hub is imported inside the functions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from selfplay.core.errors import ConfigError, SelfplayError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# what only this project reads, and what belongs to the model repositories
_NOT_IN_DATASET = ["policies/*", ".work/*", ".COMMIT.json"]


def repository_name(text: str) -> str:
    """`org/name`. Raises ConfigError for anything else."""
    if not _NAME.fullmatch(text):
        raise ConfigError(f"hf://{text} names no repository", "Write hf://ORG/NAME.")
    return text


def upload(folder: Path, repository: str, policies: Sequence[str], public: bool) -> list[str]:
    """Create the repositories where they are missing, and upload; returns their names. A repository that is there keeps its
    visibility. Raises SelfplayError with what the hub said."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    done = []
    try:
        api.create_repo(repository, repo_type="dataset", private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repository, repo_type="dataset", folder_path=folder, ignore_patterns=_NOT_IN_DATASET,
            delete_patterns=["round_*/*"], commit_message="selfplay export",
        )  # fmt: skip
        done.append(f"datasets/{repository}")
        for name in policies:
            model = f"{repository}-{name.replace('_', '-')}"
            api.create_repo(model, repo_type="model", private=not public, exist_ok=True)
            api.upload_folder(
                repo_id=model,
                repo_type="model",
                folder_path=folder / "policies" / name,
                commit_message="selfplay export",
            )
            done.append(model)
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        said = f" ({', '.join(done)} are uploaded)" if done else ""
        raise SelfplayError(
            f"the hub refused {repository}: {str(error).strip().splitlines()[0]}{said}",
            "Check the network, and that HF_TOKEN (or `hf auth login`) has write access to that name. The same "
            "command uploads what is missing. `--to DIR` exports to a folder.",
        ) from error
    return done
