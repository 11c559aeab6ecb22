"""Pictures of depth for people: one depth map, and panels of photo, truth, prediction and error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from spaceclip_plugin.depth.arrays import DepthArrays
from spaceclip_plugin.depth.colours import DEPTH_TABLE, ERROR_TABLE, Colours, Floats, Mask, depth_range, paint
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.page import Pen
from spaceclip_plugin.depth.photo import ImageLike, is_of_camera, photo_pixels
from spaceclip_plugin.errors import ConfigError


@dataclass(frozen=True, eq=False)
class PanelRow:
    """One image of a panel. The maps show the whole image, at any resolution.

    Example:
        >>> row = PanelRow(np.full((30, 40, 3), 128, np.uint8), prediction_m=np.full((6, 8), 2.0))
        >>> depth_panel([row], tile_width_px=64).dtype
        dtype('uint8')

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

    Example:
        >>> photo, depth_m = np.full((30, 40, 3), 128, np.uint8), np.full((6, 8), 2.0)
        >>> row = PanelRow(photo, prediction_m=1.1 * depth_m, truth_m=depth_m)
        >>> depth_panel([row], tile_width_px=64).shape[-1]
        3

    Args:
        rows: top to bottom, at least one.
        depth_range_m: (near, far) for every row; None: for each row from its truth, or else from its prediction.
        max_error: relative error of the darkest colour.
        tile_width_px: width of a tile, 64 to 4096; text and spacing grow with it, the height follows each photo.
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
    pen = Pen(tile_width_px)
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

    Example:
        >>> import torch
        >>> depth_m = torch.linspace(1, 3, 48).reshape(1, 6, 8)
        >>> depth = DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(30, 40), trained=True)
        >>> depth_picture(depth, tile_width_px=64).shape[-1]
        3

    Args:
        depth_map: of one image.
        image: (H', W', 3) uint8 RGB of the same image, at any resolution; it gives the picture its proportions. The
            camera's, where the depth map has a mapping, has the depth over the camera's image beside it.
        depth_range_m: (near, far) at the ends of the scale; None: what shows this depth well. Give it where pictures
            are to be compared.
        tile_width_px: width of the photo and of the depth, 64 to 4096; text and spacing grow with it.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ConfigError: the map holds more than one image, or an argument is not as above.
    """
    pen = Pen(tile_width_px)
    if image is not None and is_of_camera(photo_pixels(image).shape[:2], depth_map.mapping):
        depth_map = depth_map.in_camera()  # side by side with the camera's photo, depth lies where the photo shows it
    arrays = DepthArrays.of(depth_map, image=image)
    limits = depth_range(arrays.depth_m, arrays.valid, depth_range_m)
    size = pen.tile_size(depth_map.image_hw if arrays.photo is None else arrays.photo.shape[:2])
    notes = [arrays.camera]
    notes += [] if depth_map.age == 0 else [f"{depth_map.age} step{'' if depth_map.age == 1 else 's'} old"]
    notes += [] if depth_map.trained else ["untrained head"]
    notes += [] if arrays.valid.any() else ["no depth"]
    cells = {} if arrays.photo is None else {"Photo": _photo(arrays.photo, size)}
    cells["Depth"] = _tile(DEPTH_TABLE, arrays.depth_m, arrays.valid, limits, size)
    cells["m"] = pen.scale(DEPTH_TABLE, limits, size[1])
    return pen.page([cells], footer=notes)


def _cells(
    row: PanelRow, depth_range_m: tuple[float, float] | None, max_error: float | None, pen: Pen
) -> dict[str, Image.Image]:
    """The cells of one row by column title, all of one height."""
    size = pen.tile_size(row.image.shape[:2])
    valid = np.ones(row.prediction_m.shape, bool) if row.valid is None else row.valid
    prediction = (row.prediction_m, valid)
    truth = None if row.truth_m is None else (row.truth_m, row.truth_m > 0)
    near_far = depth_range(*(truth or prediction), depth_range_m)
    cells = {"Photo": _photo(row.image, size), "Prediction": _tile(DEPTH_TABLE, *prediction, near_far, size)}
    cells["m"] = pen.scale(DEPTH_TABLE, near_far, size[1])
    if truth is not None:
        cells["Ground truth"] = _tile(DEPTH_TABLE, *truth, near_far, size)
    if truth is not None and max_error is not None:
        error, counted = _relative_error(prediction, truth)
        cells["Relative error"] = _tile(ERROR_TABLE, error, counted, (0.0, max_error), size)
        cells["%"] = pen.scale(ERROR_TABLE, (0.0, 100 * max_error), size[1], open_ended=True)
        if counted.any():
            pen.caption(cells["Relative error"], f"mean {100 * float(error[counted].mean()):.1f} %")
    return cells


def _photo(pixels: Colours, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)


def _tile(
    table: Colours, values: Floats, valid: Mask, limits: tuple[float, float], size: tuple[int, int]
) -> Image.Image:
    return Image.fromarray(paint(table, *_resample(values, valid, size), limits))


def _relative_error(prediction: tuple[Floats, Mask], truth: tuple[Floats, Mask]) -> tuple[Floats, Mask]:
    """|d - g| / g at the truth's resolution, and where both are valid."""
    truth_m, known = truth
    height, width = truth_m.shape
    prediction_m, covered = _resample(*prediction, (width, height))
    counted = known & covered
    return np.where(counted, np.abs(prediction_m - truth_m) / np.where(known, truth_m, 1.0), 0.0), counted


def _resample(values: Floats, valid: Mask, size: tuple[int, int]) -> tuple[Floats, Mask]:
    """A map at another size (width, height): means of valid pixels, so that invalid ones do not bleed into the rest."""

    def resize(plane: Floats | Mask) -> npt.NDArray[np.float32]:
        return np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))

    weight, total = resize(valid), resize(np.where(valid, values, 0.0))
    # Enlarged, a pixel keeps its border; made smaller, a sparse truth keeps every point.
    kept = weight > (0.5 if size[0] > values.shape[1] else 0.01)
    return np.where(kept, total / np.maximum(weight, 0.01), 0.0), kept
