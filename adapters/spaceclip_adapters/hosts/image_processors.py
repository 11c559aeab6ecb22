"""What the image processor beside a transformers checkpoint does to images, read from its JSON.

`preprocessor_config.json` is an image processor's own file; `processor_config.json` nests it under `image_processor`
(composite processors, transformers 5). Of both only transformers' own classes and numbers are used: nothing in them
is run.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    made = None
    if name is not None and absent:
        kind = name.replace("FeatureExtractor", "ImageProcessor")
        made = loaded_processor({TYPES[0]: kind, **(given or {})})
    return {key: value for key in absent if (value := getattr(made, key, None)) is not None}


def loaded_processor(values: Mapping[str, Any], *, model_type: str | None = None) -> object | None:
    """The image processor that transformers' `AutoImageProcessor` makes of a file with these settings.

    Its class and what it interpolates with differ between versions of transformers, and with the libraries beside it.

    Args:
        values: of the file.
        model_type: of the model beside it, by which transformers finds the class where the file names none.

    Returns:
        The processor; None where this transformers makes none of them. Code that a file names is not run.
    """
    from transformers import AutoImageProcessor

    with tempfile.TemporaryDirectory() as folder:
        for name, content in ((FILES[1], dict(values)), ("config.json", {"model_type": model_type})):
            (Path(folder) / name).write_text(json.dumps(content), encoding="utf-8")
        try:
            with _without_advice():
                load: Any = AutoImageProcessor.from_pretrained
                made: object = load(folder, trust_remote_code=False)
        except (ImportError, OSError, TypeError, ValueError, KeyError, AttributeError):
            return None  # no such class or model, a library is not installed, or settings that it does not take
    return made


@contextmanager
def _without_advice() -> Iterator[None]:
    """Transformers 4 advises at every processor of Pillow's to take another, which is not the question here."""
    chatter = logging.getLogger("transformers.models.auto.image_processing_auto")

    def none(_: logging.LogRecord) -> bool:
        return False

    chatter.addFilter(none)
    try:
        yield
    finally:
        chatter.removeFilter(none)


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
