"""Towers whose blocks hold patches alone although they own a class token: AIMv2 pools with it, CaiT adds it last.

The blocks of the patches are the tower; what comes after them gives the context.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import transformers
from fresh_heads import fresh_head
from tiny_hosts import BATCH, WIDTH, captured
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers.registry import find_tower
from spaceclip_plugin.towers.spec import CLS, MEAN

SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}


def aimv2(**options: object) -> nn.Module:
    if not hasattr(transformers, "Aimv2VisionModel"):
        pytest.skip(f"transformers {transformers.__version__} has no Aimv2VisionModel")
    return transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(intermediate_size=64, **SIZES, **options))


def headless_aimv2() -> nn.Module:
    return aimv2(use_head=False)


def native_aimv2() -> nn.Module:
    return aimv2(is_native=True)


def timm_aimv2() -> nn.Module:
    if not timm.is_model("aimv2_large_patch14_224"):
        pytest.skip(f"timm {timm.__version__} has no AIMv2")
    sizes = {"img_size": 56, "embed_dim": WIDTH, "depth": 3, "num_heads": 4}
    return timm.create_model("aimv2_large_patch14_224", **sizes)


def cait() -> nn.Module:
    return timm.models.cait.Cait(img_size=56, patch_size=14, embed_dim=WIDTH, depth=3, num_heads=4, init_values=0.5)


def normed_patches(host: nn.Module, pixels: Tensor) -> Tensor:
    """The mean of AIMv2's normalised patches."""
    return host(pixels).last_hidden_state.mean(dim=1)


def timms_patches(host: nn.Module, pixels: Tensor) -> Tensor:
    return host.forward_features(pixels).mean(dim=1)


def class_token(host: nn.Module, pixels: Tensor) -> Tensor:
    """CaiT's class token after its own blocks and the norm."""
    return host.forward_features(pixels)[:, 0]


@pytest.mark.parametrize(
    ("build", "context", "truth"),
    [
        (aimv2, MEAN, normed_patches),
        (headless_aimv2, MEAN, normed_patches),
        (native_aimv2, MEAN, normed_patches),
        (timm_aimv2, MEAN, timms_patches),
        (cait, CLS, class_token),
    ],
)
def test_patches_and_context_are_the_librarys_own(
    build: Callable[[], nn.Module], context: str, truth: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    host, pixels = build().eval(), torch.randn(BATCH, 3, 56, 56)
    for name, parameter in host.named_parameters():
        if "cls_token" in name:
            nn.init.normal_(parameter)
    tower = find_tower(host)
    assert (tower.spec.blocks, tower.spec.width, tower.spec.context) == (3, WIDTH, context)
    outputs: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for block in tower.blocks
    ]
    with torch.no_grad(), captured(tower) as frames:
        host(pixels)
    for hook in hooks:
        hook.remove()
    features = tower.adapter.features(frames[0], tower)
    for index, tokens in enumerate(outputs, 1):
        assert tokens.shape == (BATCH, 16, WIDTH)
        assert torch.equal(features.hidden[index], tokens.transpose(1, 2).reshape(BATCH, WIDTH, 4, 4))
    with torch.no_grad():
        assert torch.allclose(features.context, truth(host, pixels), atol=1e-6)


def test_a_class_token_that_joins_halfway_is_named_as_a_cause() -> None:
    """ConViT's joins after its first blocks; nothing of its structure says so."""
    host = timm.models.convit.ConVit(
        img_size=56, patch_size=14, embed_dim=WIDTH, depth=4, num_heads=4, local_up_to_layer=2
    ).eval()
    with attach_depth_head(host, fresh_head(host, taps=(1, 2))) as attachment:
        attachment.refresh(torch.zeros(1, 3, 56, 56))
        with pytest.raises(CaptureError, match=r"class token joins only after this block .*prefix_tokens=0"):
            attachment.read()


@pytest.mark.parametrize("build", [aimv2, cait])
def test_depth_is_read_from_them(build: Callable[[], nn.Module]) -> None:
    host = build().eval()
    with attach_depth_head(host, DepthHead.for_tower(host, architecture="space-clip")) as attachment:
        attachment.refresh(torch.zeros(1, 3, 56, 56))
        (depth,) = attachment.read()
    assert depth.depth_m.shape == (1, 56, 56)
