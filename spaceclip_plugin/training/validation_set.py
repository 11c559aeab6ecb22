"""The images a run is judged by: metrics after every epoch, and how far the best head's uncertainty can be believed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spaceclip_plugin.attach.camera_lenses import shown_patches
from spaceclip_plugin.data import DepthSample, DepthSource
from spaceclip_plugin.data.preparation import ImagePreparation
from spaceclip_plugin.depth import DepthMap, ImageMapping, PanelRow
from spaceclip_plugin.depth.strangeness import strange_sd
from spaceclip_plugin.evaluation import Calibration, DepthMetrics, Protocol, calibrate, mean_metrics
from spaceclip_plugin.evaluation.calibration import PIXELS_PER_IMAGE, normalised_residuals
from spaceclip_plugin.evaluation.over_photo import over_photo, seen_of_photo
from spaceclip_plugin.head import Calibratable, DepthHead, HeadOutput
from spaceclip_plugin.towers import TowerFeatures
from spaceclip_plugin.training.data_camera import DataCamera
from spaceclip_plugin.training.features import FeatureStream
from spaceclip_plugin.training.processes import Processes


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """Validation images with their features."""

    stream: FeatureStream
    source: DepthSource
    protocol: Protocol
    processes: Processes
    camera: DataCamera | None = None  # whose metres the head gives; None: it is that of every image
    preparation: ImagePreparation | None = None  # makes the tower's images; None: photos are stretched to them

    def metrics(self, head: DepthHead) -> DepthMetrics:
        """Mean metrics of a head in eval mode; each process scores its share of the images."""

        def scored(indices: Sequence[int]) -> Iterator[DepthMetrics]:
            for sample, output, seen, _ in self._outputs(head, indices):
                yield self.protocol.score(output.depth_m[0].cpu(), sample, seen=seen)

        return mean_metrics(self.processes.shared_out(scored, len(self.source)))

    def calibrate(self, head: DepthHead) -> Calibration | None:
        """Fit a head's uncertainty to its errors and rescale it by that; None, and nothing done, where it has none.

        It is fitted as it is used: widened where an image is not familiar.
        """
        decoder = head.decoder
        if not isinstance(decoder, Calibratable) or not decoder.predicts_uncertainty:
            return None
        residuals, widenings = [], []
        for sample, output, seen, familiarity in self._outputs(head, range(len(self.source))):
            if output.uncertainty_m is None:
                return None
            compared = self.protocol.compared(torch.cat([output.depth_m, output.uncertainty_m]), sample, seen=seen)
            depth_m, sd_m = compared.maps_m
            deviations = functools.partial(
                normalised_residuals, depth_m, sd_m, valid=compared.valid, max_pixels=PIXELS_PER_IMAGE
            )
            residuals.append(deviations(compared.target_m))
            if familiarity is not None:  # as of depth that is off by just that
                widenings.append(deviations(depth_m * (-strange_sd(familiarity)).exp().cpu()))
        calibration = calibrate(residuals, widening=widenings or None)
        decoder.rescale_uncertainty(calibration.factor)
        return calibration

    def familiarity(self, head: DepthHead) -> Tensor | None:
        """(N,) how familiar the images are to a head, in order; None where it cannot tell."""
        if head.familiarity is None:
            return None
        found = [familiarity for *_, familiarity in self._outputs(head, range(len(self.source)))]
        return torch.cat([one for one in found if one is not None]).cpu()

    def pictures(self, head: DepthHead, count: int) -> list[PanelRow]:
        """Photo, truth and prediction of up to `count` images from all over the source, for people to look at."""
        indices = dict.fromkeys(i * len(self.source) // count for i in range(count))
        rows = []
        for sample, output, seen, _ in self._outputs(head, indices):
            compared = self.protocol.compared(output.depth_m, sample, seen=seen)
            depth_m = compared.maps_m[0].clamp(self.protocol.min_depth_m, self.protocol.max_depth_m)
            shown = depth_m.isfinite()
            truth_m = compared.target_m.where(compared.valid, torch.zeros(()))
            rows.append(PanelRow(sample.image, depth_m.nan_to_num(0.0).numpy(), truth_m.numpy(), shown.numpy()))
        return rows

    def _outputs(
        self, head: DepthHead, indices: Iterable[int]
    ) -> Iterator[tuple[DepthSample, HeadOutput, Tensor | None, Tensor | None]]:
        """Images with the head's output in metres of their camera, which pixels of it the tower read (None: all), and
        how familiar they are (1,), or None."""
        device = next(head.parameters()).device
        for index in indices:
            sample = self.source[index]
            output_hw = self.protocol.prediction_hw((sample.depth_m.shape[0], sample.depth_m.shape[1]))
            features = self.stream.decode(self.stream.load([index], [0]), device).features
            mapping = self._mapping(sample)
            with torch.no_grad():
                output: HeadOutput = head(features, output_hw if mapping is None else None)
            if mapping is not None:
                output = _over_photo(output, features, mapping, output_hw)
            scale = 1.0
            if self.camera is not None:
                scale = self.camera.from_head(sample, self.protocol, preparation=self.preparation)
            if scale != 1.0:
                sd_m = output.uncertainty_m
                output = HeadOutput(output.depth_m * scale, (), None if sd_m is None else sd_m * scale)
            seen, shown = seen_of_photo(mapping, features.seen, output_hw), None
            if mapping is not None and head.familiarity is not None:
                height, width = features.hidden[head.familiarity.options.tap].shape[-2:]
                shown = shown_patches(mapping, features.seen, (height, width))
            yield sample, output, seen, head.familiarity_of(features, shown=shown)

    def _mapping(self, sample: DepthSample) -> ImageMapping | None:
        """From a sample's photo, as the protocol has it, to the tower's image; None where it is stretched to it."""
        if self.preparation is None:
            return None
        _, _, *image_hw = self.protocol.crop_box((sample.image.shape[0], sample.image.shape[1]))
        mapping = self.preparation.mapping((image_hw[0], image_hw[1]))
        return None if mapping.stretches else mapping


def _over_photo(
    output: HeadOutput, features: TowerFeatures, mapping: ImageMapping, output_hw: tuple[int, int]
) -> HeadOutput:
    """What a head gives over the tower's image, over the photo in so many pixels."""
    sd_m = output.uncertainty_m
    depth = DepthMap(
        depth_m=output.depth_m.float(),
        valid=torch.ones_like(output.depth_m, dtype=torch.bool),
        camera=None,
        frame=0,
        image_hw=features.image_hw,
        trained=True,
        uncertainty_m=None if sd_m is None else sd_m.float(),
    )
    part = mapping if features.seen is None else mapping.clipped(features.seen.seen)
    placed = over_photo(depth.with_mapping(part), output_hw)
    return HeadOutput(placed.depth_m, (), placed.uncertainty_m)
