"""Fused pairs of timm towers as Prismatic and OpenVLA build them: `forward` replaced, norm and pool never run."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
from accelerate import Accelerator, cpu_offload
from fresh_heads import fresh_head
from tiny_hosts import contract_of
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.errors import AmbiguousTowerError, CaptureError, HeadMismatchError
from spaceclip_plugin.towers.registry import find_towers
from spaceclip_plugin.towers.spec import CLS, RAW_CLS, RAW_MEAN

WIDTH, BLOCKS, PATCH, SIDE = 32, 4, 14, 56
SMALL = {
    "architecture": "space-clip",
    "channels": (8, 6),
    "semantic_taps": (4, 2),
    "structural_taps": (0,),
    "film_hidden": 4,
}


class FusedEye(nn.Module):
    """Two towers on the two halves of six-channel images; the penultimate block's patches side by side."""

    def __init__(self) -> None:
        super().__init__()
        shape = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": BLOCKS, "num_heads": 4}
        build = partial(timm.create_model, pretrained=False, num_classes=0, **shape)
        registers = {"reg_tokens": 4, "no_embed_class": True}
        self.featurizer = _penultimate(build("vit_tiny_patch16_224", **registers))
        self.fused_featurizer = _penultimate(build("vit_base_patch16_siglip_224"))

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.split(6, dim=1)  # several cameras are stacked along the channels
        pairs = [(self.featurizer(image[:, :3]), self.fused_featurizer(image[:, 3:])) for image in images]
        return torch.cat([torch.cat(pair, dim=2) for pair in pairs], dim=1)


def _penultimate(tower: Any) -> nn.Module:
    layers = partial(tower.get_intermediate_layers, n={BLOCKS - 2})
    tower.forward = lambda pixels: layers(pixels)[0]
    return tower


