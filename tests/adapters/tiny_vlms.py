"""Small random hosts of the other families of transformers: vision-language models, and the towers they are built on.

A family that the installed transformers does not have yet is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from einops import rearrange
from packed_vlms import MERGE, PACKED
from tiny_hosts import (
    IMAGE_TOKEN,
    LANGUAGE,
    PATCH,
    SQUARE,
    VISION,
    VLM_PATH,
    WIDE,
    WIDTH,
    TinyHost,
    call,
    hf_path,
    hf_truth,
    known,
)
from torch import Tensor, nn

from spaceclip_plugin.towers.spec import CLS, MEAN, RAW_CLS, RAW_MEAN


def _hidden(module: Any, *inputs: object, **named: object) -> tuple[list[Tensor], Any]:
    """Every hidden state as the tower itself reports it, and its whole output."""
    output = module(*inputs, output_hidden_states=True, **named)
    return list(output.hidden_states), output


# --- class tokens and registers -------------------------------------------------------------------------------------


def _class_token(module: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    hidden, output = _hidden(module, pixels)
    return hidden, output.last_hidden_state[:, 0]


def _dinov2() -> nn.Module:
    return transformers.Dinov2Model(transformers.Dinov2Config(**VISION))


def _dinov2_registers() -> nn.Module:
    return transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(num_register_tokens=3, **VISION)
    )


def _dinov3() -> nn.Module:
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(num_register_tokens=4, **VISION))


def _vit() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(**VISION))


def _internvl(*, mean_pooling: bool) -> nn.Module:
    sides = {"image_size": list(SQUARE), "patch_size": [PATCH, PATCH], "use_mean_pooling": mean_pooling}
    language = {key: value for key, value in LANGUAGE.items() if key != "head_dim"}
    config = transformers.InternVLConfig(
        vision_config={**VISION, **sides}, text_config={"model_type": "qwen2", **language}, image_token_id=IMAGE_TOKEN
    )
    return transformers.InternVLForConditionalGeneration(config)


def _image_features(host: Any, pixels: Tensor) -> object:
    return _image_features_of(host)(pixel_values=pixels)


def _internvl_truth(module: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Layer by layer: in transformers 4.57 the tower cannot be asked for its hidden states."""
    embedded = module.embeddings(pixels)
    hidden = [embedded if isinstance(embedded, Tensor) else embedded[0]]
    for layer in module.encoder.layer:
        output = layer(hidden[-1])
        hidden.append(output if isinstance(output, Tensor) else output[0])
    return hidden, module.layernorm(hidden[-1])[:, 0]


_alone = partial(TinyHost, path="", context=CLS, run=call, truth=_class_token)

WITH_CLASS_TOKEN = (
    *known("Dinov2Model", _alone("dinov2", _dinov2, adapter="dinov2", prefix=1, image_hw=WIDE, built_for=SQUARE)),
    *known(
        "Dinov2WithRegistersModel",
        _alone("dinov2-registers", _dinov2_registers, adapter="dinov2", prefix=4, image_hw=WIDE, built_for=SQUARE),
    ),
    *known("DINOv3ViTModel", _alone("dinov3", _dinov3, adapter="dinov3", prefix=5, image_hw=WIDE, built_for=SQUARE)),
    _alone("vit", _vit, adapter="vit", prefix=1),
    *known(
        "InternVLModel",
        *(
            _alone(
                name,
                partial(_internvl, mean_pooling=pooling),
                adapter="internvl",
                prefix=1,
                path="model.vision_tower",
                run=_image_features,
                truth=_internvl_truth,
                context=RAW_CLS if pooling else CLS,
            )
            for name, pooling in (("internvl", True), ("internvl-normed", False))
        ),
    ),
)

# --- tiles in the batch ---------------------------------------------------------------------------------------------


def _llava_next() -> nn.Module:
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**LANGUAGE),
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=[list(SQUARE)],
    )
    return transformers.LlavaNextForConditionalGeneration(config)


def _llava_next_run(host: Any, pixels: Tensor) -> object:
    """One image of the size of a tile: its thumbnail and its only tile are the batch."""
    layers = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    return _image_features_of(host)(pixel_values=pixels[None], image_sizes=torch.tensor([SQUARE]), **layers)


