"""timm's VisionTransformer: ViT, DeiT, DINOv2, CLIP and SigLIP weights, alone or as the trunk of an open_clip model.

Class and register tokens come before the patches. Where an image becomes one vector depends on the model: an
attention pool, a final norm before pooling, or a norm after pooling.
"""

from __future__ import annotations

from torch import nn

from spaceclip_plugin.token_adapter import (
    IMAGENET,
    ImageStatistics,
    TokenTowerAdapter,
    as_statistics,
    attribute_at,
    declared_statistics,
)
from spaceclip_plugin.tower import ATTENTION_POOL, CLS, MEAN, Tower


class TimmVitAdapter(TokenTowerAdapter):
    """timm builds pooling, prefix and statistics per model, so they are read off the module."""

    def context_of(self, module: nn.Module) -> tuple[str, nn.Module | None]:
        """The attention pool, else the norm after pooling where it took the final norm's place, else the final norm."""
        pool, pooled_norm = _part(module, "attn_pool"), _part(module, "fc_norm")
        has_class_token = attribute_at(module, "cls_token") is not None
        if pool is not None:
            return ATTENTION_POOL, pool
        norm = attribute_at(module, self.context_source)
        pooling = attribute_at(module, "global_pool")
        if isinstance(norm, nn.Identity) and pooled_norm is not None and pooling in ("token", "avg"):
            return CLS if pooling == "token" else MEAN, pooled_norm
        return self.context if has_class_token else MEAN, norm if isinstance(norm, nn.Module) else None

    def least_prefix(self, tower: Tower) -> int:
        """Class and register tokens, as the model counts them."""
        count = attribute_at(tower.module, "num_prefix_tokens")
        return count if isinstance(count, int) else self.prefix_tokens

    def statistics_of(self, host: nn.Module, path: str) -> ImageStatistics:
        """What an open_clip model around the trunk declares, else the pretrained configuration, else ImageNet."""
        declared = declared_statistics(host, path)
        if declared is not None:
            return declared
        config = attribute_at(host.get_submodule(path), "pretrained_cfg")
        own = as_statistics(config.get("mean"), config.get("std")) if isinstance(config, dict) else None
        return own or self.statistics


def _part(module: nn.Module, name: str) -> nn.Module | None:
    """A part that the model really has: timm fills the places of absent ones with None or Identity."""
    part = attribute_at(module, name)
    return part if isinstance(part, nn.Module) and not isinstance(part, nn.Identity) else None


adapter = TimmVitAdapter(
    name="timm-vit",
    tower_classes=("VisionTransformer",),
    patch_embedding="patch_embed.proj",
    blocks="blocks",
    context_source="norm",
    context=CLS,
    prefix_tokens=0,
    image_size=("patch_embed.img_size",),
    statistics=IMAGENET,
)
