"""Micro-batches read ahead by worker processes, in the order of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Dataset

from spaceclip_plugin.errors import SpaceClipError
from spaceclip_plugin.training.data_order import MicroBatch
from spaceclip_plugin.training.features import FeatureStream, Loaded
from spaceclip_plugin.training.reading_ahead import read_ahead


class _Micro(Dataset[Loaded | SpaceClipError]):
    """Item i is what micro-batch i needs; an error of ours is an item, see `read_ahead`."""

    def __init__(self, stream: FeatureStream, plan: Sequence[MicroBatch]) -> None:
        self._stream = stream
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Loaded | SpaceClipError:
        micro = self._plan[index]
        try:
            return self._stream.load(micro.indices, micro.views)
        except SpaceClipError as error:
            return error


def loaded_batches(
    stream: FeatureStream, plan: Sequence[MicroBatch], *, workers: int, pinned: bool = False
) -> Iterator[Loaded]:
    """What each micro-batch of `plan` needs, in its order, whatever the number of workers.

    Args:
        stream: where it comes from.
        plan: what this process does.
        workers: processes that read ahead; 0 reads in this one.
        pinned: in memory from which a GPU copies faster.

    Raises:
        SpaceClipError: what the stream raised, in the place where it did.
        TrainingError: a worker was killed.
    """
    return read_ahead(_Micro(stream, plan), workers=workers, pinned=pinned)
