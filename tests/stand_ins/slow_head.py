"""A head that can be held up in the midst of its decoding, and the depth it should give."""

from __future__ import annotations

import threading

import torch
from clip_world import see
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head


def truth(host: nn.Module, head: DepthHead, *seeds: int) -> list[torch.Tensor]:
    with attach_depth_head(host, head) as attachment:
        see(host, *seeds)
        return [found.depth_m for found in attachment.read()]


class SlowHead:
    """Counts the calls of a head and holds each until it is let go."""

    def __init__(self, head: DepthHead) -> None:
        self.calls = 0
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        head.register_forward_pre_hook(self._called)

    def _called(self, module: nn.Module, args: object) -> None:
        self.calls += 1
        self.begun.release()
        if not self.go.acquire(timeout=20):
            raise TimeoutError
