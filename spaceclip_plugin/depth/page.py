"""Parts of a picture on paper: titled columns of tiles, colour scales, captions and notes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spaceclip_plugin._checks import integer
from spaceclip_plugin.depth.colours import Colours

_INK = (32, 32, 36)
_RULE = (150, 150, 155)
_PAPER = (255, 255, 255)


class Pen:
    """Draws the parts of a panel; every length is in proportion to the width of a tile."""

    columns = ("Photo", "Ground truth", "Prediction", "Depth", "m", "Relative error", "%")

    def __init__(self, tile: int) -> None:
        self.tile = integer("tile_width_px", tile, 64, 4096)
        self.em = max(9, round(self.tile / 18))
        self.gap = max(4, round(self.tile / 36))
        self.font: ImageFont.FreeTypeFont | ImageFont.ImageFont
        try:
            self.font = ImageFont.load_default(self.em)
        except (TypeError, ImportError):  # pillow before 10.1, or built without FreeType: one small bitmap font
            self.font = ImageFont.load_default()

    def tile_size(self, image_hw: tuple[int, ...]) -> tuple[int, int]:
        """(width, height) of a tile that shows an image of that size."""
        return self.tile, max(1, round(self.tile * image_hw[0] / image_hw[1]))

    def page(self, rows: Sequence[dict[str, Image.Image]], *, footer: Sequence[str] = ()) -> Colours:
        """The rows under their titles and above a line of notes, (height, width, 3) uint8."""
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
        low, high = limits
        ticks, decimals = round_ticks(low, high, intervals=min(5, max(2, 2 * height // (3 * self.em))))
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


def round_ticks(low: float, high: float, *, intervals: int) -> tuple[list[float], int]:
    """Round numbers from low to high, at most `intervals` steps, and the decimals that tell them apart."""
    rough = (high - low) / intervals
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)], max(0, -math.floor(math.log10(step) + 1e-9))
