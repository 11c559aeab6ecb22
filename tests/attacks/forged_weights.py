"""Weights with a digest that holds, as anyone can compute it, that are not what their config calls for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from targets import HOSTILE_NAMES, Forgery, target
from torch import Tensor

from spaceclip_plugin import DepthHead
from spaceclip_plugin.head.folder import DESCRIPTIVE_FIELDS
from spaceclip_plugin.head.weights import write_weights

_NOT_FINITE = (float("nan"), float("inf"), float("-inf"))


def forged_weights(head: DepthHead, scratch: Path) -> Iterator[Forgery]:
    """All of this file's sorts.

    Args:
        head: whose weights they pretend to be.
        scratch: a file to write them to.
    """
    config = json.loads(json.dumps(head.config.to_dict()))
    state = head.state_dict()
    for kind, name, tensors in _forged_tensors(state):
        yield _written(scratch, kind, name, tensors, config)
    for name, changed in _forged_configs(config):
        yield _written(scratch, "forged config", name, state, changed)


def _written(scratch: Path, kind: str, name: str, tensors: dict[str, Tensor], config: dict[str, Any]) -> Forgery:
    write_weights(scratch, {key: value.contiguous().clone() for key, value in tensors.items()}, config)
    return Forgery(kind, name, scratch.read_bytes())


def _forged_tensors(state: dict[str, Tensor]) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    yield "forged missing", "all", {}
    for name, value in state.items():
        yield "forged missing", name, {key: value for key, value in state.items() if key != name}
        for other in (name.upper(), name + ".", f"../{name}", name.replace(".", "/"), name.removeprefix("decoder.")):
            yield "forged name", f"{name} as {other}", {(other if k == name else k): v for k, v in state.items()}
        for shaped in _other_shapes(value):
            yield "forged shape", f"{name} as {tuple(shaped.shape)}", {**state, name: shaped}
        for dtype in _other_kinds(value):
            yield "forged dtype", f"{name} as {dtype}", {**state, name: value.to(dtype)}
        if value.is_floating_point():
            for number in _NOT_FINITE:
                for place in {0, value.numel() - 1}:
                    spoiled = value.flatten().index_fill(0, torch.tensor([place]), number).view(value.shape)
                    yield "forged number", f"{name}[{place}] {number}", {**state, name: spoiled}
                    yield "forged number", f"{name}[{place}] {number}, float16", {**state, name: spoiled.half()}
            yield "forged number", f"{name} beyond float32", {**state, name: value.double() * 1e300}
    for extra in HOSTILE_NAMES:
        yield "forged extra", repr(extra[:40]), {**state, extra: torch.ones(1)}
        yield "forged extra", f"{extra[:40]!r} of nothing", {**state, extra: torch.ones(0)}


def _other_shapes(value: Tensor) -> Iterator[Tensor]:
    yield value.unsqueeze(0)
    yield value.unsqueeze(-1)
    yield torch.cat([value.flatten(), value.flatten()])
    yield value.flatten()[:0]
    if value.ndim:
        yield torch.cat([value, value[:1]])
        yield value[:-1]
        yield value.expand(2, *value.shape)
    if value.ndim > 1:
        yield value.flatten()
        yield value.flatten(1).unsqueeze(1) if value.ndim == 2 else value.flatten(1)
    if value.ndim > 1 and value.shape != value.mT.shape:
        yield value.mT


def _other_kinds(value: Tensor) -> tuple[torch.dtype, ...]:
    return (torch.bool, torch.int64, torch.uint8) if value.is_floating_point() else (torch.bool, torch.float32)


def _forged_configs(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Configs beside the weights that are not the config.json: another head's, in equal shapes or not."""
    for key, value in config.items():
        if key in DESCRIPTIVE_FIELDS:
            continue
        for other in (0, -1, 77, "x", [7], {"a": 7}, ["../.."], "__import__('os')"):
            if other != value:
                yield f"{key} is {other!r}", {**config, key: other}
        if value is not None:
            yield f"{key} is null", {**config, key: None}
            yield f"without {key}", {k: v for k, v in config.items() if k != key}
    for key in config["options"]:
        for other in (77, "x", [7], [0, 1, 2], {"a": 7}):
            yield f"options.{key} is {other!r}", {**config, "options": {**config["options"], key: other}}
    for extra in HOSTILE_NAMES:
        yield f"with {extra[:40]!r}", {**config, extra: "x"}
        yield f"options with {extra[:40]!r}", {**config, "options": {**config["options"], extra: "x"}}


def foreign_heads(head: DepthHead, scratch: Path) -> Iterator[Forgery]:
    """Whole heads of the same shapes that read another tower, or another place of it."""
    config = head.config
    taps = "taps" if config.architecture == "tap-mixer" else "semantic_taps"
    for name, changed in (
        ("another tap", {"options": dataclasses.replace(config.options, **{taps: (2,)})}),
        ("a deeper tower", {"blocks": 3}),
        ("another context", {"context": "mean"}),
        ("other image statistics", {"image_mean": (0.5, 0.5, 0.5)}),
        ("another dropout", {"options": dataclasses.replace(config.options, dropout=0.2)}),
    ):
        stranger = target(dataclasses.replace(config, **changed), seed=1)
        tensors, said = stranger.state_dict(), json.loads(json.dumps(stranger.config.to_dict()))
        yield _written(scratch, "foreign", name, tensors, said)
