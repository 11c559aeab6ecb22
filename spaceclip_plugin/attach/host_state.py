"""Running a module without changing the state it is in: what runs in eval mode is a twin of the module.

Modes are the same for every thread: switching them would take the dropout from a training step that goes on meanwhile.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from itertools import chain
from types import MethodType
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from spaceclip_plugin.attach.recorder import FrameRecorder
from spaceclip_plugin.depth import ImageMapping, Intrinsics
from spaceclip_plugin.errors import CaptureError, ConfigError, HostError
from spaceclip_plugin.towers import Tower
from spaceclip_plugin.towers.module_state import in_eval_mode

M = TypeVar("M", bound=nn.Module)

_OF_ANY_MODULE = vars(nn.Module()).keys()


def eval_twin(module: M, twins: dict[nn.Module, nn.Module] | None = None) -> M:
    """The module in eval mode, of other objects that share its weights and hooks, for one use: new parts are not seen.

    `twins` is filled with every part's. Compiled code belongs to one object: the twin of one in train mode has none.
    """
    parts = list(module.modules())
    made = {} if twins is None else twins
    fixed = [part for part in parts if _is_compiled(part) or _is_replaced(part)]
    if fixed and not any(part.training for part in parts):
        made.update((part, part) for part in parts)
        return module
    if any(map(_is_replaced, fixed)):
        raise HostError(
            f"a part of this {type(module).__name__} has a forward of its own, and runs in the mode it is in; "
            "put the module in eval mode first: .eval()"
        )
    made.update((part, object.__new__(type(part))) for part in parts)
    for part in fixed:
        if _is_wrapper_of_compiled(part):
            made[part] = made[cast(nn.Module, part._modules["_orig_mod"])]
    for part in parts:
        if not _is_wrapper_of_compiled(part):
            state = vars(part).copy()
            for name in state.keys() - _OF_ANY_MODULE:  # every read makes a twin: what no one replaces is not looked at
                state[name] = _rebound(state[name], made)
            children = {name: None if child is None else made[child] for name, child in part._modules.items()}
            state.update(training=False, _modules=type(part._modules)(children))
            if _is_compiled(part):
                state["_compiled_call_impl"] = None
            vars(made[part]).update(state)
    return cast(M, made[module])


class KeptTwin:
    """The `eval_twin` of what is read often, made again only where a part or an attribute of one is another by now.

    Weights, buffers and hooks are the module's own, and followed as they change.
    """

    def __init__(self) -> None:
        self._kept: tuple[nn.Module, nn.Module, _Attributes] | None = None

    def of(self, module: M) -> M:
        """The twin of the module as it is now; HostError as of `eval_twin`."""
        kept = self._kept
        if kept is None or kept[0] is not module or not kept[2].are_as_they_were():
            attributes = _Attributes(module)  # first, for another thread may change them
            self._kept = kept = (module, eval_twin(module), attributes)
        return cast(M, kept[1])


class _Attributes:
    """Those of all parts of a module, and the parts themselves, as they are now.

    Every read asks whether they still are: that walks no tree and calls nothing of Python's for each part.
    """

    def __init__(self, module: nn.Module) -> None:
        self._own = [own for part in module.modules() for own in (vars(part), part._modules)]
        self._names = [*chain.from_iterable(self._own)]
        self._values = [*chain.from_iterable(map(dict.values, self._own))]

    def are_as_they_were(self) -> bool:
        """Whether all are the very same objects; they are not compared, for some are tensors."""
        values = chain.from_iterable(map(dict.values, self._own))
        return [*chain.from_iterable(self._own)] == self._names and all(map(operator.is_, values, self._values))


def can_have_twin(module: nn.Module) -> bool:
    """Whether `eval_twin` makes one of a module in train mode."""
    return not any(map(_is_replaced, module.modules()))


def run_alone(
    recorder: FrameRecorder,
    pixels: Tensor,
    *,
    camera: str | None,
    mapping: ImageMapping | Literal["host"] | None,
    lens: Intrinsics | Literal["host"] | None,
) -> None:
    """Run a tower without the rest of its host in eval mode; see `DepthAttachment.refresh`.

    Only a tower whose `forward` someone replaced has no `eval_twin`, and is switched and back.
    """
    if not (mapping is None or isinstance(mapping, ImageMapping) or (isinstance(mapping, str) and mapping == "host")):
        raise ConfigError(f'mapping of refresh is one ImageMapping, None or "host", got {mapping!r}')
    if not (lens is None or isinstance(lens, Intrinsics) or (isinstance(lens, str) and lens == "host")):
        raise ConfigError(f'lens of refresh is Intrinsics, None or "host", got {lens!r}')
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
        shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise ConfigError(f"refresh takes a non-empty batch of images (B, 3, H, W), got {shape}")
    tower = recorder.tower
    # FSDP leaves a sharded module no parameters of its own, offloading leaves them on the meta device.
    weight = next((p for p in tower.module.parameters() if p.is_floating_point()), pixels)
    device = pixels.device if weight.is_meta else weight.device
    if any(part.training for part in tower.module.modules()) and can_have_twin(tower.module):
        tower = _eval_tower(tower)
    before = recorder.newest()
    try:
        with torch.no_grad(), in_eval_mode(tower.module):
            tower.adapter.run(tower, pixels.to(device, weight.dtype))
    except CaptureError:
        raise
    except (ValueError, RuntimeError, AssertionError) as error:  # how the libraries refuse a size
        recorder.abandon()
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        height, width = tower.spec.image_hw
        raise CaptureError(
            f"the {tower.spec} refused images of shape {tuple(pixels.shape)}: {error}. "
            f"It was built for {height}x{width}; DepthAttachment.preparation makes images of that size"
        ) from error
    frame = recorder.newest()
    if frame is not None and frame is not before:
        frame.camera, frame.mapping, frame.lens = camera, mapping, lens


def tower_device(tower: Tower) -> torch.device:
    """Where a tower's weights are; the CPU for those of offloaded hosts, which rest on the meta device."""
    devices = (parameter.device for parameter in tower.module.parameters() if not parameter.is_meta)
    return next(devices, torch.device("cpu"))


