"""A run as `torchrun` starts it: `launched_run.py OUT CASE`; also writes the first step's gradients.

CASE: "plain"; "accumulated" (three micro-batches a step); "stopped" (killed after step 5 in every process); "resumed";
"blind" (most crops see no known depth); "bad-sample" (one that cannot be used, in the share of process 1); "late"
(process 1 cannot read its second batch); "spoilt" (process 1 has a gradient that is not finite); "unlike" (each has a
head of its own); "space-clip" (a head with batch statistics).
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from small_world import PROTOCOL, RESUMED, scenes, tiny_head, tiny_host, tiny_mixer

from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import DataError, SpaceClipError
from spaceclip_plugin.training import DepthTrainer, RunOptions
from spaceclip_plugin.training.cache import maker
from spaceclip_plugin.training.cache.feature_cache import FeatureCache
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.features import Loaded
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.run.folder import RunFolder

STOPPED_AFTER = 5


def watch_gradients(out: Path, *, stop: bool) -> None:
    update, summed = HeadOptimizer._update, Processes.sum_gradients

    def saving(self: Processes, parameters: list[torch.Tensor]) -> None:
        summed(self, parameters)
        path = out.with_name(f"{out.name}-gradients-{self.rank}.safetensors")
        if not path.exists():
            save_file({str(i): p.grad.contiguous().clone() for i, p in enumerate(parameters)}, path)

    def stopping(self: HeadOptimizer) -> None:
        update(self)
        if stop and self.step == STOPPED_AFTER:
            os._exit(9)

    Processes.sum_gradients = saving  # type: ignore[method-assign]
    HeadOptimizer._update = stopping  # type: ignore[method-assign]


def note_group(out: Path) -> None:
    left = not torch.distributed.is_initialized()
    out.with_name(f"{out.name}-left-{os.environ['RANK']}.json").write_text(json.dumps(left))


def fail_late() -> None:
    load, calls = FeatureCache.load, 0

    def failing(self: FeatureCache, indices: Sequence[int], versions: Sequence[int]) -> Loaded:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise DataError("this batch is gone")
        return load(self, indices, versions)

    FeatureCache.load = failing  # type: ignore[method-assign]


def spoil_gradient() -> None:
    summed = Processes.sum_gradients

    def spoilt(self: Processes, parameters: list[torch.Tensor]) -> None:
        gradient = parameters[0].grad
        if gradient is not None and self.rank == 1:
            gradient.view(-1)[0] = float("nan")
        summed(self, parameters)

    Processes.sum_gradients = spoilt  # type: ignore[method-assign]


def main() -> None:
    torch.set_num_threads(1)
    out, case = Path(sys.argv[1]), sys.argv[2]
    atexit.register(note_group, out)  # the first that is registered is the last that runs
    maker.SHARD_BYTES = 30_000  # several shards
    RunFolder.clean = lambda self: None  # type: ignore[method-assign]
    watch_gradients(out, stop=case == "stopped")
    host = tiny_host()
    # Without dropout: each process draws its own.
    head = (
        tiny_head(host) if case == "space-clip" else tiny_mixer(host, pixels=0, dropout=0.1 if case[0] in "sr" else 0.0)
    )
    loss = "published" if case == "space-clip" else "relative"
    # Ten images in fours: the last step of an epoch has two, its last micro-batch one, and one process then none.
    recipe = Recipe(**{**vars(RESUMED), "accumulation": 3 if case == "accumulated" else 1, "loss": loss})
    train = scenes(10)
    if case == "blind":
        for sample in train:
            sample.depth_m[3:] = 0.0
            sample.depth_m[:, 3:] = 0.0
    if case == "bad-sample":
        train[7] = DepthSample(train[7].image, train[7].depth_m * 0, "list.txt:8 unknown.jpg")
    if case == "late" and os.environ["RANK"] == "1":
        fail_late()
    if case == "spoilt":
        spoil_gradient()
    if case == "unlike":
        with torch.no_grad():
            next(head.parameters()).add_(float(os.environ["RANK"]))
    trainer = DepthTrainer(host, head, recipe=recipe, protocol=PROTOCOL)
    try:
        result = trainer.fit(
            train,
            scenes(5, seed=1),
            out,
            trained_on="scenes",
            options=RunOptions(progress=False, save_every=2, resume=case == "resumed"),
        )
    except SpaceClipError as error:
        sys.stderr.write(f"refused: {error}\n")
        sys.exit(3)
    process = int(os.environ.get("RANK", "0"))
    found = {"abs_rel": result.validation.abs_rel, "digest": result.host_digest, "epoch": result.best_epoch}
    out.with_name(f"{out.name}-found-{process}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
