"""Towers of (B, N, C) tokens, prefix tokens first and patches in raster order: one adapter, mostly data.

Most vision transformers keep this layout and differ only in where their parts are. `TokenTowerAdapter` takes those
places as data, relative to the tower: the way from a host down to its tower changes with versions and wrappers.
`TokenReader` is the half that turns captured activations into features.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from einops import rearrange
from torch import Tensor, nn

from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.tower import CLS, MEAN, RawFrame, Tower, TowerFeatures, TowerSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageStatistics:
    """Per-channel mean and standard deviation that images in [0, 1] are normalised with, in RGB order."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = ImageStatistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What most towers outside the CLIP and SigLIP families were trained with."""


class TokenReader:
    """Turns captured token sequences into patch maps and a context.

    Every map is a view of what was captured, in the memory order the host left. That is channels last where prefix
    tokens were joined to the patches, and channels first where there are none: then the order of the patch
    convolution's output survives every residual addition.
    """

    name: str

    def features(self, frame: RawFrame, tower: Tower) -> TowerFeatures:
        """The patch maps and context of a captured frame.

        Raises:
            CaptureError: an activation has no room for the patch grid, or the context is not a vector per image.
        """
        hidden = {index: self._patch_map(index, raw, frame, tower) for index, raw in frame.hidden.items()}
        context = None if frame.context is None else self._context(frame.context, frame, tower)
        return TowerFeatures(hidden=hidden, context=context, image_hw=frame.image_hw)

    def batch_first(self, raw: Tensor, frame: RawFrame, tower: Tower) -> Tensor:
        """The raw activation of a block as (B, N, C); override where blocks carry another layout."""
        return raw

    def least_prefix(self, tower: Tower) -> int:
        """How many tokens surely precede the patches; a tower that shows fewer has lost patches."""
        return 0

    def _patch_map(self, index: int, raw: Tensor, frame: RawFrame, tower: Tower) -> Tensor:
        """A block's raw activation as a (B, C, h, w) view."""
        patches = self._patches(self.batch_first(raw, frame, tower), f"hidden state {index}", frame, tower)
        return rearrange(patches, "b (h w) c -> b c h w", h=frame.grid_hw[0])

    def _patches(self, tokens: Tensor, tap: str, frame: RawFrame, tower: Tower) -> Tensor:
        """The patch tokens (B, h*w, C) of a sequence (B, N, C)."""
        height, width = frame.grid_hw
        least = self.least_prefix(tower)
        expected = f"(B={frame.batch}, N>={least}+{height}*{width}, C={tower.spec.width})"
        if tokens.ndim != 3 or (tokens.shape[0], tokens.shape[2]) != (frame.batch, tower.spec.width):
            raise _unexpected(tap, tokens, expected, tower, "A layout of its own needs an adapter of its own.")
        prefix = tokens.shape[1] - height * width
        if prefix < least:
            advice = (
                f"That leaves {tokens.shape[1]} - {height * width} = {prefix} prefix tokens where there are at least "
                f"{least}: switch off whatever drops or merges patches (patch dropout: host.eval())."
            )
            raise _unexpected(tap, tokens, expected, tower, advice)
        return tokens[:, prefix:]

    def _context(self, raw: Tensor, frame: RawFrame, tower: Tower) -> Tensor:
        """The global vector (B, C) out of what the context source gave."""
        kind = tower.spec.context
        if tower.context_source is tower.blocks[-1]:
            raw = self.batch_first(raw, frame, tower)
        vector = raw
        if raw.ndim == 3 and kind == MEAN:
            vector = self._patches(raw, "the context", frame, tower).mean(dim=1)
        elif raw.ndim == 3 and (kind == CLS or raw.shape[1] == 1):
            vector = raw[:, 0]
        if tuple(vector.shape) != (frame.batch, tower.spec.width):
            sequence = "1" if kind not in (CLS, MEAN) else "N"
            expected = f"(B={frame.batch}, C={tower.spec.width}) or (B, {sequence}, C)"
            raise _unexpected("the context", raw, expected, tower, "The host may pool differently; see its adapter.")
        return vector


@dataclass(kw_only=True, eq=False)
class TokenTowerAdapter(TokenReader):
    """An adapter that is data: class names of the tower, and the paths of its parts relative to the tower.

    Subclass and override a method where one family needs more than data. Instances hold no state.

    Attributes:
        name: unique name, also its entry point.
        tower_classes: class names of the tower module, looked up along the MRO because wrappers rename classes.
        patch_embedding: path of the convolution that cuts the image into patches.
        blocks: path of the stack of transformer blocks.
        context_source: path of the module whose output holds the context.
        context: kind of that context, one of `CONTEXT_KINDS`.
        prefix_tokens: tokens that surely precede the patches.
        image_size: attribute paths, first match wins, that hold the input size in pixels: an int or (H, W).
        statistics: image statistics of the family.
    """

    name: str
    tower_classes: tuple[str, ...]
    patch_embedding: str
    blocks: str
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
            if tower is not None and all(tower.patch_embedding is not known.patch_embedding for known in towers):
                towers.append(tower)
        return towers

    def context_of(self, module: nn.Module) -> tuple[str, nn.Module | None]:
        """Kind and source of the context of one tower; override where it depends on how the tower was built."""
        source = attribute_at(module, self.context_source)
        return self.context, source if isinstance(source, nn.Module) else None

    def statistics_of(self, host: nn.Module, path: str) -> ImageStatistics:
        """Image statistics of the tower at `path`; override where the host records its own."""
        return self.statistics

    def least_prefix(self, tower: Tower) -> int:
        """How many tokens surely precede the patches: `prefix_tokens`, unless overridden."""
        return self.prefix_tokens

    def _read(self, host: nn.Module, path: str, module: nn.Module) -> Tower | None:
        """The tower at `path`, or None where its insides are not this family's."""
        embedding = attribute_at(module, self.patch_embedding)
        stack = attribute_at(module, self.blocks)
        image_hw = size_at(module, self.image_size)
        if not is_patch_embedding(embedding) or not is_stack(stack) or image_hw is None:
            wanted = f"a patch convolution at {self.patch_embedding!r}, blocks at {self.blocks!r}, an input size"
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
        return Tower(spec, self, module, patch_embedding=embedding, blocks=tuple(stack), context_source=source)


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
    """The `image_mean` and `image_std` that the module at `path`, or the nearest that holds it, declares."""
    for module in lineage(host, path):
        statistics = as_statistics(getattr(module, "image_mean", None), getattr(module, "image_std", None))
        if statistics is not None:
            return statistics
    return None


def as_statistics(mean: object, std: object) -> ImageStatistics | None:
    """Image statistics of two sequences of three numbers, or None where they are something else."""
    mean_rgb, std_rgb = _triple(mean), _triple(std)
    return None if mean_rgb is None or std_rgb is None else ImageStatistics(mean=mean_rgb, std=std_rgb)


def _triple(values: object) -> tuple[float, float, float] | None:
    match values:
        case [int() | float() as red, int() | float() as green, int() | float() as blue]:
            return float(red), float(green), float(blue)
    return None


def _unexpected(tap: str, seen: Tensor, expected: str, tower: Tower, advice: str) -> CaptureError:
    return CaptureError(f"{tap} of the {tower.spec} has shape {tuple(seen.shape)}, expected {expected}. {advice}")
