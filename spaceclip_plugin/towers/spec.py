"""What the core and the adapters agree on: a tower at rest, one image call, and the features a head reads.

Hidden states are numbered as in `transformers`: 0 goes into block 1, i comes out of block i, before any final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers.seen_part import SeenPart

if TYPE_CHECKING:
    from spaceclip_plugin.depth import ImageMapping, Intrinsics
    from spaceclip_plugin.towers.adapter import Adapter

# Kinds of a tower's global vector.
CLS = "cls"  # the class token after the tower's final norm (CLIP's pooled vector)
ATTENTION_POOL = "attention-pool"  # the output of an attention-pooling head (SigLIP's pooled vector)
MEAN = "mean"  # the mean patch token after the tower's final norm (towers without a pooled vector)
RAW_CLS = "raw-cls"  # the class token after the last block, where the host runs no final norm
RAW_MEAN = "raw-mean"  # the mean patch token after the last block, where the host runs no final norm
CONTEXT_KINDS = (CLS, ATTENTION_POOL, MEAN, RAW_CLS, RAW_MEAN)


@dataclass(frozen=True)
class TowerSpec:
    """What is known of a tower before it runs; everything a head must fit.

    Attributes:
        adapter: name of the adapter that found it.
        path: module path inside the host, "" where the host is the tower; for people, never stored.
        width: channels of the last hidden state and of the context, C.
        blocks: number of transformer blocks; hidden states run from 0 to `blocks`.
        patch_size: pixels of the tower's input between two cells of the last hidden state's grid.
        image_hw: input size the tower was built for, in pixels; a usual one where it takes any.
        context: kind of the global vector, one of `CONTEXT_KINDS`.
        image_mean, image_std: per-channel statistics the host's images are normalised with.
        widths: channels of every hidden state from 0 on where they differ (a tower of several stages), else None.

    Example:
        >>> from spaceclip_plugin.towers import TowerSpec
        >>> spec = TowerSpec(adapter="clip", path="vision_model", width=768, blocks=12, patch_size=16,
        ...                  image_hw=(224, 224), context="cls", image_mean=(0.5,) * 3, image_std=(0.5,) * 3)
        >>> spec.grid_hw
        (14, 14)
    """

    adapter: str
    path: str
    width: int
    blocks: int
    patch_size: int
    image_hw: tuple[int, int]
    context: str
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    widths: tuple[int, ...] | None = None

    @property
    def grid_hw(self) -> tuple[int, int]:
        """The patch grid (h, w) of an image of the usual size."""
        return self.image_hw[0] // self.patch_size, self.image_hw[1] // self.patch_size

    def width_of(self, tap: int) -> int:
        """Channels of one hidden state."""
        return self.width if self.widths is None else self.widths[tap]

    def __str__(self) -> str:
        where = self.path or "the host itself"
        width = self.width if self.widths is None else "/".join(map(str, dict.fromkeys(self.widths)))
        return (
            f"tower at {where!r} (adapter {self.adapter!r}, width {width}, {self.blocks} blocks, "
            f"patch {self.patch_size}, context {self.context!r})"
        )


@dataclass(frozen=True, eq=False)
class Tower:
    """A live tower inside a host: its spec and the modules whose calls are watched.

    Attributes:
        entry: its call starts a frame, and its arguments tell batch and grid: the patch convolution where there is
            one, for it runs even where a host bypasses the tower's own `__call__`.
        blocks: the transformer blocks in order.
        context_source: module whose output holds the context, or None where there is none.

    Example:
        >>> import timm
        >>> from spaceclip_plugin.towers import find_towers
        >>> [tower] = find_towers(timm.create_model("vit_tiny_patch16_224", depth=2))
        >>> tower.spec.path, len(tower.blocks), type(tower.entry).__name__
        ('', 2, 'Conv2d')
    """

    spec: TowerSpec
    adapter: Adapter
    module: nn.Module
    entry: nn.Module
    blocks: tuple[nn.Module, ...]
    context_source: nn.Module | None

    def is_part_of(self, host: nn.Module) -> bool:
        """Whether the host still holds this tower, at its path or, wrapped meanwhile, anywhere."""
        try:
            found = host.get_submodule(self.spec.path)
        except AttributeError:
            found = host
        return found is self.module or any(part is self.entry for part in host.modules())

    def unexpected(self, tap: str, seen: Tensor, expected: str, advice: str) -> CaptureError:
        """The error for an activation of another shape than its family's."""
        return CaptureError(f"{tap} of the {self.spec} has shape {tuple(seen.shape)}, expected {expected}. {advice}")


