"""Hosts by name, for the command line: a timm, transformers or open_clip model, frozen and in eval mode.

Weights come from a safetensors file and fit exactly, from the Hub or a local folder (transformers only), or, for timm
and open_clip without a file, from a fixed seed. Nothing here reads pickle or runs code that came with weights.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from spaceclip_plugin.errors import HostError, nearest

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

_SEED = 0
_SHOWN = 5
_REMEDIES = (
    "Download it beforehand (`huggingface_hub.snapshot_download({name!r})`) or give a local folder of config.json and "
    "safetensors weights; a folder of config.json alone does with `--host-weights FILE`."
)


def load_timm(name: str, weights: Path | None = None, *, image_hw: tuple[int, int] | None = None) -> nn.Module:
    """The timm model of this name, with the state dict in `weights` or random from a fixed seed.

    Args:
        name: as timm calls it.
        weights: a safetensors file, for images of the model's own size.
        image_hw: (height, width) in pixels to build it for; its positions are interpolated. None: its own size.

    Raises:
        HostError: timm has no such model, it takes no such images, or the weights are not its own.
    """
    import timm

    if not timm.is_model(name):
        raise HostError(f"timm has no model {name!r}{nearest(name, timm.list_models())}; `timm.list_models()` has all.")
    try:
        with _fixed_randomness():
            model: nn.Module = timm.create_model(name, pretrained=False)
            resized = model if image_hw is None else _timm_resized(name, image_hw)
    except RuntimeError as error:  # a known architecture with an unknown tag
        raise HostError(f"timm cannot build {name!r}: {error}. Leave out the tag after the dot.") from error
    _finish(model, name, weights, warn_random=True)
    if resized is not model:
        _load_timm_resized(resized, model.state_dict(), name)
    return resized.eval().requires_grad_(False)


def _timm_resized(name: str, image_hw: tuple[int, int]) -> nn.Module:
    """The model for images of another size, its weights yet to come."""
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=False, img_size=image_hw)
    except (TypeError, AssertionError, ValueError) as error:  # no such argument, or no such size
        raise _wrong_size(name, image_hw, _first_line(error)) from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is None or any(side % step for side, step in zip(image_hw, patch, strict=True)):
        raise _wrong_size(name, image_hw, f"its patches are of {patch} pixels")
    return model


def _load_timm_resized(model: Any, state: dict[str, torch.Tensor], name: str) -> None:
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
        raise HostError(f"{name!r} cannot be built for another image size: {_few(odd)} would not fit.")
    model.load_state_dict(state)


def _wrong_size(name: str, image_hw: tuple[int, int], why: str) -> HostError:
    return HostError(
        f"{name!r} cannot be built for images of {image_hw[0]}x{image_hw[1]}: {why}. Choose sides that are multiples "
        "of its patch size, or leave the size out."
    )


def load_open_clip(name: str, weights: Path | None = None) -> nn.Module:
    """The open_clip model of this name, with the state dict in `weights` or random from a fixed seed.

    Raises:
        HostError: open_clip has no such model, its text tower needs a download, or the weights are not its own.
    """
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        raise HostError(f"open_clip has no model {name!r}{nearest(name, known)}; `open_clip.list_models()` has all.")
    try:
        with _fixed_randomness(), _untouched_logging():
            model: nn.Module = open_clip.create_model(name, pretrained=None, pretrained_hf=False)
    except OSError as error:
        raise HostError(
            f"open_clip cannot build {name!r}, whose text tower is described on the Hub ({_first_line(error)}). "
            "Go online once so that it is cached, or choose a model with open_clip's own text tower."
        ) from error
    return _finish(model, name, weights, warn_random=True)


def load_hf(name: str, weights: Path | None = None) -> nn.Module:
    """The transformers model of a Hub id or local folder, with its own weights or the state dict in `weights`.

    Raises:
        HostError: the folder or Hub repository cannot be read, has no safetensors weights, needs code of its own,
            or the weights are not its own.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder, needs_weights=weights is None)
        name = str(folder)
    config = _hf_config(name)
    model = _hf_pretrained(name, config) if weights is None else _hf_empty(name, config)
    return _finish(model, name, weights)


def _check_folder(folder: Path, *, needs_weights: bool) -> None:
    """Refuses a folder that is not a transformers model before transformers turns to the network for it."""
    if not (folder / "config.json").is_file():
        raise HostError(f"{folder} has no config.json; give the folder that `save_pretrained` wrote, or a Hub id.")
    if needs_weights and not any(folder.glob("*.safetensors")):
        pickled = (
            " (its .bin weights are pickle, which can run code and is not read)" if any(folder.glob("*.bin")) else ""
        )
        raise HostError(
            f"{folder} has a config.json but no safetensors weights{pickled}. Give a state dict with "
            "`--host-weights FILE`, or write the folder anew with `save_pretrained(..., safe_serialization=True)`."
        )


