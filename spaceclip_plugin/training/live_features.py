"""Features that the frozen tower makes at every step: for data that no disk can hold the features of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data import DepthSource
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.head.familiarity import mean_tokens
from spaceclip_plugin.training.features import Batch, FeatureSettings, Loaded, stacked_targets

_PIXELS, _PHOTO, _TARGET, _INDEX, _SIZE = "pixels", "photo", "target_m", "index", "image_hw"


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
            first = source[0]
            (height, width), image = settings.depth_m(first).shape, settings.image(first)
            self.target_hw = settings.target_hw((height, width), (image.shape[0], image.shape[1]))

    def __len__(self) -> int:
        return len(self._source)

    def name(self, index: int) -> str:
        """What an image is called, for messages."""
        return self._source[index].name

    def load(self, indices: Sequence[int], versions: Sequence[int]) -> Loaded:
        """Prepared pixels, or photos that are to be prepared, and targets; DataError where a sample cannot be used."""
        settings = self._settings
        images, targets = [], []
        for index, number in zip(indices, versions, strict=True):
            sample = self._source[index]
            image = settings.image(sample)
            image_hw = (image.shape[0], image.shape[1])
            version = settings.version(number, index=index, image_hw=image_hw)
            images.append(version.image(image))
            if settings.targets:
                depth_m = settings.depth_m(sample)
                targets.append(settings.target(depth_m, version, image_hw=image_hw, hw=self.target_hw))
        return {
            **self._shown(images),
            _TARGET: stacked_targets(targets, len(images)),
            _INDEX: torch.tensor(list(indices)),
            _SIZE: torch.tensor(image_hw),  # of the last image, before it became a version
        }

    def decode(self, loaded: Loaded, device: torch.device) -> Batch:
        """Run the tower on what `load` gave."""
        if self._attachment is None:
            raise RuntimeError("a worker process has no tower; decode in the training process")
        try:
            with self._settings.arithmetic(device):
                self._attachment.refresh(self._pixels(loaded))
            features = self._attachment.features()[-1].to(device)
        except CaptureError as error:
            names = ", ".join(self.name(index) for index in loaded[_INDEX].tolist())
            raise CaptureError(f"one of {names}: {error}") from error
        return Batch.of(features, loaded[_TARGET].to(device))

    def tokens(self, index: int, *, tap: int, versions: int, device: torch.device) -> Tensor:
        """(V, C) mean tokens of an image; the tower runs once for all versions."""
        loaded = self.load([index] * versions, range(versions))
        features, (height, width) = self.decode(loaded, device).features, loaded[_SIZE].tolist()
        hidden, valid = features.hidden[tap], features.valid
        shown = self._settings.shown(hidden, index=index, image_hw=(height, width), seen=features.seen)
        if shown is not None:
            valid = shown if valid is None else valid & shown
        return mean_tokens(hidden, valid)[0]

    def _shown(self, photos: Sequence[npt.NDArray[np.uint8]]) -> Loaded:
        """The tower's images of photos, or the photos where only the training process can make these."""
        if self._settings.portable:
            return {_PIXELS: self._settings.pixels(photos, self._tower)}
        return {f"{_PHOTO} {number}": torch.from_numpy(photo) for number, photo in enumerate(photos)}

    def _pixels(self, loaded: Loaded) -> Tensor:
        if _PIXELS in loaded:
            return loaded[_PIXELS]
        photos = [loaded[f"{_PHOTO} {number}"].numpy() for number in range(len(loaded[_INDEX]))]
        return self._settings.pixels(photos, self._tower)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_attachment": None}  # a worker only reads files
