"""A host's own image processor says mean and deviation; what it does not say in such terms is refused by name."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_models import POOLED, SIZES, TEXT, clip, siglip, vit
from torch import nn

from spaceclip_adapters.hosts import load_hf
from spaceclip_adapters.hosts.image_processors import image_size_of_processor, statistics_of_processor
from spaceclip_plugin.attach import attach_depth_head
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.towers.hosts import load_host
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.towers.registry import find_tower

IMAGENET, SYMMETRIC = ImageStatistics.IMAGENET, ImageStatistics.SYMMETRIC
OWN = ImageStatistics(mean=(0.11, 0.22, 0.33), std=(0.44, 0.55, 0.66))
OWN_FILE = {"image_mean": list(OWN.mean), "image_std": list(OWN.std)}
HOSTS = {
    **POOLED,
    "clip": clip,
    "siglip": siglip,
    "blip": lambda: transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(text_config={**TEXT, "encoder_hidden_size": 32}, vision_config=SIZES)
    ),
    "dinov2": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(**{name: size for name, size in SIZES.items() if name != "intermediate_size"})
    ),
}


def saved(folder: Path, model: nn.Module, **files: Any) -> str:
    model.save_pretrained(folder)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder)


def statistics_of(host: nn.Module) -> ImageStatistics:
    return ImageStatistics.of(find_tower(host).spec)


class TestHosts:
    @pytest.mark.parametrize("kind", HOSTS)
    def test_the_processor_decides(self, kind: str, tmp_path: Path) -> None:
        host = load_hf(saved(tmp_path, HOSTS[kind](), preprocessor_config=OWN_FILE))
        assert statistics_of(host) == OWN
        photo = np.full((40, 50, 3), 255, np.uint8)
        pixels = prepare([photo], find_tower(host).spec)
        assert pixels[0, :, 0, 0].tolist() == pytest.approx([(1 - 0.11) / 0.44, (1 - 0.22) / 0.55, (1 - 0.33) / 0.66])

    def test_it_is_nested_in_a_composite_one_and_goes_first_there(self, tmp_path: Path) -> None:
        nested = {"processor_class": "CLIPProcessor", "image_processor": OWN_FILE}
        stale = {"image_mean": [0.9] * 3, "image_std": [0.9] * 3}
        host = load_hf(saved(tmp_path, clip(), processor_config=nested, preprocessor_config=stale))
        assert statistics_of(host) == OWN

    def test_a_processor_without_images_says_nothing(self, tmp_path: Path) -> None:
        files = {"processor_config": {"processor_class": "CLIPProcessor"}, "preprocessor_config": OWN_FILE}
        assert statistics_of(load_hf(saved(tmp_path, clip(), **files))) == OWN

    def test_without_one_the_family_is_taken_and_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        host = load_hf(saved(tmp_path, siglip()))
        assert statistics_of(host) == SYMMETRIC
        assert "its image processor is not known" in caplog.text
        assert "--image-mean" in caplog.text

    def test_random_weights_keep_the_statistics(self, tmp_path: Path) -> None:
        host = load_host(f"hf:{saved(tmp_path, vit(), preprocessor_config=OWN_FILE)}", weights="random")
        assert statistics_of(host) == OWN

    def test_what_transformers_itself_saves_is_understood(self, tmp_path: Path) -> None:
        processor = transformers.ViTImageProcessor(image_mean=list(IMAGENET.mean), image_std=list(IMAGENET.std))
        processor.save_pretrained(tmp_path)
        assert statistics_of(load_hf(saved(tmp_path, vit()))) == IMAGENET

    def test_another_size_than_the_towers_is_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, logger="spaceclip_adapters"):
            load_hf(saved(tmp_path, vit(), preprocessor_config={**OWN_FILE, "size": {"height": 32, "width": 32}}))
            assert caplog.text == ""
            load_hf(saved(tmp_path, vit(), preprocessor_config={**OWN_FILE, "size": {"height": 48, "width": 64}}))
        assert "48x64" in caplog.text
        assert "32x32" in caplog.text

    @pytest.mark.parametrize("content", ["{", "[]", '"x"'])
    def test_a_damaged_file_is_not_passed_over(self, content: str, tmp_path: Path) -> None:
        with pytest.raises(HostError, match=r"preprocessor_config\.json"):
            load_hf(saved(tmp_path, vit(), preprocessor_config=content))


class TestUsers:
    def test_a_users_word_goes_before_the_processors(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        name = f"hf:{saved(tmp_path, vit(), preprocessor_config=OWN_FILE)}"
        with caplog.at_level(logging.WARNING):
            host = load_host(name, image_mean=IMAGENET.mean, image_std=IMAGENET.std)
        assert statistics_of(host) == IMAGENET
        assert "the host declares mean (0.11, 0.22, 0.33), std (0.44, 0.55, 0.66)" in caplog.text

    def test_the_same_but_for_rounding_is_no_difference(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        name = f"hf:{saved(tmp_path, vit(), preprocessor_config=OWN_FILE)}"
        with caplog.at_level(logging.WARNING):
            load_host(name, image_mean=(0.11, 0.22, 0.33 + 4e-5), image_std=OWN.std)
        assert caplog.text == ""

    def test_it_makes_up_for_a_processor_that_is_not_understood(self, tmp_path: Path) -> None:
        odd = {**OWN_FILE, "do_flip_channel_order": True}
        name = f"hf:{saved(tmp_path, vit(), preprocessor_config=odd)}"
        with pytest.raises(HostError, match="do_flip_channel_order"):
            load_host(name)
        assert statistics_of(load_host(name, image_mean=OWN.mean, image_std=OWN.std)) == OWN

    def test_timm_hosts_too(self) -> None:
        host = load_host(
            "timm:vit_tiny_patch16_224", weights="random", image_mean=list(OWN.mean), image_std=list(OWN.std)
        )
        assert statistics_of(host) == OWN

    def test_a_live_host_inside_of_another(self) -> None:
        host = clip()
        OWN.declare(host)
        assert statistics_of(host) == OWN
        assert not any("statistics" in name for name in host.state_dict())

    @pytest.mark.parametrize(
        ("mean", "std"),
        [
            (OWN.mean, None),
            (None, OWN.std),
            (OWN.mean, (0.1, 0.1)),
            ((0.1, 0.1, float("nan")), OWN.std),
            (OWN.mean, (0.5, 0.0, 0.5)),
        ],
    )
    def test_half_of_it_or_numbers_that_cannot_be(self, mean: Any, std: Any) -> None:
        with pytest.raises(ConfigError, match=r"image_(mean|std)"):
            load_host("timm:vit_tiny_patch16_224", weights="random", image_mean=mean, image_std=std)

    def test_numbers_for_bytes_are_refused_with_those_that_are_meant(self) -> None:
        with pytest.raises(ConfigError, match=r"bytes .* mean 0\.485,0\.456,0\.406, std 0\.229,0\.224,0\.225"):
            load_host(
                "timm:vit_tiny_patch16_224",
                weights="random",
                image_mean=(123.675, 116.28, 103.53),
                image_std=(58.395, 57.12, 57.375),
            )

    @pytest.mark.parametrize(("shift", "warned"), [(4e-8, False), (0.01, True)])
    def test_a_head_of_other_statistics_warns(
        self, shift: float, warned: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        host = clip()
        OWN.declare(host)
        head = DepthHead.for_tower(host)
        head.config = dataclasses.replace(head.config, image_mean=(0.11 + shift, 0.22, 0.33))
        with attach_depth_head(host, head):
            assert ("the head was trained on images normalised with" in caplog.text) == warned


class TestSettings:
    """(255 r x - o - m) / s of x in [0, 1]."""

    @pytest.mark.parametrize(
        ("settings", "mean", "std"),
        [
            ({}, OWN.mean, OWN.std),
            ({"rescale_factor": 0.00392156862745098}, OWN.mean, OWN.std),
            ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
            ({"do_normalize": False, "rescale_factor": 1 / 127.5}, (0, 0, 0), (0.5, 0.5, 0.5)),
            ({"do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True}, (0.5,) * 3, (0.5,) * 3),
            ({"do_normalize": False, "do_rescale": False}, (0, 0, 0), (1 / 255,) * 3),
            (
                {"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]},
                IMAGENET.mean,
                IMAGENET.std,
            ),
            ({"image_mean": 0.5, "image_std": [0.25]}, (0.5,) * 3, (0.25,) * 3),
        ],
    )
    def test_what_they_amount_to(self, settings: dict[str, Any], mean: Any, std: Any) -> None:
        found = statistics_of_processor({**OWN_FILE, **settings}, source="here")
        assert found.mean == pytest.approx(mean)
        assert found.std == pytest.approx(std)

    @pytest.mark.parametrize("settings", [{}, {"do_rescale": False}, {"do_normalize": False}])
    def test_pixels_are_those_of_transformers_itself(self, settings: dict[str, Any]) -> None:
        values = {**OWN_FILE, "do_resize": False, **settings}
        processor = transformers.ViTImageProcessor(**values)
        photo = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
        expected = torch.as_tensor(np.asarray(processor(photo, return_tensors="np")["pixel_values"]))[0]
        found = statistics_of_processor(values, source="here")
        x = torch.from_numpy(photo).permute(2, 0, 1) / 255
        ours = (x - torch.tensor(found.mean)[:, None, None]) / torch.tensor(found.std)[:, None, None]
        assert torch.allclose(ours, expected.float(), rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("ViTFeatureExtractor", SYMMETRIC),
            ("DeiTImageProcessor", IMAGENET),
            ("SiglipImageProcessor", SYMMETRIC),
        ],
    )
    def test_what_a_file_leaves_out_its_class_says(self, kind: str, expected: ImageStatistics) -> None:
        own = transformers.DeiTImageProcessor()
        if kind == "DeiTImageProcessor":
            expected = ImageStatistics(tuple(own.image_mean), tuple(own.image_std))
        found = statistics_of_processor({"image_processor_type": kind}, source="here")
        assert found.agrees(expected)

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"rescale_factor": 0}, "rescale_factor"),
            ({"rescale_factor": "1/255"}, "rescale_factor"),
            ({"image_std": [0.5, 0, 0.5]}, "image_std"),
            ({"image_mean": [0.5, 0.5]}, "image_mean"),
            ({"image_mean": None}, "image_mean"),
            ({"image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}, "bytes from 0 to 255"),
            ({"image_mean": None, "image_processor_type": "Trainer"}, "image_mean"),
            ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ],
    )
    def test_what_is_not_understood_is_named(self, settings: dict[str, Any], named: str) -> None:
        with pytest.raises(HostError, match=rf"here .*{named}.*--image-mean"):
            statistics_of_processor({**OWN_FILE, **settings}, source="here")

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"size": 224}, (224, 224)),
            ({"size": {"height": 384, "width": 512}}, (384, 512)),
            ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, (224, 224)),
            ({"size": {"shortest_edge": 256}}, None),
            ({"size": 256, "do_center_crop": True}, None),
            ({"size": {"height": 32, "width": 32}, "do_resize": False}, None),
            ({"size": {"longest_edge": 2048}, "do_image_splitting": True}, None),
            ({}, None),
        ],
    )
    def test_the_size_it_feeds(self, settings: dict[str, Any], expected: tuple[int, int] | None) -> None:
        assert image_size_of_processor(settings) == expected
