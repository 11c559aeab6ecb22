"""What a run's head learns of the look of its training images, when it is done: see `head.familiarity`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spaceclip_plugin.depth.depth_map import UNFAMILIAR
from spaceclip_plugin.head.familiarity import LEAST_IMAGES
from spaceclip_plugin.training.features import FeatureStream
from spaceclip_plugin.training.processes import Processes

MOST_IMAGES = 4096
VERSIONS = 2  # as photographed, and mirrored: crops and colours of chance would make strange images look familiar
_QUANTILES = (0.05, 0.25, 0.5, 0.75)

_logger = logging.getLogger(__name__)


def training_tokens(
    stream: FeatureStream, *, tap: int, device: torch.device, processes: Processes, progress: Any = None
) -> Tensor | None:
    """(N, V, C) mean tokens of a hidden state of the training images; None where they are too few to learn from.

    They are of images spread evenly over the source, no more than `MOST_IMAGES`, each in its first `VERSIONS`; each
    process reads its share.
    """
    count = min(len(stream), MOST_IMAGES)
    if count < LEAST_IMAGES:
        if processes.main:
            _logger.info(
                "%d training images are too few to know their like by (it takes %d): the head will not tell how "
                "familiar an image is", count, LEAST_IMAGES,
            )  # fmt: skip
        return None
    read = functools.partial(stream.tokens, tap=tap, versions=min(stream.versions, VERSIONS), device=device)

    def tokens(numbers: Sequence[int]) -> Iterator[Tensor]:
        for number in numbers:
            yield read(number * len(stream) // count).cpu()
            if progress is not None:
                progress(processes.count)

    return torch.stack(processes.shared_out(tokens, count))


def familiarity_record(images: int, validation: Tensor) -> dict[str, Any]:
    """What `run.json` says of it, with the familiarity (N,) of the validation images."""
    quantiles = torch.quantile(validation, torch.tensor(_QUANTILES).to(validation)).tolist()
    return {
        "images": images,
        "validation_unfamiliar": round(float((validation < UNFAMILIAR).double().mean()), 4),
        "validation_quantiles": {
            str(share): round(value, 4) for share, value in zip(_QUANTILES, quantiles, strict=True)
        },
    }