def _hf_config(name: str) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (ValueError, KeyError) as error:  # unknown model_type, code of its own, or no valid Hub id
        raise HostError(
            f"transformers cannot describe {name!r}: {_first_line(error)}. Check the name, upgrade transformers, or "
            "build the host yourself and pass `python:module:function`."
        ) from error
    except OSError as error:
        raise HostError(
            f"{name!r} is no local folder, and the Hub did not give it: no network, offline mode, or no such model "
            f"({_first_line(error)}). {_REMEDIES.format(name=name)}"
        ) from error
    return config


def _hf_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class the weights were saved from: the bare `AutoModel` has other keys, and for some hosts none at all."""
    import transformers

    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return None


def _hf_empty(name: str, config: PretrainedConfig) -> nn.Module:
    """The model of a config, its weights yet to come."""
    import transformers

    auto: Any = transformers.AutoModel
    build = _hf_class(config) or auto.from_config
    try:
        with _fixed_randomness():
            model: nn.Module = build(config)
    except ValueError as error:
        raise HostError(f"transformers has no model for the config of {name!r}: {_first_line(error)}") from error
    return model


def _hf_pretrained(name: str, config: PretrainedConfig) -> nn.Module:
    """The model with its own weights, all of them: transformers would fill what is missing with random ones."""
    import transformers

    model: nn.Module
    report: dict[str, Iterable[str]]
    model_class: Any = _hf_class(config) or transformers.AutoModel
    try:
        with _fixed_randomness():
            model, report = model_class.from_pretrained(
                name, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        remedies = _REMEDIES.format(name=name)
        raise HostError(
            f"no safetensors weights could be loaded for {name!r}: {_first_line(error)}. {remedies}"
        ) from error
    if report["missing_keys"]:
        raise HostError(
            f"the weights of {name!r} are not all of a {type(model).__name__}: missing {_few(report['missing_keys'])}. "
            "Name the class they were saved from in `architectures` of config.json."
        )
    return model


@contextmanager
def _fixed_randomness() -> Iterator[None]:
    """The same random weights every time, on the CPU, and every random generator as it was."""
    # Not torch.manual_seed: it would also seed the generators of every GPU, which fork_rng does not restore here.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(_SEED)
        yield


@contextmanager
def _untouched_logging() -> Iterator[None]:
    """Keeps `logging.info` and the like from configuring the root logger, which they do where it has no handler."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


def _finish(model: nn.Module, name: str, weights: Path | None, *, warn_random: bool = False) -> nn.Module:
    """The model with the weights of a file if one is given, frozen and in eval mode."""
    if weights is not None:
        _load_exactly(model, name, weights)
    elif warn_random:
        logger.warning("%s has random weights (seed %d), good for a trial only; give its own as a file", name, _SEED)
    return model.eval().requires_grad_(False)


def _load_exactly(model: nn.Module, name: str, weights: Path) -> None:
    """Loads a state dict whose names and shapes are the model's; checks both before the first copy."""
    given, own = _read_safetensors(weights), model.state_dict()
    # A file holds tied weights once; a key is there if any name of the same memory is.
    present = {own[key].data_ptr() for key in own.keys() & given.keys()}
    missing = [key for key in own if key not in given and own[key].data_ptr() not in present]
    unexpected = [key for key in given if key not in own]
    if missing or unexpected:
        raise HostError(
            f"{weights} is not a state dict of {name!r}: missing {_few(missing)}; unexpected {_few(unexpected)}. "
            "Give the weights of this very model, or name the model they belong to."
        )
    reshaped = [
        f"{key} {tuple(t.shape)} for {tuple(own[key].shape)}" for key, t in given.items() if t.shape != own[key].shape
    ]
    if reshaped:
        raise HostError(f"{weights} has other shapes than {name!r}: {_few(reshaped)}. Name the model they belong to.")
    model.load_state_dict(given, strict=False)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix != ".safetensors":
        raise HostError(
            f"weights must be a .safetensors file, given {path}. Pickled checkpoints can run code and are not read: "
            "convert with `safetensors.torch.save_file(torch.load(..., weights_only=True), ...)`."
        )
    if not path.is_file():
        raise HostError(f"there is no weights file {path}.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise HostError(f"{path} is not a whole safetensors file ({error}). Download or convert it again.") from error


def _few(names: Iterable[str]) -> str:
    """The first few of many names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
