"""Files to a repository of the Hugging Face Hub, in one commit: nobody ever sees half of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaceclip_plugin import __version__
from spaceclip_plugin.errors import CheckpointError
from spaceclip_plugin.hub.client import LIBRARY_NAME, check_repository_id, client_errors, reason

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """How files go to the Hub.

    Attributes:
        commit_message: first line of the commit's message.
        private: whether a repository that is made now is private.
        create_pr: propose the commit as a pull request.
        revision: branch to commit to; None: main.
        token: with the right to write; None: that of `hf auth login`.

    Example:
        >>> PushOptions(commit_message="Depth head", create_pr=True).create_pr
        True
    """

    commit_message: str
    private: bool | None = None
    create_pr: bool = False
    revision: str | None = None
    token: str | bool | None = None


@dataclass(frozen=True)
class HeldFiles:
    """What a repository holds before a push, for whoever decides whether it may be replaced."""

    _api: HfApi
    _repo: str
    _revision: str | None
    _downloads: str

    def fetch(self, name: str) -> Path | None:
        """A file of the repository, in a folder that lasts as long as the push; None where there is none."""
        from huggingface_hub.utils import EntryNotFoundError

        try:
            found = self._api.hf_hub_download(self._repo, name, revision=self._revision, local_dir=self._downloads)
        except EntryNotFoundError:
            return None
        return Path(found)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self._api.file_exists(self._repo, name, revision=self._revision)


def push_files(
    repo: str, files: Mapping[str, Path], options: PushOptions, *, check: Callable[[HeldFiles], None] | None = None
) -> str:
    """Put files into a repository, made if absent, in one commit; earlier commits keep what is replaced.

    Args:
        repo: "org/name".
        files: what to put where in the repository.
        options: how.
        check: called before anything is replaced; an error that it raises ends the push. A proposal (`create_pr`)
            replaces nothing.

    Returns:
        Address of the commit, or of the pull request.

    Raises:
        ConfigError: that is not the id of a repository.
        CheckpointError: the Hub refuses or cannot be reached.

    Example:
        >>> push_files("not an id", {}, PushOptions(commit_message="a head"))
        Traceback (most recent call last):
        spaceclip_plugin.errors.ConfigError: a repository's id is 'org/name', got 'not an id'
    """
    check_repository_id(repo)
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=options.token, library_name=LIBRARY_NAME, library_version=__version__)
    try:
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
        # Old clients send None on, which is no answer to whether it is private.
        visibility: dict[str, Any] = {} if options.private is None else {"private": options.private}
        api.create_repo(repo, exist_ok=True, **visibility)
        if check is not None and not options.create_pr:
            with tempfile.TemporaryDirectory() as downloads:
                check(HeldFiles(api, repo, options.revision, downloads))
        commit = api.create_commit(
            repo,
            operations,
            commit_message=options.commit_message,
            revision=options.revision,
            create_pr=options.create_pr,
        )
    except CheckpointError:  # what `check` says; our errors are ValueErrors, as some of the client's are
        raise
    except client_errors() as error:
        raise CheckpointError(
            f"cannot push to {repo!r}: {reason(error)} Check the id and that your token may write there (token=, or "
            "`hf auth login`)"
        ) from error
    return str(commit.pr_url or commit.commit_url)
