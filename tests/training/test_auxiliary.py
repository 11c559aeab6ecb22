"""Depth as an auxiliary loss: it reaches the tower and nothing else, and it is what the head's own depth is worth."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from small_world import tiny_host, tiny_mixer
from tiny_vla import LENSES, TinyVla, observation, tiny_vla
from torch import Tensor

from spaceclip_plugin import DepthHead, Intrinsics, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.attach import DepthAttachment, UnreadFrames
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_plugin.head import HeadOutput
from spaceclip_plugin.towers import ImageGeometry
from spaceclip_plugin.training import LOSSES, AuxiliaryDepth

LENS = LENSES["front"]


def attached(host: torch.nn.Module, head: DepthHead | None = None, **unread: Any) -> DepthAttachment:
    return attach_depth_head(
        host, head or tiny_mixer(tiny_host()).eval(), unread=UnreadFrames(gradients=True, **unread)
    )


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def depth_m(count: int = 2, side: int = 32) -> Tensor:
    return 1.0 + torch.rand(count, side, side, generator=torch.Generator().manual_seed(2))


def test_it_is_the_loss_of_what_the_head_says() -> None:
    host = tiny_host()
    depth = attached(host)
    auxiliary = AuxiliaryDepth(depth)
    host(images())
    with torch.no_grad():
        output = depth.head(depth.features()[-1])
    host(images())
    found = auxiliary(depth_m(), intrinsics=LENS)
    expected = LOSSES["relative"]()(HeadOutput(output.depth_m, uncertainty_m=output.uncertainty_m), depth_m(),
                                    valid=depth_m() > 0)  # fmt: skip
    assert depth.head.config.focal_length is None
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_policy_learns_depth_and_the_head_does_not() -> None:
    policy = tiny_vla().requires_grad_(True)
    depth = attached(policy)
    auxiliary, before = AuxiliaryDepth(depth), module_digest(depth.head)
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.02)
    losses = []
    for _ in range(12):
        policy(*observation())
        loss = auxiliary([depth_m(), depth_m()])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert module_digest(depth.head) == before
    assert all(parameter.grad is None for parameter in depth.head.parameters())
    assert all(parameter.grad is None for parameter in policy.expert.parameters())


def test_only_blocks_that_are_unfrozen_learn() -> None:
    host = tiny_host().requires_grad_(False)
    host.blocks[-1].requires_grad_(True)
    depth = attached(host)
    host(images())
    AuxiliaryDepth(depth)(depth_m()).backward()
    moved = {name for name, parameter in host.named_parameters() if parameter.grad is not None}
    assert moved
    assert all(name.startswith(f"blocks.{len(host.blocks) - 1}.") for name in moved)


def test_padding_and_what_is_unknown_count_for_nothing() -> None:
    host = tiny_host()
    ImageGeometry.parse("letterbox:top-left").declare(host)
    depth = attached(host)
    auxiliary = AuxiliaryDepth(depth)
    target = depth_m(side=32)[:, :24]  # the camera's image is wider than high: the rest of the tower's is padding
    found = []
    for unknown in (0.0, float("nan"), float("inf"), -1.0):
        changed = target.clone()
        changed[:, :4] = unknown
        host(images())
        found.append(auxiliary(changed))
        assert found[-1].isfinite()
    assert len({float(one.detach()) for one in found}) == 1
    host(images())
    assert float(auxiliary(target).detach()) != float(found[0].detach())


def test_metres_are_brought_to_the_lens_of_the_head() -> None:
    host = tiny_host()
    head = tiny_mixer(host).eval()
    head.config = dataclasses.replace(head.config, focal_length=(1.0, 1.0))
    auxiliary = AuxiliaryDepth(attached(host, head))
    host(images())
    same = auxiliary(depth_m(), intrinsics=Intrinsics(32.0, 32.0, 16.0, 16.0, (32, 32)))
    host(images())
    longer = auxiliary(2 * depth_m(), intrinsics=Intrinsics(64.0, 64.0, 16.0, 16.0, (32, 32)))
    torch.testing.assert_close(longer, same, rtol=1e-4, atol=1e-6)
    host(images())
    with pytest.raises(ConfigError, match="give intrinsics= of the cameras"):
        auxiliary(depth_m())
    host(images())
    with pytest.raises(ConfigError, match="no such image at any resolution"):
        auxiliary(depth_m(), intrinsics=Intrinsics(32.0, 32.0, 16.0, 12.0, (24, 32)))


def test_a_batch_without_depth_adds_nothing() -> None:
    host = tiny_host()
    auxiliary = AuxiliaryDepth(attached(host))
    host(images())
    loss = auxiliary(torch.zeros(2, 32, 32, dtype=torch.int32))
    assert float(loss) == 0.0
    assert loss.dtype == torch.float32
    (host(images()).sum() + loss).backward()


def test_under_the_hosts_autocast_it_is_the_same_loss() -> None:
    host = tiny_host()
    auxiliary = AuxiliaryDepth(attached(host))
    host(images())
    plain = auxiliary(depth_m())
    with torch.autocast("cpu", torch.bfloat16):
        host(images())
        half = auxiliary(depth_m())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0.1, atol=0.0)
    half.backward()


class TestRefused:
    @pytest.mark.parametrize(
        ("maps", "said"),
        [
            ([], r"ran 1 time\(s\) since the last loss, and there are 0"),
            ([depth_m(), depth_m()], "there are 2 depth map"),
            (depth_m(3), r"expected \(B, H, W\) of the 2 image"),
            (depth_m()[:, None], r"expected \(B, H, W\)"),
        ],
    )
    def test_maps_that_do_not_fit(self, maps: Any, said: str) -> None:
        host = tiny_host()
        auxiliary = AuxiliaryDepth(attached(host))
        host(images())
        with pytest.raises(CaptureError, match=said):
            auxiliary(maps)
        host(images())
        assert auxiliary(depth_m()).isfinite()  # the next forward is not harmed

    @pytest.mark.parametrize("how", ["frozen", "no_grad", "detached"])
    def test_a_tower_that_cannot_learn(self, how: str) -> None:
        host = tiny_host().requires_grad_(how != "frozen")
        depth = attach_depth_head(host) if how == "detached" else attached(host)
        auxiliary = AuxiliaryDepth(depth)
        with torch.set_grad_enabled(how != "no_grad"):
            host(images())
            with pytest.raises(CaptureError, match="nothing would learn"):
                auxiliary(depth_m())

    def test_no_forward_and_no_map(self) -> None:
        with pytest.raises(CaptureError, match=r"ran 0 time\(s\)"):
            AuxiliaryDepth(attached(tiny_host()))([])

    def test_a_mapping_that_it_would_not_obey(self) -> None:
        mapping = ImageMapping.letterboxed((24, 32), (32, 32))
        depth = attach_depth_head(tiny_host(), mapping=mapping, unread=UnreadFrames(gradients=True))
        with pytest.raises(ConfigError, match="attach without mapping="):
            AuxiliaryDepth(depth)

    def test_frames_that_were_dropped(self) -> None:
        policy: TinyVla = tiny_vla().requires_grad_(True)
        auxiliary = AuxiliaryDepth(attached(policy, max_frames=1))
        policy(*observation())
        with pytest.raises(CaptureError, match=r"1 image call\(s\) were dropped"):
            auxiliary([depth_m(), depth_m()])

    def test_values_that_cannot_be(self) -> None:
        host = tiny_host()
        with pytest.raises(ConfigError, match="loss must be one of relative"):
            AuxiliaryDepth(attached(host), loss="l2")
        auxiliary = AuxiliaryDepth(attached(host))
        with pytest.raises(ConfigError, match=r"1 depth map\(s\) and intrinsics of 2"):
            auxiliary(depth_m(), intrinsics=[LENS, LENS])
        with pytest.raises(ConfigError, match="fused"):
            AuxiliaryDepth(attached(host, tiny_mixer(host).eval().fuse()))
