"""What every kind of data keeps to, and how text and mappings become one."""

from __future__ import annotations

import dataclasses
import functools
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint, PathDistribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lerobot_stand_in
import numpy as np
import pytest
from source_places import COUNT, DRAWN, NO_PLACE, PLACES, image

from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData
from spaceclip_plugin.data.sample import DepthSample, DepthSource, fingerprint, has_exact_depth, photo_of
from spaceclip_plugin.data.sources import registry
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.data.sources.registry import parse_source, source_mapping, spec_class
from spaceclip_plugin.data.sources.spec import SourceSpec
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_worlds.render.tabletop import SceneData, TabletopScenes

every_source = pytest.mark.parametrize("kind", sorted(PLACES))
every_opened_source = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in DRAWN else kind for kind in sorted(PLACES)]
)


@pytest.fixture(autouse=True)
def _stand_in_for_lerobot(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(LeRobotDataset=lerobot_stand_in.StandIn)
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", module)


def place(kind: str, base: Path) -> SourceSpec:
    return PLACES[kind](base)


@functools.cache
def why_undrawn(kind: str) -> str | None:
    """Why samples of this kind cannot be drawn here; None where they can be, or need not be."""
    if kind in DRAWN:
        with tempfile.TemporaryDirectory() as folder:
            try:
                opened(place(kind, Path(folder)), Path(folder))[0]
            except ConfigError as error:
                return str(error)
    return None


@pytest.fixture
def drawn(kind: str) -> None:
    """Skips where samples of the test's kind cannot be drawn."""
    if reason := why_undrawn(kind):
        pytest.skip(f"no samples of {kind} here: {reason}")


def opened(spec: SourceSpec, base: Path) -> DepthSource:
    return spec.resolved(base).open(units_per_metre=1000.0)


def assert_same(one: DepthSample, other: DepthSample) -> None:
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.depth_m, other.depth_m)
    assert (one.name, one.intrinsics) == (other.name, other.intrinsics)


@every_source
def test_a_mapping_comes_back(kind: str, tmp_path: Path) -> None:
    spec = place(kind, tmp_path)
    mapping = source_mapping(spec)
    assert mapping["source"] == kind
    assert list(mapping)[1:] == [field.name for field in dataclasses.fields(spec)]
    assert all(value is None or isinstance(value, (str, int, float)) for value in mapping.values())
    again = parse_source(mapping)
    assert again == spec
    assert type(again) is spec_class(kind)


@every_source
def test_a_spec_cannot_be_changed_and_refuses_unknown_keys(kind: str, tmp_path: Path) -> None:
    spec = place(kind, tmp_path)
    first = dataclasses.fields(spec)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, first, None)
    mapping = source_mapping(spec)
    with pytest.raises(ConfigError, match=rf"source '{kind}': unknown key '{first}x' \(did you mean '{first}'\?\)"):
        parse_source({**mapping, f"{first}x": 1})
    with pytest.raises(ConfigError, match=f"source '{kind}': missing key '{first}'"):
        parse_source({"source": kind})


@every_source
@pytest.mark.parametrize("value", [[], {}, True, "", "two\nlines", float("nan")])
def test_no_field_takes_anything(kind: str, value: object, tmp_path: Path) -> None:
    mapping = source_mapping(place(kind, tmp_path))
    for name in list(mapping)[1:]:
        with pytest.raises(ConfigError, match=name):
            parse_source({**mapping, name: value})


@pytest.mark.usefixtures("drawn")
@every_opened_source
def test_samples_are_well_formed(kind: str, tmp_path: Path) -> None:
    source = opened(place(kind, tmp_path), tmp_path)
    assert len(source) == COUNT
    samples = [source[index] for index in range(COUNT)]
    for sample in samples:
        height, width = sample.depth_m.shape
        assert (sample.image.shape, sample.image.dtype) == ((height, width, 3), np.uint8)
        assert sample.depth_m.dtype == np.float32
        assert sample.depth_m.min() >= 0  # which NaN is not
        assert 0.1 < sample.depth_m[np.isfinite(sample.depth_m)].max() < 10
        assert has_exact_depth(source) or np.isfinite(sample.depth_m).all()  # only who draws knows where nothing is
        assert sample.intrinsics is None or sample.intrinsics.image_hw == (height, width)
    assert len({sample.name for sample in samples}) == COUNT
    assert len({sample.image.tobytes() for sample in samples}) == COUNT


@pytest.mark.usefixtures("drawn")
@every_opened_source
def test_reading_again_gives_the_same(kind: str, tmp_path: Path) -> None:
    spec = place(kind, tmp_path)
    source, lenient = opened(spec, tmp_path), spec.resolved(tmp_path).open(units_per_metre=1000.0, skip_bad=True)
    for index in (1, 0, COUNT - 1):
        assert_same(source[index], source[index])
        assert_same(source[index], lenient[index])


