"""Tiny policies whose towers carry patches row by row: pi0 and its family, SmolVLA, the multi-task DiT.

Their classes fix some sizes and fetch others from the Hub; both are replaced while the policy is built.
"""

from __future__ import annotations

import copy
import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import transformers
from tiny_policy import ACTIONS, BLOCKS, CAMERAS, CHUNK, VIEWS, WIDTH, TinyPolicy, features, observation, policy_parts
from torch import Tensor, nn
from tower_truth import reported_tokens, walked_clip, walked_siglip

from spaceclip_plugin.towers.spec import CLS

# --- pi0 and its family: SigLIP inside PaliGemma --------------------------------------------------------------------

_SIGLIP_SIDE, _SIGLIP_PATCH = 56, 14
_GEMMA_WIDTH = 16
_PALIGEMMA = {
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4,
        "image_size": _SIGLIP_SIDE,
        "patch_size": _SIGLIP_PATCH,
        "vision_use_head": False,
    },
    "text_config": {"model_type": "gemma", "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 8},
}


@contextmanager
def small_pi(kind: str, policy: str, config: str) -> Iterator[None]:
    """Small sizes where the policy's class has its own written into it."""
    modeling, policy_class, _ = policy_parts(kind, policy, config)
    build = policy_class.__init__

    def built(self: Any, *args: Any, **options: Any) -> None:
        build(self, *args, **options)
        # The projector's width is written into the class and fits the published language model alone.
        projector = self.model.paligemma_with_expert.paligemma.model.multi_modal_projector
        projector.linear = nn.Linear(WIDTH, _GEMMA_WIDTH, dtype=projector.linear.weight.dtype)

    gemma = modeling.GemmaConfig(_GEMMA_WIDTH, depth=2, mlp_dim=32, num_heads=8, num_kv_heads=1, head_dim=8)
    small = {
        "paligemma": partial(transformers.PaliGemmaConfig, **_PALIGEMMA),
        "gemma": transformers.GemmaConfig,
    }
    with (
        mock.patch.multiple(modeling, get_gemma_config=lambda _: gemma, CONFIG_MAPPING=small),
        mock.patch.object(policy_class, "__init__", built),
    ):
        yield


def _pi(kind: str, policy: str, config: str, dtype: str, **options: Any) -> Any:
    _, policy_class, config_class = policy_parts(kind, policy, config)
    side = (_SIGLIP_SIDE, _SIGLIP_SIDE)
    settings = config_class(**features(), chunk_size=CHUNK, dtype=dtype, image_resolution=side, **options)
    with small_pi(kind, policy, config):
        return policy_class(settings)


def _pi0_fast(dtype: str, **options: Any) -> nn.Module:
    """Without its tokenizers, which are files of the Hub: actions are made of the token ids themselves."""
    modeling, _, _ = policy_parts("pi0_fast", "PI0FastPolicy", "PI0FastConfig")
    tokenizer = SimpleNamespace(bos_token_id=2, convert_tokens_to_ids=lambda _: 1)
    from_hub = SimpleNamespace(from_pretrained=lambda *_, **__: tokenizer)
    with mock.patch.multiple(modeling, AutoTokenizer=from_hub, AutoProcessor=from_hub):
        built = _pi("pi0_fast", "PI0FastPolicy", "PI0FastConfig", dtype, max_decoding_steps=CHUNK * ACTIONS, **options)
    built.detokenize_actions = token_ids
    return built


def token_ids(tokens: Tensor, action_horizon: int, action_dim: int) -> Tensor:
    """Actions of the ids themselves."""
    return tokens[:, : action_horizon * action_dim].unflatten(1, (action_horizon, action_dim)).float()


_pi_policy = partial(
    TinyPolicy,
    batch=observation,
    adapter="siglip",
    path="model.paligemma_with_expert.paligemma.model.vision_tower.vision_model",
    calls=2,
    images=1,
    grid_hw=(4, 4),
    image_hw=(_SIGLIP_SIDE, _SIGLIP_SIDE),
    views=VIEWS,
    truth=walked_siglip,
    fills_missing=True,
)
PI0 = _pi_policy("pi0", partial(_pi, "pi0", "PI0Policy", "PI0Config", num_inference_steps=2))
PI05 = _pi_policy("pi05", partial(_pi, "pi05", "PI05Policy", "PI05Config", num_inference_steps=2))
PI0_FAST = _pi_policy("pi0_fast", _pi0_fast)

