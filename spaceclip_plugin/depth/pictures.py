"""Pictures of depth for people: one depth map, and panels of photo, truth, prediction and error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.depth.arrays import DepthArrays
from spaceclip_plugin.depth.colours import DEPTH_TABLE, ERROR_TABLE, Colours, Floats, Mask, depth_range, paint
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.photo import ImageLike, is_of_camera, photo_pixels
from spaceclip_plugin.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont


_INK = (32, 32, 36)
_RULE = (150, 150, 155)
_PAPER = (255, 255, 255)


@dataclass(frozen=True, eq=False)
class PanelRow:
    """One image of a panel. The maps show the whole image, at any resolution.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        prediction_m: (h, w) metres.
        truth_m: (h', w') metres, 0 where unknown; None where there is no truth.
        valid: (h, w) bool, where the prediction counts; None: everywhere.

    Raises:
        ConfigError: a shape or dtype is not as above.
    """

    image: Colours
    prediction_m: Floats
    truth_m: Floats | None = None
    valid: Mask | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[-1] != 3 or self.image.dtype != np.uint8 or self.image.size == 0:
            raise ConfigError(f"a panel's image is (H, W, 3) uint8, got {self.image.dtype} of shape {self.image.shape}")
        for name, values in (("prediction_m", self.prediction_m), ("truth_m", self.truth_m)):
            if values is not None and (values.ndim != 2 or values.size == 0 or not np.isfinite(values).all()):
                raise ConfigError(f"a panel's {name} is a finite (h, w) map in metres, got shape {values.shape}")
        if self.valid is not None and (self.valid.shape != self.prediction_m.shape or self.valid.dtype != np.bool_):
            raise ConfigError(
                f"a panel's valid is bool of the prediction's shape {self.prediction_m.shape}, got {self.valid.dtype} "
                f"of shape {self.valid.shape}"
            )


def depth_panel(
    rows: Sequence[PanelRow],
    *,
    depth_range_m: tuple[float, float] | None = None,
    max_error: float = 0.3,
    tile_width_px: int = 320,
    show_error: bool = True,
    notes: Sequence[str] = (),
) -> Colours:
    """A picture of one or more predictions: photo, ground truth, prediction, relative error, and their scales.

    Truth and prediction of a row share one colour range. The error is |d - g| / g; its mean over the pixels where both
    are valid (AbsRel) stands on the tile. Rows without truth leave its place empty; without any truth there is no such
    column.

    Args:
        rows: top to bottom, at least one.
        depth_range_m: (near, far) for every row; None: for each row from its truth, or else from its prediction.
        max_error: relative error of the darkest colour.
        tile_width_px: width of a tile; text and spacing grow with it, the height follows each photo.
        show_error: whether there is a column of the error.
        notes: a line of text under the rows; the middle of the first note is left out where there is no room.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ConfigError: no rows, or a setting out of its range.
    """
    if not rows:
        raise ConfigError("a panel needs at least one PanelRow, got none")
    if not 0 < max_error < math.inf:
        raise ConfigError(f"max_error must be positive and finite, got {max_error}")
    pen = _Pen(_checked_width(tile_width_px))
    return pen.page([_cells(row, depth_range_m, max_error if show_error else None, pen) for row in rows], footer=notes)


def depth_picture(
    depth_map: DepthMap,
    image: ImageLike | None = None,
    *,
    depth_range_m: tuple[float, float] | None = None,
    tile_width_px: int = 480,
) -> Colours:
    """A picture of one depth map: the photo, if there is one, the depth in colour, and a scale in metres.

    Under it stand the camera's name, how many host steps ago it saw this where that is not now, and that the head is
    untrained where it is. Pixels without depth are dark grey.

    Args:
        depth_map: of one image.
        image: (H', W', 3) uint8 RGB of the same image, at any resolution; it gives the picture its proportions. The
            camera's, where the depth map has a mapping, has the depth over the camera's image beside it.
        depth_range_m: (near, far) at the ends of the scale; None: what shows this depth well. Give it where pictures
            are to be compared.
        tile_width_px: width of the photo and of the depth; text and spacing grow with it.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ConfigError: the map holds more than one image, or an argument is not as above.
    """
    from PIL import Image

    pen = _Pen(_checked_width(tile_width_px))
    if image is not None and is_of_camera(photo_pixels(image).shape[:2], depth_map.mapping):
        depth_map = depth_map.in_camera()  # side by side with the camera's photo, depth lies where the photo shows it
    shown = DepthArrays.of(depth_map, image=image)
    limits = depth_range(shown.depth_m, shown.valid, depth_range_m)
    rows, columns = depth_map.image_hw if shown.photo is None else shown.photo.shape[:2]
    size = (pen.tile, max(1, round(pen.tile * rows / columns)))
    depth = Image.fromarray(paint(DEPTH_TABLE, *_resample(shown.depth_m, shown.valid, size), limits))
    notes = [shown.camera]
    notes += [] if depth_map.age == 0 else [f"{depth_map.age} step{'' if depth_map.age == 1 else 's'} old"]
    notes += [] if depth_map.trained else ["untrained head"]
    notes += [] if shown.valid.any() else ["no depth"]
    cells = {"Depth": depth, "m": pen.scale(DEPTH_TABLE, limits, size[1])}
    if shown.photo is not None:
        cells["Photo"] = Image.fromarray(shown.photo).resize(size, Image.Resampling.LANCZOS)
    return pen.page([cells], footer=notes)


def _checked_width(tile_width_px: int) -> int:
    if not 64 <= tile_width_px <= 4096:
        raise ConfigError(f"tile_width_px must be in 64..4096, got {tile_width_px}")
    return tile_width_px


def _cells(
    row: PanelRow, depth_range_m: tuple[float, float] | None, max_error: float | None, pen: _Pen
) -> dict[str, Image.Image]:
    """The cells of one row by column title, all of one height."""
    from PIL import Image

    size = (pen.tile, max(1, round(pen.tile * row.image.shape[0] / row.image.shape[1])))
    valid = np.ones(row.prediction_m.shape, bool) if row.valid is None else row.valid
    prediction = (row.prediction_m, valid)
    truth = None if row.truth_m is None else (row.truth_m, row.truth_m > 0)
    near_far = depth_range(*(truth or prediction), depth_range_m)

    def tile(table: Colours, values: Floats, mask: Mask, limits: tuple[float, float]) -> Image.Image:
        return Image.fromarray(paint(table, *_resample(values, mask, size), limits))

    photo = Image.fromarray(row.image).resize(size, Image.Resampling.LANCZOS)
    cells = {"Photo": photo, "Prediction": tile(DEPTH_TABLE, *prediction, near_far)}
    cells["m"] = pen.scale(DEPTH_TABLE, near_far, size[1])
    if truth is not None:
        cells["Ground truth"] = tile(DEPTH_TABLE, *truth, near_far)
    if truth is not None and max_error is not None:
        error, counted = _relative_error(prediction, truth)
        cells["Relative error"] = tile(ERROR_TABLE, error, counted, (0.0, max_error))
        cells["%"] = pen.scale(ERROR_TABLE, (0.0, 100 * max_error), size[1], open_ended=True)
        if counted.any():
            pen.caption(cells["Relative error"], f"mean {100 * float(error[counted].mean()):.1f} %")
    return cells


def _relative_error(prediction: tuple[Floats, Mask], truth: tuple[Floats, Mask]) -> tuple[Floats, Mask]:
    """|d - g| / g at the truth's resolution, and where both are valid."""
    truth_m, known = truth
    height, width = truth_m.shape
    prediction_m, covered = _resample(*prediction, (width, height))
    counted = known & covered
    return np.where(counted, np.abs(prediction_m - truth_m) / np.where(known, truth_m, 1.0), 0.0), counted


