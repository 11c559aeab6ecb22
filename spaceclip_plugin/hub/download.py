"""Named files of a repository on the Hugging Face Hub, all from one commit."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from spaceclip_plugin import __version__
from spaceclip_plugin.errors import CheckpointError
from spaceclip_plugin.hub.client import LIBRARY_NAME, check_repository_id, client_errors, reason

T = TypeVar("T")

_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """How files come from the Hub; each as in huggingface_hub.

    Attributes:
        revision: branch, tag or commit; None: main.
        cache_dir: where downloads are kept; None: where huggingface_hub keeps all of them.
        token: for private repositories; None: that of `hf auth login`.
        local_files_only: read the cache and ask nobody.
        force_download: download even what is in the cache.

    Example:
        >>> HubOptions(revision="v1").local_files_only
        False
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False


@dataclass
class HubFiles:
    """Files of one repository. What the first one fetched is of, is the commit of all others too.

    Attributes:
        repo: id of the repository, "org/name".
        options: which version, and how it comes here.

    Raises:
        ConfigError: that is not the id of a repository.

    Example:
        >>> files = HubFiles("org/name", HubOptions(revision="main"))
        >>> files.source, files.commit
        ("'org/name' at main", 'main')
    """

    repo: str
    options: HubOptions = field(default_factory=HubOptions)
    _commit: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_repository_id(self.repo)

    @property
    def commit(self) -> str | None:
        """The commit that the revision means, or the revision itself while that is not known."""
        return self._commit or self.options.revision

    @property
    def source(self) -> str:
        """The repository and its version, for messages."""
        version = self._commit[:12] if self._commit else self.options.revision
        return f"{self.repo!r}" + (f" at {version}" if version else "")

    def fetch(self, name: str, *, max_bytes: int | None = None) -> Path:
        """Path of a file in the cache, downloaded if it is not there.

        Args:
            name: of the file in the repository.
            max_bytes: a larger one is refused before it is downloaded.

        Raises:
            CheckpointError: the Hub has no such file, or cannot be asked and the cache has none; or it is too large.
        """
        from huggingface_hub import hf_hub_download

        if max_bytes is not None and not self.options.local_files_only:
            check_bytes(self._remote_bytes(name), max_bytes, source=f"{name} of {self.source}")
        path = Path(
            self._asked(
                name,
                lambda: hf_hub_download(
                    self.repo,
                    name,
                    revision=self.commit,
                    cache_dir=self.options.cache_dir,
                    token=self.options.token,
                    local_files_only=self.options.local_files_only,
                    force_download=self.options.force_download,
                    library_name=LIBRARY_NAME,
                    library_version=__version__,
                ),
            )
        )
        if max_bytes is not None:
            check_bytes(os.path.getsize(path), max_bytes, source=repr(str(path)))
        # …/snapshots/COMMIT/NAME: the branch may move on before the next file is fetched.
        if self._commit is None and _COMMIT.fullmatch(path.parent.name):
            self._commit = path.parent.name
        return path

    def _remote_bytes(self, name: str) -> int:
        """Size of a file on the Hub; 0 where it is in the cache and will not be downloaded."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo, name, cache_dir=self.options.cache_dir, revision=self.commit)
        if isinstance(cached, str) and not self.options.force_download:
            return 0
        url = hf_hub_url(self.repo, name, revision=self.commit)
        metadata = self._asked(
            name,
            lambda: get_hf_file_metadata(
                url, token=self.options.token, library_name=LIBRARY_NAME, library_version=__version__
            ),
        )
        if metadata.size is None:
            raise CheckpointError(
                f"{name} of {self.source} is not downloaded: the server does not say how large it is; ask the Hub "
                "itself (HF_ENDPOINT), or download the files to a folder"
            )
        return metadata.size

    def _asked(self, name: str, question: Callable[[], T]) -> T:
        """The Hub's answer, or what went wrong, in our words."""
        try:
            return question()
        except client_errors() as error:
            raise CheckpointError(
                f"there is no folder {self.repo!r}, and {name} of {self.source} cannot be downloaded from the Hub: "
                f"{reason(error)} Check the id, the revision and your access (token=, or `hf auth login`); offline, "
                "what was downloaded once is read from the cache"
            ) from error


def check_bytes(found: int, max_bytes: int, *, source: str) -> None:
    """Raise CheckpointError where a file has more bytes than those that come with it call for."""
    if found > max_bytes:
        raise CheckpointError(
            f"{source} has {found} bytes, at most {max_bytes} belong to the files beside it; choose another version, "
            "or save or download them again"
        )
