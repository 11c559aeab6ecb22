"""How the image processor beside a transformers checkpoint lays images in the tower's, read from its JSON.

Understood is what many processors have in common: resize, then cut out the middle. Whatever else a file asks for
(padding, tiles, sizes that depend on the image) is named, and not guessed. Whether Pillow or torchvision interpolates,
off by a few levels, is not in the file: the installed transformers is asked what it makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spaceclip_adapters.hosts.image_processors import TYPES, class_defaults, loaded_processor
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers import ImageGeometry
from spaceclip_plugin.towers.image_geometry import UnknownGeometry

_SETTINGS = ("do_resize", "size", "resample", "do_center_crop", "crop_size")
_HARMLESS = {
    *_SETTINGS, *TYPES, "image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor", "rescale_offset",
    "offset", "do_flip_channel_order", "do_convert_rgb", "processor_class", "default_to_square", "data_format",
    "input_data_format", "return_tensors", "device", "disable_grouping", "do_reduce_labels", "reduce_labels", "backend",
    "_valid_processor_keys",  # what transformers 4.38 to 4.44 wrote into every file
}  # fmt: skip
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
_TORCHVISIONS = {"bilinear": "torch-bilinear", "bicubic": "torch-bicubic"}  # those that are the same bits in torch


def geometry_of_processor(
    values: Mapping[str, Any], *, source: str, tower_hw: tuple[int, int] | None, model_type: str | None = None
) -> ImageGeometry | UnknownGeometry | None:
    """What the settings of a processor amount to; None where they say nothing of sizes.

    Args:
        values: as its file has them; what it leaves out is its class's.
        source: where they stand, for messages.
        tower_hw: (H, W) that the config declares for the tower; None where it declares none.
        model_type: of that config, see `loaded_processor`.
    """
    try:
        found = _geometry(values, tower_hw, model_type)
    except (ConfigError, ValueError) as error:
        return UnknownGeometry(f"{source}: {error}")
    return found


def _geometry(
    values: Mapping[str, Any], tower_hw: tuple[int, int] | None, model_type: str | None
) -> ImageGeometry | None:
    odd = sorted(key for key, value in values.items() if key not in _HARMLESS and value)
    if odd:
        raise ValueError(f"it says {', '.join(odd)}, which is not resizing and cutting out the middle")
    settings = {**class_defaults(values, _SETTINGS), **{k: v for k, v in values.items() if v is not None}}
    if not any(key in settings for key in _SETTINGS):
        return None
    if not settings.get("do_resize", True):
        raise ValueError("it does not resize images (do_resize), and the tower takes one size")
    if "size" not in settings:
        return None
    number = settings.get("resample", 3)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(_RESAMPLING):
        raise ValueError(f"resample is {number!r}, expected a number of Pillow's, 0 to {len(_RESAMPLING) - 1}")
    crops = bool(settings.get("do_center_crop"))
    size = _size(settings["size"], values, crops=crops)
    resampling = _resampling(number, values, model_type)
    if not crops:
        if isinstance(size, int):
            raise ValueError(
                "it resizes the shorter side and cuts nothing off: images of other shapes are of other sizes"
            )
        return ImageGeometry(resampling=resampling)
    crop_hw = _size(settings.get("crop_size", size), values, crops=False)
    if tower_hw is not None and crop_hw not in (tower_hw, tower_hw[0] if tower_hw[0] == tower_hw[1] else None):
        raise ValueError(f"it cuts out {crop_hw} pixels, and the config declares {tower_hw} (H, W)")
    if size == crop_hw and not isinstance(size, int):
        return ImageGeometry(resampling=resampling)
    return ImageGeometry("centre-crop", resize=size, resampling=resampling)


def _resampling(number: int, values: Mapping[str, Any], model_type: str | None) -> str:
    """By which library the processor that transformers makes of a file interpolates, and how."""
    name = _RESAMPLING[number]
    kind = next((str(values[key]) for key in TYPES if values.get(key)), f"processor of {model_type}")
    processor = loaded_processor(values, model_type=model_type)
    by_name = kind if processor is None else type(processor).__name__  # as transformers 4 names torchvision's
    if getattr(processor, "backend", None) != "torchvision" and not by_name.endswith("Fast"):
        return name
    if name not in _TORCHVISIONS:
        raise ValueError(
            f"this transformers makes a {kind} of it that interpolates with torchvision, whose {name!r} (resample "
            f"{number}) is not Pillow's"
        )
    return _TORCHVISIONS[name]


def _size(size: Any, values: Mapping[str, Any], *, crops: bool) -> int | tuple[int, int]:
    """(H, W) that both sides become, or what the shorter one does. `crops`: a crop follows, and a number is short."""
    if isinstance(size, int) and not isinstance(size, bool):
        if crops:  # of most classes; some, such as DeiT's, mean a square
            kind = {key: values[key] for key in TYPES if key in values}
            made = class_defaults(kind, ("size",), given={"size": size}).get("size")
            return size if made is None else _size(dict(made), values, crops=False)
        return size, size
    try:
        size = dict(size)
    except TypeError as error:
        raise ValueError(f"a size is {size!r}") from error
    match {key: value for key, value in size.items() if value is not None}:
        case {"height": int(height), "width": int(width), **rest} if not rest:
            return height, width
        case {"shortest_edge": int(short), **rest} if not rest:
            return short
    raise ValueError(f"its images are of a size that depends on each of them: {size}")
