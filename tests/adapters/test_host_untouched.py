"""The front door on every tiny host: depth comes out, and the host is the same bits before, during and after."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from families import HOSTS
from fresh_heads import fresh_head
from tiny_hosts import BATCH, TinyHost
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.attach.verification import compare, tensors_in
from spaceclip_plugin.head.architectures import ARCHITECTURES

SMALL: dict[str, dict[str, Any]] = {
    "space-clip": {"channels": (8, 6), "semantic_taps": (3, 1), "structural_taps": (0,), "film_hidden": 4},
    "tap-mixer": {"taps": (1, 3), "channels": (48, 8), "convolutions": (1, 1), "attention": 1, "pixels": 4},
}


def head_for(host: nn.Module, architecture: str = "space-clip") -> DepthHead:
    """A small head; the space-clip one reads the tower's context too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return fresh_head(host, architecture=architecture, **SMALL[architecture]).eval()


def state(host: nn.Module) -> dict[str, object]:
    return {
        "digest": module_digest(host),
        "keys": list(host.state_dict()),
        "requires_grad": [p.requires_grad for p in host.parameters()],
        "modes": [m.training for m in host.modules()],
        "modules": [name for name, _ in host.named_modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._forward_hooks_with_kwargs))
            for m in host.modules()
        ],
    }


@pytest.fixture(params=HOSTS, ids=lambda tiny: tiny.name)
def tiny(request: pytest.FixtureRequest) -> TinyHost:
    return request.param


def test_depth_comes_out_and_the_host_stays_as_it_was(tiny: TinyHost) -> None:
    host, pixels = tiny.seeded(), tiny.pixels()
    with torch.no_grad():
        plain = tiny.run(host, pixels)
        before, random_state = state(host), torch.get_rng_state()
        with attach_depth_head(host, head_for(host)) as depth:
            during = tiny.run(host, pixels)
            inside = state(host)
            [frame] = depth.read()
            again = tiny.run(host, pixels)
        after = tiny.run(host, pixels)
    for output in (during, again, after):
        tensors = list(tensors_in(plain))
        assert tensors
        assert compare(tensors, list(tensors_in(output))) == (True, 0.0)
    assert {**inside, "hooks": None} == {**before, "hooks": None}
    assert inside["hooks"] != before["hooks"]
    assert state(host) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert frame.depth_m.shape == (BATCH, *tiny.image_hw)
    assert frame.image_hw == tiny.image_hw
    assert not frame.trained


def test_refresh_runs_the_tower_alone(tiny: TinyHost) -> None:
    if tiny.name.endswith("wide"):
        pytest.skip("the host asks its tower to interpolate positions; refresh calls it as it is")
    host, pixels = tiny.seeded(), tiny.pixels()
    with torch.no_grad(), attach_depth_head(host, head_for(host)) as depth:
        tiny.run(host, pixels)
        [through_host] = depth.read()
        depth.refresh(pixels)
        [alone] = depth.read()
    assert torch.equal(through_host.depth_m, alone.depth_m)


def test_a_hundred_attachments_leave_nothing(tiny: TinyHost) -> None:
    host = tiny.seeded()
    before, head = state(host), head_for(host)
    for _ in range(100):
        attach_depth_head(host, head).close()
    assert state(host) == before


def test_a_fault_at_any_step_of_attaching_leaves_the_host_as_it_was(
    tiny: TinyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = tiny.seeded()
    before, head = state(host), head_for(host)
    registrations = ("register_forward_hook", "register_forward_pre_hook")
    real = {name: getattr(nn.Module, name) for name in registrations}
    for fatal in range(len(head.taps) + 2):  # the entry, every tap, the context
        calls = itertools.count()

        def register(self: nn.Module, *args: Any, name: str, fatal: int = fatal, calls: Any = calls, **kw: Any) -> Any:
            if next(calls) == fatal:
                raise MemoryError("no room for a hook")
            return real[name](self, *args, **kw)

        with monkeypatch.context() as patch:
            for name in registrations:
                patch.setattr(nn.Module, name, functools.partialmethod(register, name=name))
            with pytest.raises(MemoryError, match="no room"):
                attach_depth_head(host, head)
        assert state(host) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_hosts(tiny: TinyHost, dtype: torch.dtype) -> None:
    host, pixels = tiny.seeded().to(dtype), tiny.pixels().to(dtype)
    try:
        with torch.no_grad():
            plain = list(tensors_in(tiny.run(host, pixels)))
    except RuntimeError as error:
        pytest.skip(f"this host does not run in {dtype} on this CPU: {str(error).splitlines()[0]}")
    with torch.no_grad(), attach_depth_head(host, head_for(host)) as depth:
        assert compare(plain, list(tensors_in(tiny.run(host, pixels)))) == (True, 0.0)
        [features] = depth.features()
        assert {value.dtype for value in features.hidden.values()} == {dtype}
        tiny.run(host, pixels)
        [frame] = depth.read()
        expected = depth.head(features).depth_m
    assert frame.depth_m.dtype == torch.float32
    assert torch.equal(frame.depth_m, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_image_of_a_batch_has_the_depth_it_has_alone(tiny: TinyHost, batch: int, architecture: str) -> None:
    if tiny.name == "llava-next":
        pytest.skip("tiles come in pairs here: a thumbnail and one tile")
    host, pixels = tiny.seeded(), tiny.pixels(batch)
    with torch.no_grad(), attach_depth_head(host, head_for(host, architecture)) as depth:
        tiny.run(host, pixels)
        [together] = depth.read()
        for one in pixels:
            tiny.run(host, one[None])
        alone = depth.read()
    assert [frame.frame for frame in (together, *alone)] == list(range(batch + 1))
    assert together.depth_m.shape == (batch, *tiny.image_hw)
    torch.testing.assert_close(together.depth_m, torch.cat([frame.depth_m for frame in alone]), rtol=1e-4, atol=1e-5)


def test_two_cameras_are_two_frames_in_order(tiny: TinyHost) -> None:
    host, cameras = tiny.seeded(), [tiny.pixels(seed=5), tiny.pixels(seed=6)]
    with torch.no_grad(), attach_depth_head(host, head_for(host), cameras=("scene", "wrist")) as depth:
        apart = []
        for pixels in cameras:
            tiny.run(host, pixels)
            apart += depth.read()
        for pixels in cameras:
            tiny.run(host, pixels)
        frames = depth.read()
    assert [(frame.camera, frame.age) for frame in frames] == [("scene", 0), ("wrist", 0)]
    for frame, expected in zip(frames, apart, strict=True):
        assert torch.equal(frame.depth_m, expected.depth_m)
    assert not torch.equal(frames[0].depth_m, frames[1].depth_m)
