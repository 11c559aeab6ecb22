"""An adapter in the tower is noticed exactly where it moves activations, whatever its kind; the host is left alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from clip_world import clip_host, images
from torch import Tensor, nn
from trained_heads import matched, trained_on

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.attach.tower_match import OTHER, SAME
from spaceclip_plugin.errors import HeadMismatchError
from spaceclip_plugin.towers import registry

peft = pytest.importorskip("peft", reason="peft is not installed")

# peft asks transformers 5 for a property under its old name, and says of some kinds what they are not for.
pytestmark = pytest.mark.filterwarnings("ignore")

LINEAR = r".*encoder\.layers\.\d\.(self_attn\.(q|v|out)_proj|mlp\.fc[12])"
NORMS = r".*encoder\.layers\.\d\.layer_norm[12]"
KINDS: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: peft.LoraConfig(r=2, target_modules=LINEAR),
    "DoRA": lambda: peft.LoraConfig(r=2, use_dora=True, target_modules=LINEAR),
    "PiSSA": lambda: peft.LoraConfig(r=2, init_lora_weights="pissa", target_modules=LINEAR),
    "AdaLoRA": lambda: peft.AdaLoraConfig(total_step=9, target_modules=LINEAR),
    "IA3": lambda: peft.IA3Config(target_modules=LINEAR, feedforward_modules=r".*mlp\.fc2"),
    "LoHa": lambda: peft.LoHaConfig(r=2, target_modules=LINEAR),
    "LoKr": lambda: peft.LoKrConfig(r=2, target_modules=LINEAR),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=8, target_modules=LINEAR),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=LINEAR),
    "HRA": lambda: peft.HRAConfig(r=2, target_modules=LINEAR),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=r".*out_proj"),
    "FourierFT": lambda: peft.FourierFTConfig(n_frequency=20, scaling=30.0, init_weights=True, target_modules=LINEAR),
    "MiSS": lambda: peft.MissConfig(r=2, target_modules=LINEAR),
    "LN tuning": lambda: peft.LNTuningConfig(target_modules=NORMS),
    "saved copies": lambda: peft.LoraConfig(r=2, target_modules=r".*fc2", modules_to_save=["layer_norm1"]),
}
BUILT: dict[str, nn.Module] = {}


def adapted(kind: str, *, perturbed: bool) -> nn.Module:
    """The host with a fresh adapter, or with one whose every trained number was moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        try:
            model: nn.Module = peft.get_peft_model(clip_host(), KINDS[kind]()).eval()
        except (AttributeError, TypeError, ValueError) as error:
            pytest.skip(f"this peft has no {kind}: {error}")
        if perturbed:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def activations(host: nn.Module) -> Tensor:
    with torch.no_grad():
        state: Tensor = host(images(1)).last_hidden_state
    return state


def movement(host: nn.Module) -> float:
    plain = activations(clip_host())
    return float((activations(host) - plain).norm() / plain.norm())


def noticed(host: nn.Module) -> tuple[bool, bool]:
    """By a head that knows its tower, and by one that does not; nothing of the host may change."""
    before = module_digest(host)
    known = matched(host, trained_on(clip_host()))
    unknown = matched(host, trained_on(clip_host(), known=False))
    assert module_digest(host) == before
    return known.verdict == OTHER or bool(known.adapted), bool(unknown.adapted)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_one_that_moves_activations_is_noticed(self, kind: str) -> None:
        host = adapted(kind, perturbed=True)
        assert movement(host) > 0.004
        assert noticed(host) == (True, True)

    def test_a_fresh_one_that_moves_none_is_not(self, kind: str) -> None:
        host = adapted(kind, perturbed=False)
        moved = movement(host)
        if 1e-4 < moved < 0.004:
            pytest.skip(f"a fresh one of this peft moves activations by {moved:.1e}, less than must be noticed")
        moves = moved > 1e-4
        known, unknown = noticed(host)
        assert known == moves
        # PiSSA takes from the weights what it adds: only who knows the weights can tell that they add up.
        assert unknown == moves or kind == "PiSSA"

    def test_a_disabled_one_is_not(self, kind: str) -> None:
        host = adapted(kind, perturbed=True)
        with host.disable_adapter():  # type: ignore[operator]
            moves = movement(host) > 1e-4  # what PiSSA took stays taken
            assert noticed(host)[0] == moves
            assert not noticed(host)[1]

    def test_a_merged_one_is(self, kind: str) -> None:
        host = adapted(kind, perturbed=True)
        host.merge_adapter()  # type: ignore[operator]
        assert movement(host) > 0.004
        assert noticed(host) == (True, True)

    def test_one_merged_into_the_weights_is_known_by_them(self, kind: str) -> None:
        host = adapted(kind, perturbed=True).merge_and_unload()  # type: ignore[operator]
        assert noticed(host) == (True, False)

    def test_a_head_trained_on_it_knows_it_again(self, kind: str) -> None:
        host = adapted(kind, perturbed=True)
        head = trained_on(host)
        assert matched(adapted(kind, perturbed=True), head).verdict == SAME
        assert not matched(host, head).adapted
        assert matched(clip_host(), head).verdict == OTHER or movement(host) < 0.01
        merged = host.merge_and_unload()  # type: ignore[operator]
        assert matched(merged, head).verdict == SAME


