"""A graft's one file in a folder or a repository of the Hugging Face Hub, and the page that travels with it."""

from __future__ import annotations

import os
from pathlib import Path

from spaceclip_plugin import __version__
from spaceclip_plugin._tensor_files import NotedTensors
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.graft.config import GraftConfig
from spaceclip_plugin.head.model_card import CardDetails, licence, plain
from spaceclip_plugin.hub import HubFiles, HubOptions
from spaceclip_plugin.hub.client import LIBRARY_NAME, is_repository_id
from spaceclip_plugin.hub.push import HeldFiles

FILE_NAME = "graft.safetensors"
GRAFT_FILE = NotedTensors(entry="spaceclip-graft", keys=("sha256", "config"), max_header_bytes=1 << 20)

# The widest policies' grafts have some hundred megabytes; more is not downloaded to be looked at.
_MAX_BYTES = 1 << 30
_OTHER_MODELS = ("config.json", "model.safetensors")


def find_file(repo_or_folder: str | Path, options: HubOptions) -> Path:
    """The file in a folder if there is one of that name, else that of a repository, downloaded if need be.

    Raises:
        CheckpointError: the repository or its file cannot be read.
        ConfigError: an empty name, or a revision of a folder.
    """
    if repo_or_folder == "":
        raise ConfigError("the name of a graft is empty; give a folder, or the id of a Hub repository (org/name)")
    if isinstance(repo_or_folder, str) and is_repository_id(repo_or_folder) and not os.path.isdir(repo_or_folder):
        return HubFiles(repo_or_folder, options).fetch(FILE_NAME, max_bytes=_MAX_BYTES)
    if options.revision is not None:
        raise ConfigError(
            f"revision={options.revision!r} is for repositories of the Hub, {str(repo_or_folder)!r} is a folder"
        )
    return Path(repo_or_folder, FILE_NAME)


def check_replaceable(repo: str, held: HeldFiles) -> None:
    """Raise CheckpointError where a repository holds something else than a graft, which its page would replace."""
    foreign = next((name for name in _OTHER_MODELS if held.has(name)), None)
    file = held.fetch(FILE_NAME)
    if file is not None:
        try:
            GRAFT_FILE.read_header(file)
        except CheckpointError:
            foreign = FILE_NAME
    if foreign is not None:
        raise CheckpointError(
            f"{repo!r} holds a {foreign} that is not a graft's, and neither it nor its page is replaced: nothing was "
            "pushed; choose another repository, or propose the graft with create_pr=True"
        )


def card(repo: str, config: GraftConfig, parameters: int, details: CardDetails) -> str:
    """The page of a graft: metadata for the Hub, then Markdown.

    Raises:
        ConfigError: details that are a head's alone.
    """
    from huggingface_hub import ModelCardData

    if details.record is not None or details.picture is not None:
        raise ConfigError(
            "record and picture are of a head's run; a graft's card takes license, data_license, datasets"
        )
    metadata = ModelCardData(
        library_name=LIBRARY_NAME,
        license=details.license,
        tags=["robotics", "depth", "spaceclip", "graft"],
        datasets=list(details.datasets) or None,
    )
    calls = ", ".join(f'"{plain(name)}"' for name in config.cameras)
    known = "" if config.tower_fingerprint is None else ", and its tower's are compared too"
    return f"""---
{str(metadata.to_yaml()).strip()}
---

# {plain(repo.split("/")[-1])}

A depth graft of {LIBRARY_NAME} {__version__}: blocks of a frozen policy's action expert read the depth that a \
head takes from the policy's own vision tower. Neither policy nor head is part of it.

**How the policy acts with it and without it is not told here.** Compare both in your own world before you use it.

## Use it

```python
from spaceclip_plugin import attach_depth_head  # pip install spaceclip-plugin
from spaceclip_plugin.graft import DepthGraft

depth = attach_depth_head(policy, head, cameras=…)  # by name: {calls}
with DepthGraft.from_pretrained("{repo}").attach(policy, depth):
    policy.select_action(observation)
```

## What it is

| | |
|---|---|
| blocks it adds to | {", ".join(f"`{plain(name)}`" for name in config.blocks)} |
| cameras | {", ".join(f"`{plain(name)}`" for name in config.cameras)} |
| places | `{config.frame}` |
| channels of a token | {config.width} |
| parameters | {parameters:,} |

It is for one policy and one head: attaching compares the weights of the head and of the blocks\
{known}, and refuses others.

{licence(details)}
"""
