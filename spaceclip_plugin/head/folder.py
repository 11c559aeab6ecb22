"""The two files of a head, config.json and model.safetensors: where they are, and writing them whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from safetensors import SafetensorError
from torch import Tensor

from spaceclip_plugin import __version__
from spaceclip_plugin._checks import shown, text
from spaceclip_plugin._files import atomic_path, read_json_object, write_json
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.head.embedded import catalogue
from spaceclip_plugin.head.weights import is_written_here, writable, write_weights
from spaceclip_plugin.hub import HubFiles, HubOptions
from spaceclip_plugin.hub.client import LIBRARY_NAME, is_repository_id
from spaceclip_plugin.hub.download import check_bytes
from spaceclip_plugin.hub.push import HeldFiles

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
MAX_CONFIG_BYTES = 1 << 16
# Config fields that may be corrected by hand in a saved head: no weight depends on them.
DESCRIPTIVE_FIELDS = frozenset({"base_model", "base_model_revision", "trained_on", "depth_range_m"})
_VERSION_KEY = "plugin_version"
# What `spaceclip train` calls its record, its head, and its best head before it is finished.
_RUN_RECORD, _RUN_HEAD, _RUN_BEST = "run.json", "head", "best"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalFiles:
    """A head's files in a folder; they are fetched as those of a repository are (`HubFiles`)."""

    folder: Path
    commit: ClassVar[None] = None  # a folder has no versions

    @property
    def source(self) -> str:
        """The folder, for messages."""
        return repr(str(self.folder))

    def fetch(self, name: str, *, max_bytes: int | None = None) -> Path:
        """Path of one of the two files."""
        path = self.folder / name
        try:
            found = os.path.getsize(path)
        except OSError as error:
            raise CheckpointError(
                f"cannot read {str(path)!r} ({error.strerror}); save or download the head again"
            ) from error
        if max_bytes is not None:
            check_bytes(found, max_bytes, source=repr(str(path)))
        return path


def find_files(repo_or_folder: str | Path, options: HubOptions) -> LocalFiles | HubFiles:
    """Where a head's files are: in the package ("embedded:NAME"), in a folder if there is one of that name (that of a
    finished run means the head in it), else in a repository of the Hub; a `Path` always means a folder."""
    if repo_or_folder == "":
        raise ConfigError("the name of a head is empty; give a folder, or the id of a Hub repository (org/name)")
    if isinstance(repo_or_folder, str) and is_repository_id(repo_or_folder) and not os.path.isdir(repo_or_folder):
        return HubFiles(repo_or_folder, options)
    embedded = catalogue.is_embedded(repo_or_folder)
    if options.revision is not None:
        kind = "a head of this package" if embedded else "a folder"
        raise ConfigError(
            f"revision={options.revision!r} is for repositories of the Hub, {str(repo_or_folder)!r} is {kind}"
        )
    folder = catalogue.folder_of(str(repo_or_folder)) if embedded else Path(repo_or_folder)
    if not os.path.isdir(folder):  # not Path.is_dir(), which raises on a name too long for the disk
        raise CheckpointError(
            f"no head at {str(folder)!r}: expected a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, as "
            "DepthHead.save_pretrained or `spaceclip train` writes it, or the id of a Hub repository (org/name)"
        )
    if os.path.isfile(folder / _RUN_RECORD) and not os.path.isfile(folder / CONFIG_NAME):
        folder = _head_of_run(folder)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not os.path.isfile(folder / name):
            raise CheckpointError(f"{str(folder)!r} is not a head: {name} is missing; save or download it again")
    return LocalFiles(folder)


def _head_of_run(run: Path) -> Path:
    head = run / _RUN_HEAD
    if not os.path.isdir(head):
        raise CheckpointError(
            f"{str(run)!r} is the folder of a training run that is not finished, and has no {_RUN_HEAD} yet: continue "
            f"it with --resume; its best head so far is in {str(run / _RUN_BEST)!r}"
        )
    _logger.info("%r is the folder of a training run; its head is read: %s", str(run), head)
    return head


