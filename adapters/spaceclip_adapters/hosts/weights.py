"""Weights of a host: read from safetensors alone, every one of them present, random only where that was asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spaceclip_plugin.errors import HostError

logger = logging.getLogger(__name__)

SEED = 0
_SHOWN = 5

Weights = dict[str, Tensor]
"""A state dict, by the names of its tensors."""


def read_safetensors(path: Path, *, downloaded: bool = False) -> dict[str, Tensor]:
    """The tensors of a file.

    Args:
        path: the file.
        downloaded: whether it lies in the Hub's cache, which decides what to do about a damaged one.

    Raises:
        HostError: another format, no such file, or a damaged one.
    """
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
        advice = "Delete it, and it is downloaded again" if downloaded else "Download or convert it again"
        raise HostError(f"{path} is not a whole safetensors file ({error}). {advice}.") from error


def not_a_state_dict(source: str, name: str, missing: Iterable[str], unexpected: Iterable[str]) -> HostError:
    """The error for weights that are not the model's."""
    return HostError(
        f"{source} is not a state dict of {name!r}: missing {few(missing)}; unexpected {few(unexpected)}. "
        "Give the weights of this very model, or name the model they belong to."
    )


def differences(model: nn.Module, given: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """What of the model is missing in a state dict, and what the model does not have."""
    own = model.state_dict()
    # A file holds tied weights once; a key is there if any name of the same memory is.
    present = {own[key].data_ptr() for key in own.keys() & given.keys()}
    missing = [key for key in own if key not in given and own[key].data_ptr() not in present]
    return missing, [key for key in given if key not in own]


def load_fitting(model: nn.Module, name: str, given: Mapping[str, Tensor], *, source: str) -> None:
    """Load those weights that the model has.

    Raises:
        HostError: one of them is of another shape.
    """
    odd = reshaped(model, given)
    if odd:
        raise HostError(f"{source} has other shapes than {name!r}: {few(odd)}. Name the model they belong to.")
    model.load_state_dict(given, strict=False)


def reshaped(model: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """Which weights of the model are of another shape in a state dict, with both shapes."""
    own = model.state_dict()
    return [
        f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in given.items()
        if key in own and value.shape != own[key].shape
    ]


@contextmanager
def fixed_randomness() -> Iterator[None]:
    """The same random weights every time, on the CPU, and every random generator as it was."""
    # Not torch.manual_seed: it would also seed the generators of every GPU, which fork_rng does not restore here.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(SEED)
        yield


def warn_of_random_weights(name: str) -> None:
    """Say that a host means nothing."""
    logger.warning("%s has random weights (seed %d), as was asked for: good for a trial only", name, SEED)


def frozen(model: nn.Module) -> nn.Module:
    """The model in eval mode, no parameter of it to be trained."""
    return model.eval().requires_grad_(False)


def few(names: Iterable[str]) -> str:
    """The first few of many names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def first_line(error: Exception) -> str:
    """The first line of an error's message, without the full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
