"""The wrapper for transformers: the depth of an attachment, through the Auto classes and the pipeline too."""

from __future__ import annotations

import copy
import dataclasses
import gc
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from clip_world import TwoEyes, clip_host, hook_count, images
from heads_that_tell import telling
from llava_world import llava_host
from packaging.version import Version
from PIL import Image
from ramp_world import ramp_head, siglip
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers_world import FAMILIES, folder, host, load, model, seeded, small_head

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.bridges.transformers import SpaceClipForDepthEstimation, register
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.errors import AmbiguousTowerError, CaptureError, CheckpointError, ConfigError, HeadMismatchError
from spaceclip_plugin.towers.registry import find_tower, find_towers

__all__ = ["folder", "host", "model"]  # fixtures

RESIZES_DEPTH = hasattr(transformers.DPTImageProcessor, "post_process_depth_estimation")  # from transformers 4.46
KEYWORD = "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"


def timm_host() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=32, num_heads=4)


def attached_depth(host: nn.Module, head: DepthHead, pixels: Tensor) -> Tensor:
    with attach_depth_head(host, head) as attachment:
        attachment.refresh(pixels)
        (depth,) = attachment.read()
    return depth.depth_m


@pytest.fixture
def photo() -> Image.Image:
    rows, columns = np.mgrid[:48, :80]
    channels = [rows * 5, columns * 3, 255 - rows * columns // 16]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


# --- depth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_depth_is_the_attachments_before_and_after_saving(family: str, tmp_path: Path) -> None:
    host = seeded(FAMILIES[family])
    head, pixels = small_head(host), images(3, batch=2)
    expected = attached_depth(host, head, pixels)
    model = SpaceClipForDepthEstimation.from_host(host, head)
    depth = model(pixels).predicted_depth
    assert depth.shape == (2, 32, 32)
    assert depth.dtype == torch.float32
    assert not torch.equal(depth[0], depth[1])
    assert torch.equal(depth, expected)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(loaded(pixels).predicted_depth, expected)
    assert not loaded.training
    assert loaded.head.trained
    assert torch.equal(loaded.train()(pixels).predicted_depth, expected)  # no dropout whatever the mode
    assert loaded.training
    assert loaded.head.training


def test_a_timm_tower_works_live_and_is_not_saved(tmp_path: Path) -> None:
    host = seeded(timm_host)
    head, pixels = small_head(host), images(3)
    model = SpaceClipForDepthEstimation.from_host(host, head)
    assert torch.equal(model(pixels).predicted_depth, attached_depth(host, head, pixels))
    with pytest.raises(CheckpointError, match="clip_vision_model"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_host_is_untouched_whatever_is_done_to_the_model(host: nn.Module) -> None:
    host.train()
    before, pixels = module_digest(host), images(3)
    random_state = torch.get_rng_state()
    model = SpaceClipForDepthEstimation.from_host(host, small_head(host))
    model(pixels)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert host.training
    model.eval().to(torch.float64)
    assert next(host.parameters()).dtype == torch.float32
    assert host.training
    assert all(name.startswith("head.") for name in model.state_dict())
    assert module_digest(host) == before
    assert hook_count(host) > 0
    del model
    gc.collect()
    assert hook_count(host) == 0


def test_of_a_larger_model_the_tower_alone_is_saved(tmp_path: Path) -> None:
    host = seeded(llava_host)
    SpaceClipForDepthEstimation.from_host(host, small_head(host)).save_pretrained(tmp_path)
    tower = find_tower(host).module
    saved = {name for name in load_file(tmp_path / "model.safetensors") if name.startswith("tower.")}
    assert saved == {f"tower.{name}" for name in tower.state_dict()}


def test_images_of_another_shape_than_the_towers(tmp_path: Path) -> None:
    host = seeded(FAMILIES["dinov2"])
    model = SpaceClipForDepthEstimation.from_host(host, small_head(host))
    assert model(torch.randn(1, 3, 32, 48)).predicted_depth.shape == (1, 32, 48)


def test_outputs_in_the_forms_of_transformers(host: nn.Module, model: SpaceClipForDepthEstimation) -> None:
    pixels = images(3)
    assert model(pixels).hidden_states is None
    output = model(pixels, output_hidden_states=True)
    with torch.no_grad():
        truth = host(pixels, output_hidden_states=True).hidden_states
    assert len(output.hidden_states) == len(model.head.taps) == 3
    for tap, patch_map in zip((0, 1, 3), output.hidden_states, strict=True):
        assert torch.equal(patch_map.flatten(2).transpose(1, 2), truth[tap][:, 1:])
    (depth,) = model(pixels, return_dict=False)
    assert torch.equal(depth, output.predicted_depth)
    assert not depth.requires_grad


def test_what_forward_refuses(model: SpaceClipForDepthEstimation) -> None:
    with pytest.raises(ConfigError, match="spaceclip train"):
        model(images(3), labels=torch.ones(1, 32, 32))
    with pytest.raises(ConfigError, match=r"\(B, 3, H, W\)"):
        model(images(3)[0])
    with pytest.raises(CaptureError, match="32x32"):
        model(torch.randn(1, 3, 48, 48))
    with torch.no_grad():
        next(model.head.parameters()).fill_(torch.nan)
    with pytest.raises(CaptureError, match="NaN"):
        model(images(3))


def test_depth_in_metres_of_the_cameras_that_are_told(host: nn.Module) -> None:
    model = SpaceClipForDepthEstimation.from_host(host, telling(small_head(host), focal_length=(0.8, 1.2)))
    pixels = images(0, batch=3)
    plain = model(pixels).predicted_depth
    both = model(pixels, focal_length=torch.tensor([1.6, 2.4])).predicted_depth
    torch.testing.assert_close(both, 2 * plain, rtol=1e-6, atol=0)
    each = torch.tensor([[0.8, 1.2], [1.6, 2.4], [0.8, 4.8]], dtype=torch.float64)
    found = model(pixels, focal_length=each, return_dict=False)[0]
    torch.testing.assert_close(found, plain * torch.tensor([1.0, 2.0, 2.0])[:, None, None], rtol=1e-6, atol=0)
    assert torch.equal(found[0], plain[0])


@pytest.mark.parametrize(
    "focal_length",
    [
        torch.ones(3),
        torch.ones(2, 2),
        torch.ones(1, 2),
        (1.0, 1.0),
        torch.tensor([0.0, 1.0]),
        torch.tensor([-1.0, 1.0]),
        torch.tensor([torch.nan, 1.0]),
        torch.tensor([1.0, torch.inf]),
        torch.tensor([[1.0, 1.0], [1.0, 1.0], [600.0, 1.0]]),  # pixels
    ],
)
def test_focal_lengths_that_cannot_be(host: nn.Module, focal_length: Tensor) -> None:
    model = SpaceClipForDepthEstimation.from_host(host, telling(small_head(host)))
    with pytest.raises(ConfigError, match="focal_length"):
        model(images(0, batch=3), focal_length=focal_length)


def test_a_head_that_does_not_tell_its_own_takes_no_focal_length(model: SpaceClipForDepthEstimation) -> None:
    with pytest.raises(ConfigError, match="does not tell"):
        model(images(3), focal_length=torch.ones(2))


def test_what_a_head_knows_of_its_camera_and_its_images_is_saved_with_it(host: nn.Module, tmp_path: Path) -> None:
    made = SpaceClipForDepthEstimation.from_host(host, telling(small_head(host), familiar=False))
    made.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.head.config == made.head.config
    assert (loaded.head.config.focal_length, loaded.head.config.familiarity is None) == ((1.0, 1.0), False)
    for name, value in made.head.state_dict().items():
        assert torch.equal(loaded.head.state_dict()[name], value)
    twice = torch.tensor([2.0, 2.0])
    depths = [model(images(3), focal_length=twice).predicted_depth for model in (made, loaded)]
    assert torch.equal(*depths)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_tracing_is_refused_and_leaves_the_model_well(host: nn.Module, model: SpaceClipForDepthEstimation) -> None:
    host.requires_grad_(False)
    model.requires_grad_(False)
    expected = model(images(3)).predicted_depth
    with pytest.raises(CaptureError, match="traced"):
        torch.jit.trace(model, images(3), strict=False)
    assert torch.equal(model(images(3)).predicted_depth, expected)


def test_a_host_in_half_precision_and_a_head_in_float32(tmp_path: Path) -> None:
    host = clip_host().to(torch.bfloat16)
    head, pixels = small_head(host), images(3)
    model = SpaceClipForDepthEstimation.from_host(host, head)
    depth = model(pixels).predicted_depth
    assert torch.equal(depth, attached_depth(host, head, pixels))
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(loaded(pixels).predicted_depth, depth)
    assert next(loaded.tower.parameters()).dtype == torch.bfloat16
    assert next(loaded.head.parameters()).dtype == torch.float32


def test_copies_stand_alone(host: nn.Module, model: SpaceClipForDepthEstimation) -> None:
    expected = model(images(3)).predicted_depth
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    with torch.no_grad():
        for parameter in host.parameters():
            parameter.zero_()
    for copied in copies:
        assert torch.equal(copied(images(3)).predicted_depth, expected)
    assert not torch.equal(model(images(3)).predicted_depth, expected)


def test_threads_get_the_depth_of_their_own_images(model: SpaceClipForDepthEstimation) -> None:
    pixels = [images(seed) for seed in range(4)] * 10
    expected = [model(value).predicted_depth for value in pixels]
    with ThreadPoolExecutor(4) as pool:
        depths = list(pool.map(lambda value: model(value).predicted_depth, pixels))
    assert all(torch.equal(*pair) for pair in zip(depths, expected, strict=True))


def test_frames_of_the_hosts_own_calls_are_not_mistaken(host: nn.Module, model: SpaceClipForDepthEstimation) -> None:
    expected = model(images(3)).predicted_depth
    with torch.no_grad():
        host(images(4))
        host(torch.full((1, 3, 32, 32), torch.nan))
    assert torch.equal(model(images(3)).predicted_depth, expected)


def test_what_from_host_takes_and_refuses(host: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = small_head(host)
    head.save_pretrained(tmp_path)
    of_folder = SpaceClipForDepthEstimation.from_host(host, tmp_path)
    assert torch.equal(of_folder(images(3)).predicted_depth, attached_depth(host, head, images(3)))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    SpaceClipForDepthEstimation.from_host(host, small_head(host, trained_on=None))
    assert "means nothing" in caplog.text
    both = TwoEyes()
    with pytest.raises(AmbiguousTowerError, match="tower=PATH"):
        SpaceClipForDepthEstimation.from_host(both, head)
    left, right = (found.spec.path for found in find_towers(both))
    chosen = SpaceClipForDepthEstimation.from_host(both, head, tower=right)
    assert torch.equal(chosen(images(3)).predicted_depth, attached_depth(both.right, head, images(3)))
    assert hook_count(both.get_submodule(left)) == 0
    with pytest.raises(HeadMismatchError, match="width 64"):
        SpaceClipForDepthEstimation.from_host(clip_host(hidden_size=64), head)
    with pytest.raises(ConfigError, match="NoneType"):
        SpaceClipForDepthEstimation.from_host(host, None)


# --- Auto classes and the pipeline ----------------------------------------------------------------------------------


def test_the_auto_classes(folder: Path, model: SpaceClipForDepthEstimation) -> None:
    register()
    register()
    expected = model(images(3)).predicted_depth
    loaded = transformers.AutoModelForDepthEstimation.from_pretrained(folder)
    assert torch.equal(loaded(images(3)).predicted_depth, expected)
    halved = transformers.AutoModelForDepthEstimation.from_pretrained(folder, **{KEYWORD: torch.float16})
    assert halved.dtype == torch.float16
    assert "DPT" in type(transformers.AutoImageProcessor.from_pretrained(folder)).__name__


def test_the_image_processor_prepares_photos_as_heads_are_trained(
    model: SpaceClipForDepthEstimation, photo: Image.Image
) -> None:
    pixels = model.image_processor()(images=photo, return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels, prepare([np.asarray(photo)], find_tower(clip_host()).spec), atol=1e-6)


def test_a_head_that_learnt_on_images_that_are_not_stretched_says_so(caplog: pytest.LogCaptureFixture) -> None:
    host = clip_host()
    head = small_head(host)
    for words, warned in (("stretch", False), ("letterbox:centre", True)):
        head.config = dataclasses.replace(head.config, preparation=words)
        SpaceClipForDepthEstimation.from_host(host, head).image_processor()
        assert ("letterbox:centre" in caplog.text) == warned


def test_the_pipeline_of_a_live_model(model: SpaceClipForDepthEstimation, photo: Image.Image) -> None:
    pipe = transformers.pipeline("depth-estimation", model=model, image_processor=model.image_processor())
    result = pipe(photo)
    assert result["depth"].size == photo.size
    raw = model(prepare([np.asarray(photo)], model._spec)).predicted_depth
    if RESIZES_DEPTH:
        raw = interpolate(raw[None], size=(48, 80), mode="bicubic", align_corners=False)[0, 0]
    assert result["predicted_depth"].shape == raw.shape
    assert torch.allclose(result["predicted_depth"], raw, atol=1e-4)


@pytest.mark.skipif(not RESIZES_DEPTH, reason="this transformers has no depth post-processing")
def test_the_pipeline_of_a_tower_that_reads_less_than_its_image(photo: Image.Image) -> None:
    tower = siglip(48, 14)  # reads 42 of 48 pixels
    model = SpaceClipForDepthEstimation.from_host(tower, ramp_head(tower))
    pipe = transformers.pipeline("depth-estimation", model=model, image_processor=model.image_processor())
    depth = pipe(photo.resize((96, 96)))["predicted_depth"].reshape(96, 96)
    middles = (torch.arange(96) + 0.5) / 28 + 10  # in patches of 28 pixels
    inside = slice(14, 70)
    torch.testing.assert_close(depth[inside, 0], middles[inside], atol=0.02, rtol=0)
    torch.testing.assert_close(depth[70:, 0], torch.full((26,), 12.5), atol=0.02, rtol=0)  # the last row's, no zeros


def test_the_pipeline_of_a_folder(folder: Path, photo: Image.Image) -> None:
    register()
    pipe = transformers.pipeline("depth-estimation", model=str(folder))
    assert isinstance(pipe.model, SpaceClipForDepthEstimation)
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    alone = [pipe(image)["predicted_depth"] for image in (photo, mirrored)]
    assert not torch.allclose(*alone)
    for results in (pipe([photo, mirrored]), pipe([photo, mirrored], batch_size=2) if RESIZES_DEPTH else []):
        for result, expected in zip(results, alone, strict=False):
            assert torch.allclose(result["predicted_depth"], expected, atol=1e-4)
            assert result["depth"].size == photo.size