@pytest.mark.usefixtures("drawn")
@every_opened_source
def test_goes_to_loader_processes(kind: str, tmp_path: Path) -> None:
    source = opened(place(kind, tmp_path), tmp_path)
    copied = pickle.loads(pickle.dumps(source))
    assert len(copied) == COUNT
    for index in range(COUNT):
        assert_same(source[index], copied[index])
        assert fingerprint(source, index) == fingerprint(copied, index)


@pytest.mark.usefixtures("drawn")
@every_opened_source
def test_fingerprints_are_stable_and_distinct(kind: str, tmp_path: Path) -> None:
    spec = place(kind, tmp_path)
    prints = [fingerprint(opened(spec, tmp_path), index) for index in range(COUNT)]
    source = opened(spec, tmp_path)
    assert prints == [fingerprint(source, index) for index in range(COUNT)]
    assert len(set(prints)) == COUNT
    assert all(len(bytes.fromhex(one)) == 64 for one in prints)
    assert len({photo_of(one) for one in prints}) == COUNT


@pytest.mark.usefixtures("drawn")
@every_opened_source
def test_the_end_is_an_index_error(kind: str, tmp_path: Path) -> None:
    source = opened(place(kind, tmp_path), tmp_path)
    assert len([sample.name for sample in source]) == COUNT  # type: ignore[attr-defined]
    with pytest.raises(IndexError):
        source[COUNT]
    with pytest.raises(IndexError):
        fingerprint(source, COUNT)


@pytest.mark.usefixtures("drawn")
@every_opened_source
def test_resolved_stays_where_it_is(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = place(kind, tmp_path)
    resolved = spec.resolved(tmp_path)
    assert resolved.resolved(tmp_path / "elsewhere") == resolved
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(resolved.open(units_per_metre=1000.0)) == COUNT
    if kind in NO_PLACE:
        assert resolved is spec
    else:
        assert str(tmp_path) in str(source_mapping(resolved)["path"])
        monkeypatch.chdir(tmp_path)
        assert spec.resolved(Path()) == resolved  # a relative base is one of the current folder


@every_source
def test_the_title_is_one_line_without_folders(kind: str, tmp_path: Path) -> None:
    spec = place(kind, tmp_path)
    title = spec.title
    assert title == spec.resolved(tmp_path).title
    assert title.strip() == title != ""
    assert "\n" not in title
    assert str(tmp_path) not in title


@every_source
@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
def test_nothing_there_is_named(kind: str, empty: bool, tmp_path: Path) -> None:
    if kind in NO_PLACE:
        pytest.skip(f"{kind} are computed: there is no place that could be empty")
    spec = place(kind, tmp_path).resolved(tmp_path)
    where = Path(str(source_mapping(spec)["path"]))
    if where.is_file():
        where.unlink()
        where.write_text("") if empty else None
    else:
        shutil.rmtree(where)
        where.mkdir() if empty else None
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=where.name):
            spec.open(units_per_metre=1000.0, skip_bad=skip_bad)


def test_every_kind_has_data_here() -> None:
    assert set(PLACES) == set(registry.source_kinds()), "add its data to tests/data/sources/source_places.py"


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("train.txt", ListData("train.txt")),
        ("list:train.txt", ListData("train.txt")),
        ("list:folder:x", ListData("folder:x")),
        ("C:\\data\\train.txt", ListData("C:\\data\\train.txt")),
        ("C:/data/train.txt", ListData("C:/data/train.txt")),
        ("list:C:\\data\\train.txt", ListData("C:\\data\\train.txt")),
        ("folder", ListData("folder")),
        ("Folder:x", ListData("Folder:x")),
        ("./folder:x", ListData("./folder:x")),
        ("folder:data/kitchen", FolderData("data/kitchen")),
        ("folder:D:\\kitchen", FolderData("D:\\kitchen")),
        ("lerobot:org/name", LeRobotData("org/name")),
        ("scenes:400", SceneData(400)),
        ("scenes:40:7", SceneData(40, seed=7)),
    ],
)
def test_text_names_data(text: str, spec: SourceSpec) -> None:
    assert parse_source(text) == spec


@pytest.mark.parametrize("text", ["", "folder:", "list:", "lerobot:", "scenes:", "scenes:many", "scenes:1:2:3"])
def test_text_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must be a string|expected COUNT or COUNT:SEED"):
        parse_source(text)


