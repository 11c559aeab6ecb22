"""A run that kills its own process at a given moment: `killed_run.py OUT "update 3"`; continues what is there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_world import PROTOCOL, RESUMED, scenes, tiny_host, tiny_mixer

from spaceclip_plugin.data.sources.mixture import Mixture
from spaceclip_plugin.training import DepthTrainer, RunOptions
from spaceclip_plugin.training.cache import maker
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.run import checkpoint
from spaceclip_plugin.training.run.folder import RunFolder


def killing_at(owner: object, name: str, count: int, *, after: bool) -> None:
    """Let the process die before or after the `count`-th call of a method."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def main() -> None:
    torch.set_num_threads(1)  # the last bits depend on it
    out, moment = Path(sys.argv[1]), sys.argv[2].split()
    maker.SHARD_BYTES = 30_000  # several shards
    if moment[0] == "update":
        step, update = int(moment[1]), HeadOptimizer._update

        def killing(self: HeadOptimizer) -> None:
            update(self)
            if self.step == step:
                os.kill(os.getpid(), signal.SIGKILL)

        HeadOptimizer._update = killing  # type: ignore[method-assign]
    elif moment[0] == "shard":
        killing_at(maker, "write_shard", int(moment[1]), after=True)
    elif moment[0] == "save":
        killing_at(checkpoint, "atomic_folder", int(moment[1]), after=True)  # before anything is written
    elif moment[0] == "publish":
        killing_at(RunFolder, "publish_best", 1, after=True)
    if moment[0] == "never":
        RunFolder.clean = lambda self: None  # type: ignore[method-assign]
    host = tiny_host()
    train = Mixture([scenes(18), scenes(6, seed=5)], weights=[1, 1])
    trainer = DepthTrainer(host, tiny_mixer(host), recipe=RESUMED, protocol=PROTOCOL)
    trainer.fit(
        train,
        scenes(5, seed=1),
        out,
        trained_on="scenes",
        options=RunOptions(progress=False, save_every=1, resume=out.exists()),
    )


if __name__ == "__main__":
    main()
