"""What the core and the adapters agree on: a tower at rest, one image call, and the features a head reads.

Hidden states are numbered as in `transformers`: 0 is the input of the first block, i the output of block i
(1-based), before any final norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

CLS = "cls"
"""Context: the class token after the tower's final norm (CLIP's pooled vector)."""
ATTENTION_POOL = "attention-pool"
"""Context: the output of an attention-pooling head (SigLIP's pooled vector)."""
MEAN = "mean"
"""Context: the mean patch token after the tower's final norm (towers without a pooled vector)."""
CONTEXT_KINDS = (CLS, ATTENTION_POOL, MEAN)


@dataclass(frozen=True)
class TowerSpec:
    """What is known of a tower before it runs; everything a head must fit.

    Attributes:
        adapter: name of the adapter that found it.
        path: module path inside the host, "" where the host is the tower; for people, never stored.
        width: channels of a token, C.
        blocks: number of transformer blocks; hidden states run from 0 to `blocks`.
        patch_size: side of a patch in pixels.
        image_hw: input size the tower was built for, in pixels.
        context: kind of the global vector, one of `CONTEXT_KINDS`.
        image_mean, image_std: per-channel statistics the host's images are normalised with.
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

    def __str__(self) -> str:
        where = self.path or "the host itself"
        return (
            f"tower at {where!r} (adapter {self.adapter!r}, width {self.width}, {self.blocks} blocks, "
            f"patch {self.patch_size}, context {self.context!r})"
        )


@dataclass(frozen=True, eq=False)
class Tower:
    """A live tower inside a host: its spec and the modules whose calls are watched.

    Attributes:
        patch_embedding: its call starts a frame; takes pixels (B, 3, H, W), gives (B, C, h, w).
        blocks: the transformer blocks in order.
        context_source: module whose output holds the context, or None where there is none.
    """

    spec: TowerSpec
    adapter: Adapter
    module: nn.Module
    patch_embedding: nn.Module
    blocks: tuple[nn.Module, ...]
    context_source: nn.Module | None


@dataclass(eq=False)
class RawFrame:
    """The references that one image call of a tower left behind, as the host's modules produced them.

    Attributes:
        index: number of the image call since attaching, from 0.
        batch: images in the call, B.
        grid_hw: patch grid (h, w).
        image_hw: size of the pixels the tower saw, (H, W).
        thread: identifier of the thread that ran the tower.
        hidden: hidden-state index → raw activation.
        context: raw output of the context source.
    """

    index: int
    batch: int
    grid_hw: tuple[int, int]
    image_hw: tuple[int, int]
    thread: int = 0
    hidden: dict[int, Tensor] = field(default_factory=dict)
    context: Tensor | None = None


@dataclass(frozen=True, eq=False)
class TowerFeatures:
    """What a head reads of one image call.

    Attributes:
        hidden: hidden-state index → patch map (B, C, h, w), prefix tokens dropped, row-major as in the image.
        context: global vector (B, C), or None where no one asked for it.
        image_hw: size of the image the tower saw, in pixels.
        valid: (B, h, w) bool, False where a patch is padding; None where every patch is real.
    """

    hidden: Mapping[int, Tensor]
    context: Tensor | None
    image_hw: tuple[int, int]
    valid: Tensor | None = None

    def to(self, device: torch.device) -> TowerFeatures:
        """The same features on another device."""
        return TowerFeatures(
            {tap: value.to(device) for tap, value in self.hidden.items()},
            None if self.context is None else self.context.to(device),
            self.image_hw,
            None if self.valid is None else self.valid.to(device),
        )


class Adapter(Protocol):
    """What knows one family of towers. Stateless; one instance serves every host."""

    name: str

    def find(self, host: nn.Module) -> list[Tower]:
        """Every tower of this family in `host`, in module order; runs nothing and changes nothing."""
        ...

    def features(self, frame: RawFrame, tower: Tower) -> TowerFeatures:
        """The patch maps and context of a captured frame.

        Raises:
            CaptureError: the activations do not have the shape this family's towers give.
        """
        ...
