"""Hosts of timm by name: `vit_base_patch16_siglip_224.webli` is an architecture and, after the dot, whose weights."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaceclip_adapters.hosts.absent_parts import load_all_there_is, take_out_too
from spaceclip_adapters.hosts.hub_files import HubFile, fetch, safe_names
from spaceclip_adapters.hosts.weights import few, first_line, fixed_randomness, frozen
from spaceclip_plugin.errors import HostError, nearest

logger = logging.getLogger(__name__)

_REMEDIES = (
    "Go online once, or put it into the cache (`hf download {repo}`); or give a safetensors state dict with "
    "`--host-weights FILE` (weights=Path), or ask for random weights with `--host-weights random` (weights='random')."
)


def load_timm(
    name: str, weights: Path | None = None, *, image_hw: tuple[int, int] | None = None, random: bool = False
) -> nn.Module:
    """The timm model of this name with the pretrained weights of its tag, frozen and in eval mode.

    Args:
        name: as timm calls it, `ARCHITECTURE.TAG`; without a tag timm's default one, which the log names. The tag also
            says the image statistics.
        weights: a safetensors file instead, for images of the model's own size.
        image_hw: (height, width) in pixels to build it for; its positions are interpolated. None: its own size.
        random: random weights from a fixed seed instead.

    Raises:
        HostError: timm has no such model or tag, it takes no such images, its weights cannot be had as safetensors, or
            they are not its own.
    """
    import timm

    if not timm.is_model(name):
        raise HostError(f"timm has no model {name!r}{nearest(name, timm.list_models())}; `timm.list_models()` has all.")
    name = _current_name(name)
    config = _pretrained_config(name)
    file = weights if weights is not None else None if random else _fetched(name, config)
    try:
        with fixed_randomness():
            model: nn.Module = timm.create_model(name, pretrained=False)
            resized = model if image_hw is None else _resized(name, image_hw)
    except RuntimeError as error:
        raise HostError(f"timm cannot build {name!r}: {first_line(error)}.") from error
    absent = load_all_there_is(model, name, file, lambda state: _converted(state, model, name))
    if resized is not model:
        take_out_too(resized, absent, like=model)
        _load_resized(resized, model.state_dict(), name)
        resized._commit_hash = getattr(model, "_commit_hash", None)  # type: ignore[assignment]
    return frozen(resized)


def _current_name(name: str) -> str:
    """The name that a deprecated one stands for now, as timm maps it."""
    import timm

    deprecated: dict[str, str | None] = getattr(timm.models, "get_deprecated_models", dict)()
    if name not in deprecated:
        return name
    current = deprecated[name]
    if not current:
        raise HostError(f"timm has removed {name!r}; `timm.list_pretrained()` has what there is.")
    logger.info("timm calls %s %s now", name, current)
    return str(current)


def _pretrained_config(name: str) -> Any:
    """What timm says of the weights of this name; None where it knows none.

    Raises:
        HostError: a tag that the architecture does not have.
    """
    from timm.models import get_pretrained_cfg

    try:
        config = get_pretrained_cfg(name)
    except RuntimeError as error:  # a known architecture with an unknown tag
        tags = _tags(name)
        tag = name.partition(".")[2]
        raise HostError(
            f"timm has no weights {tag!r} of {name.partition('.')[0]!r}{nearest(tag, tags)}; its tags are "
            f"{', '.join(tags) or 'none'}."
        ) from error
    return config


def _tags(name: str) -> list[str]:
    import timm

    found = timm.list_pretrained(name.partition(".")[0] + ".*")
    return [tagged.partition(".")[2] for tagged in found]


def _fetched(name: str, config: Any) -> HubFile:
    """The file that the tag of this name stands for."""
    repo = getattr(config, "hf_hub_id", None)
    if not repo:
        tags = ", ".join(_tags(name)) or "none"
        where = getattr(config, "url", None)
        raise HostError(
            f"there are no weights of {name!r} on the Hub"
            + (f", only {where}, which is pickle and not read" if where else "")
            + f"; tags with weights: {tags}. Name one after a dot, give a safetensors state dict with `--host-weights "
            "FILE` (weights=Path), or ask for random weights with `--host-weights random` (weights='random')."
        )
    repo, _, revision = str(repo).partition("@")
    tag = getattr(config, "tag", None)
    whole = name if "." in name or not tag else f"{name}.{tag}"
    if whole != name:
        logger.warning(
            "%s names no weights: timm's default for it, %s, is taken; name it, for defaults change", name, whole
        )
    _warn_of_other_activation(whole, config)
    names = safe_names(getattr(config, "hf_hub_filename", None), "model.safetensors")
    found = fetch(repo, names, revision=revision or None, remedies=_REMEDIES.format(repo=repo))
    logger.info("%s has the weights of %s, commit %s", whole, found.path, found.commit)
    return found


def _converted(state: dict[str, Tensor], model: nn.Module, name: str) -> dict[str, Tensor]:
    """The file's weights under the model's names, as timm's own filter of this family makes them."""
    import timm

    entry = timm.model_entrypoint(name)
    convert = getattr(sys.modules[entry.__module__], "checkpoint_filter_fn", None)
    converted: dict[str, Tensor] = state if convert is None else convert(state, model)
    return converted


def _warn_of_other_activation(name: str, config: Any) -> None:
    """timm builds some CLIP towers with GELU whose weights were trained with QuickGELU."""
    import timm

    notes = " ".join(getattr(config, "notes", None) or ())
    if "QuickGELU" in notes and "quickgelu" not in name:
        variant = name.replace("_clip_", "_clip_quickgelu_")
        advice = f"; timm:{variant} computes what they were trained for" if timm.is_model(variant) else ""
        logger.warning("%s is built with GELU, its weights were trained with QuickGELU%s", name, advice)


def _resized(name: str, image_hw: tuple[int, int]) -> nn.Module:
    """The model for images of another size, its weights yet to come."""
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=False, img_size=image_hw)
    except (TypeError, AssertionError, ValueError) as error:  # no such argument, or no such size
        raise _wrong_size(name, image_hw, first_line(error)) from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is None or any(side % step for side, step in zip(image_hw, patch, strict=True)):
        raise _wrong_size(name, image_hw, f"its patches are of {patch} pixels")
    return model


def _load_resized(model: Any, state: dict[str, torch.Tensor], name: str) -> None:
    """Load weights of the model's own size, the positions interpolated as timm does for pretrained ones."""
    from timm import layers

    own = model.state_dict()
    if "pos_embed" in state and state["pos_embed"].shape != own["pos_embed"].shape:
        prefix = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 1)
        resample: Any = layers.resample_abs_pos_embed  # type: ignore[attr-defined]
        positions = resample(state["pos_embed"], list(model.patch_embed.grid_size), num_prefix_tokens=prefix)
        state = {**state, "pos_embed": positions}
    odd = [key for key, value in state.items() if key not in own or own[key].shape != value.shape]
    if odd or own.keys() - state.keys():
        raise HostError(f"{name!r} cannot be built for another image size: {few(odd)} would not fit.")
    model.load_state_dict(state)


def _wrong_size(name: str, image_hw: tuple[int, int], why: str) -> HostError:
    return HostError(
        f"{name!r} cannot be built for images of {image_hw[0]}x{image_hw[1]}: {why}. Choose sides that are multiples "
        "of its patch size, or leave the size out."
    )
