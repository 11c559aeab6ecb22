"""How familiar the images of a live host are: each by itself, without what the host adds to them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from clip_world import clip_host, head, host, images, see
from telling_heads import Reads, knowing
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.depth import DepthMap, ImageMapping
from spaceclip_plugin.head.familiarity import Familiarity, FamiliarityOptions

__all__ = ["head", "host"]  # fixtures

PADDED = ImageMapping.letterboxed((480, 640), (32, 32), anchor="bottom-right")
SQUASHED = ImageMapping.stretched((480, 640), (32, 32))


def read(host: nn.Module, head: DepthHead, *seeds: int, **options: Any) -> list[DepthMap]:
    with attach_depth_head(host, head, **options) as depth:
        see(host, *seeds)
        return depth.read()


class Spy(nn.Module):
    """Stands for a familiarity, and keeps which patches it was told to count."""

    def __init__(self, tap: int) -> None:
        super().__init__()
        self.options, self.counted = FamiliarityOptions(tap, 1, 1), []

    def forward(self, patch_map: Tensor, counted: Tensor | None = None) -> Tensor:
        self.counted.append(counted)
        return torch.ones(len(patch_map))


class TestFamiliarity:
    def test_like_strange_and_blank_images(self, host: nn.Module, head: DepthHead) -> None:
        knowing(head, host)
        with attach_depth_head(host, head) as depth, torch.no_grad():
            host(torch.cat([images(1, batch=8), 3 + images(2), torch.full((1, 3, 32, 32), 0.5)]))
            [found] = depth.read()
        assert float(found.familiarity[:8].mean()) > 0.2
        assert float(found.familiarity[8:].max()) < 0.01
        assert [float(one.familiarity) for one in found] == found.familiarity.tolist()

    def test_padding_of_the_hosts_does_not_count(self, host: nn.Module, head: DepthHead) -> None:
        """An image between bars is as familiar as what it shows."""
        knowing(head, host)
        pixels = torch.where(PADDED.valid_tower_pixels(), images(1, batch=8), torch.tensor(-9.0))
        with attach_depth_head(host, head, mapping=PADDED) as depth, torch.no_grad():
            host(pixels)
            [features] = depth.features()
            host(pixels)
            [found] = depth.read()
        shown = torch.tensor([[False] * 4] + [[True] * 4] * 3)
        tap = features.hidden[head.familiar_tap]
        expected = head.familiarity(tap[:, :, 1:])
        assert found.familiarity.equal(head.familiarity(tap, shown))
        torch.testing.assert_close(found.familiarity, expected, rtol=0, atol=0.02)

    @pytest.mark.parametrize(
        ("image_hw", "mapping", "rows"),
        [
            ((32, 32), None, None),
            ((32, 32), SQUASHED, [True] * 4),
            ((32, 32), PADDED, [False, True, True, True]),
            ((38, 38), ImageMapping.letterboxed((480, 640), (38, 38), anchor="top-left"), [True, True, True, False]),
            ((38, 38), ImageMapping.letterboxed((300, 380), (38, 38), anchor="top-left"), [True] * 4),
            ((38, 38), ImageMapping.letterboxed((200, 400), (38, 38)), [False, True, True, False]),
        ],
    )  # fmt: skip
    def test_patches_whose_centre_shows_the_cameras_image(
        self, head: DepthHead, image_hw: tuple[int, int], mapping: ImageMapping | None, rows: list[bool] | None
    ) -> None:
        """Of 38 rows the tower reads 32: patches lie at 4, 12, 20 and 28."""
        head.familiarity = spy = Spy(head.taps[0])
        tower = clip_host(image_size=image_hw[0])
        with attach_depth_head(tower, head, mapping=mapping) as depth, torch.no_grad():
            tower(torch.randn(1, 3, *image_hw))
            depth.read()
        [counted] = spy.counted
        assert (counted is None) == (rows is None)
        if rows is not None:
            assert counted.tolist() == [[row] * 4 for row in rows]

    def test_the_less_familiar_the_less_certain(self, host: nn.Module, head: DepthHead) -> None:
        head.decoder = Reads(torch.full((1, 32, 32), 2.0))
        [alone] = read(host, head, 0, mapping=PADDED)
        knowing(head, host)
        with attach_depth_head(host, head, mapping=PADDED) as depth, torch.no_grad():
            host(9 * torch.ones(1, 3, 32, 32) + images(1))
            [strange] = depth.read()
        assert float(strange.familiarity) < 0.05
        assert torch.equal(strange.depth_m, alone.depth_m)
        assert not strange.uncertainty_m[:, :8].any()
        wide = strange.uncertainty_m[strange.valid] / strange.depth_m[strange.valid]
        torch.testing.assert_close(wide, torch.full_like(wide, math.hypot(0.1, math.log(100) / math.sqrt(12))))

    def test_the_hosts_autocast_is_not_its(self, host: nn.Module, head: DepthHead) -> None:
        knowing(head, host)
        with attach_depth_head(host, head) as depth:
            see(host, 3, batch=4)
            [plain] = depth.read()
            see(host, 3, batch=4)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                [under] = depth.read()
        assert under.familiarity.equal(plain.familiarity)

    def test_a_head_that_never_learnt(self, host: nn.Module, head: DepthHead) -> None:
        assert read(host, head, 0)[0].familiarity is None
        assert isinstance(knowing(head, host).familiarity, Familiarity)
