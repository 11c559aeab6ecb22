"""The live link of a graft and a policy: hooks that add to what its blocks give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from typing_extensions import Self

from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.attach.compiled_code import taps_came, taps_left
from spaceclip_plugin.attach.featured_read import live_tower, read_with_features
from spaceclip_plugin.attach.taps import has_taps
from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.depth.pose import checked_poses
from spaceclip_plugin.errors import CaptureError, ConfigError, HostError, nearest
from spaceclip_plugin.graft.attention import Attention
from spaceclip_plugin.graft.bank import Bank
from spaceclip_plugin.graft.config import PLACED
from spaceclip_plugin.graft.layers import add_exactly

if TYPE_CHECKING:
    from spaceclip_plugin.graft.depth_graft import DepthGraft


class LiveGraft:
    """A graft on a live policy until it is closed; made by `DepthGraft.attach`.

    Attributes:
        depth: depth maps of the policy's newest forward, one of each image call; empty before the first.
        watching: whether `attention` is kept; that costs each block its attention once more. False until it is set.
    """

    def __init__(
        self,
        graft: DepthGraft,
        modules: Sequence[nn.Module],
        attachment: DepthAttachment,
        places: Mapping[str, Any],
    ) -> None:
        """Put the hooks on; if one cannot be, none stays. See `DepthGraft.attach`."""
        self.depth: tuple[DepthMap, ...] = ()
        self.watching = False
        self._graft = graft
        self._attachment = attachment
        self._fixed = self._checked(places)
        self._places = self._fixed
        self._bank: Bank | None = None
        self._read: list[tuple[Tensor, Tensor]] = []  # of the bank, where no gradients are asked for
        self._shares: list[Tensor] = []  # of attention, of every call of a block since the bank was taken
        self._dropped = attachment.dropped
        self._unlearnt = 0  # forwards in training since the last backward
        self._learnt = False  # whether there was a backward since the newest
        # Drawn apart, and without a draw of the host's: the noise of its training stays what it is.
        self._random = torch.Generator().manual_seed(torch.initial_seed())
        self._modules = tuple(modules)
        for name, module in zip(graft.config.blocks, modules, strict=True):
            if _is_grafted(module):
                raise HostError(f"another graft is on {name!r}; close it first")
        self._handles = []
        try:
            for index, module in enumerate(modules):
                self._handles.append(module.register_forward_hook(_Hook(self, index), with_kwargs=True))
            taps_came(modules)
        except BaseException:
            self.close()
            raise

    def place(self, places: Mapping[str, Any]) -> None:
        """Tell before the policy's next forward where cameras are, for a graft whose frame is "placed".

        Args:
            places: by camera, (4, 4) camera to frame, or (B, 4, 4) of every image: rigid, in metres, of camera axes x
                right, y down, z forward. They hold for one forward; those given when attaching are taken up again.

        Raises:
            ConfigError: a place that is not rigid, a camera that is not there, or a graft of another frame.
        """
        self._places = {**self._fixed, **self._checked(places)}

    def give(self, bank: Bank) -> None:
        """Let the blocks read this bank, until another is given or the tower runs again.

        The tower and the head are frozen: a bank that is kept of an image is what they would make of it again, so that
        training may run from such banks, without either. An experiment gives others than the policy's own.

        Args:
            bank: of the images of the policy's next forwards, its look of the graft's `look_width`.

        Raises:
            ConfigError: frames of the tower wait for a read, which the blocks would read in its place; or a bank of
                other channels.
        """
        if self._attachment.unread:
            raise ConfigError(
                f"{self._attachment.unread} frame(s) wait for a read, and the blocks would read those: read or skip "
                "them before a bank is given"
            )
        if bank.look.shape[-1] != self._graft.config.look_width:
            raise ConfigError(
                f"the look of this bank has {bank.look.shape[-1]} channels, the graft reads "
                f"{self._graft.config.look_width}: give one of the head that the graft was made for"
            )
        self.depth = ()
        self._take(bank)

    @property
    def attention(self) -> Attention | None:
        """Where the blocks looked in the policy's newest forward; None where none has run since `watching` was set."""
        if self._bank is None or not self._shares:
            return None
        shares = torch.stack(self._shares).mean(dim=0)
        return Attention.of(shares, self._bank, self._graft.config.cameras)

    def close(self) -> None:
        """Remove every hook. The policy is as it was; the attachment stays. May be called again."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            taps_left(self._modules, still_tapped=lambda module: has_taps(module) or _is_grafted(module))
        self._handles.clear()
        self._bank = None
        self._read, self._shares = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise HostError("a live graft cannot be copied or saved; save the graft, copy the policy and attach again")

    def _checked(self, places: Mapping[str, Any]) -> dict[str, Tensor]:
        config = self._graft.config
        if places and config.frame != PLACED:
            raise ConfigError(
                f"this graft reads places in the {config.frame!r} frame and takes none; make one with "
                f"DepthGraft.for_policy(…, frame={PLACED!r})"
            )
        for name in places:
            if name not in config.cameras:
                raise ConfigError(f"no camera is called {name!r}{nearest(name, config.cameras)}")
        return {name: checked_poses(place).float() for name, place in places.items()}

    def after(self, index: int, stream: object, output: object) -> Tensor:
        """What a block gives and the graft adds; for its hook."""
        config, layer = self._graft.config, self._graft.layer(index)
        name = config.blocks[index]
        if not isinstance(stream, Tensor) or not isinstance(output, Tensor):
            raise CaptureError(
                f"{name!r} takes {type(stream).__name__} and gives {type(output).__name__}, a graft adds to modules "
                "that take a tensor and give one; name the MLP inside"
            )
        bank = self._newest_bank(name)
        if stream.ndim != 3 or (stream.shape[-1], output.shape[-1]) != config.widths[index]:
            raise CaptureError(
                f"{name!r} took {tuple(stream.shape)} and gave {tuple(output.shape)}; a graft reads three axes, the "
                f"last of {config.widths[index][0]} channels, and gives {config.widths[index][1]}: name other blocks"
            )
        if len(stream) != len(bank.valid):
            raise CaptureError(
                f"{name!r} took a batch of {len(stream)} (the first axis of {tuple(stream.shape)}), the tower saw "
                f"{len(bank.valid)} image(s) of each camera in this forward; blocks of another axis, and policies that "
                "repeat their batch behind the tower, cannot be grafted"
            )
        with torch.autocast(stream.device.type, enabled=False):
            if torch.is_grad_enabled():  # gradient checkpointing must find the same work again in each block
                read = layer.keys_and_values(self._graft.encoder(bank))
            else:
                self._read = self._read or self._graft.keys_and_values(bank)
                read = self._read[index]
            stream = stream.to(read[0].dtype)
            added = layer(stream, *read, bank.valid)
            if self.watching:
                with torch.no_grad():
                    self._shares.append(layer.shares(stream, read[0], bank.valid).float())
        if added.requires_grad:
            added.register_hook(self._note_learnt)
        return add_exactly(output, added.to(output.dtype))

    def _newest_bank(self, name: str) -> Bank:
        """The bank of the forward that goes on; its frames are read in the first block that runs behind the tower."""
        if torch._C._current_graph_task_id() != -1:  # gradient checkpointing runs a block again inside backward
            if self._unlearnt > 1:
                raise CaptureError(
                    f"gradient checkpointing runs {name!r} again, and the policy ran {self._unlearnt} times since the "
                    "last backward: which forward this is cannot be told. Call backward after every forward, and run "
                    "those that are not learnt from with graft.eval()"
                )
        elif self._attachment.unread:
            self._renew()
        live_tower(self._attachment)
        if self._bank is None:
            raise CaptureError(
                f"{name!r} ran before the tower of this policy did, and there is no depth for it to read: run the "
                "policy on images, with the graft on blocks that come behind its tower"
            )
        return self._bank

    def _check_whole(self) -> None:
        lost, self._dropped = self._attachment.dropped - self._dropped, self._attachment.dropped
        if lost:
            raise CaptureError(
                f"{lost} image call(s) of this forward were dropped before they were read: more frames, or bytes of "
                "them, than may wait. Attach with attach_depth_head(…, unread=UnreadFrames(max_frames=…, max_bytes=…)) "
                "for all cameras of a batch"
            )

    def _note_learnt(self, _gradient: Tensor) -> None:
        self._learnt = True

    def _renew(self) -> None:
        graft, places = self._graft, self._places
        self._bank = None  # if this fails, no block goes on with what was
        self._read = []
        self._places = self._fixed
        like = next(graft.parameters())
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(like.device.type, enabled=False):
            seen = read_with_features(self._attachment)
            self._check_whole()
            self._take(Bank.of(seen, graft.config, places, like))
        self.depth = tuple(depth for depth, _ in seen)

    def _take(self, bank: Bank) -> None:
        """What the blocks read from here on; in training a share of the images goes without."""
        graft, valid = self._graft, bank.valid
        if graft.training:
            kept = torch.rand(len(valid), 1, generator=self._random) >= graft.config.dropout
            valid = valid & kept.to(valid.device)
        self._bank = dataclasses.replace(bank, valid=valid)
        self._read, self._shares = [], []
        self._unlearnt = graft.training + (0 if self._learnt else self._unlearnt)
        self._learnt = False


class _Hook:
    """A hook as an object: a copied or unpickled policy carries an inert one."""

    def __init__(self, live: LiveGraft | None, index: int) -> None:
        self._index = index
        self.live = live
        # Compiled blocks leave their graph here; asked for now, since it takes the compiler a second to be imported.
        self._run = None if live is None else torch.compiler.disable(live.after)  # type: ignore[no-untyped-call]

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        given = args[0] if args else next(iter(kwargs.values()), None)
        return None if self._run is None else self._run(self._index, given, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook(None, self._index)

    def __reduce__(self) -> tuple[type[_Hook], tuple[None, int]]:
        return _Hook, (None, self._index)


def _is_grafted(module: nn.Module) -> bool:
    return any(isinstance(hook, _Hook) and hook.live is not None for hook in module._forward_hooks.values())
