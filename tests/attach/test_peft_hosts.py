"""Hosts with LoRA: in the language model the depth stays the same; in the tower someone has to say so."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from clip_world import hook_count
from llava_world import ask, llava_host, question, small_head
from torch import Tensor, nn

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach.verification import same_bits
from spaceclip_plugin.towers import registry

peft = pytest.importorskip("peft", reason="peft is not installed")

# peft asks transformers 5 for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*deprecated:FutureWarning")

LANGUAGE_ONLY = r".*language_model.*\.q_proj"
BEFORE, AFTER = "attached, then adapted", "adapted, then attached"
BOTH_ORDERS = pytest.mark.parametrize("order", [BEFORE, AFTER])


def adapted(host: nn.Module, targets: str | list[str]) -> nn.Module:
    """The host with LoRA whose update is not zero, the same in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
        model: nn.Module = peft.get_peft_model(host, config).eval()
    return model


def plain_depth(host: nn.Module) -> Tensor:
    with attach_depth_head(host, small_head()) as depth, torch.no_grad():
        ask(host, 1)
        [frame] = depth.read()
    return frame.depth_m


@BOTH_ORDERS
class TestLanguageOnly:
    def test_the_depth_is_the_plain_host_s_and_the_answer_the_adapted_one_s(self, order: str) -> None:
        plain, never = llava_host(), adapted(llava_host(), LANGUAGE_ONLY)
        host = llava_host() if order == BEFORE else adapted(llava_host(), LANGUAGE_ONLY)
        with attach_depth_head(host, small_head()) as depth, torch.no_grad():
            model = adapted(host, LANGUAGE_ONLY) if order == BEFORE else host
            answer = ask(model, 1)
            assert same_bits(answer, ask(never, 1))
            assert not torch.equal(answer, ask(plain, 1))
            [frame] = depth.read()
        assert torch.equal(frame.depth_m, plain_depth(plain))
        assert hook_count(model) == hook_count(never)

    def test_the_state_dict_keeps_its_keys(self, order: str) -> None:
        host = llava_host() if order == BEFORE else adapted(llava_host(), LANGUAGE_ONLY)
        with attach_depth_head(host, small_head()):
            model = adapted(host, LANGUAGE_ONLY) if order == BEFORE else host
            assert list(model.state_dict()) == list(adapted(llava_host(), LANGUAGE_ONLY).state_dict())


@BOTH_ORDERS
class TestAllLinear:
    @pytest.mark.slow
    def test_the_depth_is_read_from_the_adapted_tower(self, order: str) -> None:
        never = adapted(llava_host(), "all-linear")
        host = llava_host() if order == BEFORE else adapted(llava_host(), "all-linear")
        with attach_depth_head(host, small_head()) as depth, torch.no_grad():
            model = adapted(host, "all-linear") if order == BEFORE else host
            assert same_bits(ask(model, 1), ask(never, 1))
            [frame] = depth.read()
        assert torch.equal(frame.depth_m, plain_depth(never))
        assert not torch.equal(frame.depth_m, plain_depth(llava_host()))
        assert hook_count(model) == hook_count(never)

    def test_the_head_gets_no_lora(self, order: str) -> None:
        head = small_head()
        names = [name for name, _ in head.named_parameters()]
        weights = copy.deepcopy(head.state_dict())
        host = llava_host() if order == BEFORE else adapted(llava_host(), "all-linear")
        with attach_depth_head(host, head):
            if order == BEFORE:
                adapted(host, "all-linear")
        assert [name for name, _ in head.named_parameters()] == names
        assert all(parameter.requires_grad for parameter in head.parameters())
        assert all(torch.equal(weights[name], value) for name, value in head.state_dict().items())

    def test_merging_keeps_the_taps(self, order: str) -> None:
        merged = adapted(llava_host(), "all-linear").merge_and_unload()
        host = llava_host() if order == BEFORE else adapted(llava_host(), "all-linear")
        with attach_depth_head(host, small_head()) as depth, torch.no_grad():
            model = (adapted(host, "all-linear") if order == BEFORE else host).merge_and_unload()
            assert same_bits(ask(model, 1), ask(merged, 1))
            [frame] = depth.read()
            assert torch.equal(frame.depth_m, plain_depth(merged))
        assert hook_count(model) == hook_count(merged)


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[nn.Module], list[str]]]:
    def attached(host: nn.Module) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING), attach_depth_head(host, small_head()):
            return [record.message for record in caplog.records if record.levelno == logging.WARNING]

    return attached


class TestAdaptedTower:
    """A head that was trained on the frozen tower sees other features where the tower itself is adapted."""

    @pytest.mark.parametrize("targets", ["all-linear", r".*vision_tower.*layers\.1\..*\.v_proj"])
    def test_lora_in_the_tower_s_blocks_is_warned_of(self, warnings_of, targets: str) -> None:
        [message] = warnings_of(adapted(llava_host(), targets))
        assert "adapted" in message
        assert "vision_tower" in message

    def test_lora_elsewhere_is_not(self, warnings_of) -> None:
        assert warnings_of(llava_host()) == []
        assert warnings_of(adapted(llava_host(), LANGUAGE_ONLY)) == []
        assert warnings_of(adapted(llava_host(), r".*projector.*linear_1")) == []

    def test_lora_that_was_taken_out_again_is_not(self, warnings_of) -> None:
        assert warnings_of(adapted(llava_host(), "all-linear").unload()) == []


def test_the_tower_is_found_in_the_peft_model() -> None:
    [plain] = registry.find_towers(llava_host())
    [tower] = registry.find_towers(adapted(llava_host(), "all-linear"))
    assert tower.spec.path == f"base_model.model.{plain.spec.path}"
    assert tower.spec.adapter == plain.spec.adapter


def test_verify_finds_the_same_bits() -> None:
    host = adapted(llava_host(), "all-linear")
    with attach_depth_head(host, small_head()) as depth:
        assert depth.verify(lambda: host(**question(1))).identical


def test_training_the_lora_has_the_same_gradients() -> None:
    hosts = [adapted(llava_host(), "all-linear").train() for _ in range(2)]
    with attach_depth_head(hosts[0], small_head()) as depth:
        for host in hosts:
            ask(host, 1).square().mean().backward()
        assert len(depth.read()) == 1
    tapped, plain = ({n: p.grad for n, p in host.named_parameters() if p.grad is not None} for host in hosts)
    assert any("vision_tower" in name for name in plain)
    assert tapped.keys() == plain.keys()
    assert all(same_bits(tapped[name], gradient) for name, gradient in plain.items())
