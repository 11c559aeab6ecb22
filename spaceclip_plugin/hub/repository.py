"""Heads in repositories of the Hugging Face Hub: fetched file by file from one commit, pushed in one commit."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spaceclip_plugin import __version__
from spaceclip_plugin._checks import shown
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.head import folder as head_folder
from spaceclip_plugin.head.folder import CONFIG_NAME, LIBRARY_NAME, WEIGHTS_NAME, LocalFolder, check_bytes
from spaceclip_plugin.hub.client_errors import client_errors, reason

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

_REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass
class HubRepository:
    """A head's files on the Hub, fetched when asked for; both come from the same commit.

    Attributes:
        repo: id of the repository, "org/name".
        revision: branch, tag or commit; None: main.
        cache_dir, token, local_files_only, force_download: as in huggingface_hub.
    """

    repo: str
    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False
    _commit: str | None = field(default=None, init=False)

    @property
    def commit(self) -> str | None:
        """The commit that `revision` means, or `revision` itself while that is not known."""
        return self._commit or self.revision

    @property
    def source(self) -> str:
        """The repository and its version, for messages."""
        version = self._commit[:12] if self._commit else self.revision
        return f"{self.repo!r}" + (f" at {version}" if version else "")

    def config_file(self) -> Path:
        """Path of config.json in the cache; which commit `revision` means is known from here on.

        Raises:
            CheckpointError: the Hub has no such file, or cannot be asked and the cache has none.
        """
        path = self._fetch(CONFIG_NAME, self.revision)
        # …/snapshots/COMMIT/config.json: the branch may move on before the weights are fetched.
        if _COMMIT.fullmatch(path.parent.name):
            self._commit = path.parent.name
        return path

    def weights_file(self, most_bytes: int) -> Path:
        """Path of model.safetensors in the cache.

        Raises:
            CheckpointError: as for `config_file`; or the file is larger than the weights of its config can be, which
                is found out before it is downloaded.
        """
        version = self.commit
        if not self.local_files_only:
            check_bytes(self._remote_bytes(version), most_bytes, source=f"{WEIGHTS_NAME} of {self.source}")
        path = self._fetch(WEIGHTS_NAME, version)
        check_bytes(os.path.getsize(path), most_bytes, source=repr(str(path)))
        return path

    def _fetch(self, name: str, version: str | None) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(
            self._asked(
                name,
                lambda: hf_hub_download(
                    self.repo,
                    name,
                    revision=version,
                    cache_dir=self.cache_dir,
                    token=self.token,
                    local_files_only=self.local_files_only,
                    force_download=self.force_download,
                    library_name=LIBRARY_NAME,
                    library_version=__version__,
                ),
            )
        )

    def _remote_bytes(self, version: str | None) -> int:
        """Size of the weights on the Hub; 0 where there is nothing to download or nobody to ask."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo, WEIGHTS_NAME, cache_dir=self.cache_dir, revision=version)
        if isinstance(cached, str) and not self.force_download:
            return 0
        url = hf_hub_url(self.repo, WEIGHTS_NAME, revision=version)
        metadata = self._asked(
            WEIGHTS_NAME,
            lambda: get_hf_file_metadata(url, token=self.token, library_name=LIBRARY_NAME, library_version=__version__),
        )
        if metadata.size is None:
            raise CheckpointError(
                f"{WEIGHTS_NAME} of {self.source} is not downloaded: the server does not say how large it is; ask the "
                "Hub itself (HF_ENDPOINT), or download the two files to a folder"
            )
        return metadata.size

    def _asked(self, name: str, question: Callable[[], T]) -> T:
        """The Hub's answer, or what went wrong, in our words."""
        try:
            return question()
        except client_errors() as error:
            raise CheckpointError(
                f"there is no folder {self.repo!r}, and {name} of {self.source} cannot be had from the Hub: "
                f"{reason(error)} Check the id, the revision and your access (token=, or `hf auth login`); offline, "
                "a head that was loaded once is read from the cache"
            ) from error


def locate(
    repo_or_folder: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> LocalFolder | HubRepository:
    """Where a head's files are: a folder if there is one of that name, else a repository of the Hub.

    A `Path`, and a string that cannot be a repository's id, always mean a folder.

    Raises:
        ConfigError: an empty name, or a revision of a folder.
    """
    if repo_or_folder == "":
        raise ConfigError("the name of a head is empty; give a folder, or the id of a Hub repository (org/name)")
    is_id = isinstance(repo_or_folder, str) and _REPOSITORY_ID.fullmatch(repo_or_folder) is not None
    if is_id and not os.path.isdir(repo_or_folder):
        return HubRepository(str(repo_or_folder), revision, cache_dir, token, local_files_only, force_download)
    if revision is not None:
        raise ConfigError(f"revision={revision!r} is for repositories of the Hub, {str(repo_or_folder)!r} is a folder")
    return LocalFolder(Path(repo_or_folder))


def _check_replaceable(api: HfApi, repo: str, revision: str | None) -> None:
    """Raise CheckpointError where the repository holds a model that is no depth head."""
    from huggingface_hub.utils import EntryNotFoundError

    with tempfile.TemporaryDirectory() as downloads:
        try:
            config_file = Path(api.hf_hub_download(repo, CONFIG_NAME, revision=revision, local_dir=downloads))
        except EntryNotFoundError:
            found = WEIGHTS_NAME if api.file_exists(repo, WEIGHTS_NAME, revision=revision) else None
        else:
            try:
                head_folder.read_config(config_file)
                found = None
            except CheckpointError:
                found = CONFIG_NAME
    if found is not None:
        raise CheckpointError(
            f"{repo!r} holds a {found} that is not a depth head's, and it is not replaced by one: nothing was pushed; "
            "choose another repository, or propose the head with create_pr (--create-pr)"
        )


def push(
    repo: str,
    files: Mapping[str, Path],
    *,
    commit_message: str,
    private: bool | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Put files into a repository, made if absent, in one commit: nobody ever sees half of them.

    A head that is there is replaced, and the card; earlier commits keep them. Another model is not, except as a
    proposal (`create_pr`).

    Args:
        repo: "org/name".
        files: what to put where in the repository.
        commit_message: its first line.
        private: of a repository that is made now.
        create_pr: propose the commit as a pull request.
        revision: branch to commit to; None: main.
        token: with the right to write; None: that of `hf auth login`.

    Returns:
        Address of the commit, or of the pull request.

    Raises:
        ConfigError: that is not the id of a repository.
        CheckpointError: the repository holds another model, or the Hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_id(repo)
    api = HfApi(token=token, library_name=LIBRARY_NAME, library_version=__version__)
    try:
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
        # Old clients send None on, which is no answer to whether it is private.
        visibility: dict[str, Any] = {} if private is None else {"private": private}
        api.create_repo(repo, exist_ok=True, **visibility)
        if not create_pr:
            _check_replaceable(api, repo, revision)
        commit = api.create_commit(
            repo, operations, commit_message=commit_message, revision=revision, create_pr=create_pr
        )
    except client_errors() as error:
        raise CheckpointError(
            f"cannot push a head to {repo!r}: {reason(error)} Check the id and that your token may write there "
            "(token=, or `hf auth login`)"
        ) from error
    return str(commit.pr_url or commit.commit_url)


def check_id(repo: object) -> None:
    """Raise ConfigError unless `repo` is the id of a repository, "org/name"."""
    if not isinstance(repo, str) or _REPOSITORY_ID.fullmatch(repo) is None:
        raise ConfigError(f"a repository's id is 'org/name', got {shown(repo)}")