class OpenVla(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision_backbone = FusedEye()
        self.projector = nn.Linear(2 * WIDTH, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projector(self.vision_backbone(pixels))


@pytest.fixture
def host() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OpenVla().eval()


def head_for(host: nn.Module, index: int) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return fresh_head(find_towers(host)[index], **SMALL).eval()


def pixels(cameras: int = 1) -> Tensor:
    return torch.randn(2, 6 * cameras, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


DINO, SIGLIP = "vision_backbone.featurizer", "vision_backbone.fused_featurizer"


def test_both_towers_are_found_and_one_must_be_chosen(
    host: nn.Module, record_property: Callable[[str, object], None]
) -> None:
    for name, value in contract_of("fused pair", "timm-vit", host, host.get_submodule(DINO)).items():
        record_property(name, value)
    dino, siglip = find_towers(host)
    assert [(tower.spec.path, tower.spec.context) for tower in (dino, siglip)] == [(DINO, RAW_CLS), (SIGLIP, RAW_MEAN)]
    assert dino.context_source is dino.blocks[-1]
    assert siglip.context_source is siglip.blocks[-1]
    with pytest.raises(AmbiguousTowerError, match=f"{DINO}.*{SIGLIP}.*tower=PATH"):
        attach_depth_head(host)


@pytest.mark.parametrize("offloaded", [False, True])
def test_both_are_read_at_once(host: nn.Module, offloaded: bool) -> None:
    heads = [head_for(host, 0), head_for(host, 1)]
    truth = copy.deepcopy(host)
    with torch.no_grad():
        plain, digest = host(pixels()), module_digest(host)
    if offloaded:  # accelerate replaces `forward` once more
        cpu_offload(host, execution_device="cpu")
    with (
        torch.no_grad(),
        attach_depth_head(host, heads[0], tower=DINO) as dino,
        attach_depth_head(host, heads[1], tower=SIGLIP) as siglip,
    ):
        assert torch.equal(host(pixels()), plain)
        both = [*dino.features(), *siglip.features()]
        host(pixels())
        depths = [*dino.read(), *siglip.read()]
    for index, features in enumerate(both):
        tower = find_towers(truth)[index].module
        tokens = tower._pos_embed(tower.patch_embed(pixels()[:, 3 * index : 3 * index + 3]))
        hidden = [tower.norm_pre(tokens)]
        for block in tower.blocks:
            hidden.append(block(hidden[-1]))
        prefix = (5, 0)[index]
        for tap, patch_map in features.hidden.items():
            assert torch.equal(patch_map.flatten(2).transpose(1, 2), hidden[tap][:, prefix:])
        assert torch.equal(features.context, hidden[-1][:, 0] if prefix else hidden[-1].mean(dim=1))
    assert [depth.depth_m.shape for depth in depths] == [(2, SIDE, SIDE)] * 2
    if not offloaded:
        assert module_digest(host) == digest


def test_refresh_runs_the_replaced_forward(host: nn.Module) -> None:
    with torch.no_grad(), attach_depth_head(host, head_for(host, 1), tower=SIGLIP) as depth:
        host(pixels())
        [through_host] = depth.read()
        depth.refresh(pixels()[:, 3:])
        [alone] = depth.read()
    assert torch.equal(through_host.depth_m, alone.depth_m)


def test_two_cameras_in_the_channels_are_two_calls(host: nn.Module) -> None:
    with (
        torch.no_grad(),
        attach_depth_head(host, head_for(host, 0), tower=DINO, cameras=("scene", "wrist")) as depth,
    ):
        host(pixels(cameras=2))
        assert [frame.camera for frame in depth.read()] == ["scene", "wrist"]


class Modulated(nn.Module):
    """As OpenVLA-OFT wraps blocks for FiLM: the wrapper calls the parts of the block, never the block itself."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block.forward(x) * 1.01


def test_blocks_wrapped_after_attaching_are_missed_loudly(host: Any) -> None:
    tower = host.vision_backbone.featurizer
    with torch.no_grad(), attach_depth_head(host, head_for(host, 0), tower=DINO) as depth:
        tower.blocks = nn.Sequential(*(Modulated(block) for block in tower.blocks))
        host(pixels())
        with pytest.raises(CaptureError, match=r"did not reach: hidden state 0, hidden state 2, hidden state 4"):
            depth.read()
    with torch.no_grad(), attach_depth_head(host, head_for(host, 0), tower=DINO) as depth:
        host(pixels())
        assert len(depth.read()) == 1


def compiled(tower: Any) -> None:
    tower.forward = torch.compile(tower.forward, backend="eager")


def prepared(tower: Any) -> None:
    Accelerator(cpu=True, mixed_precision="bf16").prepare_model(tower)


def wrapped(tower: Any) -> None:
    inner = tower.forward
    tower.forward = functools.wraps(inner)(lambda *args, **kwargs: inner(*args, **kwargs))


@pytest.mark.parametrize("wrap", [compiled, prepared, wrapped])
def test_a_wrapped_forward_still_runs_the_norm(wrap: Callable[[nn.Module], None]) -> None:
    """Only a forward that leads elsewhere changes the context: heads must not silently read another one."""
    tower = timm.create_model("vit_tiny_patch16_224", img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, num_heads=4)
    [plain] = find_towers(tower)
    wrap(tower)
    [found] = find_towers(tower)
    assert found.spec == plain.spec
    assert found.context_source is plain.context_source


def test_a_head_for_the_norm_is_refused_where_none_runs(host: nn.Module) -> None:
    plain = dataclasses.replace(find_towers(host)[0].spec, context=CLS)
    with pytest.raises(HeadMismatchError, match=r"'cls'.*'raw-cls'"):
        attach_depth_head(host, fresh_head(plain, **SMALL), tower=DINO)


def test_a_head_that_reads_no_context_fits_where_no_norm_runs(host: nn.Module) -> None:
    plain = dataclasses.replace(find_towers(host)[0].spec, context=CLS)
    head = fresh_head(plain, architecture="tap-mixer", channels=(48,), convolutions=(1,))
    with torch.no_grad(), attach_depth_head(host, head, tower=DINO) as depth:
        host(pixels())
        [frame] = depth.read()
    assert frame.depth_m.shape == (2, SIDE, SIDE)


def test_a_tower_that_pads_takes_whole_patches_only() -> None:
    tower = timm.create_model("vit_tiny_patch16_224", depth=4, dynamic_img_size=True, dynamic_img_pad=True).eval()
    with torch.no_grad(), attach_depth_head(tower, fresh_head(tower, **SMALL).eval()) as depth:
        tower(torch.randn(1, 3, 224, 256))
        [frame] = depth.read()
        assert frame.image_hw == (224, 256)
        tower(torch.randn(1, 3, 225, 230))
        with pytest.raises(CaptureError, match="225x230"):
            depth.read()