# --- SmolVLA: the tower of Idefics 3 --------------------------------------------------------------------------------

_IDEFICS_SIDE = 64


@contextmanager
def small_smolvla() -> Iterator[None]:
    """A small language model where the policy fetches the config and the processor of a published one."""
    inner = importlib.import_module("lerobot.policies.smolvla.smolvlm_with_expert")
    language = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 128,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4,
        "image_size": _IDEFICS_SIDE,
        "patch_size": 16,
    }
    vlm = transformers.SmolVLMConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**language),
        image_token_id=5,
        scale_factor=2,
        pad_token_id=0,
    )
    processor = SimpleNamespace(tokenizer=SimpleNamespace(fake_image_token_id=1, global_image_token_id=2))
    from_hub = {
        "AutoConfig": SimpleNamespace(from_pretrained=lambda _: copy.deepcopy(vlm)),
        "AutoProcessor": SimpleNamespace(from_pretrained=lambda _: processor),
    }
    with mock.patch.multiple(inner, **from_hub):
        yield


def _smolvla(dtype: str, **options: Any) -> nn.Module:
    _, policy_class, config_class = policy_parts("smolvla", "SmolVLAPolicy", "SmolVLAConfig")
    settings = config_class(
        **features(),
        chunk_size=CHUNK,
        resize_imgs_with_padding=(_IDEFICS_SIDE, _IDEFICS_SIDE),
        load_vlm_weights=False,
        num_vlm_layers=2,
        num_steps=2,
        **options,
    )
    with small_smolvla():
        built: Any = policy_class(settings)
    built.model.vlm_with_expert.vlm.to(getattr(torch, dtype))  # as it is loaded: the rest stays in float32
    return built


SMOLVLA = TinyPolicy(
    "smolvla",
    _smolvla,
    observation,
    adapter="idefics",
    path="model.vlm_with_expert.vlm.model.vision_model",
    calls=2,
    images=1,
    grid_hw=(4, 4),
    image_hw=(_IDEFICS_SIDE, _IDEFICS_SIDE),
    views=VIEWS,
    truth=reported_tokens,
)

# --- multi-task DiT: CLIP, every camera and time step in one call ---------------------------------------------------

_CLIP_SIDE, _CLIP_STEPS = 48, 2


def small_clip() -> transformers.CLIPConfig:
    """What the multi-task DiT sees and reads with."""
    size = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": BLOCKS}
    return transformers.CLIPConfig(
        vision_config={**size, "image_size": _CLIP_SIDE, "patch_size": 12},
        text_config={**size, "vocab_size": 64, "max_position_embeddings": 8, "eos_token_id": 2},
        projection_dim=16,
    )


def _multi_task_dit(_dtype: str, **options: Any) -> nn.Module:
    _, policy_class, config_class = policy_parts("multi_task_dit", "MultiTaskDiTPolicy", "MultiTaskDiTConfig")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "clip"
        transformers.CLIPModel(small_clip()).save_pretrained(weights)
        settings = config_class(
            **features(),
            vision_encoder_name=str(weights),
            text_encoder_name=str(weights),
            image_crop_shape=(_CLIP_SIDE, _CLIP_SIDE),
            n_obs_steps=_CLIP_STEPS,
            horizon=CHUNK + _CLIP_STEPS,
            hidden_dim=32,
            num_layers=1,
            num_heads=4,
            num_inference_steps=2,
            **options,
        )
        built: nn.Module = policy_class(settings)
    return built


MULTI_TASK_DIT = TinyPolicy(
    "multi_task_dit",
    _multi_task_dit,
    observation,
    adapter="clip",
    path="observation_encoder.vision_encoder.model.vision_model",
    calls=1,
    images=_CLIP_STEPS * len(CAMERAS),
    grid_hw=(4, 4),
    image_hw=(_CLIP_SIDE, _CLIP_SIDE),
    views=(None,),
    truth=walked_clip,
    context=CLS,
    dtypes=("float32",),
    predicts_unprepared=False,
)
