"""One bit of the host that moves, whenever that is, is found before a head is shown as finished."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import PROTOCOL, RESUMED, scenes, tiny_host, tiny_mixer
from torch import nn

from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.evaluation.evaluate import Evaluation
from spaceclip_plugin.training import DepthTrainer, RunOptions
from spaceclip_plugin.training import trainer as trainer_module
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.validation_set import ValidationSet


def move_one_bit(host: nn.Module) -> None:
    host.pos_embed.data.view(torch.int32).view(-1)[7] ^= 1


def fit(out: Path, host: nn.Module, cache: str, **options: Any) -> None:
    recipe = dataclasses.replace(RESUMED, epochs=1, cache=cache)
    trainer = DepthTrainer(host, tiny_mixer(host), recipe=recipe, protocol=PROTOCOL)
    trainer.fit(
        scenes(12),
        scenes(4, seed=1),
        out,
        trained_on="x",
        test=scenes(3, seed=2),
        options=RunOptions(progress=False, **options),
    )


def moving_in_a_step(host: nn.Module, patch: pytest.MonkeyPatch) -> None:
    update = HeadOptimizer._update

    def moving(self: HeadOptimizer) -> None:
        update(self)
        if self.step == 2:
            move_one_bit(host)

    patch.setattr(HeadOptimizer, "_update", moving)


def moving_in_the_test(host: nn.Module, patch: pytest.MonkeyPatch) -> None:
    evaluate = trainer_module.evaluate

    def moving(*args: Any, **options: Any) -> Evaluation:
        move_one_bit(host)
        return evaluate(*args, **options)

    patch.setattr(trainer_module, "evaluate", moving)


def moving_for_the_pictures(host: nn.Module, patch: pytest.MonkeyPatch) -> None:
    pictures = ValidationSet.pictures

    def moving(self: ValidationSet, *args: Any) -> object:
        move_one_bit(host)
        return pictures(self, *args)

    patch.setattr(ValidationSet, "pictures", moving)


@pytest.mark.parametrize("cache", ["none", "fp16"])
@pytest.mark.parametrize("moving", [moving_in_a_step, moving_in_the_test, moving_for_the_pictures])
def test_no_head_is_finished_on_a_host_that_moved(tmp_path: Path, moving: Any, cache: str) -> None:
    host, out = tiny_host(), tmp_path / "out"
    before = module_digest(host)
    with pytest.MonkeyPatch.context() as patch:
        moving(host, patch)
        with pytest.raises(TrainingError, match=f"the host changed .* digest {before[:12]}… before"):
            fit(out, host, cache)
    assert not (out / "head").exists()
    record = json.loads((out / "run.json").read_text())
    assert record["finished"] is False
    assert record["host_digest_after"] == module_digest(host) != before
    # What was learnt so far may come from the other host: the right one does not make it good.
    with pytest.raises(TrainingError, match="cannot be continued: its host changed"):
        fit(out, tiny_host(), cache, resume=True)


@pytest.mark.parametrize("cache", ["none", "fp16"])
def test_a_host_that_stays_is_told_so(tmp_path: Path, cache: str) -> None:
    fit(tmp_path / "out", tiny_host(), cache)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["host_digest_before"] == record["host_digest_after"] == module_digest(tiny_host())
