"""The comparison of towers: what it refuses, and that its trial runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import towers


@pytest.mark.parametrize(
    "words",
    [
        ["--towers", "a=timm:x"],
        ["--towers", "a=timm:x", "--runs", "runs"],
        ["--towers", "a=timm:x", "--runs", "runs", "--", "--data", "train.txt"],
        ["--towers", "a=timm:x", "a=timm:y", "--runs", "runs", "--", "--data", "t", "--val", "v"],
        ["--towers", "timm:x", "--runs", "runs", "--", "--data", "t", "--val", "v"],
        ["--towers", "a/b=timm:x", "--runs", "runs", "--", "--data", "t", "--val", "v"],
    ],
)
def test_words_that_compare_nothing_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        towers.arguments(words)


def test_what_is_said_of_reading_holds_for_scoring() -> None:
    words = ["--data", "train.txt", "--val", "a.txt", "--protocol", "whole-image", "--epochs", "3", "--val", "b.txt"]
    wanted = ["--data", "a.txt", "--protocol", "whole-image", "--data", "b.txt"]
    assert towers.reading_of(words) == wanted


@pytest.mark.slow
def test_the_trial_compares_two_towers(tmp_path: Path) -> None:
    base, tuned = towers.compare(towers.trial_towers(tmp_path / "towers"), tmp_path / "runs", towers.TRIAL)
    assert (base["moved"], base["lent"]) == (None, None)
    assert tuned["moved"] == pytest.approx(towers.TUNED_BY, rel=0.5)
    assert tuned["lent"]["abs_rel"] > 0
    assert (tmp_path / "runs" / "towers.json").is_file()
    again = towers.compare([towers.Entry("base", base["host"])], tmp_path / "runs", towers.TRIAL)
    assert again[0]["validation"] == base["validation"]  # it was not trained again
    assert towers.table([base, tuned]).count("\n") == 3
