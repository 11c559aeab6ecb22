"""One process of several that run a wrapped host: `python distributed_worker.py RANK WORLD_SIZE FOLDER`.

Each process sees pictures of its own, and writes what it found to FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from clip_world import images
from llava_world import ask, llava_host, small_head
from torch import Tensor, nn
from trained_heads import trained_on
from wrappers import DISTRIBUTED, Wrap

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach.tower_match import match_tower
from spaceclip_plugin.attach.verification import same_bits
from spaceclip_plugin.errors import SpaceClipError
from spaceclip_plugin.towers import registry


def seen(host: nn.Module, seed: int, *, train: bool) -> Tensor:
    host.train(train)
    if not train:
        with torch.no_grad():
            return ask(host, seed)
    logits = ask(host, seed)
    logits.square().mean().backward()
    return logits.detach()


def findings(wrap: Wrap, rank: int, folder: Path, *, before: bool, train: bool) -> dict[str, object]:
    head, seed, plain = small_head(), 10 + rank, llava_host()
    known = trained_on(llava_host())
    logits = seen(plain, seed, train=train)
    with attach_depth_head(plain, head) as depth:
        seen(plain, seed, train=False)
        [expected] = depth.read()
    host = llava_host() if before else wrap(llava_host(), folder)
    with attach_depth_head(host, head) as depth:
        wrapped = wrap(host, folder) if before else host
        found: dict[str, object] = {"same logits": same_bits(seen(wrapped, seed, train=train), logits)}
        frames = depth.read()
        found["frames"] = len(frames)
        if rank == 0:  # alone: a call that every process must make would wait for ever
            [tower] = registry.find_towers(wrapped)
            found["tower"] = match_tower(tower, known.config).verdict
        found["same depth"] = all(same_bits(frame.depth_m, expected.depth_m) for frame in frames)
        try:
            depth.refresh(images(seed))
            [again] = depth.read()
            found["refresh"] = same_bits(again.depth_m, expected.depth_m)
        except SpaceClipError:
            found["refresh"] = "refused"
        except Exception as error:
            found["refresh"] = f"{type(error).__name__}: {error}"
    return found


def main(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
    report: dict[str, object] = {}
    for name, wrap in DISTRIBUTED.items():
        for before in (True, False):
            for train in (False, True):
                case = f"{name}, attached {'before' if before else 'after'}, {'train' if train else 'eval'}"
                try:
                    report[case] = findings(wrap, rank, folder, before=before, train=train)
                except pytest.skip.Exception as reason:
                    report[case] = str(reason)
    (folder / f"{rank}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
