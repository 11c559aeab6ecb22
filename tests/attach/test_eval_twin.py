"""Decoding in eval mode beside a head or a host in train mode: nothing is switched, and weights are followed."""

from __future__ import annotations

import copy
import functools
import threading

import pytest
import torch
from clip_world import SMALL, clip_host, images, see
from fresh_heads import fresh_head
from slow_head import SlowHead, truth
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthReader, attach_depth_head
from spaceclip_plugin.attach.host_state import KeptTwin, can_have_twin, eval_twin
from spaceclip_plugin.errors import HostError

SEEDS = (3, 4)


@pytest.fixture
def host() -> nn.Module:
    return clip_host()


@pytest.fixture(params=["space-clip", "tap-mixer"])
def head(request: pytest.FixtureRequest, host: nn.Module) -> DepthHead:
    """Half of everything is dropped in train mode."""
    options = SMALL if request.param == "space-clip" else {"architecture": "tap-mixer"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return fresh_head(host, **{**options, "dropout": 0.5}).train()


def modes(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


class TestSharedHead:
    """The head trains in the host's thread while another decodes with it."""

    def test_its_mode_stays_and_nothing_is_dropped(self, host: nn.Module, head: DepthHead) -> None:
        wanted = truth(host, copy.deepcopy(head).eval(), 0)[0]
        found: list[bool] = []
        slow = SlowHead(head)
        with attach_depth_head(host, head) as depth, DepthReader(depth, background=True) as reader:
            for _ in range(3):
                see(host, 0)
                reader.step()
                assert slow.begun.acquire(timeout=20)  # the worker is inside the head
                found += modes(head)
                head.train()  # as a training loop does, in the midst of the decoding
                slow.go.release()
                reader.wait()
                found += modes(head)
                assert reader.latest is not None
                assert torch.equal(reader.latest.depth_m, wanted)
        assert all(found)

    def test_steps_of_its_training_are_followed(self, host: nn.Module, head: DepthHead) -> None:
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        with attach_depth_head(host, head) as depth, DepthReader(depth, background=True) as reader:
            for _ in range(3):
                see(host, 0)
                features = depth.features()[-1]
                head(features).depth_m.mean().backward()
                optimizer.step()
                see(host, 0)
                reader.step()
                reader.wait()
                assert reader.latest is not None
                assert torch.equal(reader.latest.depth_m, truth(host, copy.deepcopy(head).eval(), 0)[0])

    def test_weights_that_are_replaced_after_the_step_are_followed(self, host: nn.Module, head: DepthHead) -> None:
        other = DepthHead(head.config).eval()
        slow = SlowHead(head)
        with attach_depth_head(host, head) as depth, DepthReader(depth, background=True) as reader:
            see(host, 0)
            reader.step()
            assert slow.begun.acquire(timeout=20)
            head.load_state_dict(other.state_dict(), assign=True)
            slow.go.release(9)
            reader.wait()
            assert reader.latest is not None
            assert torch.equal(reader.latest.depth_m, truth(host, other, 0)[0])

    def test_two_threads_read_at_once_and_the_mode_stays(self, host: nn.Module, head: DepthHead) -> None:
        """The first to end would have put the head back into train mode while the second decodes."""
        wanted = truth(host, copy.deepcopy(head).eval(), 0)[0]
        slow, found = SlowHead(head), []
        with attach_depth_head(host, head) as one, attach_depth_head(host, head) as other:
            see(host, 0)
            readers = [
                threading.Thread(target=lambda depth=depth: found.extend(depth.read())) for depth in (one, other)
            ]
            for reader in readers:
                reader.start()
                assert slow.begun.acquire(timeout=20)
            assert all(modes(head))
            slow.go.release()
            while all(reader.is_alive() for reader in readers):
                readers[0].join(timeout=0.01)
            assert all(modes(head))
            slow.go.release()
            for reader in readers:
                reader.join(timeout=20)
        assert [torch.equal(depth.depth_m, wanted) for depth in found] == [True, True]
        assert all(modes(head))


class TestTwin:
    def test_it_shares_weights_and_what_becomes_of_them(self, head: DepthHead) -> None:
        twin = eval_twin(head)
        assert not any(modes(twin))
        assert all(modes(head))
        assert [id(each) for each in twin.parameters()] == [id(each) for each in head.parameters()]
        assert {id(part) for part in twin.modules()}.isdisjoint(id(part) for part in head.modules())
        head.to(torch.float64)
        head.load_state_dict({name: value + 1 for name, value in head.state_dict().items()}, assign=True)
        assert [id(each) for each in twin.parameters()] == [id(each) for each in head.parameters()]
        assert next(twin.parameters()).dtype == torch.float64
        twin.train()
        head.eval()
        assert all(modes(twin))

    def test_a_part_that_occurs_twice_has_one_twin(self) -> None:
        part = nn.Dropout()
        twins: dict[nn.Module, nn.Module] = {}
        twin = eval_twin(nn.Sequential(part, nn.Identity(), part), twins)
        assert twin[0] is twin[2] is twins[part]

    def test_a_replaced_method_is_the_twins_own(self) -> None:
        """As accelerate replaces `forward`: by a partial call of a function that takes the part."""
        host = nn.Sequential(nn.Dropout(0.9), nn.Linear(2, 2)).train()
        host._old_forward = host.forward
        host.forward = functools.partial(lambda module, x: module._old_forward(x), host)
        twin = eval_twin(host)
        assert can_have_twin(host)
        assert torch.equal(twin(torch.ones(1, 2)), host[1](torch.ones(1, 2)))
        assert all(modes(host))

    def test_an_enclosed_forward_is_not_switched_behind_its_back(self) -> None:
        host = nn.Sequential(nn.Dropout(0.9), nn.Linear(2, 2)).train()
        original = host.forward
        host.forward = lambda x: original(x)
        assert not can_have_twin(host)
        with pytest.raises(HostError, match=r"\.eval\(\)"):
            eval_twin(host)
        assert eval_twin(host.eval()) is host

    def test_compiled_code_is_used_in_eval_mode_alone(self, head: DepthHead) -> None:
        calls: list[int] = []

        def compiled(*args: object, **kwargs: object) -> object:
            calls.append(1)
            return head.decoder._call_impl(*args, **kwargs)

        head.decoder._compiled_call_impl = compiled  # as `head.decoder.compile()` sets it
        assert eval_twin(head) is not head
        host = clip_host()
        wanted = truth(host, head, 0)[0]
        assert calls == []
        head.eval()
        assert eval_twin(head) is head
        assert torch.equal(truth(host, head, 0)[0], wanted)
        assert calls == [1]


class TestRefresh:
    """A host in train mode is refreshed without a change to it, for another thread may be running it."""

    @pytest.mark.parametrize("frozen", [True, False])
    def test_the_host_stays_in_its_mode_and_draws_nothing(self, head: DepthHead, frozen: bool) -> None:
        host = clip_host(attention_dropout=0.9)
        with attach_depth_head(host, head) as depth:
            see(host, *SEEDS)
            wanted = [found.depth_m for found in depth.read()]
            host.train(not frozen)
            found: list[bool] = []
            block = next(part for name, part in host.named_modules() if name.endswith("layers.1"))
            block.register_forward_hook(lambda *_: found.extend(modes(host)))
            before = torch.get_rng_state()
            for seed in SEEDS:
                depth.refresh(images(seed))
            assert found
            assert found == [not frozen] * len(found)
            assert torch.equal(torch.get_rng_state(), before)
            assert all(torch.equal(a.depth_m, b) for a, b in zip(depth.read(), wanted, strict=True))

    def test_a_forward_that_someone_enclosed_is_run(self, head: DepthHead) -> None:
        host = clip_host(attention_dropout=0.9)
        tower = next(part for name, part in host.named_modules() if name.endswith("encoder"))
        original, calls = tower.forward, []

        def enclosed(*args: object, **kwargs: object) -> Tensor:
            calls.append(1)
            result: Tensor = original(*args, **kwargs)
            return result

        tower.forward = enclosed
        with attach_depth_head(host, head) as depth:
            see(host, 3)
            [wanted] = depth.read()
            host.train()
            depth.refresh(images(3))
            [found] = depth.read()
        assert torch.equal(found.depth_m, wanted.depth_m)
        assert len(calls) == 2
        assert all(modes(host))


class TestKeptTwin:
    def test_it_stays_while_the_parts_are_the_same(self, head: DepthHead) -> None:
        kept = KeptTwin()
        twin = kept.of(head)
        head.load_state_dict({name: value + 1 for name, value in head.state_dict().items()}, assign=True)
        head.decoder.register_forward_hook(lambda *_: None)
        assert kept.of(head) is twin
        assert [id(each) for each in twin.parameters()] == [id(each) for each in head.parameters()]
        assert not any(modes(twin))

    @pytest.mark.parametrize("change", ["part", "name", "attribute", "method", "mode", "module"])
    def test_another_one_is_made_of_what_has_changed(self, change: str) -> None:
        module = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)).train()
        kept = KeptTwin()
        before = kept.of(module)
        if change == "part":
            module[1] = nn.Linear(2, 2)
        elif change == "name":
            module.add_module("last", module._modules.pop("1"))
        elif change == "attribute":
            module[0].p = 0.25
        elif change == "method":
            module.forward = functools.partial(lambda part, x: -part[1](x), module)
        elif change == "mode":
            module.eval()
        else:
            module = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)).train()
        after = kept.of(module)
        assert after is not before
        assert torch.equal(after(torch.ones(1, 2)), eval_twin(module)(torch.ones(1, 2)))
        assert kept.of(module) is after
