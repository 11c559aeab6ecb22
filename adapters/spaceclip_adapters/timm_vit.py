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
from spaceclip_plugin.towers import ImageCall, ImageStatistics, TokenAdapter, Tower


class TimmVitAdapter(TokenAdapter):
    """timm builds pooling, prefix and statistics per model, so they are read off the module."""

    def context_of(self, module: nn.Module) -> tuple[str, nn.Module | None]:
        """The attention pool, else the norm after pooling where it took the final norm's place, else the final norm.

        Where `forward` was replaced, the last block.
        """
        if _has_another_forward(module):
            stack = self.stack_at(module, *self.blocks)
            return "raw-cls" if self._has_class_token(module) else "raw-mean", None if stack is None else stack[-1]
        pool, pooled_norm = self._part(module, "attn_pool"), self._part(module, "fc_norm")
        if pool is not None:
            return "attention-pool", pool
        norm = self.module_at(module, self.context_source)
        pooling = self.attribute_at(module, "global_pool")
        if isinstance(norm, nn.Identity) and pooled_norm is not None and pooling in ("token", "avg"):
            return "cls" if pooling == "token" else "mean", pooled_norm
        return "cls" if self._has_class_token(module) else "mean", norm

    def entry_of(self, module: nn.Module, embedding: nn.Conv2d) -> nn.Module:
        """The convolution, or where the embedding pads images to whole patches, the embedding."""
        padding = self.attribute_at(module, "patch_embed.dynamic_img_pad") is True
        return module.get_submodule("patch_embed") if padding else embedding

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """Batch and grid; an image that the tower would pad is refused, for its depth would cover the padding too."""
        pixels = args[0] if args else kwargs.get("x")
        convolution = self.convolution(tower)
        call = ImageCall.of_convolution(convolution, pixels)
        _, (height, width) = call.sizes()
        if tower.entry is not convolution and (height % tower.spec.patch_size or width % tower.spec.patch_size):
            raise CaptureError(
                f"the {tower.spec} pads images of {height}x{width} to whole patches, which depth would cover too; give "
                f"it sides that are multiples of {tower.spec.patch_size}"
            )
        return call

    def convolution(self, tower: Tower) -> nn.Module:
        """The convolution, inside the embedding where that is the entry."""
        return self.module_at(tower.module, self.patch_embedding) or tower.entry

    def min_prefix(self, tower: Tower) -> int:
        """Class and register tokens, as the model counts them."""
        count = self.attribute_at(tower.module, "num_prefix_tokens")
        return count if isinstance(count, int) else self.prefix_tokens

    def _has_class_token(self, module: nn.Module) -> bool:
        return self.attribute_at(module, "cls_token") is not None

    def _part(self, module: nn.Module, name: str) -> nn.Module | None:
        """A part that the model really has: timm fills the places of absent ones with None or Identity."""
        part = self.module_at(module, name)
        return None if isinstance(part, nn.Identity) else part


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


adapter = TimmVitAdapter(
    name="timm-vit",
    tower_classes=("VisionTransformer",),
    patch_embedding="patch_embed.proj",
    blocks=("blocks",),
    context_source="norm",
    context="cls",
    prefix_tokens=0,
    image_size=("patch_embed.img_size",),
    statistics=ImageStatistics.IMAGENET,
)
