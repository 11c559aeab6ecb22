"""Hosts that are wrapped before or after the head is attached: the same depth, the same bits, nothing left behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from clip_world import clip_host, hook_count, images
from llava_world import ask, llava_host, question, small_head
from torch import Tensor, nn
from wrappers import DISTRIBUTED, WRAPPERS

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach.verification import same_bits
from spaceclip_plugin.towers import registry
from spaceclip_plugin.towers.spec import TowerSpec

pytestmark = [
    # What FSDP1 says of every run in one process, and newer versions of torch of FSDP1.
    pytest.mark.filterwarnings("ignore:.*`NO_SHARD`:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*FullyShardedDataParallel.*deprecated:FutureWarning"),
]
SEEDS = (1, 2)
BEFORE, AFTER = "attached, then wrapped", "wrapped, then attached"
STEPS_OF_WRAPPERS = {"module", "_fsdp_wrapped_module", "_orig_mod"}

Wrapping = Callable[[nn.Module], nn.Module]


class Plain(NamedTuple):
    """What the host gives that nobody wrapped."""

    logits: list[Tensor]
    depths: list[Tensor]
    spec: TowerSpec


def run(host: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return [ask(host, seed) for seed in SEEDS]


def gradients(host: nn.Module) -> list[Tensor]:
    host.train()
    ask(host, 3).square().mean().backward()
    found = [parameter.grad for parameter in host.parameters() if parameter.grad is not None]
    return [getattr(gradient, "_local_tensor", gradient) for gradient in found]  # of a sharded tensor, this process's


def all_same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) > 0 and all(map(same_bits, some, others))


def without_wrappers(spec: TowerSpec) -> TowerSpec:
    kept = [step for step in spec.path.split(".") if step not in STEPS_OF_WRAPPERS]
    return dataclasses.replace(spec, path=".".join(kept))


@pytest.fixture(scope="module", autouse=True)
def _alone_in_a_process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def plain() -> Plain:
    host = llava_host()
    logits = run(host)
    with attach_depth_head(host, small_head()) as depth:
        run(host)
        depths = [frame.depth_m for frame in depth.read()]
    assert not torch.equal(*depths)
    return Plain(logits, depths, depth.tower)


@pytest.fixture(params=WRAPPERS)
def wrap(request: pytest.FixtureRequest, tmp_path: Path) -> Wrapping:
    return lambda host: WRAPPERS[request.param](host, tmp_path)


@pytest.mark.parametrize("order", [BEFORE, AFTER])
class TestEveryWrapper:
    def test_the_depth_and_the_outputs_are_those_of_the_plain_host(
        self, wrap: Wrapping, order: str, plain: Plain
    ) -> None:
        host = llava_host() if order == BEFORE else wrap(llava_host())
        with attach_depth_head(host, small_head()) as depth:
            wrapped = wrap(host) if order == BEFORE else host
            assert all_same(run(wrapped), plain.logits)
            assert list(wrapped.state_dict()) == list(wrap(llava_host()).state_dict())
            frames = depth.read()
        assert [frame.frame for frame in frames] == [0, 1]
        assert all_same([frame.depth_m for frame in frames], plain.depths)

    def test_detaching_leaves_no_hook(self, wrap: Wrapping, order: str, plain: Plain) -> None:
        never = wrap(llava_host())
        run(never)  # libraries add hooks of their own on the first call
        host = llava_host() if order == BEFORE else wrap(llava_host())
        depth = attach_depth_head(host, small_head())
        wrapped = wrap(host) if order == BEFORE else host
        run(wrapped)
        attached = hook_count(wrapped)
        depth.close()
        assert hook_count(wrapped) == hook_count(never) < attached
        assert all_same(run(wrapped), plain.logits)
        assert depth.read() == []


def test_verify_finds_the_same_bits(wrap: Wrapping, plain: Plain) -> None:
    host = wrap(llava_host())
    with attach_depth_head(host, small_head()) as depth:
        run(host)
        report = depth.verify(lambda: host(**question(4)))
        assert report.identical
        assert report.frames == 1
        assert all_same([frame.depth_m for frame in depth.read()], plain.depths)


def test_refresh_gives_the_depth_of_the_plain_host(wrap: Wrapping, plain: Plain) -> None:
    host = wrap(llava_host())
    with attach_depth_head(host, small_head()) as depth:
        run(host)  # wrappers set themselves up in the first call
        depth.read()
        for seed in SEEDS:
            depth.refresh(images(seed))
        assert all_same([frame.depth_m for frame in depth.read()], plain.depths)


def test_refresh_in_train_mode_gives_the_depth_of_eval_mode_and_leaves_the_mode(wrap: Wrapping, plain: Plain) -> None:
    host = wrap(llava_host())
    with attach_depth_head(host, small_head()) as depth:
        run(host)
        depth.read()
        host.train()
        for seed in SEEDS:
            depth.refresh(images(seed))
        assert all_same([frame.depth_m for frame in depth.read()], plain.depths)
    assert all(part.training for part in host.modules())


class TestDiscovery:
    def test_the_tower_is_the_plain_host_s(self, wrap: Wrapping, plain: Plain) -> None:
        [tower] = registry.find_towers(wrap(llava_host()))
        assert without_wrappers(tower.spec) == plain.spec

    def test_structure_alone_tells_the_same(self, wrap: Wrapping) -> None:
        [tower] = registry.find_towers(wrap(llava_host()), adapter="structural")
        [expected] = registry.find_towers(llava_host(), adapter="structural")
        assert without_wrappers(tower.spec) == expected.spec

    @pytest.mark.slow
    def test_a_fresh_head_is_sized_as_for_the_plain_host(self, wrap: Wrapping) -> None:
        host = wrap(llava_host())
        with attach_depth_head(host) as depth:
            assert depth.head.config == DepthHead.for_tower(llava_host()).config
            assert {parameter.device.type for parameter in depth.head.parameters()} == {"cpu"}
            run(host)
            assert len(depth.read((4, 4))) == len(SEEDS)

    def test_a_compiled_host_is_seen_through(self, plain: Plain) -> None:
        host = torch.compile(llava_host(), backend="eager")
        with attach_depth_head(host, small_head()) as depth:
            assert depth.tower.path.startswith("_orig_mod.")
            assert without_wrappers(depth.tower) == plain.spec

    def test_wrappers_in_wrappers_are_seen_through(self, plain: Plain) -> None:
        host = WRAPPERS["data-parallel"](WRAPPERS["ddp"](torch.compile(llava_host(), backend="eager"), Path()), Path())
        with attach_depth_head(host, small_head()) as depth:
            assert depth.tower.path.startswith("module.module._orig_mod.")
            assert without_wrappers(depth.tower) == plain.spec

    def test_a_wrapped_tower_alone_is_found(self, wrap: Wrapping) -> None:
        bare, host = clip_host(), wrap(clip_host())
        with attach_depth_head(bare, small_head()) as expected, attach_depth_head(host, small_head()) as depth:
            assert without_wrappers(depth.tower) == expected.tower
            with torch.no_grad():
                assert same_bits(bare(images(1)).last_hidden_state, host(images(1)).last_hidden_state)
            assert all_same([f.depth_m for f in depth.read()], [f.depth_m for f in expected.read()])


# torch 2.14 says so of the wrapped host itself, with and without taps: its output is a view.
@pytest.mark.filterwarnings("default:FSDP2-wrapped module:UserWarning")
@pytest.mark.parametrize("order", [BEFORE, AFTER])
@pytest.mark.parametrize("name", DISTRIBUTED)
def test_a_training_step_has_the_same_gradients(name: str, order: str, tmp_path: Path) -> None:
    expected = gradients(DISTRIBUTED[name](llava_host(), tmp_path))
    host = llava_host() if order == BEFORE else DISTRIBUTED[name](llava_host(), tmp_path)
    with attach_depth_head(host, small_head()) as depth:
        wrapped = DISTRIBUTED[name](host, tmp_path) if order == BEFORE else host
        assert all_same(gradients(wrapped), expected)
        assert len(depth.read()) == 1
