"""Hosts of open_clip by name: `ViT-B-16/openai` is a model and, after the slash, whose weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spaceclip_adapters.hosts.absent_parts import load_all_there_is
from spaceclip_adapters.hosts.hub_files import HubFile, fetch, safe_names
from spaceclip_adapters.hosts.weights import differences, first_line, fixed_randomness, frozen
from spaceclip_plugin.errors import HostError, nearest

logger = logging.getLogger(__name__)

_OTHERWISE = (
    "give a safetensors state dict with `--host-weights FILE` (weights=Path), or ask for random weights with "
    "`--host-weights random` (weights='random')."
)


def load_open_clip(name: str, weights: Path | None = None, *, random: bool = False) -> nn.Module:
    """The open_clip model of this name with the pretrained weights of its tag, frozen and in eval mode.

    Args:
        name: `MODEL/TAG` as `open_clip.list_pretrained()` has them; the tag also says the image statistics and whether
            the weights want QuickGELU. It may be left out where there is one tag alone, with a file, or at random.
        weights: a safetensors file instead.
        random: random weights from a fixed seed instead.

    Raises:
        HostError: open_clip has no such model or tag, its text tower needs a download, its weights cannot be had as
            safetensors, or they are not its own.
    """
    import open_clip

    model_name, tag = _split(name, open_clip.list_models())
    if tag is None and weights is None and not random:
        tag = _only_tag(model_name)
    config = {} if tag is None else _config(model_name, tag)
    whole = model_name if tag is None else f"{model_name}/{tag}"
    file = weights if weights is not None else None if random else _fetched(whole, config)
    model = _built(model_name, whole, config)
    load_all_there_is(model, whole, file, lambda state: _converted(state, model))
    return frozen(model)


def _split(name: str, known: list[str]) -> tuple[str, str | None]:
    """Model and tag of a name; OpenAI's own spelling of models, ViT-B/16, is known before a tag."""
    if name in known:
        return name, None
    model, slash, tag = name.rpartition("/")
    model = model.replace("/", "-")
    if slash and tag and model in known:
        return model, tag
    asked = name.replace("/", "-")
    raise HostError(
        f"open_clip has no model {name!r}{nearest(asked, known)}; `open_clip.list_models()` has all. A tag follows "
        "after a slash, as in ViT-B-16/openai."
    )


def _tags(model: str) -> list[str]:
    import open_clip

    return list(open_clip.list_pretrained_tags_by_model(model))


def _only_tag(model: str) -> str:
    tags = _tags(model)
    if len(tags) != 1:
        listed = f"its tags are {', '.join(tags)}: name one, open_clip:{model}/{tags[0]}" if tags else "it has no tag"
        raise HostError(f"{model!r} does not say whose weights, and {listed}; or {_OTHERWISE}")
    logger.warning("%s names no weights: its only tag, %s, is taken", model, tags[0])
    return tags[0]


def _config(model: str, tag: str) -> Mapping[str, Any]:
    from open_clip.pretrained import get_pretrained_cfg

    config: Mapping[str, Any] = get_pretrained_cfg(model, tag)
    if not config:
        tags = _tags(model)
        raise HostError(
            f"open_clip has no weights {tag!r} of {model!r}{nearest(tag, tags)}; its tags are "
            f"{', '.join(tags) or 'none'}."
        )
    return config


def _built(model: str, whole: str, config: Mapping[str, Any]) -> nn.Module:
    """The model with random weights, its activation and its statistics those of the tag."""
    import open_clip

    # Towers of others (a text tower of transformers) would bring weights of their own, which ours then replace.
    options = [name for name in ("pretrained_hf", "pretrained_text") if name in _parameters(open_clip.create_model)]
    quick_gelu = bool(config.get("quick_gelu")) or whole.endswith("/openai")
    try:
        with fixed_randomness(), _untouched_logging():
            built: nn.Module = open_clip.create_model(
                model, pretrained=None, force_quick_gelu=quick_gelu, **dict.fromkeys(options, False)
            )
    except OSError as error:
        raise HostError(
            f"open_clip cannot build {model!r}, whose text tower is described on the Hub ({first_line(error)}). "
            "Go online once so that it is cached, or choose a model with open_clip's own text tower."
        ) from error
    mean, std = config.get("mean"), config.get("std")
    visual = getattr(built, "visual", None)
    if isinstance(visual, nn.Module) and mean and std:
        visual.image_mean, visual.image_std = tuple(mean), tuple(std)  # type: ignore[assignment]
    return built


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _fetched(whole: str, config: Mapping[str, Any]) -> HubFile:
    """The file that the tag stands for."""
    where = str(config.get("hf_hub") or "")
    repo, _, filename = where.rpartition("/")
    if not repo:
        raise HostError(
            f"the weights of {whole!r} are not on the Hub, only at {config.get('url')!r}: pickle, and not read. "
            f"A newer open_clip may know them there; or {_OTHERWISE}"
        )
    remedies = f"Go online once, or put it into the cache (`hf download {repo}`); or {_OTHERWISE}"
    names = safe_names(filename or None, "open_clip_model.safetensors")
    found = fetch(repo, names, remedies=remedies)
    logger.info("%s has the weights of %s, commit %s", whole, found.path, found.commit)
    return found


def _converted(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The file's weights under the model's names, as open_clip itself converts older checkpoints."""
    from open_clip import factory

    state = {key.removeprefix("module."): value for key, value in state.items()}
    if not any(differences(model, state)):
        return state
    convert = getattr(factory, "convert_state_dict", None)
    if convert is not None:
        state = convert(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = factory.convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    for name in ("logit_scale", "logit_bias"):  # a scalar or a vector of one, between versions
        if name in state and name in own and state[name].numel() == own[name].numel():
            state[name] = state[name].reshape(own[name].shape)
    # Buffers of positions, which older text towers saved.
    return {key: value for key, value in state.items() if key in own or not key.endswith("position_ids")}


@contextmanager
def _untouched_logging() -> Iterator[None]:
    """Keeps `logging.info` and the like from configuring the root logger, which they do where it has no handler."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