@dataclass(frozen=True, eq=False)
class ImageCall:
    """What the arguments of a tower's entry tell of one image call, before anything has run.

    Attributes:
        batch: images in the call, B; None where only `layout` tells.
        grid_hw: patch grid (h, w) of every image; None where only `layout` tells, image by image.
        image_hw: size of the pixels the tower sees, (H, W); None where only `layout` tells.
        pixels: the images as the tower takes them, (B, 3, H, W) or packed patches (B, N, …), a reference; None where
            they are not a row per image.
        patches: packed patches of images that are not a row each, a reference; None where `pixels` tells them.
        layout: what tells the images apart where shapes do not (grid sizes, a patch mask), a reference.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.towers import ImageCall
        >>> ImageCall.of_convolution(torch.nn.Conv2d(3, 8, 16, 16), torch.zeros(2, 3, 64, 96)).grid_hw
        (4, 6)
    """

    batch: int | None
    grid_hw: tuple[int, int] | None
    image_hw: tuple[int, int] | None
    pixels: Tensor | None = None
    layout: Tensor | None = None
    patches: Tensor | None = None

    @property
    def taken(self) -> Tensor | None:
        """What the tower was given of the images, in whichever form."""
        return self.patches if self.pixels is None else self.pixels

    @classmethod
    def of_convolution(cls, convolution: nn.Module, pixels: object) -> ImageCall:
        """The image call in the pixels (B, 3, H, W) that a patch convolution is about to cut into patches.

        Raises:
            CaptureError: not such pixels.
        """
        if not isinstance(pixels, Tensor) or pixels.ndim != 4 or not isinstance(convolution, nn.Conv2d):
            given = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
            raise CaptureError(f"the patch embedding must be called with images (B, 3, H, W), it was with {given}")
        image_hw = (pixels.shape[2], pixels.shape[3])
        return cls(pixels.shape[0], SeenPart.grid_of(convolution, image_hw), image_hw, pixels)

    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Grid (h, w) and image (H, W), of a tower whose calls always tell them.

        Raises:
            CaptureError: only `layout` tells them.
        """
        if self.grid_hw is None or self.image_hw is None:
            raise CaptureError("this image call does not tell grid and image size; its adapter must read its layout")
        return self.grid_hw, self.image_hw


@dataclass(eq=False)
class RawFrame:
    """The references that one image call of a tower left behind, as the host's modules produced them.

    Attributes:
        index: number of the image call since attaching, from 0.
        call: what the call's arguments told.
        step: number of the host step since attaching in which it was made.
        thread: identifier of the thread that ran the tower.
        hidden: hidden-state index → raw activation.
        context: raw output of the context source.
        versions: what was kept, with its number of in-place changes at that moment; inference tensors count none.
        pixels_version: the same number of the call's pixels or patches, None where it is not known.
        stream: that a GPU ran the tower on, where it is known.
        camera: name of the camera of the call, where whoever made it said so.
        mapping: how the images were made out of the camera's, where whoever made the call said so; "host": as the host
            makes them.
        lens: whose metres depth is brought to: "host": of the cameras that the attachment knows; intrinsics of the
            images' own camera; None: of none.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.towers import ImageCall, RawFrame
        >>> call = ImageCall(batch=1, grid_hw=(2, 2), image_hw=(32, 32))
        >>> RawFrame(index=0, call=call, hidden={12: torch.zeros(1, 5, 8)}).held_bytes()
        160
    """

    index: int
    call: ImageCall
    step: int = 0
    thread: int = 0
    hidden: dict[int, Tensor] = field(default_factory=dict)
    context: Tensor | None = None
    versions: list[tuple[Tensor, int]] = field(default_factory=list)
    pixels_version: int | None = None
    stream: torch.cuda.Stream | None = None
    camera: str | None = None
    mapping: ImageMapping | Literal["host"] | None = "host"
    lens: Intrinsics | Literal["host"] | None = "host"

    @property
    def pixels(self) -> Tensor | None:
        """The call's pixels, if they are still what the tower saw: camera buffers are filled again and again."""
        return None if self._was_refilled else self.call.pixels

    @property
    def taken(self) -> Tensor | None:
        """The call's pixels or packed patches, if they are still what the tower saw."""
        return None if self._was_refilled else self.call.taken

    @property
    def _was_refilled(self) -> bool:
        taken = self.call.taken
        return self.pixels_version is not None and taken is not None and taken._version != self.pixels_version

    def held_bytes(self) -> int:
        """Bytes of memory this frame keeps alive; a storage behind several views counts once. Nothing is read of it."""
        held: dict[int, int] = {}
        for tensor in self.held():
            try:
                storage = tensor.untyped_storage()
                held[storage._cdata] = storage.nbytes()
            except (RuntimeError, NotImplementedError):  # a layout without a storage
                held[id(tensor)] = tensor.nbytes
        return sum(held.values())

    def held(self) -> list[Tensor]:
        """Every tensor that it keeps alive."""
        held = (*self.hidden.values(), self.context, self.call.taken, self.call.layout)
        return [tensor for tensor in held if tensor is not None]

    def overwritten(self) -> bool:
        """Whether the host changed kept activations in place; inference tensors show it by sharing memory alone."""
        if any(kept._version != version for kept, version in self.versions):
            return True
        inference = [kept.data_ptr() for kept in self.hidden.values() if kept.is_inference()]
        return len(set(inference)) < len(inference)


