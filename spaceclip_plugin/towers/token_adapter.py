"""Towers of (B, N, C) tokens, prefix tokens first and patches in raster order: one adapter, mostly data.

Most vision transformers keep this layout and differ only in where their parts are. `TokenTowerAdapter` takes those
places as data, relative to the tower: the way from a host down to its tower changes with versions and wrappers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from torch import nn

from spaceclip_plugin.towers.image_statistics import IMAGENET as IMAGENET
from spaceclip_plugin.towers.image_statistics import SYMMETRIC as SYMMETRIC
from spaceclip_plugin.towers.image_statistics import ImageStatistics as ImageStatistics
from spaceclip_plugin.towers.image_statistics import declared
from spaceclip_plugin.towers.spec import Tower, TowerSpec
from spaceclip_plugin.towers.token_reader import TokenReader

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class TokenTowerAdapter(TokenReader):
    """An adapter that is data: class names of the tower, and the paths of its parts relative to the tower.

    Subclass and override a method where one family needs more than data. Instances hold no state.

    Attributes:
        name: unique name, also its entry point.
        tower_classes: class names of the tower module, looked up along the MRO because wrappers rename classes.
        patch_embedding: path of the convolution that cuts the image into patches.
        blocks: paths of the stack of transformer blocks, first match wins (libraries move it between versions).
        context_source: path of the module whose output holds the context.
        context: kind of that context, one of `CONTEXT_KINDS`.
        prefix_tokens: tokens that surely precede the patches.
        image_size: attribute paths, first match wins, that hold the input size in pixels: an int or (H, W).
        statistics: image statistics of the family, for hosts that declare none.
    """

    name: str
    tower_classes: tuple[str, ...]
    patch_embedding: str
    blocks: tuple[str, ...]
    context_source: str
    context: str
    prefix_tokens: int
    image_size: tuple[str, ...]
    statistics: ImageStatistics

    def find(self, host: nn.Module) -> list[Tower]:
        """Every tower of this family in `host`, in module order; runs nothing and changes nothing.

        A module of a known name with unknown insides is skipped, not refused: libraries share class names, and what
        is skipped here may be understood by another adapter or by structural discovery. The log (debug) says why.
        """
        towers: list[Tower] = []
        for path, module in host.named_modules():
            tower = self._read(host, path, module) if is_named(module, self.tower_classes) else None
            if tower is not None and all(tower.blocks[0] is not known.blocks[0] for known in towers):
                towers.append(tower)
        return towers

    def stack_of(self, module: nn.Module) -> nn.ModuleList | nn.Sequential | None:
        """The stack of blocks of one tower, or None where there is none at any of the known paths."""
        return next((stack for path in self.blocks if is_stack(stack := attribute_at(module, path))), None)

    def entry_of(self, module: nn.Module, embedding: nn.Conv2d) -> nn.Module:
        """The module whose call starts a frame; override where the convolution's arguments do not tell enough."""
        return embedding

    def context_of(self, module: nn.Module) -> tuple[str, nn.Module | None]:
        """Kind and source of the context of one tower; override where it depends on how the tower was built."""
        source = attribute_at(module, self.context_source)
        return self.context, source if isinstance(source, nn.Module) else None

    def statistics_of(self, host: nn.Module, path: str) -> ImageStatistics:
        """What is declared for the tower at `path`, else the family's; override where a host records it otherwise."""
        return declared_statistics(host, path) or self.statistics

    def least_prefix(self, tower: Tower) -> int:
        """How many tokens surely precede the patches: `prefix_tokens`, unless overridden."""
        return self.prefix_tokens

    def _read(self, host: nn.Module, path: str, module: nn.Module) -> Tower | None:
        """The tower at `path`, or None where its insides are not this family's."""
        embedding = attribute_at(module, self.patch_embedding)
        stack = self.stack_of(module)
        image_hw = size_at(module, self.image_size)
        if not is_patch_embedding(embedding) or stack is None or image_hw is None:
            wanted = f"a patch convolution at {self.patch_embedding!r}, blocks at {self.blocks}, an input size"
            logger.debug("adapter %r skips the %s at %r: expected %s", self.name, type(module).__name__, path, wanted)
            return None
        context, source = self.context_of(module)
        statistics = self.statistics_of(host, path)
        spec = TowerSpec(
            adapter=self.name,
            path=path,
            width=embedding.out_channels,
            blocks=len(stack),
            patch_size=embedding.stride[0],
            image_hw=image_hw,
            context=context,
            image_mean=statistics.mean,
            image_std=statistics.std,
        )
        entry = self.entry_of(module, embedding)
        return Tower(spec, self, module, entry=entry, blocks=tuple(stack), context_source=source)


def is_named(module: nn.Module, names: Iterable[str]) -> bool:
    """Whether the module's class, or one it derives from, has one of these names."""
    return any(cls.__name__ in names for cls in type(module).__mro__)


def is_patch_embedding(module: object) -> TypeGuard[nn.Conv2d]:
    """Whether this is a convolution that cuts RGB images into square patches without overlap."""
    return (
        isinstance(module, nn.Conv2d)
        and module.in_channels == 3
        and module.kernel_size == module.stride
        and module.stride[0] == module.stride[1]
    )


def is_stack(module: object) -> TypeGuard[nn.ModuleList | nn.Sequential]:
    """Whether this is a non-empty list of modules."""
    return isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 0


def attribute_at(module: object, path: str) -> object | None:
    """What lies at a dotted attribute path, or None; sees through wrappers that forward attributes (FSDP, compile)."""
    found: object | None = module
    for step in path.split("."):
        found = getattr(found, step, None)
    return found


def size_at(module: object, paths: Iterable[str]) -> tuple[int, int] | None:
    """The first (H, W) in pixels found at one of these attribute paths; an int means a square."""
    for path in paths:
        match attribute_at(module, path):
            case int(side):
                return side, side
            case [int(height), int(width)]:
                return height, width
    return None


def lineage(host: nn.Module, path: str) -> Iterator[nn.Module]:
    """The module at `path` and everything that holds it, innermost first, the host last."""
    steps = path.split(".") if path else []
    for length in range(len(steps), -1, -1):
        yield host.get_submodule(".".join(steps[:length]))


def declared_statistics(host: nn.Module, path: str) -> ImageStatistics | None:
    """What a user, the module at `path` or the nearest that holds it declares; see `image_statistics.declared`."""
    return declared(lineage(host, path))
