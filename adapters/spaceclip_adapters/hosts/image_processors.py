"""What the image processor beside a transformers checkpoint does to images, read from its JSON.

`preprocessor_config.json` is an image processor's own file; `processor_config.json` nests it under `image_processor`
(composite processors, transformers 5). Of both only numbers are used: nothing in them is run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.towers import ImageStatistics

FILES = ("processor_config.json", "preprocessor_config.json")
"""Where an image processor's settings may stand; nested ones go first, as in transformers."""

TYPES = ("image_processor_type", "feature_extractor_type")
_SETTINGS = (
    "image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor", "rescale_offset", "offset",
    "do_flip_channel_order",
)  # fmt: skip
_PER_PIXEL = 1 / 255
_MAX_BYTES = 1 << 20


def read_processor(path: Path) -> dict[str, Any] | None:
    """The settings of the image processor in a file; None where it holds none (a tokenizer's processor).

    Raises:
        HostError: the file is no JSON object.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is larger than a processor's config can be")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HostError(
            f"{path} cannot be read, and it says how the host's images are normalised: {error}. Download or write it "
            "again, or remove it and say --image-mean and --image-std."
        ) from error
    nested = values.get("image_processor") if isinstance(values, dict) else None
    if isinstance(nested, dict):
        return nested
    if not isinstance(values, dict):
        raise HostError(f"{path} holds no JSON object; download or write it again.")
    if path.name == FILES[0]:
        return None
    known = ("image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor", *TYPES)
    return values if any(key in values for key in known) else None


def statistics_of_processor(values: Mapping[str, Any], *, source: str) -> ImageStatistics:
    """The mean and deviation that a processor's settings amount to, for images in [0, 1].

    A processor rescales bytes by `rescale_factor` (1/255 unless it says otherwise, 1 with `do_rescale` false), shifts
    them by -1 where it has an offset, and subtracts `image_mean` and divides by `image_std` unless `do_normalize` is
    false. With x in [0, 1] that is (255 r x - o - m) / s: a mean of (m + o) / (255 r) and a deviation of s / (255 r).

    Raises:
        HostError: a setting that normalises in a way that no mean and deviation say, or that cannot be.
    """
    said = {key: value for key, value in values.items() if value is not None}
    settings = {**class_defaults(values, _SETTINGS), **said}
    if settings.get("do_flip_channel_order"):
        raise _not_understood(source, "do_flip_channel_order is set, and images are in the order R, G, B here")
    rescales = settings.get("do_rescale", True)
    factor = _number(settings.get("rescale_factor", _PER_PIXEL), "rescale_factor", source) if rescales else 1.0
    offset = float(bool(rescales and (settings.get("rescale_offset") or settings.get("offset"))))
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings.get("do_normalize", True):
        mean, std = (_rgb(settings.get(name), name, source) for name in ("image_mean", "image_std"))
    scale = 255 * factor
    if abs(scale - 1) < 1e-6:
        scale = 1.0  # 0.00392156862745098 and the like
    try:
        scaled = tuple((value + offset) / scale for value in mean), tuple(value / scale for value in std)
        return ImageStatistics(*scaled).in_unit_range()  # type: ignore[arg-type]  # it checks them
    except (ConfigError, ZeroDivisionError) as error:
        raise _not_understood(source, str(error)) from error


def image_size_of_processor(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """The (height, width) in pixels that a processor makes of every image; None where that depends on the image."""
    if values.get("do_center_crop") and values.get("crop_size") is not None:
        return _hw(values["crop_size"], square=True)
    if values.get("do_resize", True) is False or values.get("do_pad") or values.get("do_image_splitting"):
        return None
    # An int was a square in older image processors, but with a crop to follow (crop_size unsaid) a shorter side.
    return _hw(values.get("size"), square=not values.get("do_center_crop"))


def _hw(size: object, *, square: bool) -> tuple[int, int] | None:
    match size:
        case bool():
            return None
        case int(side):
            return (side, side) if square else None
        case {"height": int(height), "width": int(width)}:
            return height, width
        case [int(height), int(width)]:
            return height, width
    return None


def class_defaults(
    values: Mapping[str, Any], settings: Sequence[str], *, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the class of a processor takes for those settings that its file leaves out, made with what is given."""
    name = next((values[key] for key in TYPES if isinstance(values.get(key), str)), None)
    absent = [key for key in settings if values.get(key) is None]
    made = _made(name, given or {}) if name is not None and absent else None
    return {key: value for key in absent if (value := getattr(made, key, None)) is not None}


def _made(name: str, given: Mapping[str, Any]) -> object | None:
    """An image processor of transformers' own with its defaults; None where this transformers has none of the name."""
    import transformers
    from transformers.image_processing_utils import ImageProcessingMixin  # type: ignore[attr-defined]  # where 4.40 has it

    stem = name.removesuffix("FeatureExtractor").removesuffix("ImageProcessor").removesuffix("ImageProcessorFast")
    for candidate in (f"{stem}ImageProcessorPil", f"{stem}ImageProcessor", name):
        kind = getattr(transformers, candidate, None)
        if isinstance(kind, type) and issubclass(kind, ImageProcessingMixin):
            try:
                made: object = kind(**given)
            except (ImportError, TypeError, ValueError):  # a backend is not installed, or it has no defaults
                continue
            return made
    return None


def _number(value: object, name: str, source: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise _not_understood(source, f"{name} is {value!r}, expected a positive number")
    return float(value)


def _rgb(value: object, name: str, source: str) -> tuple[float, float, float]:
    """Three numbers; one stands for all channels."""
    values = [value] * 3 if isinstance(value, int | float) else value
    if isinstance(values, list | tuple) and len(values) == 1:
        values = list(values) * 3
    match values:
        case [int() | float() as red, int() | float() as green, int() | float() as blue]:
            return float(red), float(green), float(blue)
    raise _not_understood(source, f"do_normalize is set and {name} is {value!r}, expected three numbers")


def _not_understood(source: str, why: str) -> HostError:
    return HostError(
        f"{source} normalises the host's images in a way that is not understood: {why}. Say what the host was trained "
        "with: --image-mean R,G,B --image-std R,G,B (image_mean=, image_std=), for images in [0, 1]."
    )
