"""The front door on every tiny host: depth comes out, and the host is the same bits before, during and after."""

from __future__ import annotations

import pytest
import torch
from families import HOSTS
from tiny_hosts import BATCH, TinyHost
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.digest import module_digest
from spaceclip_plugin.verification import compare, tensors_in

SMALL = {"channels": (8, 6), "semantic_taps": (3, 1), "structural_taps": (0,), "film_hidden": 4}


def head_for(host: nn.Module) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return DepthHead.for_tower(host, **SMALL).eval()


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
        attach_depth_head(host, head).detach()
    assert state(host) == before
