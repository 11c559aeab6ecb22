"""Checkpoints without weights for a part of their model: the part goes if no tower needs it, else the host is refused.

Libraries fill what is missing with random weights. Which parts a tower needs is not a matter of names: here what is
missing is filled with NaN, every tower is run once, and one NaN in a hidden state or in the context refuses the host.
What passed is then taken out of the model, so that no weight is left in it that no one trained.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaceclip_adapters.hosts.hub_files import HubFile
from spaceclip_adapters.hosts.weights import (
    Weights,
    differences,
    few,
    first_line,
    fixed_randomness,
    load_fitting,
    not_a_state_dict,
    read_safetensors,
    reshaped,
    warn_of_random_weights,
)
from spaceclip_plugin.errors import CaptureError, HostError
from spaceclip_plugin.towers import Tower, find_towers

logger = logging.getLogger(__name__)

_NAME_THE_CLASS = (
    "Name the class they were saved from in `architectures` of config.json, or give the weights of this very model."
)
_BUFFERS = frozenset({"position_ids", "inv_freq", "mask_token"})
"""What older checkpoints hold beside their embeddings and no forward of an image needs."""


def load_all_there_is(
    model: nn.Module, name: str, file: HubFile | Path | None, convert: Callable[[Weights], Weights]
) -> list[str]:
    """Load a file of weights into a model and take out what it has no weights for.

    Args:
        model: the model that the weights are of, its own weights random.
        name: what it is called in messages.
        file: of the Hub, or the user's own, under the model's own names; None: the weights stay random, with a warning.
        convert: gives weights of the Hub the model's names, as the model's library does.

    Returns:
        The parts that were taken out, by their paths.

    Raises:
        HostError: a weight is unexpected, of another shape, or missing where a tower needs it, or `convert` fails.
    """
    if file is None:
        warn_of_random_weights(name)
        return []
    if isinstance(file, Path):
        given, source = read_safetensors(file), str(file)
    else:
        given, source = read_safetensors(file.path, downloaded=True), f"{file.path.name} of {file.repo!r}"
        if any(differences(model, given)):
            try:
                given = convert(given)
            except (KeyError, RuntimeError, ValueError, AttributeError, AssertionError, TypeError) as error:
                why = f"{type(error).__name__}: {first_line(error)}"
                raise HostError(f"{source} cannot be read as weights of {name!r}: {why}.") from error
        model._commit_hash = file.commit  # type: ignore[assignment]  # as transformers notes it in a config
    missing, unexpected = differences(model, given)
    if unexpected or (missing and (len(missing) == len(model.state_dict()) or reshaped(model, given))):
        raise not_a_state_dict(source, name, missing, unexpected)
    load_fitting(model, name, given, source=source)
    return drop_absent(model, missing, source=source) if missing else []


def drop_absent(model: nn.Module, missing: Sequence[str], *, source: str, advice: str = _NAME_THE_CLASS) -> list[str]:
    """Take out of a model what a checkpoint has no weights for, after checking that no tower reads it.

    Args:
        model: with the weights of the checkpoint; those missing are made up.
        missing: names in its state dict.
        source: what the checkpoint is called in messages.
        advice: what to do where the host is refused, as a whole sentence.

    Returns:
        The parts that were taken out, by their paths.

    Raises:
        HostError: a hidden state or the context of a tower needs one of them, or no tower can be run to find out.
    """
    own = model.state_dict(keep_vars=True)
    # Whole numbers are no weights: positions and the like, which a constructor counts out.
    absent = [key for key in missing if key in own and own[key].is_floating_point()]
    pools = _without_absent_pools(model, absent)
    absent = [key for key in absent if not key.startswith(tuple(f"{pool}." for pool in pools))]
    if not absent:
        return pools
    towers = find_towers(model)
    within = [key for key in absent if any(key.startswith(f"{tower.spec.path}.") for tower in towers)]
    refusal = (
        f"{source} lacks weights of a {type(model).__name__} that depth needs: missing {few(within or absent)}. "
        f"{advice}"
    )
    with torch.no_grad():
        for key in absent:
            own[key].fill_(float("nan"))
    if not towers:
        raise HostError(refusal)
    before = [_activations(tower, refusal) for tower in towers]
    if not all(value.isfinite().all() for values in before for value in values):
        raise HostError(refusal)
    parts = list(_whole_parts(model, absent))
    if "" in parts:
        raise HostError(refusal)
    after = _without(model, parts, refusal)
    same = len(before) == len(after) and all(
        len(old) == len(new) and all(map(torch.equal, old, new)) for old, new in zip(before, after, strict=True)
    )
    if not same:
        raise HostError(refusal)
    logger.warning("%s has no weights for %s: the host is built without, for no tower needs them", source, few(parts))
    return [*pools, *parts]


def take_out_too(model: nn.Module, parts: Iterable[str], *, like: nn.Module) -> None:
    """Take parts out of a model as they were taken out of another one."""
    for part in parts:
        owner, _, name = part.rpartition(".")
        setattr(model.get_submodule(owner), name, getattr(like.get_submodule(owner), name))


def _without_absent_pools(model: nn.Module, absent: Sequence[str]) -> list[str]:
    """Take out the attention pools of towers that are absent as a whole: adapters then know another context."""
    names, parts, pools = {id(module): path for path, module in model.named_modules()}, set(absent), []
    for tower in find_towers(model):
        path = names.get(id(tower.context_source), "")
        keys = [key for key in model.state_dict() if path and key.startswith(f"{path}.")]
        if tower.spec.context == "attention-pool" and keys and parts.issuperset(keys):
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, nn.Identity())
            logger.warning("no weights for the pool %r of the %s: its context is another now", path, tower.spec)
            pools.append(path)
    return pools


def _without(model: nn.Module, parts: Sequence[str], refusal: str) -> list[list[Tensor]]:
    """What the towers give without these parts: with nothing in their places, or where those are called, identities."""
    modules = {part for part, _ in model.named_modules()}
    for part in parts:
        owner, _, name = part.rpartition(".")
        setattr(model.get_submodule(owner), name, None)
    try:
        return [_activations(tower, refusal) for tower in find_towers(model)]
    except HostError:
        for part in modules.intersection(parts):
            owner, _, name = part.rpartition(".")
            setattr(model.get_submodule(owner), name, nn.Identity())
        return [_activations(tower, refusal) for tower in find_towers(model)]


def check_unexpected(model: nn.Module, unexpected: Iterable[str], *, source: str) -> None:
    """Check that what a checkpoint holds beyond the model lies outside of what its towers compute.

    Classifiers, poolers, decoders, text towers and the like may be left over. What lies in the blocks or embeddings of
    a tower may not: the model would compute less than what was trained (fewer blocks, no adapters, no positions).

    Raises:
        HostError: something does.
    """
    unexpected = [key for key in unexpected if key.rpartition(".")[2] not in _BUFFERS]
    if not unexpected:
        return
    names = {id(module): path for path, module in model.named_modules()}
    inner: set[str] = set()
    for tower in find_towers(model):
        inner |= {names[id(block)] for block in tower.blocks if id(block) in names}
        inner |= {path.rpartition(".")[0] for path in list(inner)}  # the stack itself: further blocks
        inner |= {path for path in [names.get(id(tower.entry), "").rpartition(".")[0]] if path.endswith("embeddings")}
    inner.discard("")
    prefix = str(getattr(model, "base_model_prefix", ""))
    within = [key for key in unexpected if _place(key, prefix, set(names.values())) in inner]
    if within:
        raise HostError(
            f"{source} holds weights in the blocks or embeddings of a tower that the {type(model).__name__} of its "
            f"config does not have: {few(within)}. It would compute less than what was trained; mend config.json, or "
            "merge adapters into the weights."
        )


def _place(key: str, prefix: str, paths: set[str]) -> str:
    """The innermost known module that a checkpoint's key lies in, or its block; prefixes differ between classes."""
    steps = key.split(".")
    spellings = [steps, steps[1:], [prefix, *steps]]
    places = [
        next((place for end in range(len(one) - 1, 0, -1) if (place := ".".join(one[:end])) in paths), "")
        for one in spellings
    ]
    place = max(places, key=len)
    while place:  # inside a block: the block
        owner, _, name = place.rpartition(".")
        if name.isdigit():
            return place
        if not any(step.isdigit() for step in owner.split(".")):
            break
        place = owner
    return max(places, key=len)


