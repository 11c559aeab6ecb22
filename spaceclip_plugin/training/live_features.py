"""Features that the frozen tower makes at every step: for data that no disk can hold the features of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data import DepthSource, prepare
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.head.familiarity import mean_tokens
from spaceclip_plugin.training.features import Batch, FeatureSettings, Loaded, stacked_targets

_PIXELS, _TARGET, _INDEX = "pixels", "target_m", "index"


class LiveFeatures:
    """Features of a data source, made when they are asked for; a `FeatureStream`."""

    def __init__(self, attachment: DepthAttachment, source: DepthSource, *, settings: FeatureSettings) -> None:
        """Nothing is read but the first sample; the head stays attached as long as this is used."""
        self._attachment: DepthAttachment | None = attachment
        self._tower = attachment.tower
        self._source = source
        self._settings = settings
        self.versions = settings.versions
        self.target_hw = (0, 0)
        if settings.targets:
            height, width = settings.depth_m(source[0]).shape
            self.target_hw = settings.target_hw((height, width))

    def __len__(self) -> int:
        return len(self._source)

    def name(self, index: int) -> str:
        """What an image is called, for messages."""
        return self._source[index].name

    def load(self, indices: Sequence[int], versions: Sequence[int]) -> Loaded:
        """Prepared pixels and targets; DataError where a sample cannot be used."""
        settings = self._settings
        images, targets = [], []
        for index, number in zip(indices, versions, strict=True):
            sample = self._source[index]
            image = settings.image(sample)
            version = settings.version(number, index=index, image_hw=(image.shape[0], image.shape[1]))
            images.append(version.image(image))
            if settings.targets:
                targets.append(version.target(settings.depth_m(sample), self.target_hw))
        return {
            _PIXELS: prepare(images, self._tower),
            _TARGET: stacked_targets(targets, len(images)),
            _INDEX: torch.tensor(list(indices)),
        }

    def decode(self, loaded: Loaded, device: torch.device) -> Batch:
        """Run the tower on what `load` gave."""
        if self._attachment is None:
            raise RuntimeError("a worker process has no tower; decode in the training process")
        try:
            self._attachment.refresh(loaded[_PIXELS])
            features = self._attachment.features()[-1].to(device)
        except CaptureError as error:
            names = ", ".join(self.name(index) for index in loaded[_INDEX].tolist())
            raise CaptureError(f"one of {names}: {error}") from error
        return Batch.of(features, loaded[_TARGET].to(device))

    def tokens(self, index: int, *, tap: int, versions: int, device: torch.device) -> Tensor:
        """(V, C) mean tokens of an image; the tower runs once for all versions."""
        features = self.decode(self.load([index] * versions, range(versions)), device).features
        return mean_tokens(features.hidden[tap], features.valid)[0]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_attachment": None}  # a worker only reads files
