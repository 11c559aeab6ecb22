"""One file of a feature cache, memory-mapped when read: only the rows that are asked for are touched.
Its `hidden.NNN` is (n, V, h, w, C), which reads back as the channels-last layout convolutions like best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from spaceclip_plugin._files import atomic_path
from spaceclip_plugin._tensor_files import NotedTensors, Shard, ShardWords
from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.training.cache.storage import FeatureStorage

_CONTEXT = "context"
_PIXELS = "pixels"
_SHARDS = NotedTensors(
    entry="spaceclip_shard",
    keys=("key", "start", "names", "image_hw", "sha256"),
    max_header_bytes=100_000_000,
)
_WORDS = ShardWords(
    holds="the feature cache",
    rows="images",
    others="features of another host, data or setting",
    instead="remove that cache, or give another folder",
    misplaced="Remove the folder to have it made again",
    again="continue the run",
)


@dataclass(frozen=True, eq=False)
class CachedImage:
    """One image's share of a shard."""

    name: str
    image_hw: tuple[int, int]  # of what the host sees of the image: crops end at its pixels' borders
    depth_m: Tensor  # (H, W) float32 metres of that part, 0 where unknown, inf for nothing; (0, 0): no target is kept
    parts: dict[str, Tensor]  # packed features of all versions by tensor name, each (V, …)


@dataclass(frozen=True, eq=False)
class Kept:
    """Features of several versions, as they lie in memory.

    `hidden` is (V, h, w, C) by tap, `context` (V, C), and `pixels` the tower's images (V, 3, H, W) as uint8; the last
    two only where the head reads them. In a batch that is read back, V counts its images.
    """

    hidden: dict[int, Tensor]
    context: Tensor | None
    pixels: Tensor | None

    def rows(self, rows: slice) -> Kept:
        """Some of them."""
        return Kept(
            {tap: values[rows] for tap, values in self.hidden.items()},
            None if self.context is None else self.context[rows],
            None if self.pixels is None else self.pixels[rows],
        )

    @classmethod
    def joined(cls, several: Sequence[Kept]) -> Kept:
        """One after the other."""
        contexts = [one.context for one in several if one.context is not None]
        pixels = [one.pixels for one in several if one.pixels is not None]
        return cls(
            {tap: torch.cat([one.hidden[tap] for one in several]) for tap in several[0].hidden},
            torch.cat(contexts) if contexts else None,
            torch.cat(pixels) if pixels else None,
        )


def packed(kept: Kept, storage: FeatureStorage) -> dict[str, Tensor]:
    """Features as a shard keeps them: hidden states as the storage does, the context as float32, pixels as they are."""
    parts = {} if kept.context is None else {_CONTEXT: kept.context.float()}
    parts |= {} if kept.pixels is None else {_PIXELS: kept.pixels}
    for tap, values in kept.hidden.items():
        try:
            packed_values = storage.pack(values)
        except TrainingError as error:
            raise TrainingError(f"hidden state {tap}: {error}") from error
        parts |= {f"{_hidden_name(tap)}{suffix}": value for suffix, value in packed_values.items()}
    return parts


def unpacked(parts: Mapping[str, Tensor], taps: Sequence[int], storage: FeatureStorage) -> Kept:
    """What `packed` was given, hidden states in float32."""
    hidden = {}
    for tap in taps:
        prefix = _hidden_name(tap)
        hidden[tap] = storage.unpack(
            {name.removeprefix(prefix): value for name, value in parts.items() if name.startswith(prefix)}
        )
    return Kept(hidden, parts.get(_CONTEXT), parts.get(_PIXELS))


def write_shard(path: Path, images: Sequence[CachedImage], *, key: str, start: int) -> str:
    """Write some images, the first of which is number `start` of the source, as one file; returns its SHA-256."""
    tensors = {name: torch.stack([image.parts[name] for image in images]) for name in images[0].parts}
    # Depth maps of one cache may differ in size.
    tensors |= {_depth_name(row): image.depth_m for row, image in enumerate(images) if image.depth_m.numel()}
    note = {
        "key": key,
        "start": start,
        "names": [image.name for image in images],
        "image_hw": [list(image.image_hw) for image in images],
    }
    try:
        with atomic_path(path) as temporary:
            return _SHARDS.write(temporary, tensors, note)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"cannot write the feature cache {str(path)!r}: {error}; free disk space, choose another folder, keep "
            "fewer versions (--views) or int8. What is written stays, and is not made again when the run is resumed"
        ) from error


class CacheShard(Shard):
    """A file that `write_shard` wrote, for reading."""

    def __init__(self, path: Path, *, key: str) -> None:
        super().__init__(path, _SHARDS, _WORDS, key=key)

    def read_rows(self) -> None:
        """Sizes of what the host sees of the images, and the tensors, of which rows are read."""
        self.image_hw = tuple((int(height), int(width)) for height, width in self._note["image_hw"])
        self._slices = {name: self._file.get_slice(name) for name in self._kinds}

    def depth_m(self, row: int) -> Tensor:
        """(H, W) metres of one image; (0, 0) where no targets were kept."""
        if _depth_name(row) not in self._slices:
            return torch.zeros(0, 0)
        depth_m: Tensor = self._slices[_depth_name(row)][:]
        return depth_m

    def parts(self, row: int, version: int) -> dict[str, Tensor]:
        """Packed features of one version of one image, without leading dimensions."""
        place = (slice(row, row + 1), slice(version, version + 1))  # older safetensors take slices only
        return {name: part[place][0, 0] for name, part in self._slices.items() if not name.startswith("depth_m.")}

    def hidden(self, row: int, tap: int, versions: int) -> dict[str, Tensor]:
        """Packed hidden state of one image, in its first versions: they are the leading dimension."""
        place, wanted = (slice(row, row + 1), slice(0, versions)), _hidden_name(tap)
        return {name: part[place][0] for name, part in self._slices.items() if name.startswith(wanted)}


def _hidden_name(tap: int) -> str:
    return f"hidden.{tap:03}"


def _depth_name(row: int) -> str:
    return f"depth_m.{row:05}"
