"""A head's config carries the fingerprint: there and back, strictly, and what is none is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from clip_world import SMALL, clip_host
from trained_heads import trained_on

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.towers.identity.fingerprint import TowerFingerprint

CONFIG = trained_on(clip_host(), **SMALL).config
SAVED: dict[str, Any] = json.loads(json.dumps(CONFIG.to_dict()))
FINGERPRINT = SAVED["tower_fingerprint"]


def changed(**changes: Any) -> dict[str, Any]:
    return {**SAVED, "tower_fingerprint": {**FINGERPRINT, **changes}}


def test_it_is_small_and_there_and_back() -> None:
    assert DepthHeadConfig.from_dict(SAVED) == CONFIG
    assert CONFIG.tower_fingerprint is not None
    assert CONFIG.tower_fingerprint.context is not None
    assert hash(CONFIG) == hash(DepthHeadConfig.from_dict(SAVED))
    assert SAVED["format_version"] == 2
    assert len(json.dumps(FINGERPRINT)) < 700 + 180 * len(FINGERPRINT["blocks"])


def test_without_one_a_config_is_of_the_format_that_older_versions_read() -> None:
    plain = dataclasses.replace(CONFIG, tower_fingerprint=None).to_dict()
    assert plain["format_version"] == 1
    assert "tower_fingerprint" not in plain
    assert DepthHeadConfig.from_dict(plain).tower_fingerprint is None


def test_a_saved_head_has_it(tmp_path: Path) -> None:
    head = trained_on(clip_host(), **SMALL)
    assert DepthHead.from_pretrained(head.save_pretrained(tmp_path)).config == head.config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**SAVED, "format_version": 1}, "belongs to format 2"),
        ({**SAVED, "tower_fingerprint": None}, "belongs to format 2"),
        ({**SAVED, "tower_fingerprint": {}}, "belongs to format 2"),
        ({k: v for k, v in SAVED.items() if k != "tower_fingerprint"}, "belongs to format 2"),
        ({**SAVED, "tower_fingerprint": "x"}, "must be an object or null"),
        ({**SAVED, "tower_fingerprint": [1]}, "must be an object or null"),
        ({**SAVED, "tower_fingerprint": {"blocks": []}}, "missing key 'input'"),
        (changed(blokcs=[]), "unknown key 'blokcs'.*'blocks'"),
        (changed(blocks=None), "blocks must be at most 256 lines"),
        (changed(blocks=FINGERPRINT["blocks"] * 86), "blocks must be at most 256 lines"),
        (changed(blocks=FINGERPRINT["blocks"][:2]), "each of the 3 to 3 blocks"),
        (changed(blocks=FINGERPRINT["blocks"] * 2), "each of the 3 to 3 blocks"),
        (changed(blocks=[1, 2, 3]), "blocks must be at most 256 lines"),
        (changed(blocks=["!" * 176] * 3), "block 1 must be base64"),
        (changed(precision="int4"), "precision must be one of"),
        (changed(context=3), "context must be base64"),
        (changed(input=FINGERPRINT["input"] * 2), "each kind of weight once"),
        (changed(input=["0x3 x"]), "each kind of weight once"),
        (changed(input=["3x4"]), "input must be base64"),
        (changed(input=["3x4 " + "!" * 60]), "input must be base64"),
    ],
)
def test_what_is_none_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DepthHeadConfig.from_dict(values)


def test_hostile_configs_are_refused(tmp_path: Path) -> None:
    """Every 40th of the attacks on a config, on one that has a fingerprint."""
    from hostile_configs import hostile_configs

    head = trained_on(clip_host(), **SMALL)
    # Without labels: those may be corrected by hand, and taken away.
    head.config = dataclasses.replace(head.config, trained_on=None, base_model=None)
    path = head.save_pretrained(tmp_path) / "config.json"
    raw = path.read_bytes()
    tried = 0
    for forgery in itertools.islice(hostile_configs(raw, raw), 0, None, 40):
        if forgery.raw == raw or forgery.kind == "another's options":
            continue
        path.write_bytes(forgery.raw)
        with pytest.raises(CheckpointError):
            DepthHead.from_pretrained(tmp_path)
        tried += 1
    assert tried > 200


def test_one_that_was_exchanged_by_hand_is_noticed(tmp_path: Path) -> None:
    path = trained_on(clip_host(), **SMALL).save_pretrained(tmp_path) / "config.json"
    saved = json.loads(path.read_text())
    first, second, third = saved["tower_fingerprint"]["blocks"]
    saved["tower_fingerprint"]["blocks"] = [second, first, third]
    path.write_text(json.dumps(saved))
    with pytest.raises(CheckpointError, match=r"two halves.*tower_fingerprint"):
        DepthHead.from_pretrained(tmp_path)


def test_lines_are_checked_without_a_config() -> None:
    with pytest.raises(ConfigError, match="base64"):
        TowerFingerprint(input=(), blocks=("x",))
