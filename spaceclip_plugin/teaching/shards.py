"""One file of what a teacher said of some photos: float32 as it was given, nothing scaled and nothing left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor

from spaceclip_plugin._files import atomic_path
from spaceclip_plugin._tensor_files import NotedTensors, Shard, ShardWords, foreign_errors
from spaceclip_plugin.errors import CheckpointError, TrainingError

_SHARDS = NotedTensors(
    entry="spaceclip_taught",
    keys=("key", "start", "names", "clips", "fingerprints", "sha256"),
    max_header_bytes=100_000_000,
)
_WORDS = ShardWords(
    holds="the teacher's depth",
    rows="photos",
    others="depth of another teacher, other photos or another way of asking",
    instead="choose another folder, or remove this one",
    misplaced="Remove the folder and teach anew",
    again="give the same command again",
)
_PARTS = ("depth", "doubt", "known_at", "known_m")


@dataclass(frozen=True, eq=False)
class TaughtPhoto:
    """What is kept of one photo."""

    name: str
    clip: str
    fingerprint: str  # of the sample that it is of
    depth: npt.NDArray[np.float32]  # (H, W), see `Lesson`
    doubt: npt.NDArray[np.float16]
    known_at: npt.NDArray[np.int32]  # (n,) pixels of (H, W), row by row, whose depth was measured
    known_m: npt.NDArray[np.float32]  # (n,) metres that were measured there

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(int(getattr(self, name).nbytes) for name in _PARTS)


def write_shard(path: Path, photos: Sequence[TaughtPhoto], *, key: str, start: int) -> str:
    """Write photos, the first of which is number `start` of the source, as one file; returns its SHA-256."""
    tensors: dict[str, Tensor] = {
        f"{part}.{row:05}": torch.from_numpy(np.ascontiguousarray(getattr(photo, part)))
        for row, photo in enumerate(photos)
        for part in _PARTS
    }
    note = {
        "key": key,
        "start": start,
        "names": [photo.name for photo in photos],
        "clips": [photo.clip for photo in photos],
        "fingerprints": [photo.fingerprint for photo in photos],
    }
    try:
        with atomic_path(path) as temporary:
            return _SHARDS.write(temporary, tensors, note)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"cannot write the teacher's depth {str(path)!r}: {error}; free disk space or choose another folder. What "
            "is written stays, and is not made again when the same command is given again"
        ) from error


class TaughtShard(Shard):
    """A file that `write_shard` wrote, for reading."""

    def __init__(self, path: Path, *, key: str) -> None:
        super().__init__(path, _SHARDS, _WORDS, key=key)

    def read_rows(self) -> None:
        """Clips and fingerprints of the photos, which are all there and whole."""
        self.clips, self.fingerprints = (
            tuple(str(one) for one in self._note[name]) for name in ("clips", "fingerprints")
        )
        wanted = {f"{part}.{row:05}" for part in _PARTS for row in range(len(self.names))}
        if wanted != set(self._kinds) or not len(self.names) == len(self.clips) == len(self.fingerprints):
            raise ValueError("its photos are not whole")

    def photo(self, row: int) -> TaughtPhoto:
        """One of the photos."""
        try:
            with foreign_errors(self.path):
                parts = {part: self._file.get_tensor(f"{part}.{row:05}").numpy() for part in _PARTS}
        except CheckpointError as error:
            raise self.damaged(f"it cannot be read ({error})") from error
        return TaughtPhoto(self.names[row], self.clips[row], self.fingerprints[row], **parts)


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"taught-{number:05}.safetensors"
