"""What knows one family of towers: where their parts are, and what their activations mean."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor, nn

from spaceclip_plugin._checks import choice
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers.image_statistics import ImageStatistics, declared
from spaceclip_plugin.towers.seen_part import SeenPart
from spaceclip_plugin.towers.spec import CONTEXT_KINDS, ImageCall, RawFrame, Tower, TowerFeatures, TowerSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class TowerParts:
    """What an adapter reads off a module that is a tower of its family.

    Attributes:
        entry, blocks, context_source: modules, see `Tower`.
        context: "cls", "attention-pool", "mean", "raw-cls" or "raw-mean".
        width, patch_size, image_hw, widths: see `TowerSpec`.
        statistics: what the family normalises images with, for hosts that declare nothing.

    Raises:
        ConfigError: no such kind of context.

    Example:
        >>> from torch import nn
        >>> from spaceclip_plugin.towers import ImageStatistics, TowerParts
        >>> cut, block = nn.Conv2d(3, 8, 16, 16), nn.TransformerEncoderLayer(8, 2, 16)
        >>> parts = TowerParts(entry=cut, blocks=(block,), context="raw-mean", context_source=block, width=8,
        ...                    patch_size=16, image_hw=(64, 64), statistics=ImageStatistics.IMAGENET)
        >>> parts.context
        'raw-mean'
    """

    entry: nn.Module
    blocks: Iterable[nn.Module]
    context: str
    context_source: nn.Module | None
    width: int
    patch_size: int
    image_hw: tuple[int, int]
    statistics: ImageStatistics
    widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        choice("context", self.context, CONTEXT_KINDS)


class Adapter(ABC):
    """What knows one family of towers. Stateless: one instance serves every host.

    Towers of tokens are read by `TokenAdapter` (all data), `TokenReader` and `PackedReader`; others subclass this.

    Attributes:
        name: unique name, also the name of the adapter's entry point.
        tower_classes: class names of the tower module; base classes count, for wrappers rename classes.
        gives_pixels: whether `pixels` can put the images that its towers take back on a grid.

    Example:
        >>> import timm
        >>> from spaceclip_plugin.towers import find_towers
        >>> [tower] = find_towers(timm.create_model("vit_tiny_patch16_224", depth=2))
        >>> print(tower.adapter.name, "reads", tower.adapter.seen(tower, (230, 230)))
        timm-vit reads rows 0 to 224 of 230 and columns 0 to 224 of 230
    """

    name: str
    tower_classes: Collection[str] = ()
    gives_pixels: bool = True

    @abstractmethod
    def parts(self, module: nn.Module) -> TowerParts | None:
        """The parts of a module of one of `tower_classes`, or None where its insides are not this family's."""

    @abstractmethod
    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """What the arguments of `tower.entry` tell of an image call.

        Runs inside the host's forward: shapes and references only, no arithmetic on tensors and no reading of them.

        Raises:
            CaptureError: the arguments are not those this family's towers take.
        """

    @abstractmethod
    def features(self, frame: RawFrame, tower: Tower) -> TowerFeatures:
        """The patch maps and context of a captured frame.

        Raises:
            CaptureError: the activations do not have the shape this family's towers give.
        """

    @abstractmethod
    def run(self, tower: Tower, pixels: Tensor) -> None:
        """Run the tower alone on images (B, 3, H, W), as its host calls it.

        Raises:
            CaptureError: a size this tower cannot take. What the tower itself raises passes through.
        """

    def pixels(self, frame: RawFrame, tower: Tower) -> Tensor:
        """The images of a captured frame as its tower took them; override where they come in patches.

        Returns:
            (B, 3, H, W), of the size that `features` gives as `image_hw`.

        Raises:
            CaptureError: the host wrote over them since, or they are no such images.
        """
        taken = self.taken(frame, tower)
        if taken.ndim != 4 or taken.shape[1] != 3:
            raise tower.unexpected("the image", taken, "(B, 3, H, W)", "Use a head that reads no pixels.")
        return taken

    @staticmethod
    def taken(frame: RawFrame, tower: Tower) -> Tensor:
        """What the tower was given of the images, in whichever form, as it still was when its blocks had run."""
        if frame.taken is None:
            raise CaptureError(
                f"the head reads the pixels of image call {frame.index}, and the host has written over what the "
                f"{tower.spec} was given; attach with unread=UnreadFrames(copy=True), which keeps copies"
                if frame.call.taken is not None
                else f"the adapter {tower.spec.adapter!r} does not keep the images of the {tower.spec}; use a head "
                "that reads no pixels, or see adapters/README.md"
            )
        return frame.taken

    def seen(self, tower: Tower, image_hw: tuple[int, int]) -> SeenPart | None:
        """What the tower reads of images of that size, without running it; None where patches just fill them."""
        return None

    def find(self, host: nn.Module) -> list[Tower]:
        """Every tower of this family in `host`, in module order; runs nothing and changes nothing.

        A module of a known name with unknown insides is skipped, not refused: libraries share class names, and what
        is skipped here may be understood by another adapter or by structural discovery. The log (debug) says so.
        """
        towers: list[Tower] = []
        for path, module in host.named_modules():
            if not any(cls.__name__ in self.tower_classes for cls in type(module).__mro__):
                continue
            parts = self.parts(module)
            if parts is None:
                kind = type(module).__name__
                logger.debug("adapter %r skips the %s at %r: its parts are not this family's", self.name, kind, path)
                continue
            tower = self.tower(host, path, parts)
            if all(tower.blocks[0] is not known.blocks[0] for known in towers):
                towers.append(tower)
        return towers

    def tower(self, host: nn.Module, path: str, parts: TowerParts) -> Tower:
        """The tower at `path` of `host` with these parts, and the image statistics that are declared for it."""
        statistics = declared_statistics(host, path) or parts.statistics
        blocks = tuple(parts.blocks)
        spec = TowerSpec(
            adapter=self.name,
            path=path,
            width=parts.width,
            blocks=len(blocks),
            patch_size=parts.patch_size,
            image_hw=parts.image_hw,
            context=parts.context,
            image_mean=statistics.mean,
            image_std=statistics.std,
            widths=parts.widths,
        )
        return Tower(spec, self, host.get_submodule(path), parts.entry, blocks, parts.context_source)

    @staticmethod
    def attribute_at(module: object, path: str) -> object | None:
        """What lies at a dotted attribute path, or None; sees through wrappers that forward attributes."""
        for step in path.split("."):
            module = getattr(module, step, None)
        return module

    @classmethod
    def module_at(cls, module: object, path: str) -> nn.Module | None:
        """The module at an attribute path, or None."""
        found = cls.attribute_at(module, path)
        return found if isinstance(found, nn.Module) else None

    @classmethod
    def stack_at(cls, module: object, *paths: str) -> nn.ModuleList | nn.Sequential | None:
        """The first non-empty list of modules at one of these attribute paths, or None."""
        return next((stack for path in paths if is_stack(stack := cls.attribute_at(module, path))), None)

    @classmethod
    def size_at(cls, module: object, *paths: str) -> tuple[int, int] | None:
        """The first (H, W) found at one of these attribute paths, or None; an int means a square."""
        for path in paths:
            match cls.attribute_at(module, path):
                case int(side):
                    return side, side
                case [int(height), int(width)]:
                    return height, width
        return None


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


def lineage(host: nn.Module, path: str) -> Iterator[nn.Module]:
    """The module at `path` and everything that holds it, innermost first, the host last."""
    steps = path.split(".") if path else []
    for length in range(len(steps), -1, -1):
        yield host.get_submodule(".".join(steps[:length]))


def declared_statistics(host: nn.Module, path: str) -> ImageStatistics | None:
    """What a user, the module at `path` or the nearest that holds it declares; see `image_statistics.declared`."""
    return declared(lineage(host, path))
