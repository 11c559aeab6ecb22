"""What `evaluate` reports is what the host's own steps give: its images, its tower, `read`, `in_camera`, by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from clip_world import clip_host
from padding_policy import KEY, SmolVLAPolicy
from PIL import Image
from small_world import tiny_mixer
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthMap, ImageMapping, attach_depth_head
from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation import Evaluation, evaluate, get_protocol, predict
from spaceclip_plugin.towers import ImageGeometry
from spaceclip_worlds.render.tabletop import TabletopScenes

HW, SIDE = (45, 60), 32
PROTOCOL = get_protocol("whole-image")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def normalised(images: Sequence[Image.Image]) -> Tensor:
    values = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def stretched(photo: Image.Image) -> Image.Image:
    return photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def letterboxed(photo: Image.Image) -> Image.Image:
    laid = Image.new("RGB", (SIDE, SIDE), (7, 7, 7))
    laid.paste(photo.resize((32, 24), Image.Resampling.BICUBIC), (0, 8))
    return laid


def cropped(photo: Image.Image) -> Image.Image:
    return photo.resize((42, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32))


@dataclass(frozen=True)
class Used:
    """A host, what a user says of it, and a step of the host on a photo."""

    build: Callable[[], nn.Module]
    words: str | None
    mapping: ImageMapping | None  # that a user of `read` says; None: the policy declares it
    step: Callable[[nn.Module, np.ndarray], object]


def of_clip(words: str, mapping: ImageMapping, lay: Callable[[Image.Image], Image.Image]) -> Used:
    return Used(clip_host, words, mapping, lambda host, photo: host(normalised([lay(Image.fromarray(photo))])))


USED = {
    "stretch": of_clip("stretch", ImageMapping.stretched(HW, (SIDE, SIDE)), stretched),
    "letterbox": of_clip(
        "letterbox:bottom-right:7", ImageMapping.letterboxed(HW, (SIDE, SIDE), anchor="bottom-right"), letterboxed
    ),
    "centre-crop": of_clip("centre-crop", ImageMapping.centre_cropped(HW, (SIDE, SIDE)), cropped),
    "a policy's own": Used(
        lambda: SmolVLAPolicy(HW).eval(),
        None,
        None,
        lambda host, photo: host.select_action({KEY: torch.from_numpy(photo).permute(2, 0, 1)[None] / 255}),
    ),
}
each = pytest.mark.parametrize("used", USED.values(), ids=USED.keys())


@pytest.fixture(scope="module")
def scenes() -> list[DepthSample]:
    source = TabletopScenes(4, image_hw=HW, seed=3)
    return [source[i] for i in range(4)]


def head_for(host: nn.Module, *, focal_length: tuple[float, float] | None = (0.9, 1.3)) -> DepthHead:
    """Random weights that say they are trained, for a camera that is none of the scenes'."""
    head = tiny_mixer(host).eval()
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    head.config = dataclasses.replace(head.config, trained_on="noise", focal_length=focal_length)
    return head


def by_hand(used: Used, scenes: list[DepthSample], *, output_hw: tuple[int, int] | None = None) -> list[DepthMap]:
    """Depth over each photo as a robot has it: nothing of `data`, `evaluation` or `preparation` is used."""
    host, found = used.build(), []
    head = head_for(host)
    for scene in scenes:
        cameras = {"top": scene.intrinsics}
        with attach_depth_head(host, head, cameras=cameras, mapping=used.mapping) as attachment, torch.no_grad():
            used.step(host, scene.image)
            [seen] = attachment.read(output_hw)
            found.append(seen.in_camera())
    return found


def evaluated(used: Used, scenes: list[DepthSample], **options: object) -> Evaluation:
    host = used.build()
    if used.words is not None:
        ImageGeometry.parse(used.words).declare(host)
    with attach_depth_head(host, head_for(host)) as attachment:
        return evaluate(attachment, scenes, protocol=PROTOCOL, **options)


