"""How often a read asks the device for an answer: each time, a GPU has to end what it does before the host goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from clip_world import SMALL, clip_host, images
from fresh_heads import fresh_head
from padding_policy import KEY, SmolVLAPolicy
from telling_heads import knowing
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spaceclip_plugin import DepthAttachment, Intrinsics, attach_depth_head
from spaceclip_plugin.depth import ImageMapping

QUESTIONS = {"tolist", "item", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy", "nonzero", "equal"}


class Asked(TorchFunctionMode):
    """Notes what asks a tensor for its values, and has nothing believe that asking is free, as it is on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func == Tensor.is_cpu.__get__:
            return False
        if func.__name__ in QUESTIONS:
            self.questions.append(func.__name__)
        return func(*args, **(kwargs or {}))


def attached(case: str) -> tuple[nn.Module, DepthAttachment]:
    """A host, and what reads it in one of several ways."""
    host = clip_host()
    small: Mapping[str, Any] = {"taps": (1, 2, 3), "channels": (8, 4)}
    heads: dict[str, Mapping[str, Any]] = {"space-clip": SMALL, "empty": {**small, "empty": True, "pixels": 4}}
    head = fresh_head(host, **heads.get(case, small)).eval()
    how: dict[str, Any] = {}
    if case == "familiarity":
        knowing(head, host)
    if case == "mapping":
        how["mapping"] = ImageMapping.letterboxed((48, 64), (32, 32))
    if case == "intrinsics":
        how["cameras"] = {"wrist": Intrinsics(30.0, 30.0, 16.0, 16.0, (32, 32))}
    return host, attach_depth_head(host, head, **how)


@pytest.mark.parametrize("case", ["plain", "space-clip", "empty", "familiarity", "mapping", "intrinsics"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_read_asks_once(case: str, batch: int) -> None:
    host, depth = attached(case)
    with depth, torch.no_grad():
        host(images(1, batch))
        with Asked() as asked:
            [frame] = depth.read()
    assert frame.valid.any()
    assert asked.questions == ["tolist"]


def test_of_images_that_are_padded_too() -> None:
    policy = SmolVLAPolicy((48, 64))
    with attach_depth_head(policy, fresh_head(policy.eye, taps=(1, 3), channels=(8, 4)).eval()) as depth:
        policy.select_action({KEY: torch.rand(1, 3, 48, 64)})
        with Asked() as asked:
            [frame] = depth.read()
    assert frame.mapping is not None
    assert asked.questions == ["tolist"]


def test_one_that_is_blank_is_found_by_a_glance_or_a_look() -> None:
    host, depth = attached("plain")
    blank, nearly = torch.full((2, 1, 3, 32, 32), 0.5)
    nearly[0, 0, 0, 5] = 0.75  # where no glance falls
    with depth, torch.no_grad():
        for pixels, valid in ((blank, False), (nearly, True), (images(1), True)):
            host(pixels)
            with Asked():
                [looked_at] = depth.read()
            host(pixels)
            [glanced_at] = depth.read()
            assert bool(looked_at.valid.any()) is bool(glanced_at.valid.any()) is valid
