"""What the user says of a host: image statistics, size and device; and one without the other refused."""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from spaceclip_plugin.cli import train
from spaceclip_plugin.cli.hosts import add_host, device_called, host_from, open_host
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.towers.registry import find_tower
from spaceclip_plugin.towers.spec import Tower
from spaceclip_plugin.towers.structural import StructuralAdapter
from spaceclip_plugin.training.config.run_config import RunConfig
from spaceclip_plugin.training.config.shared import HostConfig


class TestStatistics:
    MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    FLAGS = ("--image-mean", "0.1,0.2,0.3", "--image-std", "0.4,0.5,0.6")

    def read(self, host: str, *argv: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_host(parser)
        return parser.parse_args(["--host", host, *argv])

    @pytest.mark.parametrize(
        ("host", "more"),
        [
            ("timm:vit_tiny_patch16_224", ("--host-weights", "random")),
            ("open_clip:ViT-S-32-alt", ("--host-weights", "random")),
            ("python:users_policy:build", ()),
        ],
    )
    def test_every_kind_of_host_takes_them(self, host: str, more: tuple[str, ...]) -> None:
        spec = find_tower(host_from(self.read(host, *more, *self.FLAGS))).spec
        assert (spec.image_mean, spec.image_std) == (self.MEAN, self.STD)

    def test_heads_and_pixels_are_made_for_them(self) -> None:
        config = RunConfig(host="python:users_policy:build", image_mean=self.MEAN, image_std=self.STD)
        host = open_host(config)
        head = train._fresh_head(config, host)
        assert (head.config.image_mean, head.config.image_std) == (self.MEAN, self.STD)
        white = np.full((8, 8, 3), 255, np.uint8)
        pixels = prepare([white], find_tower(host).spec)
        assert pixels[0, :, 0, 0].tolist() == pytest.approx([0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6])

    def test_an_adapter_that_does_not_look_is_overruled(self) -> None:
        host = host_from(self.read("python:users_policy:build", *self.FLAGS))
        spec = find_tower(host, adapter=Blind()).spec
        assert (spec.image_mean, spec.image_std) == (self.MEAN, self.STD)

    @pytest.mark.parametrize("argv", [FLAGS[:2], FLAGS[2:]])
    def test_one_without_the_other_is_refused(self, argv: tuple[str, ...]) -> None:
        with pytest.raises(ConfigError, match=r"image_(mean|std) is given without image_(mean|std)"):
            host_from(self.read("python:users_policy:build", *argv))

    @pytest.mark.parametrize("text", ["0.5", "0.5,0.5", "a,b,c", "0.5;0.5;0.5", ""])
    def test_what_is_no_colour_is_refused(self, text: str) -> None:
        with pytest.raises(argparse.ArgumentError, match="expected R,G,B"):
            self.read("timm:x", "--image-mean", text)

    @pytest.mark.parametrize("std", ["0,0.5,0.5", "nan,1,1", "-1,1,1"])
    def test_deviations_that_cannot_be(self, std: str) -> None:
        with pytest.raises(ConfigError, match="image_std"):
            host_from(self.read("python:users_policy:build", "--image-mean", "0,0,0", f"--image-std={std}"))


class TestDevice:
    def test_the_processor_where_there_is_nothing_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert device_called(None) == torch.device("cpu")

    def test_a_process_has_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch, "empty", lambda *_, device: asked.append(device))
        monkeypatch.setenv("LOCAL_RANK", "3")
        assert device_called(None) == torch.device("cuda:3")
        assert asked == [torch.device("cuda:3")]
        assert device_called("cpu") == torch.device("cpu")
        monkeypatch.delenv("LOCAL_RANK")
        assert device_called(None) == torch.device("cuda")

    def test_more_processes_than_devices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setenv("LOCAL_RANK", "99")
        with pytest.raises(ConfigError, match="--device 'cuda:99' cannot be used here"):
            device_called(None)


class TestImageSize:
    def read(self, *argv: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_host(parser)
        return parser.parse_args(["--host", "timm:deit_tiny_patch16_224", *argv])

    def test_the_host_is_built_for_it(self) -> None:
        assert host_from(self.read("--image-size", "96,128", "--host-weights", "random")).patch_embed.img_size == (
            96,
            128,
        )

    @pytest.mark.parametrize("text", ["96", "96x128", "96,128,3", "0,128", "96,99999"])
    def test_what_is_no_size_is_refused(self, text: str) -> None:
        with pytest.raises(argparse.ArgumentError, match="H,W"):
            self.read("--image-size", text)

    def test_a_function_builds_its_host_itself(self) -> None:
        with pytest.raises(HostError, match="builds its host for the size it wants"):
            open_host(HostConfig(host="python:nothing:nothing", image_hw=(96, 128)))


class Blind(StructuralAdapter):
    """An adapter that is sure of its family's statistics."""

    def find(self, host: nn.Module) -> list[Tower]:
        found = super().find(host)
        return [
            replace(tower, spec=replace(tower.spec, image_mean=(0.5,) * 3, image_std=(0.5,) * 3)) for tower in found
        ]