@each
def test_evaluate_reports_what_read_scores(used: Used, scenes: list[DepthSample]) -> None:
    # A stretch is decoded at the photo's size, which `read` does where it is asked to.
    maps = by_hand(used, scenes, output_hw=HW if used.words == "stretch" else None)
    result = evaluated(used, scenes)
    for scene, depth, score in zip(scenes, maps, result.per_image, strict=True):
        assert depth.lens == "known"
        truth_m = torch.from_numpy(scene.depth_m)
        inside = (truth_m > PROTOCOL.min_depth_m) & (truth_m < PROTOCOL.max_depth_m)
        counted = inside & depth.valid[0]
        off = (depth.depth_m[0][counted] - truth_m[counted]).abs() / truth_m[counted]
        assert score.metrics.abs_rel == pytest.approx(float(off.mean()), abs=1e-4)
        assert score.valid_pixels == int(counted.sum())
        assert score.unseen_pixels == int((inside & ~counted).sum())
    assert len({round(score.metrics.abs_rel, 3) for score in result.per_image}) > 1


def test_they_are_not_the_same_thing(scenes: list[DepthSample]) -> None:
    """A test that could not fail would be one of images that the host does not tell apart."""
    figures = [evaluated(used, scenes).mean.abs_rel for used in USED.values()]
    assert len({round(figure, 3) for figure in figures}) == len(figures)


def test_a_crop_leaves_out_what_it_cuts_off(scenes: list[DepthSample]) -> None:
    [score, *_] = evaluated(USED["centre-crop"], scenes).per_image
    assert score.unseen_pixels == 45 * (60 - 46)
    assert evaluated(USED["letterbox"], scenes).per_image[0].unseen_pixels == 0


@each
def test_both_forwards_of_a_flip_lie_over_the_photo(used: Used, scenes: list[DepthSample]) -> None:
    host, photo = used.build(), scenes[0].image
    if used.words is not None:
        ImageGeometry.parse(used.words).declare(host)
    with attach_depth_head(host, head_for(host)) as attachment:
        plain = predict(attachment, [photo], output_hw=HW)
        mirrored = predict(attachment, [photo[:, ::-1]], output_hw=HW)
        both = predict(attachment, [photo], output_hw=HW, flip=True)
    assert torch.equal(both.valid, plain.valid | mirrored.valid.flip(-1))
    each_saw = plain.valid & mirrored.valid.flip(-1)
    expected = 0.5 * (plain.depth_m + mirrored.depth_m.flip(-1))
    torch.testing.assert_close(both.depth_m[each_saw], expected[each_saw])


def test_depth_over_a_photo_knows_its_camera(scenes: list[DepthSample]) -> None:
    used, scene = USED["letterbox"], scenes[0]
    host = used.build()
    ImageGeometry.parse(str(used.words)).declare(host)
    other = dataclasses.replace(scene.intrinsics, fx_px=90.0, fy_px=90.0)
    with attach_depth_head(host, head_for(host), cameras={"top": other}, mapping=used.mapping) as attachment:
        depth = predict(attachment, [scene.image], output_hw=HW)
        known = predict(attachment, [scene.image], output_hw=HW, intrinsics=scene.intrinsics)
    assert (depth.lens, depth.image_hw, known.lens) == ("assumed", HW, "known")
    [expected] = by_hand(used, [scene])
    torch.testing.assert_close(known.depth_m, expected.depth_m)
    torch.testing.assert_close(known.points(), expected.points())


def test_photos_of_several_sizes_need_a_stretch() -> None:
    photos = [np.zeros((45, 60, 3), np.uint8), np.zeros((60, 45, 3), np.uint8)]
    host = clip_host()
    with attach_depth_head(host, head_for(host)) as attachment:
        assert predict(attachment, photos, output_hw=HW).depth_m.shape == (2, *HW)
    ImageGeometry.parse("letterbox").declare(host)
    with attach_depth_head(host, head_for(host)) as attachment:
        with pytest.raises(DataError, match="45x60, 60x45"):
            predict(attachment, photos, output_hw=HW)
        assert predict(attachment, photos[:1] * 2, output_hw=HW).depth_m.shape == (2, *HW)
