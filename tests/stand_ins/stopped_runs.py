"""Small runs, stopped at any step as if their process had been killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_world import PROTOCOL, RESUMED, scenes, tiny_host, tiny_mixer

from spaceclip_plugin.data.sources.mixture import Mixture
from spaceclip_plugin.training import DepthTrainer, RunOptions
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.optimizer import HeadOptimizer


class Killed(BaseException):
    """Nothing in the package catches it, as nothing catches SIGKILL."""


def fit(out: Path, recipe: Recipe = RESUMED, **options: Any) -> None:
    host = tiny_host()
    train = Mixture([scenes(18), scenes(6, seed=5)], weights=[1, 1])
    trainer = DepthTrainer(host, tiny_mixer(host), recipe=recipe, protocol=PROTOCOL)
    trainer.fit(train, scenes(5, seed=1), out, trained_on="scenes", options=RunOptions(progress=False, **options))


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    update = HeadOptimizer._update

    def killing(self: HeadOptimizer) -> None:
        update(self)
        if self.step == step:
            raise Killed

    monkeypatch.setattr(HeadOptimizer, "_update", killing)


def fit_until(step: int, out: Path, recipe: Recipe = RESUMED, **options: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(step, patch)
        with pytest.raises(Killed):
            fit(out, recipe, **options)
