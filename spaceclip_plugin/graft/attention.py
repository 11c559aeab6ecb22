"""Where the blocks of a grafted policy looked: to see, and to show, what depth was read for an action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.graft.bank import Bank
from spaceclip_plugin.graft.config import CELLS

_DARK = 0.2  # of the brightness of what nothing looked at


@dataclass(frozen=True, eq=False)
class Attention:
    """What blocks looked at in one forward of a policy: shares that add up to 1 over all cells and nothing.

    Each is the mean over blocks, heads, positions of the stream and, where a policy denoises, steps. Shares tell
    where was looked, not what that changed.

    Attributes:
        cells: by camera, (B, 8, 8) float32 shares of the cells, the first row at the top of the tower's view; cameras
            that were missing are.
        nothing: (B,) float32 share of the null token, which draws what no cell does.

    Example:
        >>> import torch
        >>> seen = Attention({"front": torch.full((1, 8, 8), 0.9 / 64)}, nothing=torch.tensor([0.1]))
        >>> round(float(seen.cells["front"].sum() + seen.nothing), 6)
        1.0
    """

    cells: Mapping[str, Tensor]
    nothing: Tensor

    @classmethod
    def of(cls, shares: Tensor, bank: Bank, cameras: tuple[str, ...]) -> Attention:
        """Of shares (B, 1 + N) of the null token and the cells of a bank."""
        seen = {}
        for index, name in enumerate(cameras):
            of_camera = bank.camera == index
            if of_camera.any():
                seen[name] = shares[:, 1:][:, of_camera].reshape(-1, CELLS, CELLS)
        return cls(seen, shares[:, 0])


def spotlit(image: npt.NDArray[np.uint8], cells: Tensor | npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """A picture that is bright where blocks looked, and dark elsewhere.

    Args:
        image: (H, W, 3) uint8 of what the tower was shown, whole.
        cells: (r, c) shares of one image, as in `Attention.cells`; the largest is as bright as the image.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ConfigError: another shape, or shares that are negative, not finite or all zero.

    Example:
        >>> photo = np.full((2, 2, 3), 100, np.uint8)
        >>> spotlit(photo, np.array([[0.5, 0.0]]))[0, :, 0].tolist()
        [100, 20]
    """
    shares = np.asarray(cells, dtype=np.float64)
    if shares.ndim != 2 or image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ConfigError(
            "expected an image (H, W, 3) uint8 and cells (r, c) of one image, such as attention.cells['front'][0]; "
            f"got {image.shape} {image.dtype} and {shares.shape}"
        )
    if not (np.isfinite(shares).all() and (shares >= 0.0).all() and shares.max(initial=0.0) > 0.0):
        raise ConfigError("cells must be shares: finite, none negative, not all zero")
    rows, columns = (np.arange(size) * count // size for size, count in zip(image.shape[:2], shares.shape, strict=True))
    bright = _DARK + (1.0 - _DARK) * shares / shares.max()
    lit: npt.NDArray[np.uint8] = np.rint(image * bright[rows[:, None], columns, None]).astype(np.uint8)
    return lit
