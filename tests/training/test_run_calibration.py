"""A run rescales its best head's uncertainty on the validation images, and records what that is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_world import PROTOCOL, QUIET, scenes, tiny_host
from torch import nn
from uncertain_head import uncertain_head

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.evaluation import evaluate
from spaceclip_plugin.training import DepthTrainer, Recipe, TrainingResult

RECOMMENDED = Recipe(epochs=4, batch_size=8, learning_rate=2e-2, ema_decay=0.9, views=3, target_side=24)


@pytest.fixture
def calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, Path, TrainingResult]:
    host = tiny_host()
    head = uncertain_head(host, monkeypatch)
    trainer = DepthTrainer(host, head, recipe=RECOMMENDED, protocol=PROTOCOL)
    out = tmp_path / "out"
    return (
        host,
        out,
        trainer.fit(scenes(16), scenes(6, seed=1), out, trained_on="x", options=QUIET),
    )


def test_the_record_says_what_it_is_worth(calibrated: tuple) -> None:
    _, out, result = calibrated
    record = json.loads((out / "run.json").read_text())["uncertainty"]
    assert record.keys() == {"factor", "before", "after", "cross_checked", "images"}
    assert record["factor"] == result.calibration.factor
    assert record["images"] == 6
    for level in (0.5, 0.9):
        # The head starts out far too sure of itself, and four epochs do not mend that.
        assert record["before"][str(level)] < level - 0.1
        assert abs(record["after"][str(level)] - level) < 0.1
        assert abs(record["cross_checked"][str(level)] - level) < 0.2
        assert record["cross_checked"] != record["after"]


def test_the_saved_head_is_the_rescaled_one(calibrated: tuple) -> None:
    host, out, result = calibrated
    head = DepthHead.from_pretrained(out / "head")
    assert head.decoder.log_spread.item() == result.head.decoder.log_spread.item()
    with attach_depth_head(host.eval(), head) as depth:
        again = evaluate(depth, scenes(6, seed=1), protocol=PROTOCOL)
    # 32x32 images are calibrated on every pixel; the cache holds float16 features.
    assert again.coverage == pytest.approx(result.calibration.after, abs=5e-3)
    assert again.mean.abs_rel == pytest.approx(result.validation.abs_rel, rel=5e-3)
    with torch.no_grad():
        head.decoder.rescale_uncertainty(1 / result.calibration.factor)
    with attach_depth_head(host.eval(), head) as depth:
        before = evaluate(depth, scenes(6, seed=1), protocol=PROTOCOL)
    assert before.coverage == pytest.approx(result.calibration.before, abs=5e-3)


def test_a_head_that_gives_none_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = tiny_host()
    head = uncertain_head(host, monkeypatch, silent=True)
    trainer = DepthTrainer(host, head, recipe=RECOMMENDED, protocol=PROTOCOL)
    result = trainer.fit(scenes(16), scenes(3, seed=1), tmp_path / "out", trained_on="x", options=QUIET)
    assert result.calibration is None
    assert result.head.decoder.log_spread.item() == -5.0  # decayed by nothing: no gradient, no step
    assert json.loads((tmp_path / "out" / "run.json").read_text())["uncertainty"] is None


def test_the_tap_mixer_is_calibrated(tmp_path: Path) -> None:
    host = tiny_host()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"taps": (0, 2), "channels": (16, 8), "attention": 0, "convolutions": (1, 1)}
        head = DepthHead.for_tower(host, architecture="tap-mixer", options=options)
    trainer = DepthTrainer(host, head, recipe=RECOMMENDED, protocol=PROTOCOL)
    result = trainer.fit(scenes(16), scenes(6, seed=1), tmp_path / "out", trained_on="x", options=QUIET)
    assert result.calibration is not None
    with attach_depth_head(host.eval(), result.head) as depth:
        again = evaluate(depth, scenes(6, seed=1), protocol=PROTOCOL)
    assert again.coverage == pytest.approx(result.calibration.after, abs=0.01)