def test_it_can_be_an_error(caplog: pytest.LogCaptureFixture) -> None:
    host = adapted("IA3", perturbed=True)
    with pytest.raises(HeadMismatchError, match=r"blocks 1 to 3 of the tower .* are adapted"):
        attach_depth_head(host, trained_on(clip_host(), known=False), other_tower="error")
    with attach_depth_head(host, trained_on(clip_host(), known=False)):
        [message] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "blocks 1 to 3" in message


def test_only_blocks_before_the_last_tap_count() -> None:
    host = clip_host()
    head = trained_on(host, known=False, architecture="tap-mixer", taps=(1, 2), channels=(4, 4), attention=0,
                      convolutions=(0, 0))  # fmt: skip
    config = peft.LoraConfig(r=2, target_modules=r".*layers\.2\..*q_proj", init_lora_weights=False)
    assert matched(peft.get_peft_model(host, config), head).adapted == ()


def test_in_train_mode_with_dropout_nothing_is_drawn() -> None:
    config = peft.LoraConfig(r=2, target_modules=LINEAR, lora_dropout=0.5, init_lora_weights=False)
    host = peft.get_peft_model(clip_host(), config).train()
    state = torch.random.get_rng_state()
    distances = [matched(host, trained_on(clip_host())).distance for _ in range(2)]
    assert distances[0] == distances[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_hooks_on_adapted_layers_do_not_fire() -> None:
    host = adapted("LoRA", perturbed=True)
    fired: list[int] = []
    for part in host.modules():
        part.register_forward_hook(lambda *_: fired.append(1))
        part.register_forward_pre_hook(lambda *_: fired.append(1))
    matched(host, trained_on(clip_host()))
    assert fired == []


def test_attention_of_torch_tells_what_is_added() -> None:
    """It takes three tensors, and PEFT merges and unmerges around its forward: it is not asked."""

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.cut = nn.Conv2d(3, 32, 8, 8)
            layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).layers

    with torch.random.fork_rng(devices=[]):
        host, options = Tower(), {"architecture": "tap-mixer"}
        head = trained_on(host, **options)
        [tower] = registry.find_towers(host)
        for fresh in (True, False):
            config = peft.LoraConfig(r=2, target_modules=r".*self_attn", init_lora_weights=fresh)
            try:
                model = peft.get_peft_model(Tower(), config)
            except ValueError as error:
                pytest.skip(f"this peft does not adapt torch's attention: {error}")
            match = matched(model, head)
            assert (match.verdict == SAME, match.reason) == (fresh, None)
            assert bool(matched(model, trained_on(Tower(), known=False, **options)).adapted) != fresh
    assert tower.spec.blocks == 2


@pytest.mark.parametrize("part", ["patch_embedding", "position_embedding"])
def test_one_before_the_blocks(part: str) -> None:
    config = peft.LoraConfig(r=2, target_modules=rf".*{part}", init_lora_weights=True)
    host = peft.get_peft_model(clip_host(), config)
    assert matched(host, trained_on(clip_host())).verdict == SAME
    assert not matched(host, trained_on(clip_host(), known=False)).before_blocks
    with torch.no_grad():
        for number, parameter in enumerate(host.parameters()):
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    assert movement(host) > 0.01
    match = matched(host, trained_on(clip_host()))
    assert (match.verdict, match.before_blocks) == (OTHER, True)
    with pytest.raises(HeadMismatchError, match=r"layers before the blocks of the tower .* are adapted"):
        attach_depth_head(host, trained_on(clip_host(), known=False), other_tower="error")
