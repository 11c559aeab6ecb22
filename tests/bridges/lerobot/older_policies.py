"""GR00T N1.5, which LeRobot carries up to 0.4: a SigLIP tower in Eagle 2.5, all cameras in one call."""

from __future__ import annotations

import importlib
from typing import Any
from unittest import mock

import torch
import transformers
from tiny_policy import BLOCKS, CAMERAS, CHUNK, STATE, WIDTH, Batch, TinyPolicy, features, observation, policy_parts
from torch import nn
from tower_truth import walked_siglip

from spaceclip_plugin.towers.spec import ATTENTION_POOL

_SIDE, _PATCH, _IMAGE_TOKEN = 56, 14, 5
_STATE_WIDTH = 64
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "max_position_embeddings": 256,
    "architectures": ["Qwen3ForCausalLM"],
}
_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "image_size": _SIDE,
    "patch_size": _PATCH,
}
_DIT = {"num_attention_heads": 4, "attention_head_dim": 8, "positional_embeddings": None, "dropout": 0.0}
_ACTION_HEAD = {
    "add_pos_embed": True,
    "model_dtype": "float32",
    "diffusion_model_cfg": {**_DIT, "num_layers": 2, "output_dim": 32, "cross_attention_dim": 32},
    "vl_self_attention_cfg": {**_DIT, "num_layers": 1},
    "input_embedding_dim": 32,
    "backbone_embedding_dim": 32,
    "hidden_size": 32,
    "max_seq_len": 64,
    "action_dim": 8,
    "action_horizon": CHUNK,
    "max_state_dim": _STATE_WIDTH,
    "num_inference_timesteps": 2,
    "max_num_embodiments": 2,
    "num_target_vision_tokens": 2,
}


def _eagle() -> Any:
    """With both of its models made beforehand: left to itself it insists on flash attention."""
    vendored = "lerobot.policies.groot.eagle2_hg_model"
    configuration = importlib.import_module(f"{vendored}.configuration_eagle2_5_vl")
    modeling = importlib.import_module(f"{vendored}.modeling_eagle2_5_vl")
    config = configuration.Eagle25VLConfig(
        vision_config=_VISION,
        text_config=_TEXT,
        select_layer=-1,
        image_token_index=_IMAGE_TOKEN,
        _attn_implementation="eager",
    )
    vision = transformers.SiglipVisionModel(config.vision_config)
    language = transformers.Qwen3ForCausalLM(config.text_config)
    return modeling.Eagle25VLForConditionalGeneration(config, vision_model=vision, language_model=language)


def _groot(dtype: str, **options: Any) -> nn.Module:
    modeling, policy_class, config_class = policy_parts("groot", "GrootPolicy", "GrootConfig")
    groot_n1 = importlib.import_module("lerobot.policies.groot.groot_n1")
    config = groot_n1.GR00TN15Config(
        backbone_cfg={"select_layer": 2, "project_to_dim": None},
        action_head_cfg=_ACTION_HEAD,
        action_horizon=CHUNK,
        action_dim=8,
        compute_dtype="float32",
    )
    from_hub = {
        "ensure_eagle_cache_ready": mock.DEFAULT,
        "AutoConfig": mock.DEFAULT,
        "AutoModel": mock.Mock(from_config=lambda *_, **__: _eagle()),
    }
    with mock.patch.multiple(groot_n1, **from_hub):
        model = groot_n1.GR00TN15(config, local_model_path="")
    settings = config_class(**features(), chunk_size=CHUNK, use_bf16=dtype == "bfloat16", **options)
    with mock.patch.object(modeling.GR00TN15, "from_pretrained", return_value=model):
        built: nn.Module = policy_class(settings)
    return built


def _batch(robots: int) -> Batch:
    seen = observation(robots)
    images = [seen[camera][robot] for robot in range(robots) for camera in CAMERAS]
    resized = nn.functional.interpolate(torch.stack(images), (_SIDE, _SIDE), mode="bilinear")
    ids = torch.tensor([[_IMAGE_TOKEN] * 4 * len(CAMERAS) + [7, 8]] * robots)
    return {
        **seen,
        "eagle_pixel_values": 2 * resized - 1,
        "eagle_input_ids": ids,
        "eagle_attention_mask": torch.ones_like(ids),
        "eagle_image_sizes": torch.tensor([[_SIDE, _SIDE]] * len(images)),
        "state": nn.functional.pad(seen["observation.state"], (0, _STATE_WIDTH - STATE))[:, None],
        "embodiment_id": torch.zeros(robots, dtype=torch.long),
    }


GROOT_N15 = TinyPolicy(
    "groot-n1.5",
    _groot,
    _batch,
    adapter="siglip",
    path="_groot_model.backbone.eagle_model.vision_model.vision_model",
    calls=1,
    images=len(CAMERAS),
    grid_hw=(4, 4),
    image_hw=(_SIDE, _SIDE),
    views=(None,),
    truth=walked_siglip,
    context=ATTENTION_POOL,
)
