"""Tiny policies whose towers see every camera in one call, each laid out in its own way: X-VLA, MolmoAct2, GR00T."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import transformers
from tiny_policy import (
    BLOCKS,
    CAMERAS,
    CHUNK,
    STATE,
    WIDTH,
    Batch,
    TinyPolicy,
    features,
    observation,
    policy_parts,
)
from torch import Tensor, nn
from tower_truth import reported_maps, reported_packed, walked_molmo, walked_stages

from spaceclip_plugin.towers.spec import RAW_MEAN

# --- X-VLA: DaViT inside Florence 2 ---------------------------------------------------------------------------------

_FLORENCE = {
    "vision_config": {
        "model_type": "davit",
        "dim_embed": [8, 16, WIDTH, 64],
        "num_heads": [1, 2, 4, 8],
        "num_groups": [1, 2, 4, 8],
        "depths": [1, 1, BLOCKS, 1],
        "projection_dim": 32,
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 8},
        "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 4},
        "window_size": 3,
    },
    "text_config": {
        "d_model": 32,
        "vocab_size": 128,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 128,
    },
    "projection_dim": 32,
}
# LeRobot 0.4 brings Florence-2's own code along, which bypasses the tower's call; later it is transformers'.
_OWN_DAVIT = importlib.util.find_spec("lerobot.policies.xvla.modeling_florence2") is not None


def _xvla(dtype: str, **options: Any) -> nn.Module:
    _, policy_class, config_class = policy_parts("xvla", "XVLAPolicy", "XVLAConfig")
    settings = config_class(
        **features(),
        chunk_size=CHUNK,
        dtype=dtype,
        florence_config=_FLORENCE,
        resize_imgs_with_padding=(64, 64),
        hidden_size=32,
        depth=1,
        num_heads=4,
        dim_time=8,
        len_soft_prompts=4,
        action_mode="auto",
        num_denoising_steps=2,
        **options,
    )
    built: Any = policy_class(settings)
    if _OWN_DAVIT:
        nn.init.normal_(built.model.vlm.image_projection)  # left as the memory was found
    return built


XVLA = TinyPolicy(
    "xvla",
    _xvla,
    observation,
    adapter="davit",
    context=RAW_MEAN,
    path="model.vlm.vision_tower",
    calls=1,
    images=len(CAMERAS),
    grid_hw=(2, 2),
    image_hw=(64, 64),
    views=(None,),
    truth=walked_stages if _OWN_DAVIT else reported_maps,
    truth_at="convs.0" if _OWN_DAVIT else "",
    tower_is_called=not _OWN_DAVIT,
)

# --- MolmoAct2: a tower whose parts the policy runs itself ----------------------------------------------------------

_MOLMO_SIDE, _MOLMO_PATCH = 56, 14
_START, _END, _PATCH = 3, 4, 5
_VISIBLE = 0.3  # the usual 0.02 would leave nothing of the image at this width
_MOLMO = {
    "vit_config": {
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": BLOCKS + 1,  # the last is never built: the connector reads no deeper than `vit_layers`
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "image_default_input_size": (_MOLMO_SIDE, _MOLMO_SIDE),
        "image_patch_size": _MOLMO_PATCH,
        "image_num_pos": (_MOLMO_SIDE // _MOLMO_PATCH) ** 2,
    },
    "adapter_config": {
        "vit_layers": (-2, -4),
        "hidden_size": WIDTH,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "intermediate_size": 64,
        "text_hidden_size": 32,
    },
    "text_config": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 64,
        "additional_vocab_size": 8,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "initializer_range": _VISIBLE,
    },
    "action_expert_config": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "timestep_embed_dim": 16,
        "ffn_multiple_of": 8,
    },
    "image_start_token_id": _START,
    "image_end_token_id": _END,
    "image_patch_id": _PATCH,
    "flow_matching_num_steps": 2,
    "initializer_range": _VISIBLE,
}


def molmo_config() -> Any:
    """The config of the model that the policy starts from."""
    return policy_parts("molmoact2", "MolmoAct2Policy", "MolmoAct2Config")[0].HFMolmoAct2Config(**_MOLMO)


def _molmoact2(dtype: str, **options: Any) -> nn.Module:
    modeling, policy_class, config_class = policy_parts("molmoact2", "MolmoAct2Policy", "MolmoAct2Config")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # lerobot 0.6.1 checks its rotary settings in an older way
        modeling.MolmoAct2ForConditionalGeneration(molmo_config()).save_pretrained(folder)
        settings = config_class(
            **features(),
            chunk_size=CHUNK,
            checkpoint_path=folder,
            model_dtype=dtype,
            inference_action_mode="continuous",
            **options,
        )
        built: nn.Module = policy_class(settings)
    return built


def _molmo_batch(robots: int) -> Batch:
    """Each camera image as one crop: what MolmoAct2's own preprocessor makes of it."""
    seen = observation(robots)
    images = [seen[camera][robot] for robot in range(robots) for camera in CAMERAS]
    return {**seen, **molmo_inputs(images, robots, crop_mode="resize")}


MOLMO_PROCESSOR = {
    "size": {"height": _MOLMO_SIDE, "width": _MOLMO_SIDE},
    "patch_size": _MOLMO_PATCH,
    "crop_mode": "resize",
}
"""What a checkpoint's processor_config.json says, of one crop for each image."""


