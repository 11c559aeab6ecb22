"""Files of hosts from the Hub: from its cache where they lie there, else downloaded, and never anything but data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spaceclip_plugin import __version__
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.hub.client import LIBRARY_NAME, client_errors, reason

_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file in the Hub's cache.

    Attributes:
        repo: the repository it is of.
        path: where it lies.
        commit: the commit it belongs to; None where the cache does not say.
    """

    repo: str
    path: Path
    commit: str | None


class NotInRepositoryError(HostError):
    """The repository is there, and none of the files is in it."""


def fetch(repo: str, names: Sequence[str], *, revision: str | None = None, remedies: str) -> HubFile:
    """The first of several files that a repository has. HF_HUB_OFFLINE, HF_ENDPOINT, HF_HOME and tokens count.

    Args:
        repo: id of the repository, "org/name".
        names: paths in it, the preferred one first.
        revision: branch, tag or commit; None: main.
        remedies: what to do where it cannot be had, as whole sentences.

    Raises:
        NotInRepositoryError: the repository has none of them.
        HostError: the Hub refuses, or cannot be asked and the cache has none.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    unreachable: BaseException | None = None
    for name in names:
        try:
            found = hf_hub_download(
                repo, name, revision=revision, library_name=LIBRARY_NAME, library_version=__version__
            )
        except LocalEntryNotFoundError as error:  # no network, and not in the cache; another name may be
            unreachable = error
        except EntryNotFoundError:
            continue
        except client_errors() as error:
            raise HostError(f"{name} of {repo!r} cannot be had from the Hub: {reason(error)} {remedies}") from error
        else:
            path = Path(found)
            # …/snapshots/COMMIT/name
            commit = next((part for part in reversed(path.parts[:-1]) if _COMMIT.fullmatch(part)), None)
            return HubFile(repo, path, commit)
    listed = " or ".join(names)
    if unreachable is not None:
        raise HostError(
            f"{listed} of {repo!r} is not in the Hub's cache, and the Hub cannot be asked (no network, or offline "
            f"mode): {reason(unreachable)} {remedies}"
        ) from unreachable
    raise NotInRepositoryError(f"the repository {repo!r} has no {listed}. {remedies}")


def safe_names(filename: str | None, default: str) -> list[str]:
    """The safetensors files that may stand beside a file of weights, the likeliest first.

    Args:
        filename: what a library would download; None: what it usually does.
        default: the safetensors file it would rather take.
    """
    if filename is None or filename.endswith(".safetensors"):
        return [filename or default]
    stem = filename.rsplit(".", 1)[0]
    usual = {"pytorch_model": "model", "open_clip_pytorch_model": "open_clip_model"}
    names = [usual[stem]] if stem in usual else []
    return list(dict.fromkeys(f"{name}.safetensors" for name in [*names, stem]))