@dataclass(frozen=True, eq=False)
class TowerFeatures:
    """What a head reads of one image call.

    Attributes:
        hidden: hidden-state index → patch map (B, C, h, w), prefix tokens dropped, row-major as in the image. Images
            of several sizes lie in the upper left corner of the largest one's grid.
        context: global vector (B, C), or None where no one asked for it.
        image_hw: size of the image the tower was given, in pixels.
        valid: (B, h, w) bool, False where a patch is padding; None where every patch is real.
        image_sizes: (H, W) of every image where they differ, each in the upper left corner of `image_hw`; else None.
        seen: where in the image the maps lie and what of it was read; None where they just fill it.
        pixels: (B, 3, H, W) images as the tower took them, of `image_hw`, zero in padding; None where no one asked.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.towers import TowerFeatures
        >>> features = TowerFeatures(hidden={12: torch.zeros(1, 8, 2, 2)}, context=None, image_hw=(32, 32))
        >>> features.to(torch.device("cpu")).hidden[12].shape
        torch.Size([1, 8, 2, 2])
    """

    hidden: Mapping[int, Tensor]
    context: Tensor | None
    image_hw: tuple[int, int]
    valid: Tensor | None = None
    image_sizes: tuple[tuple[int, int], ...] | None = None
    seen: SeenPart | None = None
    pixels: Tensor | None = None

    def to(self, device: torch.device) -> TowerFeatures:
        """The same features on another device."""
        return self._each(lambda value: value.to(device))

    def trainable(self) -> TowerFeatures:
        """The same features with every inference tensor copied into one that autograd may keep."""
        with torch.inference_mode(False):
            return self._each(lambda value: value.clone() if value.is_inference() else value)

    def _each(self, change: Callable[[Tensor], Tensor]) -> TowerFeatures:
        return replace(
            self,
            hidden={tap: change(value) for tap, value in self.hidden.items()},
            context=None if self.context is None else change(self.context),
            valid=None if self.valid is None else change(self.valid),
            pixels=None if self.pixels is None else change(self.pixels),
        )
