"""Meta-World as a command line and a config name it."""

from __future__ import annotations

import doctest
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.metaworld import key, spec
from spaceclip_worlds.metaworld.spec import MetaWorldData, default_cache
from spaceclip_worlds.metaworld.tasks import TEST_TASKS, TRAINING_TASKS


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("1200", MetaWorldData(1200)),
        ("1200:3", MetaWorldData(1200, seed=3)),
        ("train:1200", MetaWorldData(1200)),
        ("test:90", MetaWorldData(90, split="test")),
        ("validation:90:3", MetaWorldData(90, split="validation", seed=3)),
        ("standard:90", MetaWorldData(90, look="standard")),
        ("test:varied:90", MetaWorldData(90, split="test")),
        ("test:standard:90:3", MetaWorldData(90, split="test", look="standard", seed=3)),
        ("moved:1200", MetaWorldData(1200, look="moved")),
    ],
)
def test_text_names_pictures(text: str, named: MetaWorldData) -> None:
    assert MetaWorldData.from_text(text) == named


@pytest.mark.parametrize(
    "text",
    [
        "",
        "many",
        "-1",
        "1e3",
        "²",
        "0",
        "4 ",
        "1:2:3",
        "test",
        "test:",
        "test:1:2:3",
        ":4",
        "standard:test:1",
        "standard",
    ],
)
def test_text_that_names_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="metaworld"):
        MetaWorldData.from_text(text)


def test_a_misspelt_split_or_look_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'validation'"):
        MetaWorldData.from_text("validaton:90")
    with pytest.raises(ConfigError, match="did you mean 'standard'"):
        MetaWorldData.from_text("standart:90")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", 0, "count of metaworld"),
        ("count", 10**10, "count of metaworld"),
        ("seed", -1, "seed of metaworld"),
        ("split", "tset", r"split of metaworld .*did you mean 'test'"),
        ("look", "standrad", r"look of metaworld .*did you mean 'standard'"),
        ("tasks", "drawer-opn-v3", r"tasks of metaworld: 'drawer-opn-v3' .*did you mean 'drawer-open-v3'"),
        ("tasks", "reach-v3, hammer-v3", "'hammer-v3' is none of split train; it is a task of split: test"),
        ("tasks", "reach-v3,reach-v3", "tasks of metaworld must name each once"),
        ("tasks", "reach-v3,", "tasks of metaworld"),
        ("cameras", "corner1", r"cameras of metaworld .*did you mean 'corner"),
        ("cameras", "corner2, corner2", "cameras of metaworld must name each once"),
        ("height_px", 7, "height_px of metaworld"),
        ("width_px", 4096, "width_px of metaworld"),
        ("cache", " ", "cache of metaworld"),
    ],
)
def test_what_cannot_be_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MetaWorldData(**{"count": 4, field: value})


def test_titles() -> None:
    assert MetaWorldData(400).title == "metaworld train (400)"
    assert MetaWorldData(90, split="test", seed=2).title == "metaworld test (90, seed 2)"


def test_examples_are_true() -> None:
    assert doctest.testmod(spec).failed == 0


def test_a_spec_is_opened_as_it_says(installed: None, tmp_path: Path) -> None:
    named = MetaWorldData(
        9, seed=2, split="test", tasks="hammer-v3, soccer-v3", cameras="corner,topview", look="standard", height_px=16,
        width_px=20, cache=str(tmp_path),
    )  # fmt: skip
    opened = named.open(units_per_metre=1000.0)
    assert (len(opened), opened.seed, opened.split) == (9, 2, "test")
    assert opened.tasks == ("hammer-v3", "soccer-v3")
    assert (opened.picture.image_hw, opened.picture.cameras) == ((16, 20), ("corner", "topview"))
    assert (opened.picture.look, opened.folder) == ("standard", tmp_path)
    assert MetaWorldData(1).open(units_per_metre=1.0).tasks == TRAINING_TASKS
    assert MetaWorldData(1, split="test").open(units_per_metre=1.0).tasks == TEST_TASKS


def test_the_cache_is_a_relative_path_of_the_config(installed: None, tmp_path: Path) -> None:
    resolved = MetaWorldData(1, cache="drawn").resolved(tmp_path)
    assert resolved.open(units_per_metre=1.0).folder == tmp_path / "drawn"


def test_the_cache_is_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "spaceclip" / "metaworld"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert default_cache() == tmp_path / "home" / ".cache" / "spaceclip" / "metaworld"


def test_without_metaworld_an_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(key.metadata, "version", version)
    key.versions.cache_clear()
    with pytest.raises(
        ConfigError, match=r"metaworld, which is not installed; pip install 'spaceclip-plugin\[metaworld\]'"
    ):
        MetaWorldData(4).open(units_per_metre=1000.0)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Meta-World were installed: opening draws nothing."""
    monkeypatch.setattr(spec, "versions", lambda: "metaworld 3.1.1, mujoco 3.3.0")