def _resample(values: Floats, valid: Mask, size: tuple[int, int]) -> tuple[Floats, Mask]:
    """A map at another size (width, height): means of valid pixels, so that invalid ones do not bleed into the rest."""
    from PIL import Image

    def resize(plane: Floats | Mask) -> npt.NDArray[np.float32]:
        image = Image.fromarray(plane.astype(np.float32))
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR))

    weight, total = resize(valid), resize(np.where(valid, values, 0.0))
    # Enlarged, a pixel keeps its border; made smaller, a sparse truth keeps every point.
    kept = weight > (0.5 if size[0] > values.shape[1] else 0.01)
    return np.where(kept, total / np.maximum(weight, 0.01), 0.0), kept


class _Pen:
    """Draws the parts of a panel; every length is in proportion to the width of a tile."""

    columns = ("Photo", "Ground truth", "Prediction", "Depth", "m", "Relative error", "%")

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self.em = max(9, round(tile / 18))
        self.gap = max(4, round(tile / 36))
        self.font = _font(self.em)

    def page(self, rows: Sequence[dict[str, Image.Image]], *, footer: Sequence[str] = ()) -> Colours:
        """The rows under their titles and above a line of notes, (height, width, 3) uint8."""
        from PIL import Image, ImageDraw

        titles = [title for title in self.columns if any(title in row for row in rows)]
        widths = {title: max(row[title].width for row in rows if title in row) for title in titles}
        heights = [max(cell.height for cell in row.values()) for row in rows]
        margin, title_height = 2 * self.gap, round(1.6 * self.em)
        width = 2 * margin + sum(widths.values()) + self.gap * (len(widths) - 1)
        footer_height = title_height if footer else 0
        height = 2 * margin + title_height + sum(heights) + self.gap * (len(rows) - 1) + footer_height
        page = Image.new("RGB", (width, height), _PAPER)
        draw = ImageDraw.Draw(page)
        left = margin
        for title, column_width in widths.items():
            self._text(draw, (left, margin + self.em // 2), title)
            top = margin + title_height
            for row, row_height in zip(rows, heights, strict=True):
                if title in row:
                    page.paste(row[title], (left, top))
                top += row_height + self.gap
            left += column_width + self.gap
        if footer:
            self._text(draw, (margin, height - margin - self.em // 2), self._fitted(footer, width - 2 * margin))
        return np.array(page, dtype=np.uint8)

    def scale(
        self, table: Colours, limits: tuple[float, float], height: int, *, open_ended: bool = False
    ) -> Image.Image:
        """An upright colour bar with ticks; with `open_ended` the last colour stands for more, too."""
        from PIL import Image, ImageDraw

        low, high = limits
        ticks, decimals = _ticks(low, high, intervals=min(5, max(2, 2 * height // (3 * self.em))))
        more = ["+" if open_ended and tick > 0.999 * high else "" for tick in ticks]
        labels = [f"{tick:.{decimals}f}{plus}" for tick, plus in zip(ticks, more, strict=True)]
        bar = round(0.8 * self.em)
        indent = bar + round(0.45 * self.em)
        width = indent + math.ceil(max(self.font.getbbox(label)[2] for label in [*labels, "0.0"]))
        cell = Image.new("RGB", (width, height), _PAPER)
        place = np.linspace(255, 0, height).round().astype(np.intp)
        cell.paste(Image.fromarray(np.repeat(table[place][:, None], bar, axis=1)), (0, 0))
        draw = ImageDraw.Draw(cell)
        draw.rectangle((0, 0, bar - 1, height - 1), outline=_RULE)
        for tick, label in zip(ticks, labels, strict=True):
            y = round((height - 1) * (high - tick) / (high - low))
            draw.line((bar, y, bar + self.em // 4, y), fill=_INK, width=max(1, self.em // 16))
            inside = min(max(y, self.em // 2), height - 1 - self.em // 2)
            self._text(draw, (indent, inside), label)
        return cell

    def caption(self, tile: Image.Image, text: str) -> None:
        """A line of text on the lower left corner of a tile."""
        from PIL import ImageDraw

        draw = ImageDraw.Draw(tile)
        width = self.font.getbbox(text)[2]
        top = tile.height - round(1.6 * self.em)
        draw.rectangle((0, top, round(width + 0.8 * self.em), tile.height), fill=_PAPER)
        self._text(draw, (round(0.4 * self.em), top + round(0.8 * self.em)), text)

    def _fitted(self, notes: Sequence[str], width: int) -> str:
        """Notes in one line; the middle of the first, a name, is left out where there is no room: names end apart."""
        name, *others = notes
        shown, kept = name, len(name)
        while kept > 0 and self.font.getbbox(", ".join([shown, *others]))[2] > width:
            kept -= 1
            shown = f"{name[: kept // 2]}...{name[len(name) - (kept - kept // 2) :]}"
        return ", ".join([shown, *others])

    def _text(self, draw: ImageDraw.ImageDraw, left_middle: tuple[int, int], text: str) -> None:
        """Text whose digits are centred on a height; by hand, since the bitmap font of old pillows knows no anchors."""
        _, top, _, bottom = self.font.getbbox("0")
        draw.text((left_middle[0], left_middle[1] - (top + bottom) / 2), text, fill=_INK, font=self.font)


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size_px)
    except (TypeError, ImportError):  # pillow before 10.1, or built without FreeType: one small bitmap font
        return ImageFont.load_default()


def _ticks(low: float, high: float, *, intervals: int) -> tuple[list[float], int]:
    """Round numbers from low to high, at most `intervals` steps, and the decimals that tell them apart."""
    rough = (high - low) / intervals
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)], max(0, -math.floor(math.log10(step) + 1e-9))
