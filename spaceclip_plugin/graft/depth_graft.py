"""`DepthGraft`: the part that learns, from a policy or a folder."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from spaceclip_plugin._checks import real
from spaceclip_plugin._files import atomic_path, parse_json_object
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.attach.featured_read import live_tower
from spaceclip_plugin.attach.tower_match import OTHER, fingerprint_of, match_tower
from spaceclip_plugin.errors import CheckpointError, ConfigError, HeadMismatchError, HostError
from spaceclip_plugin.graft import published
from spaceclip_plugin.graft.bank import Bank
from spaceclip_plugin.graft.blocks import chosen_blocks, modules_of, rounded_digest, widths_of
from spaceclip_plugin.graft.config import CAMERA, GraftConfig
from spaceclip_plugin.graft.layers import BankEncoder, GraftLayer
from spaceclip_plugin.graft.live import LiveGraft
from spaceclip_plugin.graft.published import FILE_NAME, GRAFT_FILE
from spaceclip_plugin.head.model_card import CARD_NAME, CardDetails
from spaceclip_plugin.head.weights import check_kinds, check_size, matched_state, writable
from spaceclip_plugin.hub import HubOptions, PushOptions, push_files
from spaceclip_plugin.hub.client import check_repository_id

OPENING = 10.0
"""How many times the learning rate of the rest the matrices have that start at zero, if nothing else is said."""


class DepthGraft(nn.Module):
    """Lets the blocks of a frozen policy read the depth of its own tower, and learns to.

    A fresh one changes no bit of what the policy does. The guide tells what trained
    ones were measured to do: no gain is shown beyond the spread of seeds.

    Attributes:
        config: what it is, and the host and head it was made for.

    Example:
        A small random policy, whose only block of an expert never looks at what the tower saw:

        >>> from timm.models import VisionTransformer
        >>> from torch import nn
        >>> from spaceclip_plugin import Intrinsics, attach_depth_head
        >>> tower = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2)
        >>> expert = nn.ModuleList([nn.ModuleDict({"mlp": nn.Linear(16, 16)})])
        >>> policy = nn.ModuleDict({"tower": tower, "expert": expert}).eval().requires_grad_(False)
        >>> image, actions = torch.rand(1, 3, 32, 32), torch.rand(1, 5, 16)
        >>> depth = attach_depth_head(policy, cameras={"front": Intrinsics(32.0, 32.0, 16.0, 16.0, (32, 32))})
        >>> graft = DepthGraft.for_policy(policy, depth)
        >>> plain = expert[0]["mlp"](actions)
        >>> with graft.attach(policy, depth) as live:
        ...     _ = policy["tower"](image)
        ...     same = expert[0]["mlp"](actions)
        >>> torch.equal(same, plain), live.depth[0].camera, graft.config.blocks
        (True, 'front', ('expert.0.mlp',))
    """

    def __init__(self, config: GraftConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = BankEncoder(config)
        self.layers = nn.ModuleList(GraftLayer(widths, config.width) for widths in config.widths)

    def layer(self, index: int) -> GraftLayer:
        """Of one block."""
        return cast(GraftLayer, self.layers[index])

    def keys_and_values(self, bank: Bank) -> list[tuple[Tensor, Tensor]]:
        """Of every block, as `GraftLayer.keys_and_values` gives them."""
        tokens = self.encoder(bank)
        return [self.layer(index).keys_and_values(tokens) for index in range(len(self.layers))]

    @classmethod
    def for_policy(
        cls,
        policy: nn.Module,
        attachment: DepthAttachment,
        *,
        blocks: int | Sequence[str] | None = None,
        frame: str = CAMERA,
        width: int = 128,
        dropout: float = 0.1,
    ) -> DepthGraft:
        """A fresh graft for a policy and the head that is attached to it, on the device of the blocks, in train mode.

        Args:
            policy: the host.
            attachment: that reads its tower, with its cameras by name.
            blocks: how many of the last blocks of the action expert, whose `.mlp` is added to; or names of modules.
                None: the last four, or all where there are fewer.
            frame, width, dropout: see `GraftConfig`.

        Raises:
            HostError: a module that is not there or whose channels cannot be told, or a policy without that tower.
            ConfigError: which blocks are the expert's cannot be told, the attachment is closed or its cameras have no
                names, or a value that cannot be.
        """
        tower = _tower_of(policy, attachment)
        if not attachment.cameras:
            raise ConfigError("a graft tells cameras apart by name: attach_depth_head(policy, …, cameras=['front', …])")
        names = chosen_blocks(policy, blocks)
        modules = modules_of(policy, names)
        config = GraftConfig(
            blocks=names,
            widths=tuple(map(widths_of, names, modules)),
            cameras=attachment.cameras,
            look_width=sum(attachment.head.config.width_of.values()),
            head_digest=rounded_digest(attachment.head),
            blocks_digest=rounded_digest(*modules),
            tower_fingerprint=fingerprint_of(tower, attachment.head.config),
            frame=frame,
            width=width,
            dropout=dropout,
        )
        device = next((p.device for module in modules for p in module.parameters()), torch.device("cpu"))
        return cls(config).to(device)

    def attach(
        self, policy: nn.Module, attachment: DepthAttachment, *, places: Mapping[str, Any] | None = None
    ) -> LiveGraft:
        """Let the policy's blocks read the bank from here on; everything is checked before the first hook.

        The graft reads the attachment itself, once in every forward of the policy that runs its tower; do not read it
        meanwhile, `LiveGraft.depth` holds what it gave. Freeze the policy (`requires_grad_(False)`) to train the graft.

        Args:
            policy: that the graft was made for.
            attachment: that reads its tower with the head that the graft was made for.
            places: of cameras that stay where they are, in a "placed" frame; see `LiveGraft.place`.

        Returns:
            The live link; also a context manager that closes it on leaving.

        Raises:
            HeadMismatchError: the graft was made for another host or head.
            HostError: a module is not there, or another graft is on it.
            ConfigError: the attachment is closed, has other cameras or frames that wait for a read; or see
                `LiveGraft.place`.
        """
        config, tower = self.config, _tower_of(policy, attachment)
        if set(attachment.cameras) != set(config.cameras):
            raise ConfigError(
                f"the graft reads the cameras {', '.join(config.cameras)}, the attachment has "
                f"{', '.join(attachment.cameras) or 'none by name'}; attach the head with cameras={[*config.cameras]}"
            )
        if attachment.unread:
            raise ConfigError(f"{attachment.unread} frame(s) wait for a read: read or skip them before grafting")
        if rounded_digest(attachment.head) != config.head_digest:
            raise HeadMismatchError(
                "the graft was made for another head than the one that is attached, and learnt its depth; attach that "
                "one, unfused and in the precision it had"
            )
        modules = modules_of(policy, config.blocks)
        found = tuple(map(widths_of, config.blocks, modules))
        if found != config.widths or rounded_digest(*modules) != config.blocks_digest:
            raise HeadMismatchError(
                f"the graft was made for another {type(policy).__name__}: {', '.join(config.blocks)} have other "
                "weights here; load the policy it was trained on, or make and train a graft for this one"
            )
        if config.tower_fingerprint is not None:
            head = dataclasses.replace(attachment.head.config, tower_fingerprint=config.tower_fingerprint)
            match = match_tower(tower, head)
            if match.verdict == OTHER:
                raise HeadMismatchError(f"the graft was made for another tower than the {tower.spec}: {match}")
        return LiveGraft(self, modules, attachment, places or {})

    def parameter_groups(self, learning_rate: float, *, opening: float = OPENING) -> list[dict[str, Any]]:
        """Its parameters for an optimiser, those matrices apart that start at zero: they learn `opening` times as fast.

        Raises:
            ConfigError: a rate or factor that is no positive number.
        """
        rate = real("learning_rate", learning_rate, 1e-9, 10.0)
        zeros = [self.layer(index).out.weight for index in range(len(self.layers))]
        rest = [one for one in self.parameters() if all(one is not zero for zero in zeros)]
        faster = rate * real("opening", opening, 1e-3, 1e4)
        return [{"params": rest, "lr": rate}, {"params": zeros, "lr": faster, "weight_decay": 0.0}]

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `graft.safetensors` to the folder, made if absent; returns the file.

        Raises:
            CheckpointError: a weight is not finite, or it cannot be written; what was there stays.
        """
        tensors = writable(self.state_dict())
        path = Path(folder, FILE_NAME)
        try:
            with atomic_path(path) as file:
                GRAFT_FILE.write(file, tensors, {"config": json.dumps(self.config.to_dict(), allow_nan=False)})
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"cannot write a graft to {str(path)!r}: {error}") from error
        return path

    def push_to_hub(
        self,
        repo: str,
        *,
        card: CardDetails | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Publish the graft with a card, in one commit; `from_pretrained(repo)` gives it back.

        A graft that is there is replaced, and the card; earlier commits keep them. A head or another model is not,
        except as a proposal (`create_pr`).

        Args:
            repo: "org/name"; made if absent.
            card: licences and data sets; None: they are not said.
            commit_message: None: says what is pushed.
            private: whether a repository that is made now is private.
            create_pr: propose the commit as a pull request.
            revision: branch to commit to; None: main.
            token: with the right to write; None: that of `hf auth login`.

        Returns:
            Address of the commit, or of the pull request.

        Raises:
            ConfigError: not the id of a repository, or a card with what only a head has.
            CheckpointError: a weight is not finite, the repository holds another model, or the Hub refuses or cannot be
                reached.
        """
        check_repository_id(repo)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        page = published.card(repo, self.config, parameters, card or CardDetails())
        options = PushOptions(
            commit_message=commit_message or "Depth graft",
            private=private,
            create_pr=create_pr,
            revision=revision,
            token=token,
        )
        with tempfile.TemporaryDirectory() as folder:
            files = {FILE_NAME: self.save_pretrained(folder), CARD_NAME: Path(folder, CARD_NAME)}
            files[CARD_NAME].write_text(page, encoding="utf-8")
            return push_files(repo, files, options, check=functools.partial(published.check_replaceable, repo))

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> DepthGraft:
        """The graft that `save_pretrained` or `push_to_hub` wrote, strictly: whole and as it was saved.

        Args:
            repo_or_folder: folder of a graft, or id of a Hub repository ("org/name").
            revision: branch, tag or commit of the repository; None: main.
            cache_dir: where downloads are kept; None: where huggingface_hub keeps all of them.
            token: for private repositories; None: that of `hf auth login`.
            local_files_only: ask nobody, read the cache.
            force_download: even if it is in the cache.

        Returns:
            The graft on the CPU, in eval mode.

        Raises:
            CheckpointError: no such file, one that is damaged, cut, or not of a graft, or a repository that cannot be
                read.
            ConfigError: an empty name, or a revision of a folder.
        """
        options = HubOptions(
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        path = published.find_file(repo_or_folder, options)
        header = GRAFT_FILE.read_header(path)
        source = repr(str(path))
        try:
            config = GraftConfig.from_dict(
                parse_json_object(str(header.note["config"]), source=f"the config in {source}")
            )
        except ConfigError as error:
            raise CheckpointError(f"{source}: {error}") from error
        with torch.device("meta"):  # a config that asks for gigabytes is refused before any are taken
            graft = cls(config)
        expected = graft.state_dict()
        check_size(expected, source=source)
        check_kinds(header.kinds, expected, source=source)
        graft.load_state_dict(matched_state(GRAFT_FILE.read(path)[1], expected, source=source), assign=True)
        return graft.eval()


def _tower_of(policy: nn.Module, attachment: DepthAttachment) -> Any:
    """The tower that the attachment reads, which the policy holds."""
    if not isinstance(attachment, DepthAttachment):
        raise ConfigError(f"attachment is what attach_depth_head(policy) gives, got {type(attachment).__name__}")
    tower = live_tower(attachment)
    if not isinstance(policy, nn.Module) or not tower.is_part_of(policy):
        raise HostError(f"this {type(policy).__name__} does not hold the {tower.spec} that the attachment reads")
    return tower
