"""The model card: true to the run's record, complete, and metadata that the Hub can read."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard as HubCard

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.cli import main
from spaceclip_plugin.errors import CheckpointError, ConfigError, TrainingError
from spaceclip_plugin.head.model_card import CardDetails, ModelCard
from spaceclip_plugin.head.tap_mixer import TapMixerOptions
from spaceclip_plugin.hub.push import PushOptions

CONFIG = DepthHeadConfig(
    options=TapMixerOptions(taps=(3, 6), channels=(48, 6), attention=0, convolutions=(1, 1)),
    width=8,
    blocks=6,
    depth_range_m=(0.1, 12.0),
    base_model="hf:org/clip-vit",
    base_model_revision="abc123",
    trained_on="kitchen.txt (70 images)",
)
METRICS = {
    "abs_rel": 0.12345, "sq_rel": 0.1, "rmse": 0.456, "rmse_log": 0.2, "log10": 0.05, "silog": 12.5, "delta1": 0.8,
    "delta2": 0.9, "delta3": 0.95,
}  # fmt: skip
RECORD: dict[str, Any] = {
    "finished": True,
    "recipe": {"epochs": 7, "batch_size": 4, "loss": "relative", "augmentation": "recommended", "seed": 3},
    "protocol": "nyu-eigen",
    "details": {"host": "hf:org/clip-vit", "host_weights": None, "data": "kitchen.txt", "val": "kitchen_val.txt"},
    "host_digest_after": "feed" * 16,
    "best_epoch": 5,
    "validation": METRICS,
    "validation_images": 10,
    "uncertainty": {"cross_checked": {"0.5": 0.51, "0.9": 0.88}},
    "test": None,
}


def card(**changes: Any) -> str:
    config = changes.pop("config", CONFIG)
    said = {"license": "apache-2.0", "data_license": "Ours.", "datasets": ("org/kitchens",)}
    details = CardDetails(**{**said, "record": RECORD, "picture": "validation.png", **changes})
    return ModelCard("org/kitchen-depth", config, 123_456, details).text()


def metadata(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_metadata_says_what_the_hub_asks_for() -> None:
    said = metadata(card())
    assert said["pipeline_tag"] == "depth-estimation"
    assert said["library_name"] == "spaceclip_plugin"
    assert said["base_model"] == "org/clip-vit"
    assert said["license"] == "apache-2.0"
    assert said["datasets"] == ["org/kitchens"]
    [result] = said["model-index"][0]["results"]
    assert result["task"]["type"] == "depth-estimation"
    assert result["dataset"] == {"name": "kitchen_val.txt", "type": "kitchen-val-txt", "split": "validation"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"abs_rel": 0.1235, "rmse": 0.456, "delta1": 0.8}
    for metric in result["metrics"]:
        assert "nyu-eigen" in metric["name"]
        assert "no flip" in metric["name"]


def test_huggingface_hub_reads_it() -> None:
    data = HubCard(card()).data
    assert data.eval_results is not None
    assert {result.metric_type: result.metric_value for result in data.eval_results}["abs_rel"] == 0.1235


def test_the_text_tells_the_record() -> None:
    text = card()
    assert "| kitchen_val.txt (validation) | 10 | 0.1235 | 0.4560 | 12.5000 | 0.8000 | 0.9000 | 0.9500 |" in text
    assert "The best epoch was chosen on the validation images" in text
    assert "50 %: 51.0 %, 90 %: 88.0 %" in text
    assert "7 epochs of batches of 4" in text
    assert "feed" * 16 in text
    assert "3, 6 (0.50, 1.00 of its depth)" in text
    assert "0.1 to 12 m" in text
    assert "`hf:org/clip-vit` at `abc123`" in text
    assert "Weights: apache-2.0. Training data: Ours." in text
    assert "](depth.png)" in text


def test_figures_of_a_test_list_are_told_too() -> None:
    text = card(record={**RECORD, "test": {**METRICS, "abs_rel": 0.2}, "test_images": 33})
    assert "| test images (test) | 33 | 0.2000 |" in text
    assert [result["dataset"]["split"] for result in metadata(text)["model-index"][0]["results"]] == [
        "validation",
        "test",
    ]


def test_what_is_not_known_is_said_and_not_filled_in() -> None:
    config = dataclasses.replace(CONFIG, base_model=None)
    text = ModelCard("org/kitchen-depth", config, 123_456, CardDetails()).text()
    assert "nothing is known here of their accuracy" in text
    assert "the publisher stated no licence" in text
    assert "More Information Needed" not in text
    assert "depth.png" not in text
    assert metadata(text).keys() == {"library_name", "pipeline_tag", "tags"}


def test_a_head_with_random_weights_says_so_first() -> None:
    text = card(record=None, config=dataclasses.replace(CONFIG, trained_on=None))
    assert "**Not trained: its weights are random and its depth means nothing.**" in text.split("## ")[0]


def test_a_timm_name_is_no_base_model_on_the_hub() -> None:
    assert "base_model" not in metadata(card(config=dataclasses.replace(CONFIG, base_model="timm:vit_base")))


def test_the_code_in_it_compiles_and_names_the_repository() -> None:
    [code] = re.findall("```python\n(.*?)```", card(), flags=re.DOTALL)
    compile(code, "card", "exec")
    assert 'attach_depth_head(host, "org/kitchen-depth")' in code
    assert "uncertainty_m" in code
    options = dataclasses.replace(CONFIG.options, uncertainty=False)
    assert "uncertainty_m" not in card(config=dataclasses.replace(CONFIG, options=options))


def test_text_of_others_does_not_break_out() -> None:
    text = card(config=dataclasses.replace(CONFIG, base_model="a`b|c<script>", trained_on="x | `y`"))
    assert "a'b\\|c&lt;script>" in text
    assert "<script>" not in text


@pytest.mark.parametrize(
    "terms", [{"license": ""}, {"license": "two\nlines"}, {"data_license": 3}, {"datasets": ("",)}]
)
def test_terms_are_lines_of_text(terms: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(terms))):
        CardDetails(**terms)


class TestPush:
    @pytest.fixture
    def pushed(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """What would go to the Hub; `test_repository.py` pushes to a real server."""
        found: dict[str, Any] = {}

        def push(repo: str, files: dict[str, Path], options: PushOptions, *, check: object) -> str:
            held = {name: path.read_bytes() for name, path in files.items()}
            found.update(repo=repo, files=held, **dataclasses.asdict(options))
            return f"https://hub/{repo}/commit/1"

        monkeypatch.setattr("spaceclip_plugin.head.depth_head.push_files", push)
        return found

    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        head = DepthHead(CONFIG)
        head.save_pretrained(tmp_path / "run" / "head")
        record = {**RECORD, "head_digest": module_digest(head)}
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
        (tmp_path / "run" / "validation.png").write_bytes(b"a picture")
        return tmp_path / "run"

    def test_a_finished_run(self, run: Path, pushed: dict[str, Any]) -> None:
        command = ["push", str(run), "org/kitchen-depth", "--private", "--license", "mit", "--dataset", "org/kitchens"]
        assert main([*command, "--create-pr", "--commit-message", "Hello"]) == 0
        files = pushed.pop("files")
        assert sorted(files) == ["README.md", "config.json", "depth.png", "model.safetensors"]
        assert files["depth.png"] == b"a picture"
        for name in ("config.json", "model.safetensors"):
            assert files[name] == (run / "head" / name).read_bytes()
        text = files["README.md"].decode()
        assert "0.1235" in text
        assert metadata(text)["license"] == "mit"
        assert pushed == {
            "repo": "org/kitchen-depth",
            "private": True,
            "create_pr": True,
            "commit_message": "Hello",
            "revision": None,
            "token": None,
        }

    def test_a_head_alone(self, run: Path, pushed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["push", str(run / "head"), "org/kitchen-depth", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "repo": "org/kitchen-depth",
            "address": "https://hub/org/kitchen-depth/commit/1",
            "record": False,
        }
        assert sorted(pushed["files"]) == ["README.md", "config.json", "model.safetensors"]
        assert pushed["private"] is None
        assert "nothing is known here of their accuracy" in pushed["files"]["README.md"].decode()

    @pytest.mark.parametrize("repo", ["kitchen", "a/b/c", "../x", "org/na me", ""])
    def test_an_id_that_is_none(self, run: Path, pushed: dict[str, Any], repo: str) -> None:
        with pytest.raises(ConfigError, match="'org/name'"):
            DepthHead.from_pretrained(run / "head").push_to_hub(repo)
        assert not pushed

    def test_the_record_of_another_head(self, run: Path, pushed: dict[str, Any]) -> None:
        record = json.loads((run / "run.json").read_text())
        with pytest.raises(ConfigError, match="the record is not that of this head"):
            DepthHead(CONFIG).push_to_hub("org/kitchen-depth", card=CardDetails(record=record))
        assert not pushed

    def test_a_run_that_is_not_finished(self, run: Path, pushed: dict[str, Any], tmp_path: Path) -> None:
        from spaceclip_plugin.training.run.folder import FinishedRun

        (run / "run.json").write_text(json.dumps({**RECORD, "finished": False}))
        with pytest.raises(TrainingError, match="is not finished"):
            FinishedRun.open(run)
        with pytest.raises(TrainingError, match="there is no run in"):
            FinishedRun.open(tmp_path)
        assert main(["push", str(run), "org/kitchen-depth"]) == 1
        assert not pushed

    def test_a_damaged_head_is_not_published(self, run: Path, pushed: dict[str, Any]) -> None:
        path = run / "head" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
        assert main(["push", str(run), "org/kitchen-depth"]) == 1
        assert not pushed

    def test_a_picture_that_is_not_there(self, run: Path, pushed: dict[str, Any]) -> None:
        assert main(["push", str(run), "org/kitchen-depth", "--picture", "absent.png"]) == 1
        assert not pushed


class TestVerify:
    def test_a_whole_head(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = DepthHead(CONFIG).save_pretrained(tmp_path)
        assert main(["verify", str(folder)]) == 0
        text = capsys.readouterr().out
        assert "towers of 6 blocks and width 8" in text
        assert "hf:org/clip-vit at abc123" in text
        assert "hidden states 3, 6 (0.50, 1.00 of the depth)" in text
        assert "kitchen.txt (70 images)" in text
        assert re.search("sha256 +[0-9a-f]{64} holds", text)
        assert main(["verify", str(folder), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["sha256"] in text
        assert said["bytes"]["config.json"] == (folder / "config.json").stat().st_size
        assert DepthHeadConfig.from_dict(said["config"]) == CONFIG

    def test_a_head_that_is_not_whole(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = DepthHead(CONFIG).save_pretrained(tmp_path) / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
        assert main(["verify", str(tmp_path)]) == 1
        said = capsys.readouterr()
        assert not said.out
        assert "is damaged or was changed" in said.err

    def test_a_folder_has_no_revisions(self, tmp_path: Path) -> None:
        folder = DepthHead(CONFIG).save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match="is for repositories of the Hub"):
            DepthHead.from_pretrained(folder, revision="main")
        with pytest.raises(CheckpointError, match="no head at"):
            DepthHead.from_pretrained("not/an/id")
