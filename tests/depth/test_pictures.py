from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from spaceclip_plugin.depth import PanelRow, colours, depth_panel, depth_picture, page, write_png
from spaceclip_plugin.depth.colours import colorize_depth
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.errors import ConfigError

GREY = (48, 48, 48)


def luminance(colours: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB colours (IEC 61966-2-1)."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def ramp(low: float, high: float, shape: tuple[int, int] = (30, 40)) -> np.ndarray:
    return np.broadcast_to(np.linspace(low, high, shape[1], dtype=np.float32), shape).copy()


def photo(height: int = 30, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), 120, dtype=np.uint8)


def depth_map(depth_m: np.ndarray, *, invalid: int = 0, **changed: Any) -> DepthMap:
    """A depth map whose first `invalid` columns are not valid."""
    depth = torch.from_numpy(depth_m)[None]
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[:, :, :invalid] = False
    settings = {"camera": None, "frame": 0, "image_hw": depth_m.shape, "trained": True, **changed}
    return DepthMap(depth, valid, **settings)


Cells = dict[str, np.ndarray]


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Cells:
    """The tiles of the picture that a test makes, by their titles, once it is made."""
    caught: Cells = {}
    put = page.Pen.page

    def spied(pen: Any, rows: Any, **options: Any) -> np.ndarray:
        caught.update({title: np.asarray(cell) for title, cell in rows[0].items()})
        return put(pen, rows, **options)

    monkeypatch.setattr(page.Pen, "page", spied)
    return caught


class TestColorizeDepth:
    def test_near_is_warm_far_is_cool(self) -> None:
        picture = colorize_depth(ramp(1, 5), np.ones((30, 40), bool))
        assert picture.dtype == np.uint8
        assert picture.shape == (30, 40, 3)
        near, far = picture[0, 0].astype(int), picture[0, -1].astype(int)
        assert near[0] > near[2] + 50
        assert far[2] > far[0] + 50

    @pytest.mark.parametrize("table", [colours.DEPTH_TABLE, colours.ERROR_TABLE])
    def test_lightness_falls_evenly_so_order_survives_grey_print(self, table: np.ndarray) -> None:
        lightness = np.cbrt(luminance(table))
        assert table.shape == (256, 3)
        assert (np.diff(lightness) < 0.002).all()
        assert np.diff(lightness[::16]).max() < -0.01
        assert lightness[0] - lightness[-1] > 0.6

    def test_no_depth_looks_invalid(self) -> None:
        distance = np.abs(colours.DEPTH_TABLE.astype(int) - GREY).max(axis=1)
        assert distance.min() > 40

    def test_invalid_is_grey_whatever_the_number(self) -> None:
        depth = ramp(1, 5)
        valid = np.ones(depth.shape, bool)
        valid[:, :10] = False
        depth[:, :5] = np.nan
        picture = colorize_depth(depth, valid)
        assert (picture[:, :10] == GREY).all()
        assert (picture[:, 10:] != GREY).any(axis=-1).all()

    def test_outliers_do_not_wash_out_the_rest(self) -> None:
        depth = ramp(1, 5, (100, 100))
        valid = np.ones(depth.shape, bool)
        plain = colorize_depth(depth, valid)
        depth[0, :20] = 1000.0
        assert np.abs(colorize_depth(depth, valid)[1:].astype(int) - plain[1:]).max() < 8

    def test_a_given_range_clips_at_its_ends(self) -> None:
        depth = np.array([0.5, 1.0, 1.5, 2.0, 9.0])
        picture = colorize_depth(depth, np.ones(5, bool), depth_range_m=(1.0, 2.0))
        assert (picture[0] == picture[1]).all()
        assert (picture[3] == picture[4]).all()
        assert (picture[1] == colours.DEPTH_TABLE[0]).all()
        assert (picture[3] == colours.DEPTH_TABLE[255]).all()

    @pytest.mark.parametrize("depth", [np.zeros((2, 3)), np.full((2, 3), 4.0), np.full((2, 3), 4e4)])
    def test_one_depth_only_is_still_a_picture(self, depth: np.ndarray) -> None:
        picture = colorize_depth(depth, np.ones((2, 3), bool))
        assert (picture == picture[0, 0]).all()

    def test_nothing_valid_is_still_a_picture(self) -> None:
        assert (colorize_depth(np.ones((2, 3)), np.zeros((2, 3), bool)) == GREY).all()

    @pytest.mark.parametrize("bad", [(2.0, 1.0), (1.0, 1.0), (-1.0, 2.0), (0.0, np.inf), (np.nan, 1.0)])
    def test_a_range_that_cannot_be(self, bad: tuple[float, float]) -> None:
        with pytest.raises(ConfigError, match="near < far"):
            colorize_depth(np.ones((2, 3)), np.ones((2, 3), bool), depth_range_m=bad)

    def test_a_mask_of_another_shape(self) -> None:
        with pytest.raises(ConfigError, match=r"\(2, 3\) needs a mask"):
            colorize_depth(np.ones((2, 3)), np.ones((3, 2), bool))


