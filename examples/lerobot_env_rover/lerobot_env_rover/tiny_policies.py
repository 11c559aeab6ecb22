"""LeRobot's SmolVLA and pi0 for the rover, of toy size and with random weights, made without a network.

They show the machinery and drive nowhere. SmolVLA can be loaded from its folder by LeRobot like any policy, where
num2words is installed (LeRobot's extra `smolvla`). Some sizes of pi0 are written into its code, which is patched while
it is built; its folder cannot be loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import tokenizers
import torch
import transformers
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from torch import nn

from lerobot_env_rover import CAMERA
from spaceclip_worlds.rover.world import IMAGE_HW

CHUNK = 4
_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
_SPECIAL = {
    "image_token": "<image>",
    "fake_image_token": "<fake>",
    "global_image_token": "<global>",
    "end_of_utterance_token": "<end>",
}
_WORDS = ("<pad>", "<unk>", "<bos>", "<eos>", *_SPECIAL.values(), "drive", "to", "the", "red", "green", "blue", "box")


def build(kind: str, folder: str | Path) -> tuple[Any, Any, Any]:
    """A policy with its pre- and postprocessor, by LeRobot's own classes and factory.

    Args:
        kind: "smolvla" or "pi0".
        folder: for what the policy and its preprocessor read again when they are loaded.
    """
    words = str(_save_vlm(Path(folder) / "vlm"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        policy = {"smolvla": _smolvla, "pi0": _pi0}[kind](words)
    one, none = torch.ones, torch.zeros
    stats = {
        name: {"mean": none(size), "std": one(size), "min": -one(size), "max": one(size)}
        for name, size in (("observation.state", 3), ("action", 2))
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(words)
    with mock.patch.object(transformers.AutoTokenizer, "from_pretrained", return_value=tokenizer):
        preprocessor, postprocessor = make_pre_post_processors(policy.config, dataset_stats=stats)
    for step in preprocessor.steps:
        if getattr(step, "tokenizer_name", None) is not None:
            step.tokenizer_name = words
    return policy.eval(), preprocessor, postprocessor


def _features() -> dict[str, Any]:
    return {
        "input_features": {
            f"observation.images.{CAMERA}": PolicyFeature(FeatureType.VISUAL, (3, *IMAGE_HW)),
            "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
        },
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (2,))},
        "device": "cpu",
        "chunk_size": CHUNK,
        "n_action_steps": CHUNK,
    }


def _parts(kind: str, name: str) -> tuple[Any, Any, Any]:
    modeling = importlib.import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    configuration = importlib.import_module(f"lerobot.policies.{kind}.configuration_{kind}")
    return modeling, getattr(modeling, f"{name}Policy"), getattr(configuration, f"{name}Config")


def _smolvla(vlm: str) -> Any:
    _, policy_class, config_class = _parts("smolvla", "SmolVLA")
    inner = importlib.import_module("lerobot.policies.smolvla.smolvlm_with_expert")
    settings = config_class(
        **_features(),
        vlm_model_name=vlm,
        load_vlm_weights=False,
        num_vlm_layers=2,
        num_steps=2,
        tokenizer_max_length=16,
        resize_imgs_with_padding=(128, 128),
    )
    # Its processor needs num2words, of which nothing but two token ids is used.
    ids = SimpleNamespace(fake_image_token_id=_WORDS.index("<fake>"), global_image_token_id=_WORDS.index("<global>"))
    processor = SimpleNamespace(from_pretrained=lambda _: SimpleNamespace(tokenizer=ids))
    with mock.patch.object(inner, "AutoProcessor", processor):
        return policy_class(settings).float()


def _pi0(_words: str) -> Any:
    modeling, policy_class, config_class = _parts("pi0", "PI0")
    gemma = modeling.GemmaConfig(32, depth=2, mlp_dim=64, num_heads=8, num_kv_heads=1, head_dim=8)
    vision = {**_VISION, "model_type": "siglip_vision_model", "image_size": 112, "patch_size": 14}
    text = {"model_type": "gemma", "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 8}
    small = {
        "paligemma": partial(
            transformers.PaliGemmaConfig, vision_config={**vision, "vision_use_head": False}, text_config=text
        ),
        "gemma": transformers.GemmaConfig,
    }
    settings = config_class(**_features(), image_resolution=IMAGE_HW, num_inference_steps=2, tokenizer_max_length=16)
    with mock.patch.multiple(modeling, get_gemma_config=lambda _: gemma, CONFIG_MAPPING=small):
        policy = policy_class(settings)
    projector = policy.model.paligemma_with_expert.paligemma.model.multi_modal_projector
    projector.linear = nn.Linear(32, 32)  # its width is written into the class and fits the published model alone
    return policy


def _save_vlm(folder: Path) -> Path:
    """What LeRobot reads of SmolVLA's language model beside its weights: sizes, a token per known word, processors."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(_WORDS)}, "<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=_SPECIAL,
    )
    fast.save_pretrained(folder)
    transformers.SmolVLMConfig(
        vision_config={**_VISION, "image_size": 128, "patch_size": 16},
        text_config=transformers.LlamaConfig(**_TEXT, num_key_value_heads=2, head_dim=8, vocab_size=64, pad_token_id=0),
        image_token_id=_WORDS.index("<image>"),
        scale_factor=2,
        pad_token_id=0,
    ).save_pretrained(folder)
    if importlib.util.find_spec("num2words") is not None:
        video = importlib.import_module("transformers.models.smolvlm.video_processing_smolvlm")
        side = {"longest_edge": 128}
        frames = {"fps": 1, "max_frames": 64, "video_size": side}
        transformers.SmolVLMProcessor(
            transformers.SmolVLMImageProcessor(),
            fast,
            video.SmolVLMVideoProcessor(size=side, video_sampling=frames),
        ).save_pretrained(folder)
    return folder
