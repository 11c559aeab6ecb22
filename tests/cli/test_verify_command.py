"""`spaceclip verify` says whose metres a head gives, of which images, and whether it tells how familiar one is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import users_policy
from heads_that_tell import telling

from spaceclip_plugin import DepthHead
from spaceclip_plugin.cli import main


@pytest.mark.parametrize("assumed", [False, True])
def test_a_head_that_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str], assumed: bool) -> None:
    head = telling(DepthHead.for_tower(users_policy.build()), focal_length=(0.75, 1.25))
    head.config = dataclasses.replace(head.config, focal_length_assumed=assumed, preparation="letterbox:centre")
    assert main(["verify", str(head.save_pretrained(tmp_path))]) == 0
    text = capsys.readouterr().out
    assert "focal length 0.75 x 1.25 of the image's width and height" in text
    assert ("no training data told it" in text) == assumed
    assert "images     prepared by letterbox:centre\n" in text
    assert f"told by hidden state {head.familiar_tap}\n" in text


def test_a_head_that_tells_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(DepthHead.for_tower(users_policy.build()).save_pretrained(tmp_path))]) == 0
    assert capsys.readouterr().out.count("not told") == 3
