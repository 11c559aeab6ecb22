"""Fresh heads whose architecture, options and description are told as one set of keywords."""

from __future__ import annotations

from typing import Any

from torch import nn

from spaceclip_plugin import DepthHead
from spaceclip_plugin.towers.spec import Tower, TowerSpec


def fresh_head(
    host: nn.Module | Tower | TowerSpec,
    *,
    architecture: str | None = None,
    base_model: str | None = None,
    trained_on: str | None = None,
    **options: Any,
) -> DepthHead:
    """A head for that host, the options being those of its architecture; see `DepthHead.for_tower`."""
    return DepthHead.for_tower(
        host, architecture=architecture, options=options, base_model=base_model, trained_on=trained_on
    )
