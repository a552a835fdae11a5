"""The description of a config in the front matter of a dataset card.

`datasets` caches what it loads from a local folder by the folder's name and the parameters of the config, not by the data. Two
folders of one name, or one folder that was made again, would be served from each other's cache. The description is one of
these parameters, so it holds a digest of the files.
"""

from __future__ import annotations

from selfplay.store.result_folder import ResultWriter


def content_identity(writer: ResultWriter, *folders: str) -> str:
    """The description of the config whose data are in these folders. Example: "content sha256 5d41402abc4b2a76..."."""
    return f"content sha256 {writer.digest(*folders)}"