def write_folder(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Path:
    """Write a head to `folder`, made if absent, over an older head but no other model; returns the folder.
    On an error what was there before stays as it was."""
    tensors = writable(state)
    check_replaceable(folder, read_config, kind="a depth head")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Both are on the disk before the weights, first, and the config are renamed; `check_pair` notices half a save.
        with atomic_path(folder / CONFIG_NAME) as config_file:
            write_json(config_file, {_VERSION_KEY: __version__, **config})
            with atomic_path(folder / WEIGHTS_NAME) as weights_file:
                write_weights(weights_file, tensors, config)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"cannot write a head to {str(folder)!r}: {error}") from error
    return folder


def check_replaceable(folder: Path, read: Callable[[Path], object], *, kind: str) -> None:
    """Refuse to write a config and weights over those of another library's model, which have the same names.
    `read` raises CheckpointError or ConfigError for a config that is not of this `kind`."""
    config_file, weights_file = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    foreign = weights_file if _is_there(weights_file) and not is_written_here(weights_file) else None
    if _is_there(config_file) and not _is_readable(read, config_file):
        foreign = config_file
    if foreign is not None:
        raise CheckpointError(
            f"{str(foreign)!r} is not {kind}'s, and is not replaced by one: nothing was written; choose another "
            "folder, or move that model away"
        )


def check_replaceable_on_hub(repo: str, held: HeldFiles) -> None:
    """Raise CheckpointError where a repository holds a model that is no depth head."""
    config_file = held.fetch(CONFIG_NAME)
    if config_file is None:
        foreign = WEIGHTS_NAME if held.has(WEIGHTS_NAME) else None
    else:
        foreign = None if _is_readable(read_config, config_file) else CONFIG_NAME
    if foreign is not None:
        raise CheckpointError(
            f"{repo!r} holds a {foreign} that is not a depth head's, and it is not replaced by one: nothing was "
            "pushed; choose another repository, or propose the head with create_pr (--create-pr)"
        )


def _is_there(file: Path) -> bool:
    return os.path.lexists(file) and not os.path.isdir(file)  # a folder is refused by whoever writes the file


def _is_readable(read: Callable[[Path], object], file: Path) -> bool:
    try:
        read(file)
    except (CheckpointError, ConfigError):
        return False
    return True


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """The config in a file that may come from anywhere, and the version of the package that wrote it."""
    config = read_json_object(path, max_bytes=MAX_CONFIG_BYTES)
    if "format_version" not in config:
        raise CheckpointError(f"{str(path)!r}: there is no format_version: this is not the config of a depth head")
    if _VERSION_KEY not in config:
        raise CheckpointError(
            f"{str(path)!r} does not say which {LIBRARY_NAME} wrote it ({_VERSION_KEY!r} is missing): it was edited, "
            "or is older than the first released format; save the head again"
        )
    try:
        return config, text(_VERSION_KEY, config.pop(_VERSION_KEY), max_length=64)
    except ConfigError as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from error


def check_pair(source: str, config: Mapping[str, Any], saved_with: Mapping[str, Any]) -> None:
    """Check that config.json is the one the weights were saved with, `DESCRIPTIVE_FIELDS` aside.
    Weights of other taps, or of another tower of the same width, load and give a wrong depth."""
    ours, theirs = _flat(config), _flat(saved_with)
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in DESCRIPTIVE_FIELDS and ours.get(key) != theirs.get(key):
            name = key if key in ours else shown(key)  # what the weights carry may have any name
            raise CheckpointError(
                f"{source} holds two halves: {CONFIG_NAME} says {name} is {shown(ours.get(key))}, {WEIGHTS_NAME} "
                f"was saved with {shown(theirs.get(key))}. A save was interrupted, or {CONFIG_NAME} was edited; "
                "save or download the head again"
            )


def _flat(config: Mapping[str, Any]) -> dict[str, object]:
    """The fields of a config, those of its options among them as `options.NAME`."""
    options = config.get("options")
    nested = options if isinstance(options, dict) else {}
    return {**{k: v for k, v in config.items() if k != "options"}, **{f"options.{k}": v for k, v in nested.items()}}
