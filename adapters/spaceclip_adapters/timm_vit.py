"""timm's VisionTransformer: ViT, DeiT, DINOv2, CLIP and SigLIP weights, alone or as the trunk of an open_clip model.

Class and register tokens come before the patches. Where an image becomes one vector depends on the model: an
attention pool, a final norm before pooling, or a norm after pooling. Prismatic and OpenVLA replace the `forward` of
their timm towers by `get_intermediate_layers`, which runs every block but neither norm nor pool: there the context is
taken after the last block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers.spec import ATTENTION_POOL, CLS, MEAN, RAW_CLS, RAW_MEAN, ImageCall, Tower
from spaceclip_plugin.towers.token_adapter import (
    IMAGENET,
    TokenTowerAdapter,
    attribute_at,
)
from spaceclip_plugin.towers.token_reader import convolution_call, known


class TimmVitAdapter(TokenTowerAdapter):
    """timm builds pooling, prefix and statistics per model, so they are read off the module."""

    def context_of(self, module: nn.Module) -> tuple[str, nn.Module | None]:
        """The attention pool, else the norm after pooling where it took the final norm's place, else the final norm.

        Where `forward` was replaced, the last block.
        """
        if _has_another_forward(module):
            stack = self.stack_of(module)
            return RAW_CLS if self._kind(module) == CLS else RAW_MEAN, None if stack is None else stack[-1]
        pool, pooled_norm = _part(module, "attn_pool"), _part(module, "fc_norm")
        if pool is not None:
            return ATTENTION_POOL, pool
        norm = attribute_at(module, self.context_source)
        pooling = attribute_at(module, "global_pool")
        if isinstance(norm, nn.Identity) and pooled_norm is not None and pooling in ("token", "avg"):
            return CLS if pooling == "token" else MEAN, pooled_norm
        return self._kind(module), norm if isinstance(norm, nn.Module) else None

    def entry_of(self, module: nn.Module, embedding: nn.Conv2d) -> nn.Module:
        """The convolution, or where the embedding pads images to whole patches, the embedding."""
        padding = attribute_at(module, "patch_embed.dynamic_img_pad") is True
        return module.get_submodule("patch_embed") if padding else embedding

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """Batch and grid; an image that the tower would pad is refused, for its depth would cover the padding too."""
        pixels = args[0] if args else kwargs.get("x")
        convolution = self.convolution(tower)
        call = convolution_call(convolution, pixels)
        height, width = known(call.image_hw, "image size")
        if tower.entry is not convolution and (height % tower.spec.patch_size or width % tower.spec.patch_size):
            raise CaptureError(
                f"the {tower.spec} pads images of {height}x{width} to whole patches, which depth would cover too; give "
                f"it sides that are multiples of {tower.spec.patch_size}"
            )
        return call

    def convolution(self, tower: Tower) -> nn.Module:
        """The convolution, inside the embedding where that is the entry."""
        convolution = attribute_at(tower.module, self.patch_embedding)
        return convolution if isinstance(convolution, nn.Module) else tower.entry

    def least_prefix(self, tower: Tower) -> int:
        """Class and register tokens, as the model counts them."""
        count = attribute_at(tower.module, "num_prefix_tokens")
        return count if isinstance(count, int) else self.prefix_tokens

    def _kind(self, module: nn.Module) -> str:
        return self.context if attribute_at(module, "cls_token") is not None else MEAN


def _has_another_forward(module: nn.Module) -> bool:
    """Whether an instance's `forward` is not its class's in the end: wrappers keep what they wrap in these places."""
    own = vars(module)
    forward = own.get("_old_forward") or own.get("_original_forward") or own.get("forward")
    while forward is not None and getattr(forward, "__func__", forward) is not type(module).forward:
        inner = getattr(forward, "__wrapped__", None) or getattr(forward, "_torchdynamo_orig_callable", None)
        if inner is None:
            return True
        forward = inner
    return False


def _part(module: nn.Module, name: str) -> nn.Module | None:
    """A part that the model really has: timm fills the places of absent ones with None or Identity."""
    part = attribute_at(module, name)
    return part if isinstance(part, nn.Module) and not isinstance(part, nn.Identity) else None


adapter = TimmVitAdapter(
    name="timm-vit",
    tower_classes=("VisionTransformer",),
    patch_embedding="patch_embed.proj",
    blocks=("blocks",),
    context_source="norm",
    context=CLS,
    prefix_tokens=0,
    image_size=("patch_embed.img_size",),
    statistics=IMAGENET,
)
