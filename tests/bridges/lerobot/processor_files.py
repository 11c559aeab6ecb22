"""Small processors of Qwen-VL and InternVL as files: real classes, a tokenizer of a few words, no Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from spaceclip_adapters.clip import OPENAI_CLIP
from spaceclip_plugin.towers import ImageStatistics

# The ids are those of the small models' configs.
_WORDS = (
    "<pad>", "<unk>", "<s>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|im_start|>",
    "<|im_end|>", "<img>", "</img>", "<|action|>", "<|propri|>", "<|action_fast|>", "drive",
)  # fmt: skip
_TEMPLATE = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %} {{ part.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def save_tokenizer(folder: Path, *, image_token: str = "<|image_pad|>") -> Any:
    """A tokenizer of whole words, saved."""
    words = [image_token if word == "<|image_pad|>" else word for word in _WORDS]
    split = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=split,
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=words[2:14],
        chat_template=_TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_qwen(folder: Path, processor: str, *, patch: int) -> None:
    """A processor of that class, its images of a few patches."""
    statistics = OPENAI_CLIP if processor.startswith("Qwen2") else ImageStatistics.SYMMETRIC
    images = transformers.Qwen2VLImageProcessor(
        patch_size=patch,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=list(statistics.mean),
        image_std=list(statistics.std),
        size={"shortest_edge": 16 * patch**2, "longest_edge": 64 * patch**2},
    )
    video = transformers.Qwen2VLVideoProcessor if processor.startswith("Qwen2") else transformers.Qwen3VLVideoProcessor
    kind = getattr(transformers, processor)
    kind(images, save_tokenizer(folder), video(), chat_template=_TEMPLATE).save_pretrained(folder)
    images.save_pretrained(folder)
