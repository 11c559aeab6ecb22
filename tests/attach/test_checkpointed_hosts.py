"""Gradient checkpointing runs a host's blocks again inside backward: those calls are not new pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from clip_world import images
from llava_world import ask, llava_host, question, small_head
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    CheckpointWrapper,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import checkpoint

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach.verification import same_bits

pytestmark = [
    # A frozen tower has nothing to differentiate; the reentrant kind says so at every block.
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning"),
    # The name that every version of transformers knows; the new one came with version 5.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*deprecated:FutureWarning"),
]

Step = Callable[[nn.Module, int], Tensor]
"""Host and seed to loss."""


def trainable(part: str) -> nn.Module:
    """The host in train mode with only one part to train."""
    host = llava_host().train()
    for name, parameter in host.named_parameters():
        parameter.requires_grad_(part in name)
    return host


def plain_step(host: nn.Module, seed: int) -> Tensor:
    return ask(host, seed).square().mean()


def whole_host(*, reentrant: bool) -> Step:
    """As pi0 does it."""

    def step(host: nn.Module, seed: int) -> Tensor:
        asked = question(seed)
        pixels = asked.pop("pixel_values").requires_grad_(reentrant)  # else this kind gives no gradients at all
        output = checkpoint(lambda x: host(pixel_values=x, **asked).logits, pixels, use_reentrant=reentrant)
        return output.square().mean()

    return step


def every_block(*, reentrant: bool) -> Step:
    """As transformers does it."""

    def step(host: nn.Module, seed: int) -> Tensor:
        host.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        return ask(host, seed).square().mean()

    return step


def wrapped_blocks(*, reentrant: bool) -> Step:
    """As training scripts with FSDP do it: the calls of whole blocks are repeated, with their hooks."""
    kind = CheckpointImpl.REENTRANT if reentrant else CheckpointImpl.NO_REENTRANT

    def step(host: nn.Module, seed: int) -> Tensor:
        if not any(isinstance(module, CheckpointWrapper) for module in host.modules()):
            apply_activation_checkpointing(
                host,
                checkpoint_wrapper_fn=partial(checkpoint_wrapper, checkpoint_impl=kind),
                check_fn=lambda module: type(module).__name__ in ("CLIPEncoderLayer", "LlamaDecoderLayer"),
            )
        # A second run of a language block would find its own keys in the cache.
        return host(**question(seed), use_cache=False).logits.square().mean()

    return step


def gradients(host: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in host.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("trained", ["projector", ""], ids=["frozen but the projector", "all trainable"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["saved-tensor-hooks", "reentrant"])
@pytest.mark.parametrize("checkpointed", [whole_host, every_block, wrapped_blocks])
class TestCheckpointing:
    def test_backward_adds_no_frames(self, checkpointed: Callable[..., Step], reentrant: bool, trained: str) -> None:
        step, host, plain = checkpointed(reentrant=reentrant), trainable(trained), trainable(trained)
        with attach_depth_head(host, small_head()) as depth, attach_depth_head(plain, small_head()) as expected:
            tasks: list[int] = []
            # Block by block, a frozen tower is not run again, the language model behind the projector is.
            blocks = "CLIPEncoderLayer" if checkpointed is whole_host or not trained else "LlamaDecoderLayer"
            first = next(module for module in host.modules() if type(module).__name__ == blocks)
            # Not the block itself: newer versions of transformers run only its inside again.
            first.self_attn.q_proj.register_forward_pre_hook(lambda *_: tasks.append(torch._C._current_graph_task_id()))
            for seed in (1, 2):
                step(host, seed).backward()
                plain_step(plain, seed)
            assert [task != -1 for task in tasks] == [False, True] * 2
            frames = depth.read()
            assert [frame.frame for frame in frames] == [0, 1]
            assert depth.dropped == 0
            for frame, other in zip(frames, expected.read(), strict=True):
                assert same_bits(frame.depth_m, other.depth_m)
            assert not torch.equal(frames[0].depth_m, frames[1].depth_m)

    def test_the_gradients_are_the_same_bits(
        self, checkpointed: Callable[..., Step], reentrant: bool, trained: str
    ) -> None:
        step, host, never = checkpointed(reentrant=reentrant), trainable(trained), trainable(trained)
        with attach_depth_head(host, small_head()) as depth:
            loss = step(host, 1)
            assert len(depth.read()) == 1  # between forward and backward
            loss.backward()
            assert depth.read() == []
        step(never, 1).backward()
        found, expected = gradients(host), gradients(never)
        assert found.keys() == expected.keys() != set()
        assert all(same_bits(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_an_image_seen_right_after_backward_is_a_frame(reentrant: bool) -> None:
    host = trainable("projector")
    with attach_depth_head(host, small_head()) as depth:
        whole_host(reentrant=reentrant)(host, 1).backward()
        depth.read()
        with torch.no_grad():
            ask(host, 2)
        [frame] = depth.read()
        depth.refresh(images(2))
        [again] = depth.read()
    assert same_bits(frame.depth_m, again.depth_m)


def test_a_backward_that_fails_leaves_the_next_image_clean() -> None:
    host = trainable("projector")
    with attach_depth_head(host, small_head()) as depth:
        loss = whole_host(reentrant=False)(host, 1)
        loss.register_hook(lambda _gradient: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loss.backward()
        assert len(depth.read()) == 1
        with torch.no_grad():
            ask(host, 2)
        assert [frame.frame for frame in depth.read()] == [1]
