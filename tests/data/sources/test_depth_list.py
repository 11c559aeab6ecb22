from __future__ import annotations

import logging
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaceclip_plugin.data.sample import DepthSample, DepthSource
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.errors import ConfigError, DataError

HEIGHT, WIDTH = 6, 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good pairs, 0 to 2, whose pixels tell them apart."""
    for kind in ("rgb", "depth"):
        (tmp_path / kind).mkdir()
    for index in range(3):
        save_pair(tmp_path, index, np.full((HEIGHT, WIDTH), 1000 * (index + 1), dtype=np.uint16))
    return tmp_path


def save_pair(folder: Path, index: int, depth: np.ndarray) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 * index, dtype=np.uint8)).save(folder / f"rgb/{index}.png")
    Image.fromarray(depth).save(folder / f"depth/{index}.png")


def write(folder: Path, text: str, name: str = "list.txt") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def lines(*indices: int) -> str:
    return "".join(f"rgb/{i}.png depth/{i}.png 518.8579\n" for i in indices)


def test_reads_the_pairs_in_order(folder: Path) -> None:
    source: DepthSource = DepthList(write(folder, lines(2, 0, 1)))
    assert len(source) == 3
    assert [float(source[i].depth_m[0, 0]) for i in range(3)] == [3.0, 1.0, 2.0]
    sample = source[0]
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert (sample.image == 20).all()
    assert sample.name == "list.txt:1 rgb/2.png"
    assert source[-1].name == "list.txt:3 rgb/1.png"
    assert len(list(source)) == 3  # IndexError ends the iteration
    with pytest.raises(IndexError):
        source[3]


def test_focal_gives_centred_square_pixels_and_may_be_absent(folder: Path) -> None:
    source = DepthList(write(folder, "rgb/0.png depth/0.png 518.8579\nrgb/1.png depth/1.png\n"))
    camera = source[0].intrinsics
    assert camera is not None
    assert (camera.fx_px, camera.fy_px) == (518.8579, 518.8579)
    assert (camera.cx_px, camera.cy_px, camera.image_hw) == (WIDTH / 2, HEIGHT / 2, (HEIGHT, WIDTH))
    assert source[1].intrinsics is None


def test_blank_lines_comments_tabs_crlf_and_bom_are_no_trouble(folder: Path) -> None:
    text = (
        "\ufeff# NYU\r\n\r\n  rgb/0.png\tdepth/0.png   518.8  # the first\r\n   \r\n# end\r\nrgb/1.png depth/1.png\r\n"
    )
    (folder / "list.txt").write_bytes(text.encode())
    source = DepthList(folder / "list.txt")
    assert [source[i].name for i in range(len(source))] == ["list.txt:3 rgb/0.png", "list.txt:6 rgb/1.png"]
    assert source.skipped == ()


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_line_ends_where_files_say_it_does_and_nowhere_else(folder: Path, character: str) -> None:
    name = f"rgb/kitchen{character}1.png"
    (folder / "rgb/0.png").rename(folder / name)
    source = DepthList(write(folder, f'"{name}" depth/0.png\r\nrgb/1.png depth/1.png\rrgb/2.png depth/2.png'))
    assert [int(sample.image[0, 0, 0]) for sample in source] == [0, 10, 20]


def test_root_and_units(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("lists"), lines(0))
    with pytest.raises(DataError, match=r"list.txt:1: no such file .*folder given as root"):
        DepthList(path)
    assert DepthList(path, root=folder, units_per_metre=256)[0].depth_m[0, 0] == np.float32(1000 / 256)
    for units in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="units_per_metre"):
            DepthList(path, root=folder, units_per_metre=units)


def test_a_leading_slash_is_relative_unless_that_file_exists(folder: Path) -> None:
    text = f"/rgb/0.png /depth/0.png\n{folder}/rgb/1.png {folder}/depth/1.png\n"
    source = DepthList(write(folder, text))
    assert [float(source[i].depth_m[0, 0]) for i in range(2)] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("rgb/0.png", "expected `rgb depth .focal.`, got 1 words"),
        ("rgb/0.png depth/0.png 518.8 7", "got 4 words"),
        ("rgb/0.png None 721.5377", "rgb/0.png has no ground truth"),
        ("rgb/9.png depth/0.png", r"no such file .*rgb/9\.png"),
        ("rgb/0.png depth/9.png", r"no such file .*depth/9\.png"),
        ("rgb depth/0.png", "no such file .*rgb;"),
        (f"{'x' * 5000} depth/0.png", "no such file"),
        ("rgb/0.png depth/0.png 0", "positive focal length .* got '0'"),
        ("rgb/0.png depth/0.png -5", "positive focal length"),
        ("rgb/0.png depth/0.png nan", "positive focal length"),
        ("rgb/0.png depth/0.png inf", "positive focal length"),
        ("rgb/0.png depth/0.png wide", "positive focal length .* got 'wide'"),
    ],
)
def test_a_bad_line_is_named_or_dropped_and_recorded(
    folder: Path, caplog: pytest.LogCaptureFixture, line: str, reason: str
) -> None:
    path = write(folder, f"{lines(1)}# a comment\n{line}\n{lines(2)}")
    with pytest.raises(DataError, match=rf"1 of 3 lines cannot be used(.|\n)*list\.txt:3: .*{reason}"):
        DepthList(path)
    with caplog.at_level(logging.WARNING):
        source = DepthList(path, skip_bad=True)
    assert [source[i].name for i in range(len(source))] == ["list.txt:1 rgb/1.png", "list.txt:4 rgb/2.png"]
    ((number, said),) = source.skipped
    assert number == 3
    assert said.startswith("list.txt:3: ")
    assert "1 of 3 lines cannot be used and are skipped" in caplog.text


def test_many_bad_lines_are_counted_and_the_first_shown(folder: Path) -> None:
    path = write(folder, lines(0, *range(10, 20)))
    with pytest.raises(DataError, match="10 of 11 lines") as caught:
        DepthList(path)
    assert "list.txt:6" in str(caught.value)
    assert "list.txt:7" not in str(caught.value)
    assert "and 5 more" in str(caught.value)


def test_lists_without_a_usable_line_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="no usable one"):
        DepthList(write(folder, "# nothing\n\n"))
    with pytest.raises(DataError, match=r"no usable one(.|\n)*list\.txt:1: no such file"):
        DepthList(write(folder, lines(7)), skip_bad=True)


def test_lists_that_cannot_be_read_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.txt: expected a text file"):
        DepthList(folder / "absent.txt")
    with pytest.raises(DataError, match="rgb: expected a text file"):
        DepthList(folder / "rgb")
    with pytest.raises(DataError, match=r"0\.png: expected a text file"):
        DepthList(folder / "rgb" / "0.png")


def spoil(folder: Path) -> dict[int, str]:
    """Pairs 3 to 6 exist but cannot be used: index → what the message must say."""
    good = np.full((HEIGHT, WIDTH), 1000, dtype=np.uint16)
    save_pair(folder, 3, np.zeros_like(good))
    save_pair(folder, 4, good[:-1])
    save_pair(folder, 5, good.astype(np.uint8))
    save_pair(folder, 6, good)
    broken = folder / "rgb/6.png"
    broken.write_bytes(broken.read_bytes()[:40])
    return {
        3: r"depth/3\.png has no pixel of known depth",
        4: r"depth/4\.png is 5x8 \(HxW\) but .*rgb/4\.png is 6x8",
        5: r"depth/5\.png: expected a 16-bit",
        6: r"rgb/6\.png: .*cannot be decoded",
    }


def test_bad_content_is_found_on_reading(folder: Path) -> None:
    reasons = spoil(folder)
    source = DepthList(write(folder, lines(*range(7))))  # the files exist, so construction is content
    assert len(source) == 7
    for index, reason in reasons.items():
        with pytest.raises(DataError, match=rf"list\.txt:{index + 1}: .*{reason}"):
            source[index]


def test_lines_are_skipped_by_their_number_in_the_file(folder: Path) -> None:
    reasons = spoil(folder)
    source = DepthList(write(folder, "# head\n" + lines(*range(7))), skip_bad=True).validated()
    assert [line - 2 for line, _ in source.skipped] == list(reasons)


def test_validated_refuses_without_skip_bad(folder: Path) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=r"4 of 7 lines cannot be used(.|\n)*list\.txt:4(.|\n)*list\.txt:7"):
        DepthList(write(folder, lines(*range(7)))).validated()
    good = DepthList(write(folder, lines(0, 1, 2))).validated()
    assert (len(good), good.skipped) == (3, ())


def test_validated_drops_and_records(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    reasons = spoil(folder)
    source = DepthList(write(folder, lines(9, *range(7))), skip_bad=True)
    with caplog.at_level(logging.WARNING):
        readable = source.validated()
    assert [readable[i].name for i in range(len(readable))] == [f"list.txt:{i + 2} rgb/{i}.png" for i in range(3)]
    assert [line for line, _ in readable.skipped] == [1, *(i + 2 for i in reasons)]
    assert "4 of 7 lines cannot be used and are skipped" in caplog.text
    assert (len(source), len(source.skipped)) == (7, 1)  # the list it came from is as it was


def test_what_is_whole_but_of_no_use_is_dropped_too(folder: Path) -> None:
    def near(sample: DepthSample) -> None:
        if sample.depth_m.max() > 2.5:
            raise DataError(f"{sample.name}: too far")

    source = DepthList(write(folder, lines(2, 0, 1)), skip_bad=True)
    assert len(source.validated(near)) == 2
    assert source.validated(near).skipped == ((1, "list.txt:1 rgb/2.png: too far"),)
    with pytest.raises(DataError, match=r"1 of 3 lines cannot be used(.|\n)*too far"):
        DepthList(source.path).validated(near)


def test_nothing_readable_is_an_error_even_with_skip_bad(folder: Path) -> None:
    spoil(folder)
    with pytest.raises(DataError, match="no usable one"):
        DepthList(write(folder, lines(3, 4)), skip_bad=True).validated()


def test_goes_to_loader_processes(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(DepthList(write(folder, lines(0, 1)))))
    assert source[1].depth_m[0, 0] == 2.0


@pytest.mark.real
@pytest.mark.parametrize(("name", "count"), [("train_695.txt", 695), ("val_100.txt", 100)])
def test_real_nyu_lists(real_data: Path, name: str, count: int) -> None:
    source = DepthList(real_data / "nyu" / name)
    assert (len(source), source.skipped) == (count, ())
    for index in (0, count // 2, count - 1):
        sample = source[index]
        assert sample.image.shape == (480, 640, 3)
        assert 0.4 < sample.depth_m.min() < np.median(sample.depth_m) < sample.depth_m.max() <= 10.0
        assert sample.intrinsics is not None
        assert sample.intrinsics.fx_px == 518.8579


@pytest.mark.real
def test_real_kitti_pairs(real_data: Path, tmp_path: Path) -> None:
    names = ("0000000005.png", "0000000050.png", "0000000100.png")
    path = write(tmp_path, "".join(f"rgb/{n} depth/{n} 721.5377\n" for n in names))
    source = DepthList(path, root=real_data / "kitti", units_per_metre=256.0).validated()
    assert len(source) == 3
    for index in range(3):
        depth_m = source[index].depth_m
        assert depth_m.shape == (375, 1242)
        assert 4 < depth_m[depth_m > 0].min() < 10
        assert 60 < depth_m.max() < 90
