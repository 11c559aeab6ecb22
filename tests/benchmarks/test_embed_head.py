"""How a head gets into the package: the same bytes every time, and nothing where something is wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embed_head
import pytest
from embed_head import embed
from embedded_world import NAME, WORDS, finished_run, package_in

from spaceclip_plugin import DepthHead
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.errors import ConfigError, SpaceClipError, TrainingError
from spaceclip_plugin.head.embedded import catalogue


@pytest.fixture
def run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that a test may damage."""
    run = finished_run(tmp_path_factory.getbasetemp() / "embedded-world")
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(autouse=True)
def package(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "package").mkdir()
    with package_in(tmp_path / "package") as folder:
        yield folder


def edit_record(run: Path, **changes: Any) -> None:
    record = read_json_object(run / "run.json")
    (run / "run.json").write_text(json.dumps({**record, **changes}))


def test_the_same_run_and_words_give_the_same_bytes(run: Path, tmp_path: Path) -> None:
    first = {file.name: file.read_bytes() for file in embed(run, NAME, WORDS).iterdir()}
    (tmp_path / "again").mkdir()
    with package_in(tmp_path / "again"):
        second = {file.name: file.read_bytes() for file in embed(run, NAME, WORDS).iterdir()}
    assert first == second
    assert sorted(first) == ["README.md", "config.json", "model.safetensors", "record.json"]


def test_the_record_says_how_it_came_about_and_no_dates(run: Path) -> None:
    embed(run, NAME, dataclasses.replace(WORDS, trained_on="six rendered tables"))
    record, whole = catalogue.read_record(f"embedded:{NAME}"), read_json_object(run / "run.json")
    assert record["command"] == WORDS.command
    assert record["terms"] == {"head": WORDS.license, "data": WORDS.data_license, "tower": WORDS.tower}
    for key in ("recipe", "validation", "validation_images", "best_epoch", "head_digest", "spaceclip_plugin"):
        assert record[key] == whole[key]
    assert record["recipe"]["seed"] == 0
    assert record["details"]["val"] == "scenes (2, seed 1)"
    assert not [key for key in record if "second" in key or "date" in key]
    head = DepthHead.from_pretrained(f"embedded:{NAME}")
    assert head.config.trained_on == "six rendered tables"
    assert record["embedded"]["head_digest"] == module_digest(head) != record["head_digest"]
    assert 0 < record["embedded"]["difference"] <= embed_head.MAX_DIFFERENCE


def test_the_command_line_says_where_it_is(run: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [(f"--{name.replace('_', '-')}", value) for name, value in vars(WORDS).items() if value is not None]
    embed_head.main([str(run), NAME, *(word for pair in words for word in pair)])
    assert f"embedded:{NAME}" in capsys.readouterr().out
    assert catalogue.names() == [NAME]


def refused(
    run: Path, message: str, *, name: str = NAME, kind: type[SpaceClipError] = ConfigError, **said: str
) -> None:
    before = sorted(catalogue.FOLDER.rglob("*"))
    with pytest.raises(kind, match=message):
        embed(run, name, dataclasses.replace(WORDS, **said))
    assert sorted(catalogue.FOLDER.rglob("*")) == before


def test_what_is_not_embedded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(run, "lower-case", name="NYU_tiny")
    refused(run, "'spaceclip train --data /data/train.txt'", command="spaceclip train --data /data/train.txt")
    refused(run, "names a place", trained_on="the images in ~/data")
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "MAX_BYTES", 50_000)
        refused(run, "allowed are 50000")
    with monkeypatch.context() as patch:
        patch.setattr(embed_head, "MAX_DIFFERENCE", 1e-7)
        refused(run, "half precision moves depth")
    edit_record(run, head_digest="feed" * 16)
    refused(run, "not that of the head")
    edit_record(run, finished=False)
    refused(run, "not finished", kind=TrainingError)


def test_all_heads_together_have_one_limit(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = embed_head.bytes_of(embed(run, NAME, WORDS))
    monkeypatch.setattr(catalogue, "MAX_BYTES", 2 * size - 100)
    refused(run, "all embedded heads would have", name="another-one-of-a-longer-name")


def test_a_head_that_is_there_stays(run: Path) -> None:
    embed(run, NAME, WORDS)
    refused(run, "it is there already")


@pytest.mark.parametrize(
    ("text", "names_a_place"),
    [
        ("spaceclip train --data train.txt --out runs/nyu", False),
        ("https://arxiv.org/abs/2601.17657 and/or timm:name", False),
        ("AbsRel 0.2 / 0.3, python:module:build", False),
        ("/data/nyu", True),
        ("--weights=/data/nyu", True),
        ("in (~/data)", True),
        ("C:\\data", True),
    ],
)
def test_what_a_place_on_a_machine_looks_like(text: str, names_a_place: bool) -> None:
    if names_a_place:
        with pytest.raises(ConfigError):
            embed_head.check_no_places({"details": [{"data": text}]})
    else:
        embed_head.check_no_places({"details": [{"data": text}]})
