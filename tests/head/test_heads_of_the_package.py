"""Heads that come with the package: what those that are there have to hold to."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from embed_head import check_no_places
from safetensors.torch import load_file

import spaceclip_plugin
from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.errors import HeadMismatchError
from spaceclip_plugin.head.embedded import catalogue
from spaceclip_plugin.towers import load_host

EMBEDDED = catalogue.names() or [pytest.param("", marks=pytest.mark.skip(reason="no head is embedded"))]
FILES = ["README.md", "config.json", "model.safetensors", "record.json"]
GUIDES = [
    Path(spaceclip_plugin.__file__).parents[1] / "README.md",
    *Path(spaceclip_plugin.__file__).parent.rglob("*.md"),
]


def test_they_are_small() -> None:
    sizes = [file.stat().st_size for name in catalogue.names() for file in (catalogue.FOLDER / name).iterdir()]
    assert sum(sizes) <= catalogue.MAX_BYTES


def test_guides_name_no_other() -> None:
    named = {name for guide in GUIDES for name in re.findall(r"embedded:([a-z0-9-]+)", guide.read_text())}
    assert named <= set(catalogue.names())


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_is_whole_and_the_one_its_record_tells_of(name: str) -> None:
    folder, record = catalogue.FOLDER / name, catalogue.read_record(f"embedded:{name}")
    assert sorted(file.name for file in folder.iterdir()) == FILES
    head = DepthHead.from_pretrained(f"embedded:{name}")
    assert head.trained
    assert module_digest(head) == record["embedded"]["head_digest"]
    assert {value.dtype for value in head.state_dict().values() if value.is_floating_point()} == {torch.float32}
    kept = load_file(folder / "model.safetensors")
    assert {value.dtype for key, value in kept.items() if key.startswith("decoder.")} <= {
        torch.float16,
        torch.int64,
    }


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_says_what_it_is_and_nothing_of_the_machine(name: str) -> None:
    record = catalogue.read_record(f"embedded:{name}")
    check_no_places({**record, "config": DepthHead.from_pretrained(f"embedded:{name}").config.to_dict()})
    card = (catalogue.FOLDER / name / "README.md").read_text()
    assert record["command"] in card
    for text in record["terms"].values():
        assert text in card
    assert f"{record['validation']['abs_rel']:.4f}" in card


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_tells_of_which_camera_and_images_its_metres_are(name: str) -> None:
    config = DepthHead.from_pretrained(f"embedded:{name}").config
    assert config.focal_length is not None
    assert not config.focal_length_assumed
    assert config.preparation == "stretch"


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_knows_that_random_weights_are_not_its_tower(name: str, caplog: pytest.LogCaptureFixture) -> None:
    base = DepthHead.from_pretrained(f"embedded:{name}").config.base_model
    assert base is not None
    host = load_host(base, weights="random")
    with caplog.at_level(logging.WARNING), attach_depth_head(host, f"embedded:{name}") as depth:
        assert depth.tower_match is not None
        assert depth.tower_match.verdict == "other"
    assert "trained on another tower" in caplog.text
    with pytest.raises(HeadMismatchError, match="another tower"):
        attach_depth_head(host, f"embedded:{name}", other_tower="error")
