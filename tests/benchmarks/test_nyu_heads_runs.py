"""Which earlier runs the accuracy benchmark takes for its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nyu_heads as heads
import pytest

from spaceclip_plugin.head.tap_mixer import TapMixerOptions
from spaceclip_plugin.training.config.recipe import Recipe


def test_another_run_in_the_folder_is_not_taken() -> None:
    words = ["--host", "h", "--data", "a", "--val", "b", "--out", "c", "--epochs", "3", "--set", "attention=1"]
    words += ["--preset", "light"]
    light = TapMixerOptions.for_blocks(12, "light")
    kept = {
        "finished": True,
        "recipe": vars(Recipe(epochs=3)),
        "head": {"architecture": "tap-mixer", "options": vars(replace(light, attention=1))},
    }
    heads.check(Path("c"), words, kept)
    for change in (
        {"finished": False},
        {"recipe": vars(Recipe(epochs=4))},
        {"head": {"architecture": "tap-mixer", "options": vars(light)}},
        {"head": {"architecture": "space-clip", "options": vars(replace(light, attention=1))}},
    ):
        with pytest.raises(SystemExit, match="c holds a run that was stopped, or another one"):
            heads.check(Path("c"), words, {**kept, **change})


def test_a_recorded_run_is_kept_where_there_is_no_other(tmp_path: Path) -> None:
    args = heads.arguments(["--nyu", "n", "--weights", "w.safetensors", "--runs", str(tmp_path)])
    row = heads.Row("any", ("--epochs", "3"))
    words = f"--host-weights w.safetensors --data {heads.TRAIN} --val {heads.VAL} --out any_s0 --epochs 3 --seed 0"
    kept = {"seed": 0, "command": " ".join(["spaceclip train", *heads.HOST, words])}
    assert heads.run("any", row, 0, args, kept) is kept