def _image_features_of(host: Any) -> Callable[..., object]:
    inner = getattr(host, "model", host)
    return getattr(inner, "get_image_features", None) or host.get_image_features


# Before transformers 4.50 the whole model alone runs the tower on tiles.
_TILES = hasattr(transformers.LlavaNextForConditionalGeneration, "get_image_features")
TILED = known(
    "LlavaNextForConditionalGeneration" if _TILES else "absent",
    TinyHost(
        "llava-next",
        _llava_next,
        adapter="clip",
        path=VLM_PATH,
        context=CLS,
        prefix=1,
        run=_llava_next_run,
        truth=hf_truth,
    ),
)

# --- mean patches ---------------------------------------------------------------------------------------------------


def _mean_patch(module: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    hidden, output = _hidden(module, pixels)
    return hidden, output.last_hidden_state.mean(dim=1)


def _ids(images: int, tokens: int) -> dict[str, Tensor]:
    ids = torch.tensor([[2] + [IMAGE_TOKEN] * tokens + [7, 8]] * images)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _gemma3() -> nn.Module:
    config = transformers.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
        text_config={"model_type": "gemma3_text", **LANGUAGE},
        mm_tokens_per_image=4,
        image_token_index=IMAGE_TOKEN,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def _gemma3_run(host: Any, pixels: Tensor) -> object:
    text = _ids(len(pixels), 4)
    return host(**text, pixel_values=pixels, token_type_ids=(text["input_ids"] == IMAGE_TOKEN).long())


def _idefics(kind: str) -> nn.Module:
    config = getattr(transformers, f"{kind}Config")(
        vision_config=VISION,
        text_config=transformers.LlamaConfig(pad_token_id=0, **LANGUAGE),
        image_token_id=IMAGE_TOKEN,
        scale_factor=MERGE,
        pad_token_id=0,
    )
    return getattr(transformers, f"{kind}Model")(config)


def _idefics_run(host: Any, pixels: Tensor) -> object:
    return host(**_ids(len(pixels), 4), pixel_values=pixels[:, None])


def _idefics2() -> nn.Module:
    config = transformers.Idefics2Config(
        vision_config=VISION,
        text_config=transformers.MistralConfig(pad_token_id=0, **LANGUAGE),
        perceiver_config={"hidden_size": WIDTH, "resampler_n_heads": 4, "num_key_value_heads": 2},
        image_token_id=IMAGE_TOKEN,
    )
    return transformers.Idefics2Model(config)


def _vision_model(host: Any, pixels: Tensor) -> object:
    return host.vision_model(pixels)


def _molmo2() -> nn.Module:
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    config = transformers.Molmo2VisionConfig(image_size=list(SQUARE), num_key_value_heads=4, head_dim=8, **vision)
    return transformers.models.molmo2.modeling_molmo2.Molmo2VisionModel(config)


def _molmo2_run(host: Any, pixels: Tensor) -> object:
    return host(rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=PATCH, q=PATCH))


def _molmo2_truth(module: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    hidden, output = _hidden(module, rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=PATCH, q=PATCH))
    return hidden, output.last_hidden_state.mean(dim=1)


_mean_host = partial(TinyHost, context=MEAN, prefix=0, truth=_mean_patch)

WITHOUT_CLASS_TOKEN = (
    *known(
        "Gemma3ForConditionalGeneration",
        _mean_host(
            "gemma3", _gemma3, adapter="siglip", path=hf_path("model.vision_tower"), run=_gemma3_run, truth=hf_truth
        ),
    ),
    _mean_host("idefics2", _idefics2, adapter="idefics", path="vision_model", run=_vision_model),
    *(
        host
        for kind in ("Idefics3", "SmolVLM")
        for host in known(
            f"{kind}Model",
            _mean_host(kind.lower(), partial(_idefics, kind), adapter="idefics", path="vision_model", run=_idefics_run),
        )
    ),
    *known(
        "Molmo2Model",
        _mean_host(
            "molmo2",
            _molmo2,
            adapter="molmo",
            path="",
            run=_molmo2_run,
            truth=_molmo2_truth,
            packed=True,
            context=RAW_MEAN,
        ),
    ),
)

VLMS = (*TILED, *WITH_CLASS_TOKEN, *WITHOUT_CLASS_TOKEN, *PACKED)
