"""A head learns nothing from what its tower never reads, with either loss, live or from a cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ramp_world import places, siglip
from small_world import PROTOCOL, cached, settings, tiny_mixer

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.training.features import Batch, FeatureStream
from spaceclip_plugin.training.live_features import LiveFeatures
from spaceclip_plugin.training.losses import LOSSES, PublishedLoss, RelativeLoss, SharpLoss
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.validation_set import ValidationSet

CPU = torch.device("cpu")
HW = (48, 64)
READ_HW = (42, 56)


def sample(number: int, strip_m: float = 3.0) -> DepthSample:
    random = np.random.default_rng(number)
    depth_m = (1 + number + places(48, HW[0])[:, None].repeat(1, HW[1]).numpy() / 48).astype(np.float32)
    depth_m[READ_HW[0] :] = depth_m[:, READ_HW[1] :] = strip_m
    return DepthSample(random.integers(0, 256, (*HW, 3), dtype=np.uint8), depth_m, f"photo {number}")


SAMPLES = [sample(number) for number in range(3)]


@pytest.fixture
def attachment() -> Iterator[DepthAttachment]:
    host = siglip()
    with attach_depth_head(host, tiny_mixer(host).eval()) as depth:
        yield depth


@pytest.fixture(params=["live", "cached"])
def stream(request: pytest.FixtureRequest, attachment: DepthAttachment, tmp_path: Path) -> FeatureStream:
    if request.param == "cached":
        return cached(attachment, SAMPLES, tmp_path)
    return LiveFeatures(attachment, SAMPLES, settings=settings())


def batch(stream: FeatureStream, view: int = 0) -> Batch:
    return stream.decode(stream.load([0, 2], [view] * 2), CPU)


@pytest.mark.parametrize("view", [0, 1])
def test_targets_end_where_the_tower_stops_reading(stream: FeatureStream, view: int) -> None:
    target_m = batch(stream, view).target_m
    assert target_m.shape == (2, *HW)
    assert not target_m[:, READ_HW[0] :].any()
    assert not target_m[:, :, READ_HW[1] :].any()
    for row, index in enumerate((0, 2)):
        depth_m = torch.from_numpy(SAMPLES[index].depth_m[:, ::-1].copy() if view else SAMPLES[index].depth_m)
        assert torch.equal(target_m[row, : READ_HW[0], : READ_HW[1]], depth_m[: READ_HW[0], : READ_HW[1]])


def test_what_the_tower_never_read_is_unknown_where_nothing_is_too(stream: FeatureStream) -> None:
    sky_m = torch.full((2, *HW), torch.inf)
    target_m = Batch.of(batch(stream).features, sky_m).target_m
    assert target_m[:, : READ_HW[0], : READ_HW[1]].isinf().all()
    assert not target_m[:, READ_HW[0] :].any()
    assert not target_m[:, :, READ_HW[1] :].any()


# Normals are of rays through the whole image, so that it is not as if that ended elsewhere.
OF_NO_SIZE = {"relative": RelativeLoss(), "published": PublishedLoss(), "sharp": SharpLoss()}


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_sees_the_strip(stream: FeatureStream, loss: str) -> None:
    """It is as if the image ended there: the same value and the same gradients."""
    found = batch(stream)
    seen = found.features.seen
    assert seen is not None
    assert seen.seen == (0, 0, 42, 42)

    def value(depth_m: torch.Tensor, target_m: torch.Tensor) -> torch.Tensor:
        return OF_NO_SIZE[loss](HeadOutput(depth_m), target_m, valid=target_m > 0)

    grid_m = (1 + torch.rand(2, *READ_HW, generator=torch.Generator().manual_seed(0))).requires_grad_()
    whole = value(seen.laid_out(grid_m, HW), found.target_m)
    alone = value(grid_m, found.target_m[:, : READ_HW[0], : READ_HW[1]])
    torch.testing.assert_close(whole, alone)
    [one], [other] = torch.autograd.grad(whole, grid_m), torch.autograd.grad(alone, grid_m)
    torch.testing.assert_close(one, other)
    assert one.isfinite().all()


class Truth(torch.nn.Module):
    """The depth of photo 1, over the patches alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, features: object, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        assert output_hw == READ_HW
        return HeadOutput(torch.from_numpy(SAMPLES[1].depth_m[None, : READ_HW[0], : READ_HW[1]].copy()) * self.gain)


def test_validation_scores_what_was_seen_the_same_live_and_cached(stream: FeatureStream) -> None:
    head = tiny_mixer(siglip())
    head.decoder = Truth()

    class One:
        versions, target_hw = stream.versions, stream.target_hw

        def load(self, indices: list[int], versions: list[int]) -> dict[str, torch.Tensor]:
            return stream.load([1], versions)

        def decode(self, loaded: dict[str, torch.Tensor], device: torch.device) -> Batch:
            return stream.decode(loaded, device)

    validation_set = ValidationSet(One(), [SAMPLES[1]], PROTOCOL, Processes(CPU))
    assert validation_set.metrics(head.eval()).abs_rel == pytest.approx(0, abs=1e-6)
    [row] = validation_set.pictures(head, 1)
    assert row.valid is not None
    assert row.valid.sum() == READ_HW[0] * READ_HW[1]


def test_calibration_is_on_what_was_seen(attachment: DepthAttachment) -> None:
    factors = []
    for strip_m in (0.0, 9.0):
        samples = [sample(number, strip_m) for number in range(3)]
        live = LiveFeatures(attachment, samples, settings=settings())
        calibration = ValidationSet(live, samples, PROTOCOL, Processes(CPU)).calibrate(tiny_mixer(siglip()).eval())
        assert calibration is not None
        factors.append(calibration.factor)
    assert factors[0] == factors[1]
