"""Where the surfaces of a frame were in one before it: found by the tower's own tokens, then to a part of a cell.

A place is (2, h, w): the column and row, in cells of the earlier frame, of what each cell shows; the middle of the
first is at (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from spaceclip_plugin.steady.grid import (
    Cells,
    Mask,
    as_array,
    cell_centres,
    sampled,
    spread,
    window_mean,
)
from spaceclip_plugin.steady.likeness import Image

_SHARPNESS = 25.0  # of the mean over the best match's neighbours
_WINDOW = 9  # cells that move together, in the refinement
_ROUNDS = 3
_LONGEST_STEP = 1.5  # cells in a round
_CONVERGED = 0.05  # cells, that a round moves cells by on the mean: another one is not worth it
_FLAT = 1e-3  # square contrast a cell, of normalised pixels, below which nothing is refined

_BESIDE: Cells = np.array([(right, down) for down in (-1, 0, 1) for right in (-1, 0, 1)], dtype=np.float32)
"""(9, 2) steps to the right and down from a token to itself and its neighbours."""


def matched_places(new: Image, old: Image, *, small: bool = False) -> Cells:
    """Where each cell of the new image was in the old one, whatever moved: (2, h, w).

    Of a motion that is small, a cell or two, the images alone tell; where it may be larger, tokens are asked first.
    """
    centres = cell_centres(new.grid_hw)
    coarse = np.zeros_like(centres) if small else _coarse_motion(new, old)
    return centres + _refined(new.grey, old.grey, coarse)


def _coarse_motion(new: Image, old: Image) -> Cells:
    """(2, h, w) in cells, from every token to the one it looks like, together with its neighbours."""
    (rows, columns), (height, width) = new.tokens.shape[1:], new.grid_hw
    grid = _Tokens.of(rows, columns)
    of_new, of_old = (torch.from_numpy(image.tokens.reshape(len(image.tokens), -1)) for image in (new, old))
    with torch.autocast("cpu", enabled=False):  # the host's is not for this
        alike = grid.with_neighbours(as_array(of_new.T @ of_old))
    best = alike.argmax(axis=1)
    near, there = grid.neighbours[best], grid.has_neighbours[best]
    likeness = alike.ravel()[near + grid.first_of_row] * _SHARPNESS
    weights = np.exp(likeness - likeness.max(axis=1, keepdims=True)) * there
    weights /= weights.sum(axis=1, keepdims=True)
    motion = grid.places[:, best] - grid.places + (weights @ _BESIDE).T
    motion = _median_of_neighbours(motion.reshape(2, rows, columns))
    motion *= np.array([width / columns, height / rows], dtype=np.float32)[:, None, None]
    return spread(motion, (height, width))


@dataclass(frozen=True, eq=False)
class _Tokens:
    """A grid of n tokens, row by row, and which of them are neighbours.

    Attributes:
        places: (2, n) float32 column and row of each.
        neighbours: (n, 9) each and its neighbours; where there is none, the nearest that there is.
        has_neighbours: (n, 9) bool, where there is one.
        first_of_row: (n, 1) where each one's row begins in a matrix (n, n).
        columns: how many a row has.
        both_have_left: (n, n) float32, 1 where two tokens both have a neighbour to the left.
        pairs: (n, n) float32, how many pairs of neighbours on the same side two tokens have, with themselves.
    """

    places: Cells
    neighbours: npt.NDArray[np.intp]
    has_neighbours: Mask
    first_of_row: npt.NDArray[np.intp]
    columns: int
    both_have_left: Cells
    pairs: Cells

    @classmethod
    @lru_cache(maxsize=4)
    def of(cls, rows: int, columns: int) -> _Tokens:
        """That grid."""
        row, column = (axis.ravel() for axis in np.indices((rows, columns)))
        right, down = _BESIDE.T.astype(np.intp)
        beside = row[:, None] + down, column[:, None] + right
        inside = beside[0].clip(0, rows - 1), beside[1].clip(0, columns - 1)
        pairs = np.ones((rows * columns, rows * columns), dtype=np.float32)
        for axis in (row, column):
            pairs *= 1 + np.outer(axis > 0, axis > 0) + np.outer(axis < axis.max(), axis < axis.max())
        return cls(
            np.stack([column, row]).astype(np.float32),
            inside[0] * columns + inside[1],
            (inside[0] == beside[0]) & (inside[1] == beside[1]),
            np.arange(rows * columns)[:, None] * (rows * columns),
            columns,
            np.outer(column > 0, column > 0).astype(np.float32),
            pairs,
        )

    def with_neighbours(self, alike: Cells) -> Cells:
        """(n, n) likeness of tokens, with a share of that of their neighbours to the neighbours of the other."""
        total = alike.copy()
        total[self.columns :, self.columns :] += alike[: -self.columns, : -self.columns]
        total[: -self.columns, : -self.columns] += alike[self.columns :, self.columns :]
        both_to_the_left = self.both_have_left[1:, 1:]
        found: Cells = total.copy()
        found[1:, 1:] += total[:-1, :-1] * both_to_the_left
        found[:-1, :-1] += total[1:, 1:] * both_to_the_left
        found /= self.pairs
        return found


def _median_of_neighbours(motion: Cells) -> Cells:
    """Motion (2, r, c) without what a single token alone says."""
    padded = _with_border(motion)
    rows, columns = motion.shape[1:]
    nearby: Cells = np.empty((*motion.shape, len(_BESIDE)), dtype=np.float32)
    for at in range(len(_BESIDE)):
        down, right = divmod(at, 3)
        nearby[..., at] = padded[:, down : down + rows, right : right + columns]
    nearby.sort(axis=-1)
    return nearby[..., len(_BESIDE) // 2]


def _with_border(maps: Cells) -> Cells:
    """(C, h + 2, w + 2) maps whose outermost cells are repeated."""
    _, height, width = maps.shape
    padded = np.empty((len(maps), height + 2, width + 2), dtype=maps.dtype)
    padded[:, 1:-1, 1:-1] = maps
    padded[:, 0, 1:-1], padded[:, -1, 1:-1] = maps[:, 0], maps[:, -1]
    padded[:, :, 0], padded[:, :, -1] = padded[:, :, 1], padded[:, :, -2]
    return padded


def _refined(new_grey: Cells, old_grey: Cells, motion: Cells) -> Cells:
    """Motion to a part of a cell, by the image's gradient (Lucas and Kanade, 1981), windows as bright as each other."""
    padded = _with_border(new_grey)
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    slopes = np.concatenate([across, down])
    moments = window_mean(np.concatenate([across * across, across * down, down * down, new_grey]), _WINDOW)
    xx, xy, yy = moments[0] + _FLAT, moments[1], moments[2] + _FLAT
    brighter, determinant = new_grey - moments[3:], xx * yy - xy * xy
    centres = cell_centres((new_grey.shape[1], new_grey.shape[2]))
    for _ in range(_ROUNDS):
        old, inside = sampled(old_grey, centres + motion)
        off = (old - window_mean(old, _WINDOW) - brighter) * inside
        x, y = window_mean(slopes * off, _WINDOW)
        step = np.stack([xy * y - yy * x, xy * x - xx * y])
        step /= determinant
        done = float(np.abs(step).mean()) < _CONVERGED
        motion = window_mean(motion + np.minimum(np.maximum(step, -_LONGEST_STEP), _LONGEST_STEP), 3)
        if done:
            break
    return motion