def _whole_parts(model: nn.Module, absent: Sequence[str]) -> Iterator[str]:
    """The largest modules all of whose weights are absent, and single weights of others."""
    keys, gone = list(model.state_dict()), set(absent)
    done: set[str] = set()
    for key in absent:
        steps = key.split(".")
        for end in range(len(steps) + 1):
            part = ".".join(steps[:end])
            if all(other in gone for other in keys if other == part or other.startswith(f"{part}.") or not part):
                if part not in done:
                    done.add(part)
                    yield part
                break


def _activations(tower: Tower, refusal: str) -> list[Tensor]:
    """Copies of what a head could read of one blank image: the output of every block, and of the context's source."""
    weight = next((value for value in tower.module.parameters() if value.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, 3, *tower.spec.image_hw, dtype=weight.dtype, device=weight.device)
    training = tower.module.training
    try:
        with torch.no_grad(), fixed_randomness(), _watched(tower) as seen:
            tower.module.eval()
            tower.adapter.run(tower, image)
    except (CaptureError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise HostError(f"{refusal} ({type(error).__name__}: {first_line(error)})") from error
    finally:
        tower.module.train(training)
    if not seen:
        raise HostError(refusal)
    return seen


@contextmanager
def _watched(tower: Tower) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        values = output if isinstance(output, tuple | list) else [output]
        seen.extend(value.detach().clone() for value in values if isinstance(value, Tensor))

    sources = [*tower.blocks, *([] if tower.context_source is None else [tower.context_source])]
    hooks = [module.register_forward_hook(keep) for module in dict.fromkeys(sources)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