class TestWritePng:
    @pytest.mark.parametrize(
        "array",
        [
            np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3),
            np.arange(6, dtype=np.uint8).reshape(2, 3),
            np.array([[0, 1, 65535], [256, 1000, 4660]], dtype=np.uint16),
            np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::-1],
        ],
        ids=["rgb", "grey", "grey16", "strided"],
    )
    def test_round_trip(self, tmp_path: Path, array: np.ndarray) -> None:
        write_png(tmp_path / "new" / "a.png", array)
        with Image.open(tmp_path / "new" / "a.png") as image:
            assert image.format == "PNG"
            np.testing.assert_array_equal(np.asarray(image), array)

    def test_the_format_is_png_whatever_the_suffix(self, tmp_path: Path) -> None:
        write_png(tmp_path / "a.preview", photo())
        with Image.open(tmp_path / "a.preview") as image:
            assert image.format == "PNG"

    @pytest.mark.parametrize(
        "array",
        [np.zeros((2, 3)), np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 3), np.uint16), np.zeros((0, 3), np.uint8)],
    )
    def test_other_arrays_are_refused(self, tmp_path: Path, array: np.ndarray) -> None:
        with pytest.raises(ConfigError, match="as PNG"):
            write_png(tmp_path / "a.png", array)
        assert list(tmp_path.iterdir()) == []

    def test_a_failure_in_the_middle_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def save_half(image: Image.Image, path: Path, **_: object) -> None:
            path.write_bytes(b"\x89PNG")
            raise OSError("no space left on device")

        monkeypatch.setattr(Image.Image, "save", save_half)
        with pytest.raises(OSError, match="no space"):
            write_png(tmp_path / "a.png", photo())
        assert list(tmp_path.iterdir()) == []


class TestPanelRow:
    @pytest.mark.parametrize(
        "changed",
        [
            {"image": np.zeros((4, 4), np.uint8)},
            {"image": np.zeros((4, 4, 3))},
            {"prediction_m": np.ones((1, 4, 4))},
            {"prediction_m": np.full((4, 4), np.nan)},
            {"truth_m": np.ones(4)},
            {"truth_m": np.full((4, 4), np.inf)},
            {"valid": np.ones((5, 4), bool)},
            {"valid": np.ones((4, 4))},
        ],
        ids=lambda changed: next(iter(changed)),
    )
    def test_what_is_not_a_row(self, changed: dict[str, np.ndarray]) -> None:
        with pytest.raises(ConfigError, match=next(iter(changed))):
            PanelRow(**{"image": np.zeros((4, 4, 3), np.uint8), "prediction_m": np.ones((4, 4)), **changed})