def _eval_tower(tower: Tower) -> Tower:
    twins: dict[nn.Module, nn.Module] = {}
    module = eval_twin(tower.module, twins)
    return dataclasses.replace(
        tower,
        module=module,
        entry=twins.get(tower.entry, tower.entry),
        blocks=tuple(twins.get(block, block) for block in tower.blocks),
        context_source=None if tower.context_source is None else twins.get(tower.context_source, tower.context_source),
    )


def _rebound(value: Any, twins: dict[nn.Module, nn.Module]) -> Any:
    """An attribute of a part for its twin: methods and partial calls of parts, as libraries put there, are of twins."""
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, twins.get(value.__self__, value.__self__))
    if isinstance(value, functools.partial):
        args = [twins.get(arg, arg) if isinstance(arg, nn.Module) else arg for arg in value.args]
        return functools.partial(_rebound(value.func, twins), *args, **value.keywords)
    return value


def _is_replaced(part: nn.Module) -> bool:
    """Whether its forward was replaced by a function in which it is enclosed, where no one can exchange it."""
    own = vars(part).get("forward")
    return not (own is None or isinstance(own, (MethodType, functools.partial)) or _is_wrapper_of_compiled(part))


def _is_compiled(part: nn.Module) -> bool:
    return getattr(part, "_compiled_call_impl", None) is not None or _is_wrapper_of_compiled(part)


def _is_wrapper_of_compiled(part: nn.Module) -> bool:
    """What `torch.compile` makes of a module; its class is not imported, which would take seconds."""
    return type(part).__name__ == "OptimizedModule" and "_orig_mod" in part._modules
