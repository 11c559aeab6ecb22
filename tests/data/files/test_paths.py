from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from spaceclip_plugin.data.files.paths import composed, existing

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def test_every_part_of_a_path_is_matched(tmp_path: Path) -> None:
    (tmp_path / NFD / "a").mkdir(parents=True)
    (tmp_path / NFD / "a" / f"{NFC}.png").touch()
    assert existing(tmp_path / NFC / "a" / f"{NFD}.png") == tmp_path / NFD / "a" / f"{NFC}.png"
    assert composed(NFD) == NFC != NFD


def test_a_path_without_a_match_stays(tmp_path: Path) -> None:
    for path in (tmp_path / "x.png", tmp_path / f"{NFC}.png", tmp_path / NFC / "x.png"):
        assert existing(path) == path
    for name in (f"{NFC}{NFD}", f"{NFD}{NFC}"):
        (tmp_path / name).touch()
    assert existing(tmp_path / f"{NFD}{NFD}") == tmp_path / f"{NFD}{NFD}"  # two match, and neither is spelt so


def test_plain_names_look_through_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NFC).mkdir()
    monkeypatch.setattr(os, "listdir", lambda _path: pytest.fail("looked through a folder"))
    assert existing(tmp_path / NFC / "absent.png") == tmp_path / NFC / "absent.png"
