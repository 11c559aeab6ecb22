"""How a frame looked, on a small grid: all that is kept of its image to find its surfaces again in the next one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.steady.grid import cell_means, grid_of

_TOKENS = 16  # of a look along the longer side, at most: matching takes the fourth power of it
_CHANNELS = 192  # of a look, at most: more of them match no better


@dataclass(frozen=True, eq=False)
class Look:
    """How the images of one image call looked, on small grids.

    Attributes:
        grey: (B, h, w) float32, mean of the colours as the tower took them, on `grid_of` the image's size.
        tokens: (B, C, r, c) float32, hidden states of the image's patches without their mean, of length 1.

    Example:
        >>> look = Look.of(torch.randn(2, 3, 224, 224), torch.randn(2, 768, 14, 14))
        >>> look.grey.shape, look.tokens.shape
        (torch.Size([2, 56, 56]), torch.Size([2, 192, 14, 14]))
    """

    grey: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, pixels: Tensor, hidden: Tensor) -> Look:
        """The look of images, copied off what the host may write over.

        Args:
            pixels: (B, 3, H, W) images as the tower took them.
            hidden: (B, C, r, c) hidden states of their patches, best from the middle of the tower.

        Raises:
            ConfigError: they are not of the same images.
        """
        if pixels.ndim != 4 or hidden.ndim != 4 or len(pixels) != len(hidden):
            raise ConfigError(
                f"a look is of images (B, 3, H, W) and their hidden states (B, C, h, w), got {tuple(pixels.shape)} and "
                f"{tuple(hidden.shape)}"
            )
        grid_hw = grid_of((pixels.shape[2], pixels.shape[3]))
        cells = cell_means(pixels.detach().flatten(0, 1).float(), grid_hw)
        grey = cells.reshape(*pixels.shape[:2], *grid_hw).mean(dim=1)
        tokens = hidden.detach()[:, :: -(-hidden.shape[1] // _CHANNELS)].float()
        if (longer := max(hidden.shape[2:])) > _TOKENS:
            rows, columns = (max(1, round(side * _TOKENS / longer)) for side in hidden.shape[2:])
            tokens = adaptive_avg_pool2d(tokens, (rows, columns))
        return cls(grey, normalize(tokens - tokens.mean(dim=(2, 3), keepdim=True), dim=1))

    def __getitem__(self, index: int) -> Look:
        """The look of one image, as a batch of one."""
        return Look(self.grey[index : index + 1], self.tokens[index : index + 1])

    @property
    def grid_hw(self) -> tuple[int, int]:
        """(h, w) of the grid of cells."""
        return self.grey.shape[1], self.grey.shape[2]