class TestDepthPanel:
    def test_truth_adds_its_columns(self) -> None:
        without = depth_panel([PanelRow(photo(), ramp(1, 5))])
        with_truth = depth_panel([PanelRow(photo(), ramp(1, 5), ramp(1, 5))])
        assert with_truth.dtype == np.uint8
        assert with_truth.shape[0] == without.shape[0]
        assert with_truth.shape[1] > without.shape[1] + 2 * 320

    def test_rows_stack_and_keep_their_shape(self) -> None:
        row = PanelRow(photo(30, 40), ramp(1, 5))
        tall = PanelRow(photo(80, 40), ramp(1, 5))
        one, two = depth_panel([row]), depth_panel([row, tall])
        assert two.shape[1] == one.shape[1]
        assert two.shape[0] == one.shape[0] + 640 + 9

    def test_everything_grows_with_the_tile(self) -> None:
        row = PanelRow(photo(), ramp(1, 5), ramp(1, 5))
        small, large = depth_panel([row], tile_width_px=180), depth_panel([row], tile_width_px=720)
        assert large.shape[0] / small.shape[0] == pytest.approx(4, abs=0.1)
        assert large.shape[1] / small.shape[1] == pytest.approx(
            4, abs=0.3
        )  # pillow before 10.1: the letters stay small

    def test_a_perfect_prediction_shows_as_its_truth(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cells = self.cells(PanelRow(photo(), ramp(1, 5), ramp(1, 5)), monkeypatch)
        np.testing.assert_array_equal(cells["Ground truth"], cells["Prediction"])
        error = cells["Relative error"][:100]  # above the caption
        assert (error == colours.ERROR_TABLE[0]).all()

    def test_truth_and_prediction_share_a_colour_range(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cells = self.cells(PanelRow(photo(), np.full((7, 7), 5.0), ramp(1, 5)), monkeypatch)
        assert (cells["Prediction"] == colours.DEPTH_TABLE[255]).all()

    def test_the_mean_error_is_absrel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        captions: list[str] = []
        monkeypatch.setattr(page.Pen, "caption", lambda pen, tile, text: captions.append(text))
        truth = ramp(1, 5)
        truth[:10] = 0  # unknown: not counted
        valid = np.ones(truth.shape, bool)
        valid[:, :20] = False  # nor this
        prediction = np.where(valid, 1.25 * ramp(1, 5), 77)
        depth_panel([PanelRow(photo(), prediction, truth, valid), PanelRow(photo(), prediction, 0 * truth)])
        assert captions == ["mean 25.0 %"]  # the second row has no truth to be wrong about

    def test_invalid_pixels_do_not_bleed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        truth = np.where(np.arange(640) % 2 == 0, 3.0, 0.0) * np.ones((480, 1))  # every other column unknown
        cells = self.cells(PanelRow(photo(480, 640), np.full((480, 640), 3.0), truth), monkeypatch)
        assert (cells["Ground truth"] == cells["Ground truth"][0, 0]).all()
        assert (cells["Ground truth"][0, 0] != GREY).any()

    def test_it_draws_with_the_bitmap_font_of_old_pillows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bitmap = getattr(ImageFont, "load_default_imagefont", ImageFont.load_default)()

        def load_default(*size: float) -> ImageFont.ImageFont:
            if size:
                raise TypeError("load_default() takes 0 positional arguments but 1 was given")
            return bitmap

        monkeypatch.setattr(ImageFont, "load_default", load_default)
        panel = depth_panel([PanelRow(photo(), ramp(1, 5), ramp(2, 4))])
        assert (panel[:40] != 255).any()  # the titles

    def test_mixed_rows_leave_a_gap(self) -> None:
        known, unknown = PanelRow(photo(), ramp(1, 5), ramp(1, 5)), PanelRow(photo(), ramp(1, 5))
        both = depth_panel([known, unknown])
        assert both.shape[1] == depth_panel([known]).shape[1]
        assert (both[-100:-30, 360:640] == 255).all()

    @pytest.mark.parametrize("bad", [{"max_error": 0.0}, {"max_error": np.nan}, {"tile_width_px": 8}])
    def test_settings_that_cannot_be(self, bad: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match=f"{next(iter(bad))} must be"):
            depth_panel([PanelRow(photo(), ramp(1, 5))], **bad)

    def test_without_the_error_and_with_notes(self, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
        row, texts = PanelRow(photo(), ramp(1, 5), ramp(1, 5)), []
        plain = depth_panel([row], show_error=False)
        assert set(cells) == {"Photo", "Ground truth", "Prediction", "m"}
        monkeypatch.setattr(page.Pen, "_text", lambda pen, draw, place, text: texts.append(text))
        noted = depth_panel([row], show_error=False, notes=["seed 3", "2.0 s"])
        assert texts[-1] == "seed 3, 2.0 s"
        assert noted.shape[0] == plain.shape[0] + 29  # 1.6 em

    def test_no_rows(self) -> None:
        with pytest.raises(ConfigError, match="at least one PanelRow"):
            depth_panel([])

    @staticmethod
    def cells(row: PanelRow, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
        """The tiles of a panel of one row, caught where they are put on the page."""
        caught: list[dict[str, Image.Image]] = []
        put = page.Pen.page
        monkeypatch.setattr(page.Pen, "page", lambda pen, rows, **more: caught.extend(rows) or put(pen, rows, **more))
        depth_panel([row])
        return {title: np.asarray(cell) for title, cell in caught[0].items()}


class TestDepthPicture:
    def test_depth_in_colour_beside_its_scale(self, cells: Cells) -> None:
        depth = depth_map(ramp(1, 5))
        picture = depth_picture(depth, tile_width_px=320, depth_range_m=(1.0, 5.0))
        assert (picture.dtype, picture.ndim) == (np.uint8, 3)
        assert list(cells) == ["Depth", "m"]
        assert cells["Depth"].shape == (240, 320, 3)
        np.testing.assert_array_equal(cells["Depth"][120, [0, -1]], colours.DEPTH_TABLE[[0, 255]])
        np.testing.assert_array_equal(cells["m"][[1, -2], 3], colours.DEPTH_TABLE[[254, 1]])  # far is up

    def test_its_own_range_is_that_of_the_valid_depth(self, cells: Cells) -> None:
        depth_picture(depth_map(np.where(np.arange(40) < 20, 900.0, ramp(1, 3)).astype(np.float32), invalid=20))
        near, far = cells["Depth"][100, 250].astype(int), cells["Depth"][100, -1].astype(int)
        assert (cells["Depth"][:, :230] == GREY).all()
        assert near[0] > near[2] + 50
        assert far[2] > far[0] + 50

    def test_the_photo_gives_the_proportions(self, cells: Cells) -> None:
        depth_picture(depth_map(ramp(1, 5, (24, 24))), photo(30, 60), tile_width_px=200)
        assert set(cells) == {"Photo", "Depth", "m"}
        assert cells["Photo"].shape == cells["Depth"].shape == (100, 200, 3)
        assert (cells["Photo"] == 120).all()

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({}, "camera"),
            ({"camera": "wrist", "age": 1}, "wrist, 1 step old"),
            ({"age": 2, "trained": False}, "camera, 2 steps old, untrained head"),
            ({"invalid": 40}, "camera, no depth"),
        ],
    )
    def test_what_stands_under_it(self, changed: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
        texts: list[str] = []
        monkeypatch.setattr(page.Pen, "_text", lambda pen, draw, place, text: texts.append(text))
        depth_picture(depth_map(ramp(1, 5), **changed))
        assert texts[-1] == said

    def test_a_long_name_keeps_its_ends_and_stays_on_the_paper(self, monkeypatch: pytest.MonkeyPatch) -> None:
        texts: list[str] = []
        monkeypatch.setattr(page.Pen, "_text", lambda pen, draw, place, text: texts.append(text))
        depth = depth_map(ramp(1, 5), camera="observation" * 30 + "left", age=7, trained=False)
        picture = depth_picture(depth, tile_width_px=320)
        assert texts[-1].startswith("obs")
        start, end = texts[-1].split(",")[0].split("...")
        assert len(end) - len(start) in (0, 1)
        assert texts[-1].endswith("ft, 7 steps old, untrained head")
        assert page.Pen(320).font.getbbox(texts[-1])[2] <= picture.shape[1] - 36

    def test_text_stands_below_the_depth_not_on_it(self) -> None:
        picture = depth_picture(depth_map(np.full((30, 40), 2.0, np.float32), camera="wrist"), tile_width_px=320)
        inked = (picture != 255).any(axis=(1, 2)).nonzero()[0]
        assert inked[-1] > picture.shape[0] - 40
        colour = picture[60:250, 100]
        assert (colour == colour[0]).all()

    def test_several_images(self) -> None:
        depth = torch.ones(2, 3, 4)
        with pytest.raises(ConfigError, match="holds 2; pick one"):
            depth_picture(DepthMap(depth, depth > 0, None, 0, (3, 4), True))

    @pytest.mark.parametrize(
        "bad", [{"image": np.zeros((4, 4))}, {"tile_width_px": 8}, {"depth_range_m": (2.0, 1.0)}], ids=str
    )
    def test_settings_that_cannot_be(self, bad: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            depth_picture(depth_map(ramp(1, 5)), **bad)


@pytest.mark.parametrize(
    ("low", "high", "intervals", "ticks", "decimals"),
    [
        (0.0, 30.0, 5, [0, 10, 20, 30], 0),
        (0.93, 3.47, 5, [1, 2, 3], 0),
        (1.0, 2.5, 5, [1, 1.5, 2, 2.5], 1),
        (1.475, 1.525, 5, [1.48, 1.49, 1.5, 1.51, 1.52], 2),
        (3.0, 78.0, 2, [50], 0),
    ],
)
def test_ticks_are_round(low: float, high: float, intervals: int, ticks: list[float], decimals: int) -> None:
    found, found_decimals = page.round_ticks(low, high, intervals=intervals)
    assert found == pytest.approx(ticks)
    assert found_decimals == decimals


@pytest.mark.real
def test_a_panel_of_a_real_photo(real_data: Path, tmp_path: Path) -> None:
    rgb = np.asarray(Image.open(real_data / "nyu" / "rgb" / "00252.jpg"))
    truth = np.asarray(Image.open(real_data / "nyu" / "depth" / "00252.png")).astype(np.float32) / 1000
    write_png(tmp_path / "panel.png", depth_panel([PanelRow(rgb, truth[::8, ::8] * 1.1, truth)]))
    with Image.open(tmp_path / "panel.png") as panel:
        assert panel.width > 1280
        assert len(panel.getcolors(maxcolors=1 << 24) or []) > 500
