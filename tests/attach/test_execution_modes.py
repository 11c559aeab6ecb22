"""Inference mode, autocast, half precision, train mode: depth in every mode, and the mode's own outputs untouched."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest
import torch
from clip_world import clip_host, head, host, images, see
from torch import Tensor, nn

from spaceclip_plugin import DepthAttachment, DepthHead, attach_depth_head
from spaceclip_plugin.attach.verification import same_bits
from spaceclip_plugin.towers.spec import TowerFeatures

__all__ = ["head", "host"]  # fixtures

BFLOAT16_AUTOCAST = partial(torch.autocast, "cpu", torch.bfloat16)
MODES = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": BFLOAT16_AUTOCAST,
}
Mode = Callable[[], AbstractContextManager[object]]


def skip_without_half(dtype: torch.dtype) -> None:
    if dtype == torch.float16 and torch.__version__ < "2.3":
        pytest.skip("torch before 2.3 has no float16 layer norm on the CPU")


def assert_as_the_host_says(features: TowerFeatures, hidden_states: tuple[Tensor, ...]) -> None:
    """Every tapped map holds the patch tokens that the host itself reports of the same call, bit for bit."""
    for tap, patches in features.hidden.items():
        assert same_bits(patches.flatten(2).transpose(1, 2).contiguous(), hidden_states[tap][:, 1:].contiguous())


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
class TestEveryMode:
    def test_the_taps_hold_what_the_host_itself_reports(self, host: nn.Module, head: DepthHead, mode: Mode) -> None:
        with attach_depth_head(host, head) as depth:
            for seed, batch in ((1, 1), (2, 3)):
                with mode():
                    output = host(images(seed, batch), output_hidden_states=True)
                [features] = depth.features()
                assert set(features.hidden) == {0, 1, 3}
                assert_as_the_host_says(features, output.hidden_states)
                assert features.context.shape == (batch, 32)
                assert not any(value.requires_grad for value in features.hidden.values())

    def test_the_host_gives_the_same_bits(self, host: nn.Module, head: DepthHead, mode: Mode) -> None:
        with mode():
            expected = host(images(1)).last_hidden_state
            with attach_depth_head(host, head) as depth:
                output = host(images(1)).last_hidden_state
                depth.read()
                again = host(images(1)).last_hidden_state
        assert same_bits(output, expected)
        assert same_bits(again, expected)
        assert output.requires_grad == expected.requires_grad

    @pytest.mark.parametrize("reading", MODES.values(), ids=[f"read in {name}" for name in MODES])
    def test_the_depth_does_not_depend_on_where_it_is_read(
        self, host: nn.Module, head: DepthHead, mode: Mode, reading: Mode
    ) -> None:
        with attach_depth_head(host, head) as depth:
            for _ in range(2):
                with mode():
                    host(images(1))
            [features] = depth.features()[:1]
            with mode():
                host(images(1))
            with reading():
                [frame] = depth.read()
        with torch.no_grad():
            assert same_bits(frame.depth_m.clone(), head(features).depth_m)
        assert not frame.depth_m.requires_grad
        assert frame.valid.all()


class TestInferenceMode:
    @pytest.mark.parametrize("inside", [True, False], ids=["gathered inside", "gathered outside"])
    def test_features_can_train_a_head(self, host: nn.Module, head: DepthHead, inside: bool) -> None:
        with attach_depth_head(host, head) as depth:
            with torch.inference_mode():
                host(images(1))
                gathered = depth.features() if inside else []
            [features] = gathered or depth.features()
        other = copy.deepcopy(head)
        head(features).depth_m.mean().backward()
        with attach_depth_head(host, other) as depth:
            see(host, 1)  # without inference mode
            [features] = depth.features()
        other(features).depth_m.mean().backward()
        for mine, expected in zip(head.parameters(), other.parameters(), strict=True):
            assert (mine.grad is None) == (expected.grad is None)
            assert mine.grad is None or same_bits(mine.grad, expected.grad)

    def test_a_head_made_inside_can_be_trained_outside(self, host: nn.Module) -> None:
        with torch.inference_mode():
            depth = attach_depth_head(host)
        see(host, 1)
        [features] = depth.features()
        depth.head(features).depth_m.mean().backward()
        torch.optim.SGD(depth.head.parameters(), 0.1).step()
        depth.close()

    def test_a_head_loaded_inside_can_be_trained_outside(self, host: nn.Module, head: DepthHead, tmp_path) -> None:
        head.save_pretrained(tmp_path / "head")
        with torch.inference_mode():
            depth = attach_depth_head(host, tmp_path / "head")
        see(host, 1)
        [features] = depth.features()
        depth.head(features).depth_m.mean().backward()
        torch.optim.SGD(depth.head.parameters(), 0.1).step()
        depth.close()

    def test_reading_inside_leaves_the_head_trainable(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            with torch.inference_mode():
                host(images(1))
                depth.read()
            see(host, 1)
            [features] = depth.features()
        head(features).depth_m.mean().backward()
        assert any(parameter.grad is not None for parameter in head.parameters())

    def test_refresh_inside(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            depth.refresh(images(1))
            with torch.inference_mode():
                depth.refresh(images(1))
                assert depth.verify(lambda: host(images(2))).identical
            outside, inside = depth.read()
        assert same_bits(outside.depth_m, inside.depth_m)


class TestAutocast:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_the_head_computes_in_its_own_precision(self, host: nn.Module, head: DepthHead, dtype: torch.dtype) -> None:
        head.to(dtype)
        with attach_depth_head(host, head) as depth, torch.no_grad():
            with BFLOAT16_AUTOCAST():
                host(images(1))
                [features] = depth.features()
                host(images(1))
                [frame] = depth.read()
            expected = head(features).depth_m
        assert expected.dtype == dtype
        assert frame.depth_m.dtype == torch.float32
        assert same_bits(frame.depth_m, expected.float())

    def test_attaching_inside_gives_the_same_head(self, host: nn.Module) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            outside = attach_depth_head(host)
            torch.manual_seed(5)
            with BFLOAT16_AUTOCAST():
                inside = attach_depth_head(host)
        for some, other in zip(outside.head.parameters(), inside.head.parameters(), strict=True):
            assert same_bits(some, other)

    def test_verify_compares_what_autocast_gives(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth, BFLOAT16_AUTOCAST():
            assert depth.verify(lambda: host(images(1))).identical


class TestHalfPrecisionHosts:
    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_depth_is_float32_and_near_the_float32_host_s(
        self, host: nn.Module, head: DepthHead, dtype: torch.dtype, batch: int
    ) -> None:
        skip_without_half(dtype)
        half, pixels = clip_host().to(dtype), images(1, batch)
        with attach_depth_head(host, head) as exact, attach_depth_head(half, head) as depth, torch.no_grad():
            host(pixels)
            expected = half(pixels.to(dtype), output_hidden_states=True)
            [features] = depth.features()
            half(pixels.to(dtype))
            [frame], [reference] = depth.read(), exact.read()
        assert {value.dtype for value in features.hidden.values()} == {dtype}
        assert_as_the_host_says(features, expected.hidden_states)
        assert frame.depth_m.dtype == torch.float32
        assert frame.depth_m.shape == (batch, 32, 32)
        torch.testing.assert_close(frame.depth_m, reference.depth_m, rtol=0.02, atol=0)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_the_host_gives_the_same_bits(self, head: DepthHead, dtype: torch.dtype) -> None:
        skip_without_half(dtype)
        half = clip_host().to(dtype)
        with attach_depth_head(half, head) as depth:
            assert depth.verify(lambda: half(images(1, 3).to(dtype))).identical
            depth.refresh(images(1, 3))  # moved to the tower's dtype
            assert len(depth.read()[0]) == 3


class TestTrainMode:
    """Dropout draws the same numbers with the taps as without, whatever the user does between two steps."""

    @staticmethod
    def steps(act: Callable[[nn.Module, list[DepthAttachment]], None]) -> list[Tensor]:
        host = clip_host(attention_dropout=0.5).train()
        attached: list[DepthAttachment] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            outputs = []
            for _ in range(3):
                act(host, attached)
                outputs.append(host(images(1, 3)).last_hidden_state)
            outputs[-1].sum().backward()
            outputs += [parameter.grad for parameter in host.parameters() if parameter.grad is not None]
            return [*(output.detach() for output in outputs), torch.get_rng_state()]

    def test_dropout_is_at_work(self) -> None:
        first, second, *_ = self.steps(lambda _host, _attached: None)
        assert not torch.equal(first, second)

    @pytest.mark.parametrize("given", ["fresh head", "given head"])
    def test_attaching_reading_and_detaching_between_steps(self, head: DepthHead, given: str) -> None:
        def act(host: nn.Module, attached: list[DepthAttachment]) -> None:
            while attached:
                assert len(attached[-1].read()) == 1
                attached.pop().close()
            attached.append(attach_depth_head(host, head if given == "given head" else None))

        expected = self.steps(lambda _host, _attached: None)
        assert all(map(same_bits, self.steps(act), expected))

    def test_verify_between_steps(self, head: DepthHead) -> None:
        def act(host: nn.Module, attached: list[DepthAttachment]) -> None:
            attached.append(attach_depth_head(host, head))
            assert attached[-1].verify(lambda: host(images(2))).identical
            assert host.training

        expected = self.steps(lambda _host, _attached: None)
        assert all(map(same_bits, self.steps(act), expected))

    def test_refresh_between_steps(self, head: DepthHead) -> None:
        def act(host: nn.Module, attached: list[DepthAttachment]) -> None:
            attached.append(attach_depth_head(host, head))
            attached[-1].refresh(images(2))
            assert host.training

        expected = self.steps(lambda _host, _attached: None)
        assert all(map(same_bits, self.steps(act), expected))

    def test_the_taps_hold_what_this_very_step_computed(self, head: DepthHead) -> None:
        host = clip_host(attention_dropout=0.5).train()
        with attach_depth_head(host, head) as depth:
            outputs = [host(images(1), output_hidden_states=True).hidden_states for _ in range(2)]
            frames = depth.features()
        assert not torch.equal(outputs[0][3], outputs[1][3])
        for features, hidden_states in zip(frames, outputs, strict=True):
            assert_as_the_host_says(features, hidden_states)

    def test_a_host_that_switches_modes_while_attached(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth, contextlib.ExitStack() as stack:
            see(host, 1)
            host.train()
            see(host, 1)
            host.eval()
            stack.enter_context(torch.inference_mode())
            host(images(1))
            first, *others = depth.read()
        assert len(others) == 2
        assert all(torch.equal(first.depth_m, other.depth_m) for other in others)
