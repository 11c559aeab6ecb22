"""Photos for a host of transformers are, to the bit, those that its own image processor makes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_models import clip, vit

from spaceclip_adapters.hosts import load_hf
from spaceclip_adapters.hosts.processor_geometry import geometry_of_processor
from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.data.preparation import as_bytes
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers import ImageGeometry
from spaceclip_plugin.towers.image_geometry import UnknownGeometry

SIDE = {"height": 32, "width": 32}
CROP = {"size": {"shortest_edge": 32}, "crop_size": SIDE}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT's stretch, bilinear": ("ViTImageProcessor", {"size": SIDE}),
    "SigLIP's, bicubic": ("SiglipImageProcessor", {"size": SIDE}),
    "CLIP's middle": ("CLIPImageProcessor", CROP),
    "DINOv2's middle of more": ("BitImageProcessor", {**CROP, "size": {"shortest_edge": 37}}),
    "DeiT's middle of a stretch": ("DeiTImageProcessor", {"size": {"height": 36, "width": 36}, "crop_size": SIDE}),
}
AUTO = importlib.import_module("transformers.models.auto.image_processing_auto")
STATED = {"size": SIDE, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SIZES = [(48, 64), (64, 48), (33, 40), (101, 57), (32, 32)]


def saved(folder: Path, model: Any, processor: Any) -> str:
    model.save_pretrained(folder)
    if isinstance(processor, dict):
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    else:
        processor.save_pretrained(folder)
    return str(folder)


def made(name: str, settings: dict[str, Any], *, by: str) -> Any:
    """A processor of the class that interpolates with Pillow, or of torchvision's."""
    new = hasattr(transformers, f"{name}Pil")
    names = {"Pillow": f"{name}Pil" if new else name, "torchvision": name if new else f"{name}Fast"}
    kind = getattr(transformers, names[by], None)
    if kind is None or (by == "torchvision" and not importlib.util.find_spec("torchvision")):
        pytest.skip(f"this transformers has no {name} that interpolates with {by}")
    return kind(**settings)


def check_pixels(folder: str) -> None:
    """Photos for the host in a folder, against what transformers' own call makes of them."""
    host, processor = load_hf(folder), transformers.AutoImageProcessor.from_pretrained(folder)
    with attach_depth_head(host, DepthHead.for_tower(host)) as attachment:
        preparation, tower = attachment.preparation, attachment.tower
    for hw in SIZES:
        photo = np.random.default_rng(hw[0]).integers(0, 256, (*hw, 3), np.uint8)
        ours = preparation([photo])[0]
        theirs = torch.as_tensor(processor(photo, return_tensors="pt")["pixel_values"])[0]
        assert torch.equal(as_bytes(ours, tower), as_bytes(theirs, tower))
        torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("by", ["Pillow", "torchvision"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processor_that_transformers_loads(name: str, by: str, tmp_path: Path) -> None:
    check_pixels(saved(tmp_path, vit(), made(*PROCESSORS[name], by=by)))


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_torchvisions_processor_as_transformers_4_names_it(name: str, tmp_path: Path) -> None:
    kind, settings = PROCESSORS[name]
    said = {**made(kind, settings, by="torchvision").to_dict(), "image_processor_type": f"{kind}Fast"}
    check_pixels(saved(tmp_path, vit(), json.loads(json.dumps(said, default=str))))


@pytest.mark.parametrize("named", [True, False])
def test_what_interpolates_is_the_installed_transformers_choice(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file, in a place with torchvision and in one without."""
    if not hasattr(transformers, "ViTImageProcessorPil"):
        pytest.skip("before transformers 5 the file's class says what interpolates")
    folder = saved(tmp_path, vit(), {"image_processor_type": "ViTImageProcessor"} | STATED if named else STATED)
    for found in (True, False):
        monkeypatch.setattr(AUTO, "is_torchvision_available", lambda found=found: found)
        check_pixels(folder)
        host = load_hf(folder)
        with attach_depth_head(host, DepthHead.for_tower(host)) as attachment:
            assert ("torch" in attachment.preparation.name) == found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, None),
        ({"image_processor_type": "ViTImageProcessor"}, ImageGeometry(resampling="bilinear")),
        ({"size": 32, "resample": 3}, ImageGeometry()),
        ({"size": 32, "resample": 3, "_valid_processor_keys": ["images", "size"]}, ImageGeometry()),
        (
            {"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32, "do_center_crop": True},
            ImageGeometry("centre-crop", resize=40),
        ),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 36, "crop_size": 32, "do_center_crop": True},
            ImageGeometry("centre-crop", resize=(36, 36)),
        ),
        ({"size": SIDE, "crop_size": 32, "do_center_crop": True}, ImageGeometry()),
    ],
)
def test_what_a_file_says(
    settings: dict[str, Any], expected: ImageGeometry | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no torchvision."""
    monkeypatch.setattr(AUTO, "is_torchvision_available", lambda: False, raising=False)
    assert geometry_of_processor(settings, source="here", tower_hw=(32, 32)) == expected


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size": SIDE, "do_pad": True}, "do_pad"),
        ({"size": {"longest_edge": 64}}, "longest_edge"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "longest_edge"),
        ({"size": {"shortest_edge": 32}}, "shorter side"),
        ({"size": SIDE, "patch_size": 14}, "patch_size"),
        ({"size": SIDE, "auto_map": {"AutoImageProcessor": "mine.Own"}}, "auto_map"),
        ({"do_resize": False}, "do_resize"),
        ({"size": SIDE, "resample": "cubic"}, "resample"),
        ({"image_processor_type": "ViTImageProcessorFast", "size": SIDE, "resample": 1}, "lanczos"),
        ({"image_processor_type": "ViTImageProcessorFast", "size": SIDE, "resample": 0}, "nearest"),
        ({"size": {"shortest_edge": 32}, "crop_size": 24, "do_center_crop": True}, "24"),
    ],
)
def test_what_is_not_understood_is_named(settings: dict[str, Any], named: str) -> None:
    found = geometry_of_processor(settings, source="here", tower_hw=(32, 32))
    assert isinstance(found, UnknownGeometry)
    assert found.reason.startswith("here: ")
    assert named in found.reason


def test_a_host_that_is_not_understood_loads_and_reads_and_prepares_as_it_is_told(tmp_path: Path) -> None:
    odd = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"longest_edge": 64}, "do_pad": True}
    host = load_hf(saved(tmp_path, clip(), odd))
    head = DepthHead.for_tower(host)
    with attach_depth_head(host, head) as attachment, pytest.raises(HostError, match=r"do_pad.*--preparation"):
        attachment.preparation  # noqa: B018
    ImageGeometry.STRETCH.declare(host)
    with attach_depth_head(host, head) as attachment:
        assert attachment.preparation.kind == "stretch"


def test_one_without_a_processor_is_stretched_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = clip()
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        host = load_hf(str(tmp_path))
    assert "--preparation" in caplog.text
    with attach_depth_head(host, DepthHead.for_tower(host)) as attachment:
        assert attachment.preparation.name == ImageGeometry.STRETCH.name
