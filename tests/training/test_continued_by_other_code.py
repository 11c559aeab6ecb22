"""A run that is continued by another version than began it: said, for its bits are promised of one code alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from stopped_runs import fit, fit_until
from train_flags import arguments_of

import spaceclip_plugin
from spaceclip_plugin._digest import code_digest
from spaceclip_plugin.cli.train_config import resumed_run
from spaceclip_plugin.errors import ConfigError, TrainingError


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    out = tmp_path / "run"
    fit_until(2, out)
    return out


def rewrite(run: Path, **changes: object) -> None:
    record = json.loads((run / "run.json").read_text())
    changed = {**record, **changes}
    (run / "run.json").write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


def warnings_of(run: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="spaceclip_plugin"):
        fit(run, resume=True)
    return [record.getMessage() for record in caplog.records]


def test_the_same_code_goes_on_in_silence(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = json.loads((stopped / "run.json").read_text())
    assert (record["spaceclip_plugin"], record["code"]) == (spaceclip_plugin.__version__, code_digest())
    assert warnings_of(stopped, caplog) == []


@pytest.mark.parametrize(
    ("changes", "begun"),
    [
        ({"spaceclip_plugin": "0.0.9"}, f"spaceclip_plugin 0.0.9 (code {code_digest()[:12]}…)"),
        ({"code": "ab" * 32}, f"spaceclip_plugin {spaceclip_plugin.__version__} (code abababababab…)"),
        ({"spaceclip_plugin": None, "code": None}, "a version of spaceclip_plugin that it does not name"),
    ],
)
def test_other_code_is_a_warning_that_names_both(
    stopped: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, str | None], begun: str
) -> None:
    rewrite(stopped, **changes)
    [told] = warnings_of(stopped, caplog)
    now = f"spaceclip_plugin {spaceclip_plugin.__version__} (code {code_digest()[:12]}…)"
    assert told.startswith(f"the run was begun with {begun} and goes on with {now}: ")


def test_another_torch_is_a_warning_too(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(stopped, torch="1.0")
    [told] = warnings_of(stopped, caplog)
    assert told.startswith(f"the run was begun with torch 1.0 and goes on with {torch.__version__}: its last bits")


def test_a_run_from_before_towers_had_a_precision_goes_on(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = json.loads((stopped / "run.json").read_text())["recipe"]
    assert recipe.pop("tower_precision") == "own"
    rewrite(stopped, recipe=recipe)
    assert warnings_of(stopped, caplog) == []


def test_a_run_goes_on_in_the_precision_it_was_begun_with_alone(stopped: Path) -> None:
    recipe = json.loads((stopped / "run.json").read_text())["recipe"]
    rewrite(stopped, recipe={**recipe, "tower_precision": "bf16"})
    with pytest.raises(TrainingError, match=r'its recipe.tower_precision was "bf16", now it is "own"'):
        fit(stopped, resume=True)


class TestTheDigest:
    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        folder = tmp_path / "package"
        (folder / "part").mkdir(parents=True)
        (folder / "one.py").write_bytes(b"a = 1\nb = 2\n")
        (folder / "part" / "two.py").write_bytes(b"")
        return folder

    def test_it_is_of_every_line_and_place(self, package: Path) -> None:
        seen = {code_digest(package)}
        (package / "one.py").write_bytes(b"a = 1\nb = 3\n")
        seen.add(code_digest(package))
        (package / "part" / "two.py").rename(package / "part" / "three.py")
        seen.add(code_digest(package))
        (package / "part" / "three.py").unlink()
        seen.add(code_digest(package))
        assert len(seen) == 4

    def test_it_is_of_nothing_else(self, package: Path) -> None:
        before = code_digest(package)
        (package / "one.py").write_bytes(b"a = 1\r\nb = 2\r\n")  # as git gives it on Windows
        (package / "__pycache__").mkdir()
        (package / "__pycache__" / "one.cpython-311.pyc").write_bytes(b"x")
        assert code_digest(package) == before


class TestSettingsOfAnotherVersion:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.yaml").write_text(
            "host: timm:x\ndata: [{source: list, path: a.txt}]\nvalidation: [{source: scenes, count: 1}]\nlater: 2\n"
        )
        return folder

    def refusal(self, folder: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            resumed_run(arguments_of("--resume", str(folder)))
        return str(caught.value)

    def test_both_versions_are_named(self, folder: Path) -> None:
        (folder / "run.json").write_text(json.dumps({"spaceclip_plugin": "9.9", "code": "cd" * 32}))
        told = self.refusal(folder)
        assert "unknown key 'later'" in told
        assert "begun with spaceclip_plugin 9.9 (code cdcdcdcdcdcd…), this is spaceclip_plugin " in told
        assert spaceclip_plugin.__version__ in told

    @pytest.mark.parametrize("record", [None, "{}"])
    def test_one_is_not_recorded(self, folder: Path, record: str | None) -> None:
        if record is not None:
            (folder / "run.json").write_text(record)
        assert "begun with a version of spaceclip_plugin that it does not name, this is" in self.refusal(folder)

    def test_it_was_this_one(self, folder: Path) -> None:
        record = {"spaceclip_plugin": spaceclip_plugin.__version__, "code": code_digest()}
        (folder / "run.json").write_text(json.dumps(record))
        told = self.refusal(folder)
        assert "unknown key 'later'" in told
        assert "undo what was edited there" in told
        assert "begun with" not in told

    def test_a_setting_within_another(self, folder: Path) -> None:
        text = (folder / "config.yaml").read_text().replace("later: 2", "recipe: {later: 2}")
        (folder / "config.yaml").write_text(text)
        assert "begun with a version of spaceclip_plugin that it does not name, this is" in self.refusal(folder)