def molmo_inputs(images: Sequence[Tensor], robots: int, **options: Any) -> Batch:
    """Images (3, H, W) of every robot in turn, cut by MolmoAct2's image processor, and a prompt that holds them."""
    side = {"height": _MOLMO_SIDE, "width": _MOLMO_SIDE}
    hf_model = "lerobot.policies.molmoact2.molmoact2_hf_model"
    processing = importlib.import_module(f"{hf_model}.image_processing_molmoact2")
    processor = processing.MolmoAct2ImageProcessor(size=side, patch_size=_MOLMO_PATCH, **options)
    inputs = processor([(255 * image).byte().permute(1, 2, 0).numpy() for image in images], return_tensors="pt")
    grids = inputs["image_grids"]
    tokens = (grids[:, :2].prod(dim=1) + grids[:, 2:].prod(dim=1)).unflatten(0, (robots, -1)).tolist()
    prompts = [[token for count in counts for token in (_START, *[_PATCH] * count, _END)] for counts in tokens]
    longest = max(map(len, prompts)) + 1
    ids = torch.tensor([prompt + [7] * (longest - len(prompt)) for prompt in prompts])
    return {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


MOLMOACT2 = TinyPolicy(
    "molmoact2",
    _molmoact2,
    _molmo_batch,
    adapter="molmo",
    context=RAW_MEAN,
    path="model.model.vision_backbone.image_vit",
    calls=1,
    images=len(CAMERAS),
    grid_hw=(4, 4),
    image_hw=(_MOLMO_SIDE, _MOLMO_SIDE),
    views=(None,),
    truth=walked_molmo,
    truth_at="patch_embedding",
    tower_is_called=False,
)

# --- GR00T N1.7: Qwen3-VL, all patches of all images in one sequence ------------------------------------------------

_QWEN_PATCH, _QWEN_MERGE = 16, 2
_QWEN_HW = (64, 96)
_IMAGE_TOKEN = 5
_QWEN = {
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 64,
        "max_position_embeddings": 256,
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [2, 1, 1]},
    },
    "vision_config": {
        "depth": BLOCKS,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": _QWEN_PATCH,
        "spatial_merge_size": _QWEN_MERGE,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0, 1],
    },
    "image_token_id": _IMAGE_TOKEN,
    "video_token_id": 6,
    "vision_start_token_id": _START,
    "vision_end_token_id": _END,
}
_DIT = {"num_attention_heads": 4, "attention_head_dim": 8, "positional_embeddings": None, "dropout": 0.0}
_GROOT = {
    "select_layer": 2,
    "backbone_embedding_dim": 32,
    "hidden_size": 32,
    "input_embedding_dim": 32,
    "action_horizon": CHUNK,
    "max_num_embodiments": 32,
    "num_inference_timesteps": 2,
    "diffusion_model_cfg": {**_DIT, "num_layers": 2, "output_dim": 32, "interleave_self_attention": True},
    "vl_self_attention_cfg": {**_DIT, "num_layers": 1},
}


@contextmanager
def small_groot() -> Iterator[None]:
    """A small language model where the size of the published one is written into the class."""
    groot_n1_7 = importlib.import_module("lerobot.policies.groot.groot_n1_7")
    small = mock.Mock(side_effect=lambda: transformers.Qwen3VLConfig(**_QWEN))
    with mock.patch.object(groot_n1_7, "_cosmos_reason2_qwen3_vl_config", small):
        yield


def groot_config() -> Any:
    """The config of the model that the policy starts from."""
    return importlib.import_module("lerobot.policies.groot.groot_n1_7").GR00TN17Config(**_GROOT)


def _groot(dtype: str, **options: Any) -> nn.Module:
    """In bfloat16 as it is published: weights in float32, the whole policy under autocast."""
    _, policy_class, config_class = policy_parts("groot", "GrootPolicy", "GrootConfig")
    groot_n1_7 = importlib.import_module("lerobot.policies.groot.groot_n1_7")
    with small_groot(), tempfile.TemporaryDirectory() as folder:
        model = groot_n1_7.GR00TN17(groot_config(), load_backbone_weights=False)
        model.save_pretrained(folder)
        bf16 = dtype == "bfloat16"
        settings = config_class(**features(), chunk_size=CHUNK, base_model_path=folder, use_bf16=bf16, **options)
        built: nn.Module = policy_class(settings)
    return built


def _groot_batch(robots: int) -> Batch:
    """The cameras as Qwen3-VL's image processor packs them, and a padded state."""
    seen = observation(robots)
    images = [seen[camera][robot] for robot in range(robots) for camera in CAMERAS]
    resized = [nn.functional.interpolate(image[None], _QWEN_HW, mode="bilinear")[0] for image in images]
    half = [0.5, 0.5, 0.5]
    processor = transformers.Qwen2VLImageProcessor(
        patch_size=_QWEN_PATCH, merge_size=_QWEN_MERGE, image_mean=half, image_std=half, do_resize=False
    )
    packed = processor([(255 * image).byte() for image in resized], return_tensors="pt")
    tokens = _QWEN_HW[0] * _QWEN_HW[1] // (_QWEN_PATCH * _QWEN_MERGE) ** 2
    ids = torch.tensor([[_START, *[_IMAGE_TOKEN] * tokens, _END] * len(CAMERAS) + [7, 8]] * robots)
    return {
        **seen,
        **packed,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "state": torch.nn.functional.pad(seen["observation.state"], (0, 132 - STATE))[:, None],
        "embodiment_id": torch.zeros(robots, dtype=torch.long),
    }


GROOT = TinyPolicy(
    "groot-n1.7",
    _groot,
    _groot_batch,
    adapter="qwen-vl",
    context=RAW_MEAN,
    path="_groot_model.backbone.model.model.visual",
    calls=1,
    images=len(CAMERAS),
    grid_hw=(_QWEN_HW[0] // _QWEN_PATCH, _QWEN_HW[1] // _QWEN_PATCH),
    image_hw=_QWEN_HW,
    views=(None,),
    truth=reported_packed,
)