@pytest.mark.parametrize(
    "text", ["scenes:-1", "scenes:1e3", "scenes:²", "scenes:" + "9" * 5000, "scenes:0", "scenes:4 "]
)
def test_scenes_are_counted_in_plain_digits(text: str) -> None:
    with pytest.raises(ConfigError, match="scenes") as caught:
        parse_source(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"path": "x"}, r"'source', one of folder, lerobot, list, .*scenes.*; .*\['path'\]"),
        ({"source": "foldr", "path": "x"}, r"unknown source 'foldr' \(did you mean 'folder'\?\)"),
        ({"source": 3}, "unknown source 3; known are folder, lerobot, list, .*scenes"),
        ({"source": ["list"]}, r"unknown source \['list'\]"),
    ],
)
def test_mappings_of_no_kind_are_refused(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_source(mapping)


def test_a_spec_of_no_kind_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class OtherList(ListData):
        pass

    with pytest.raises(ConfigError, match="OtherList"):
        source_mapping(OtherList("train.txt"))


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Kinds of data that other packages register beside ours."""
    ours, theirs = list(registry.source_kinds().values()), list[EntryPoint]()
    monkeypatch.setattr(registry.metadata, "entry_points", lambda *, group: [*ours, *theirs])
    registry.source_kinds.cache_clear()
    yield theirs
    registry.source_kinds.cache_clear()


def test_the_registry_imports_a_kind_when_it_is_named(strangers: list[EntryPoint]) -> None:
    strangers.append(EntryPoint("scans", "no_such_package.scans:Scans", registry.GROUP))
    assert parse_source("list:x") == ListData("x")
    for named in ("scans:x", {"source": "scans", "path": "x"}):
        with pytest.raises(ConfigError, match=r"source 'scans' .*No module named 'no_such_package'; reinstall"):
            parse_source(named)


def test_a_package_that_is_missing_is_named_by_its_extra(strangers: list[EntryPoint], tmp_path: Path) -> None:
    place = tmp_path / "labs_scans-1.dist-info"
    place.mkdir()
    place.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: labs-scans\nProvides-Extra: scans\n")
    place.joinpath("entry_points.txt").write_text(f"[{registry.GROUP}]\nscans = no_such_package:Scans\n")
    strangers.extend(PathDistribution(place).entry_points)
    with pytest.raises(ConfigError, match=r'No module named .*pip install "labs-scans\[scans\]"'):
        parse_source("scans:x")


def test_two_kinds_of_one_name_are_refused(strangers: list[EntryPoint]) -> None:
    strangers.append(EntryPoint("folder", "labs_scans:Scans", registry.GROUP))
    with pytest.raises(ConfigError, match=r"'folder': spaceclip_plugin\S+ and labs_scans:Scans"):
        parse_source("train.txt")


def test_a_class_of_another_kind_is_refused(strangers: list[EntryPoint]) -> None:
    strangers.append(EntryPoint("scans", "spaceclip_plugin.data.sources.depth_list:ListData", registry.GROUP))
    with pytest.raises(ConfigError, match=r"ListData.*no spec of kind 'scans'"):
        parse_source("scans:x")


@pytest.mark.parametrize(
    ("spec", "title"),
    [
        (ListData("/home/me/nyu/train.txt"), "train.txt"),
        (FolderData("/home/me/kitchen/"), "kitchen"),
        (LeRobotData("org/name"), "org/name"),
        (LeRobotData("/home/me/org/name"), "name"),
        (SceneData(400), "scenes (400)"),
        (SceneData(400, seed=2), "scenes (400, seed 2)"),
    ],
)
def test_titles(spec: SourceSpec, title: str) -> None:
    assert spec.title == title


def test_the_title_of_the_current_folder_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kitchen").mkdir()
    monkeypatch.chdir(tmp_path / "kitchen")
    assert FolderData(".").title == "kitchen"


@pytest.mark.parametrize("kind", ["list", "folder"])
def test_a_spec_of_its_own_unit_keeps_it(kind: str, tmp_path: Path) -> None:
    spec = place(kind, tmp_path).resolved(tmp_path)
    own = parse_source({**source_mapping(spec), "units_per_metre": 500})
    given, doubled = spec.open(units_per_metre=1000.0)[0], own.open(units_per_metre=1000.0)[0]
    np.testing.assert_allclose(doubled.depth_m, 2 * given.depth_m)
    assert given.depth_m.max() > 0


def test_scenes_are_those_of_the_seed_and_size() -> None:
    spec = SceneData(5, seed=2, height_px=6, width_px=10)
    assert spec.open(units_per_metre=1000.0) == TabletopScenes(5, image_hw=(6, 10), seed=2)
    assert SceneData(5).open(units_per_metre=1000.0) == TabletopScenes(5)


def test_the_root_of_a_list_is_resolved_too(tmp_path: Path) -> None:
    place("list", tmp_path)
    (tmp_path / "kitchen" / "train.txt").rename(tmp_path / "train.txt")
    spec = ListData("train.txt", root="kitchen").resolved(tmp_path)
    assert spec == ListData(str(tmp_path / "train.txt"), root=str(tmp_path / "kitchen"))
    np.testing.assert_array_equal(spec.open(units_per_metre=1000.0)[2].image, image(2))


def test_a_link_and_its_parent_are_not_mixed_up(tmp_path: Path) -> None:
    # data -> store/real: `data/../train.txt` is store/train.txt, as for every other program.
    (tmp_path / "store" / "real").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "store" / "real")
    resolved = ListData("../train.txt").resolved(tmp_path / "data")
    assert Path(resolved.path).resolve() == (tmp_path / "store" / "train.txt").resolve()


@pytest.mark.slow
def test_sources_do_not_import_lerobot() -> None:
    code = (
        "import sys; from spaceclip_plugin.data.sources.registry import parse_source; "
        "parse_source('lerobot:org/name'); parse_source('scenes:4'); "
        "sys.exit(any(name.partition('.')[0] in ('lerobot', 'datasets', 'av') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
