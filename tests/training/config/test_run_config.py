"""The settings of a run as a file: every field checked and named, nothing run, and back again exactly."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.data.sources.spec import SourceSpec
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation.protocols import PROTOCOLS, get_protocol
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.config.run_config import HeadChoice, RunConfig, WeightedSource
from spaceclip_plugin.training.config.strict_yaml import parse_mapping
from spaceclip_worlds.render.tabletop import SceneData

SMALL = "host: timm:x\ndata: [{source: list, path: a.txt}]\nvalidation: [{source: scenes, count: 3}]\n"


def read(text: str, **options: Any) -> RunConfig:
    return RunConfig.from_mapping(parse_mapping(text, where="run.yaml"), where="run.yaml", **options)


def refused(text: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as info:
        read(text, **options)
    return str(info.value)


class TestReading:
    def test_what_is_left_out_takes_the_default(self) -> None:
        config = read(SMALL)
        assert config == RunConfig(
            host="timm:x",
            data=(WeightedSource(ListData("a.txt")),),
            validation=(WeightedSource(SceneData(3)),),
        )
        assert (config.recipe, config.head, config.protocol) == (Recipe(), HeadChoice("tap-mixer", {}), "nyu-eigen")
        assert config.missing == ()

    def test_every_setting(self) -> None:
        text = """
            host: hf:some/model
            host_weights: /w/host.safetensors
            image_hw: [192, 256]
            image_mean: [0.5, 0.25, 1]
            image_std: [1e-1, 2, 0.5]
            preparation: letterbox:centre:128
            tower: vision.tower
            adapter: clip
            device: cuda:1
            protocol: whole-image
            depth_range_m: [0.1, 2]
            data:
              - {source: list, path: a.txt, root: photos, units_per_metre: 1e3, weight: 3}
              - {source: folder, path: b, depth: teacher, weight: 0.5}
            validation: [{source: lerobot, path: someone/robot, camera: wrist, stride: 5}]
            test: [{source: scenes, count: 7, seed: 1}]
            skip_bad: true
            focal_length: [0.81, 1.08]
            head: {architecture: tap-mixer, options: {attention: 0, taps: [2, 4], uncertainty: false}}
            recipe: {epochs: 3, learning_rate: 1e-4, views: 1, cache: none, target_side: null, loss: relative}
            workers: 4
            save_every: 100
            cache: /c/features
            log_with: tensorboard
            select_on_test: true
        """
        assert read(text) == RunConfig(
            host="hf:some/model",
            host_weights=Path("/w/host.safetensors"),
            image_hw=(192, 256),
            image_mean=(0.5, 0.25, 1.0),
            image_std=(0.1, 2.0, 0.5),
            preparation="letterbox:centre:128",
            tower="vision.tower",
            adapter="clip",
            device="cuda:1",
            protocol="whole-image",
            depth_range_m=(0.1, 2.0),
            data=(
                WeightedSource(ListData("a.txt", "photos", 1000.0), 3),
                WeightedSource(FolderData("b", depth="teacher"), 0.5),
            ),
            validation=(WeightedSource(LeRobotData("someone/robot", "wrist", 5)),),
            test=(WeightedSource(SceneData(7, 1)),),
            skip_bad=True,
            focal_length=(0.81, 1.08),
            head=HeadChoice("tap-mixer", {"attention": 0, "taps": [2, 4], "uncertainty": False}),
            recipe=Recipe(epochs=3, learning_rate=1e-4, views=1, cache="none", target_side=None),
            workers=4,
            save_every=100,
            cache=Path("/c/features"),
            log_with="tensorboard",
            select_on_test=True,
        )

    def test_the_depth_range_is_the_protocols_or_ones_own(self) -> None:
        assert read(SMALL).evaluation is get_protocol("nyu-eigen")
        mine = read(SMALL + "protocol: whole-image\ndepth_range_m: [0.25, 4]").evaluation
        assert mine == get_protocol("whole-image").with_range(0.25, 4.0)
        assert (mine.min_depth_m, mine.max_depth_m) == (0.25, 4.0)

    def test_what_is_missing(self) -> None:
        assert RunConfig().missing == ("host", "data", "validation")
        assert read("host: timm:x\nvalidation: [{source: scenes, count: 1}]").missing == ("data",)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("hots: x", "run.yaml: unknown key 'hots' (did you mean 'host'?)"),
            ("recipe: {epoch: 3}", "run.yaml: recipe: unknown key 'epoch' (did you mean 'epochs'?)"),
            ("head: {option: {}}", "run.yaml: head: unknown key 'option' (did you mean 'options'?)"),
            (
                "head: {options: {atention: 0}}",
                "run.yaml: head: options of 'tap-mixer': unknown key 'atention' (did you mean 'attention'?)",
            ),
            (
                "head: {architecture: tapmixer}",
                "run.yaml: head: architecture must be one of space-clip, tap-mixer, got 'tapmixer' (did you mean",
            ),
            ("data: [{source: lists, path: x}]", "run.yaml: data[0]: unknown source 'lists' (did you mean 'list'?)"),
            (
                "data: [{source: scenes, count: 1}, {source: list, path: x, rot: y}]",
                "run.yaml: data[1]: source 'list': unknown key 'rot' (did you mean 'root'?)",
            ),
            (
                "test: [{source: scenes, count: 1, wieght: 1}]",
                "run.yaml: test[0]: source 'scenes': unknown key 'wieght'",
            ),
            ("validation: [{path: x}]", "run.yaml: validation[0]: data needs a key 'source'"),
        ],
    )
    def test_unknown_keys_at_every_level(self, text: str, message: str) -> None:
        assert refused(text).startswith(message)

    @pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(RunConfig)])
    @pytest.mark.parametrize("value", [".nan", "-.inf", "-1", "7.5", "[[1]]", "{a: 1}", '"\\e[31m"', '""'])
    def test_values_that_cannot_be_are_refused_by_the_name_of_the_field(self, field: str, value: str) -> None:
        if (field, value) == ("tower", '""'):  # the host itself
            assert read(f"tower: {value}").tower == ""
            return
        if (field, value) == ("units_per_metre", "7.5"):
            assert read(f"units_per_metre: {value}").units_per_metre == 7.5
            return
        assert re.match(rf"run\.yaml: {field}\b", refused(f"{field}: {value}"))

    @pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
    @pytest.mark.parametrize("value", [".nan", ".inf", "-1", "[1]", "{a: 1}", "no", "'1e-4'", "true"])
    def test_fields_of_the_recipe(self, field: str, value: str) -> None:
        assert re.match(rf"run\.yaml: recipe: {field}\b", refused(f"recipe: {{{field}: {value}}}"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("skip_bad: no", "run.yaml: skip_bad must be true or false, got 'no'"),
            ("select_on_test: 1", "run.yaml: select_on_test must be true or false, got 1"),
            ("protocol: nyu", "run.yaml: protocol must be one of"),
            ("log_with: tensorbord", "(did you mean 'tensorboard'?)"),
            ("image_hw: [192]", "run.yaml: image_hw must be a list of 2 values"),
            ("image_hw: [192, 0]", "run.yaml: image_hw[1] must be an integer from 1"),
            ("depth_range_m: [2, 0.1]", "run.yaml: depth_range_m must rise, got [2, 0.1]"),
            ("depth_range_m: [0, 1]", "run.yaml: depth_range_m[0] must be a number from"),
            ("units_per_metre: 0", "run.yaml: units_per_metre must be a number from 0.001"),
            ("units_per_metre: '1000'", "run.yaml: units_per_metre must be a number from 0.001"),
            ("focal_length: [518.8, 518.8]", "run.yaml: focal_length[0] must be a number from"),
            ("focal_length: 0.8", "run.yaml: focal_length must be a list of 2 values"),
            ("depth_range_m: [1]", "run.yaml: depth_range_m must be a list of 2 values"),
            ("workers: 2.0", "run.yaml: workers must be an integer"),
            ("save_every: 0", "run.yaml: save_every must be an integer from 1"),
            ("data: train.txt", "run.yaml: data must be a list of sources (- source: list), got 'train.txt'"),
            ("data: [train.txt]", "run.yaml: data[0] must be settings as `name: value`, got 'train.txt'"),
            ("data: null", "run.yaml: data must be a list"),
            ("recipe:", "run.yaml: recipe must be settings as `name: value`, got None; or leave it out"),
            ("recipe: published", "run.yaml: recipe must be settings"),
            ("head: tap-mixer", "run.yaml: head must be settings"),
            ("head: {options: [1]}", "run.yaml: head: options must be settings"),
            ("head: {options: {attention: 99}}", "run.yaml: head: attention must be an integer from 0 to 16"),
            ("data: [{source: scenes, count: 1, weight: 0}]", "run.yaml: data[0]: weight must be a number from"),
            ("data: [{source: scenes, count: 1, weight: .inf}]", "run.yaml: data[0]: weight must be a number from"),
            (
                "data: [{source: scenes, count: 1, weight: 1}, {source: scenes, count: 2}]",
                "run.yaml: data: some sources have a weight and others none",
            ),
            ("validation: [{source: scenes, count: 1, weight: 1}]", "run.yaml: validation takes no weight"),
            ("test: [{source: scenes, count: 1, weight: 1}]", "run.yaml: test takes no weight"),
            ("a: &a [x]\nb: *a", "run.yaml: line 1: anchors and aliases"),
            ("host: !!python/name:os.system x", "run.yaml: line 1: tags"),
        ],
    )
    def test_each_says_what_is_wrong(self, text: str, message: str) -> None:
        assert message in refused(text)

    def test_objects_of_another_type(self) -> None:
        for field, value in (("cache", 7), ("data", [1]), ("head", "x"), ("recipe", None), ("host_weights", 3)):
            with pytest.raises(ConfigError, match=rf"^{field}\b.* must be"):
                RunConfig(**{field: value})
        with pytest.raises(ConfigError, match=r"folder, lerobot, list, .*scenes.*, got 'a\.txt'"):
            WeightedSource("a.txt")  # type: ignore[arg-type]


class TestCode:
    """A file may be from anyone; a host "python:…" runs a function."""

    @pytest.mark.parametrize("host", ["python:os:getcwd", "'python:os:getcwd'", '"\\x70ython:os:getcwd"'])
    def test_a_file_cannot_ask_for_it(self, host: str) -> None:
        message = refused(f"host: {host}")
        assert message.startswith("run.yaml: host 'python:os:getcwd' would run a function, and a file may not ask")
        assert "--host python:MODULE:FUNCTION" in message

    def test_the_users_own_word_goes_before_it(self) -> None:
        assert read("host: python:evil:run", host="python:mine:build").host == "python:mine:build"
        assert read("host: timm:x", host="hf:y").host == "hf:y"
        assert read("workers: 1", host="hf:y").host == "hf:y"


class TestPaths:
    TEXT = """
        host_weights: w.safetensors
        cache: ../features
        data: [{source: list, path: lists/a.txt, root: photos}, {source: folder, path: /abs/b}]
        validation: [{source: scenes, count: 2}]
        test: [{source: folder, path: .}]
    """

    def test_relative_ones_start_from_the_files_folder(self, tmp_path: Path) -> None:
        (tmp_path / "run.yaml").write_text(self.TEXT)
        config = RunConfig.from_file(tmp_path / "run.yaml")
        assert config.host_weights == tmp_path / "w.safetensors"
        assert config.cache == tmp_path.parent / "features"
        assert config.data[0].source == ListData(str(tmp_path / "lists/a.txt"), str(tmp_path / "photos"))
        assert config.data[1].source == FolderData("/abs/b")
        assert config.test[0].source == FolderData(str(tmp_path))

    @pytest.mark.parametrize(
        ("named", "meant"),
        [
            ("hf:./teacher", "hf:{}/teacher"),
            ("hf:../teacher", "hf:{}/teacher"),
            ("hf:lab/there", "hf:{}/lab/there"),
            ("hf:lab/elsewhere", "hf:lab/elsewhere"),
            ("hf:/abs/teacher", "hf:/abs/teacher"),
            ("mine:lab/there", "mine:lab/there"),
        ],
    )
    def test_a_teacher_in_a_folder_starts_there_too(self, tmp_path: Path, named: str, meant: str) -> None:
        (tmp_path / "lab" / "there").mkdir(parents=True)
        (tmp_path / "run.yaml").write_text(f"teacher: {named}\n")
        start = tmp_path.parent if ".." in named else tmp_path
        assert RunConfig.from_file(tmp_path / "run.yaml").teacher == meant.format(start)

    def test_a_relative_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "run.yaml").write_text(self.TEXT)
        monkeypatch.chdir(tmp_path)
        assert RunConfig.from_file("run.yaml") == RunConfig.from_file(tmp_path / "run.yaml")

    def test_a_text_leaves_them_as_they_are(self) -> None:
        assert read(self.TEXT).cache == Path("../features")
        assert read(self.TEXT).data[0].source == ListData("lists/a.txt", "photos")

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot read .*run\.yaml"):
            RunConfig.from_file(tmp_path / "run.yaml")


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(str.strip)
PATHS = NAMES.map(lambda name: "/" + name.replace("/", "-").strip(". ") + "x")
NUMBERS = st.floats(1e-3, 1e3, allow_nan=False)
SPECS: st.SearchStrategy[SourceSpec] = st.one_of(
    st.builds(ListData, PATHS, st.none() | PATHS, st.none() | NUMBERS),
    st.builds(FolderData, PATHS, NAMES, NAMES, st.none() | NUMBERS),
    st.builds(LeRobotData, PATHS, st.none() | NAMES, st.integers(1, 99), st.none() | st.just("0-3,7")),
    st.builds(SceneData, st.integers(1, 99), st.integers(0, 99)),
)


def parts(weights: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[WeightedSource, ...]]:
    return st.lists(st.builds(WeightedSource, SPECS, weights), max_size=3).map(tuple)


CONFIGS = st.builds(
    RunConfig,
    host=st.none() | NAMES,
    host_weights=st.none() | st.just("random") | PATHS.map(Path),
    image_hw=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
    tower=st.none() | st.just("") | NAMES,
    adapter=st.none() | NAMES,
    device=st.none() | NAMES,
    protocol=st.sampled_from(sorted(PROTOCOLS)),
    depth_range_m=st.none() | st.tuples(NUMBERS, NUMBERS).filter(lambda pair: pair[0] < pair[1]),
    data=parts(st.none()) | parts(NUMBERS),
    validation=parts(st.none()),
    test=parts(st.none()),
    skip_bad=st.booleans(),
    focal_length=st.none() | st.tuples(st.floats(0.05, 50), st.floats(0.05, 50)),
    head=st.builds(
        HeadChoice,
        st.just("tap-mixer"),
        st.fixed_dictionaries(
            {}, optional={"attention": st.integers(0, 16), "taps": st.just([1, 2, 5]), "dropout": st.floats(0, 0.9)}
        ),
        st.just("standard"),
    ),
    recipe=st.builds(
        Recipe,
        batch_size=st.integers(1, 99),
        learning_rate=st.floats(1e-9, 10),
        warmup=st.floats(0, 1) | st.integers(0, 1),
        target_side=st.none() | st.integers(1, 999),
        cache=st.sampled_from(["fp16", "int8", "none"]),
        augmentation=st.sampled_from(["recommended", "published-kitti"]),
    ),
    workers=st.integers(0, 99),
    save_every=st.none() | st.integers(1, 10**9),
    cache=st.none() | PATHS.map(Path),
    log_with=st.sampled_from([None, "wandb"]),
    select_on_test=st.booleans(),
)


class TestWriting:
    @settings(max_examples=60, deadline=None)
    @given(CONFIGS)
    def test_the_text_gives_the_same_config(self, config: RunConfig) -> None:
        assert read(config.to_yaml(), host=config.host) == config.resolved(Path.cwd())

    def test_every_setting_is_spelled_out(self) -> None:
        lines = RunConfig().to_yaml().splitlines()
        assert lines[0].startswith("# Settings of a run of `spaceclip train`")
        assert "--resume" in lines[1]
        names = [field.name for field in dataclasses.fields(RunConfig)]
        assert [line.partition(":")[0] for line in lines if line[0] not in " #-"] == names
        inner = [line.strip().partition(":")[0] for line in lines if line.startswith("  ")]
        assert inner == ["architecture", "options", "preset", *(field.name for field in dataclasses.fields(Recipe))]
        assert "  final_learning_rate: 1.0e-06" in lines

    def test_paths_are_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        config = RunConfig(data=(WeightedSource(ListData("a.txt", "b")),), cache=Path("c"))
        again = read(config.to_yaml())
        assert again.data[0].source == ListData(str(tmp_path / "a.txt"), str(tmp_path / "b"))
        assert again.cache == tmp_path / "c"

    def test_options_are_checked_beside_their_preset_s(self) -> None:
        assert HeadChoice("tap-mixer", {"convolutions": [0, 0]}, "fine").preset == "fine"
        assert HeadChoice("tap-mixer", {"attention": 1}).options == {"attention": 1}
        with pytest.raises(ConfigError, match="attention"):
            HeadChoice("tap-mixer", {"attention": 1}, "fine")

    def test_tuples_of_a_head_are_lists(self) -> None:
        head = HeadChoice("tap-mixer", {"taps": (1, 2)})
        assert head == HeadChoice("tap-mixer", {"taps": [1, 2]})
        assert json.dumps(head.options) == '{"taps": [1, 2]}'
        assert read(RunConfig(head=head).to_yaml()).head == head

    def test_random_weights_and_a_file_of_that_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("host_weights: random\n")
        (tmp_path / "b.yaml").write_text("host_weights: ./random\n")
        assert RunConfig.from_file(tmp_path / "a.yaml").host_weights == "random"
        assert RunConfig.from_file(tmp_path / "b.yaml").host_weights == tmp_path / "random"
        assert RunConfig(host_weights="w.safetensors").host_weights == Path("w.safetensors")

    def test_statistics_are_a_pair(self) -> None:
        statistics = RunConfig(image_mean=(0, 0.5, 1), image_std=(1, 1, 2)).statistics
        assert statistics is not None
        assert (statistics.mean, statistics.std) == ((0.0, 0.5, 1.0), (1.0, 1.0, 2.0))
        assert RunConfig().statistics is None
        assert "image_mean is given without image_std" in refused(SMALL + "image_mean: [0, 0, 0]\n")
        assert "image_std is given without image_mean" in refused(SMALL + "image_std: [1, 1, 1]\n")
        assert "positive" in refused(SMALL + "image_mean: [0, 0, 0]\nimage_std: [1, 0, 1]\n")
        assert "image_mean" in refused(SMALL + "image_mean: [0, 0]\nimage_std: [1, 1, 1]\n")

    def test_a_name_that_no_file_can_hold(self) -> None:
        with pytest.raises(ConfigError, match="path of a list"):
            RunConfig(data=(WeightedSource(ListData("a\udce9.txt")),))
        with pytest.raises(ConfigError, match="cache must be one line of Unicode text"):
            RunConfig(cache=Path("a\udce9"))
