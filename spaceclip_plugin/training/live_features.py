"""Features that the frozen tower makes at every step: for data that no disk can hold the features of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spaceclip_plugin.attach.attachment import DepthAttachment
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.training.cache.feature_cache import within
from spaceclip_plugin.training.cache.key import CacheSettings
from spaceclip_plugin.training.features import Batch, Loaded
from spaceclip_plugin.training.versions import known_depth, seen_image

_PIXELS, _TARGET, _INDEX = "pixels", "target_m", "index"


class LiveFeatures:
    """Features of a data source, made when they are asked for; a `FeatureStream`.

    Attributes:
        target_hw: size of a batch's targets, in pixels.
    """

    def __init__(
        self, attachment: DepthAttachment, source: DepthSource, *, settings: CacheSettings, target_side: int | None
    ) -> None:
        """Nothing is read but the first sample.

        Args:
            attachment: the host with the head to train; it stays attached as long as this is used.
            source: images and depth.
            settings: versions and protocol; `storage` does not matter.
            target_side: see `FeatureCache`.

        Raises:
            DataError: the first sample cannot be used.
        """
        self._attachment: DepthAttachment | None = attachment
        self._tower = attachment.tower
        self._source = source
        self._settings = settings
        hw = (0, 0)
        if settings.targets:
            height, width = known_depth(source[0], settings.protocol).shape
            hw = within((height, width), target_side)
        self.target_hw = hw

    def __len__(self) -> int:
        return len(self._source)

    @property
    def views(self) -> int:
        """How many versions of every image there are."""
        return self._settings.views

    def name(self, index: int) -> str:
        """What an image is called, for messages."""
        return self._source[index].name

    def load(self, indices: Sequence[int], views: Sequence[int]) -> Loaded:
        """Prepared pixels and targets.

        Raises:
            DataError: a sample that cannot be used.
        """
        settings = self._settings
        images, targets = [], []
        for index, number in zip(indices, views, strict=True):
            sample = self._source[index]
            image = seen_image(sample, settings.protocol)
            version = settings.augmentation.version(
                number,
                seed=settings.seed,
                index=index,
                image_hw=(image.shape[0], image.shape[1]),
            )
            images.append(version.image(image))
            if settings.targets:
                target = version.target(known_depth(sample, settings.protocol), self.target_hw)
                targets.append(torch.from_numpy(target.copy()))
        target_m = torch.stack(targets) if targets else torch.zeros(len(images), 0, 0)
        return {_PIXELS: prepare(images, self._tower), _TARGET: target_m, _INDEX: torch.tensor(list(indices))}

    def decode(self, loaded: Loaded, device: torch.device) -> Batch:
        """Run the tower on what `load` gave.

        Raises:
            CaptureError: its activations are not finite; names the images.
        """
        if self._attachment is None:
            raise RuntimeError("a worker process has no tower; decode in the training process")
        try:
            self._attachment.refresh(loaded[_PIXELS])
            features = self._attachment.features()[-1].to(device)
        except CaptureError as error:
            names = ", ".join(self.name(index) for index in loaded[_INDEX].tolist())
            raise CaptureError(f"one of {names}: {error}") from error
        return Batch.of(features, loaded[_TARGET].to(device))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_attachment": None}  # a worker only reads files
