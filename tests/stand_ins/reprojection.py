"""What a clip says of one moment, asked of the moment before by poses and depth alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spaceclip_worlds.clip import ClipFrame


def against_before(before: ClipFrame, after: ClipFrame, still: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(N,) depth that `before` holds over depth that it should, at pixels of `after` that are `still` and in its view.

    Its depth is read between pixels by its inverse, which is linear in the image on every plane; where four neighbours
    are not of one surface, it is not read. 1 is agreement; below that, something hid the place.
    """
    camera, (height, width) = after.intrinsics, after.depth_m.shape
    rows, columns = np.nonzero(still & np.isfinite(after.depth_m))
    depth_m = after.depth_m[rows, columns].astype(np.float64)
    x = (columns + 0.5 - camera.cx_px) / camera.fx_px * depth_m
    y = (rows + 0.5 - camera.cy_px) / camera.fy_px * depth_m
    points = np.stack([x, y, depth_m, np.ones_like(depth_m)])
    x, y, expected_m, _ = np.linalg.inv(before.camera_to_world) @ after.camera_to_world @ points
    column = x / expected_m * camera.fx_px + camera.cx_px - 0.5
    row = y / expected_m * camera.fy_px + camera.cy_px - 0.5
    inside = (expected_m > 0) & (column >= 0) & (column < width - 1) & (row >= 0) & (row < height - 1)
    row, column, expected_m = row[inside], column[inside], expected_m[inside]
    left, top = column.astype(int), row.astype(int)
    inverse = 1.0 / before.depth_m.astype(np.float64)
    corners = np.stack([inverse[top + low, left + right] for low in (0, 1) for right in (0, 1)])
    smooth = np.ptp(corners, axis=0) < 0.05 * corners.max(axis=0)
    right_share, low_share = column - left, row - top
    high, low = corners[:2], corners[2:]
    found = (1.0 - low_share) * (high[0] + right_share * (high[1] - high[0]))
    found += low_share * (low[0] + right_share * (low[1] - low[0]))
    ratio: npt.NDArray[np.float64] = 1.0 / (found * expected_m)[smooth]
    return ratio
