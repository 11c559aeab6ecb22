"""How a hidden state is kept in a feature cache; a new way is one class and one line in `STORAGES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from spaceclip_plugin.errors import TrainingError

_LARGEST_INT8 = 127


class FeatureStorage(Protocol):
    """Packs token maps into tensors with the same leading dimensions, and back."""

    def pack(self, values: Tensor) -> dict[str, Tensor]:
        """Parts by suffix of `values` (…, h, w, C), floating point; TrainingError for a value it cannot hold."""
        ...

    def unpack(self, parts: Mapping[str, Tensor]) -> Tensor:
        """(…, h, w, C) float32 of what `pack` gave."""
        ...


class Half:
    """float16: 2 bytes a value, 11 bits of precision."""

    def pack(self, values: Tensor) -> dict[str, Tensor]:
        """One part; values beyond 65504 are refused."""
        half = values.to(torch.float16)
        if not torch.isfinite(torch.stack(half.aminmax())).all():  # both ends are NaN where any value is
            raise TrainingError(
                f"a value of {float(values.abs().max()):.3g} exceeds what float16 holds (65504); "
                "keep the features as int8, or leave that tap out of the head"
            )
        return {"": half}

    def unpack(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The values."""
        return parts[""].float()


class TokenInt8:
    """int8: 1 byte a value and a float32 scale per token, so that a token of large values costs its neighbours nothing.
    An error is at most half a step, 1/254 of the token's largest value."""

    def pack(self, values: Tensor) -> dict[str, Tensor]:
        """Steps (…, h, w, C) and their size (…, h, w)."""
        values = values.float()
        scale = values.abs().amax(dim=-1) / _LARGEST_INT8
        if not torch.isfinite(scale).all():
            raise TrainingError("a value is NaN or infinite; leave that tap out of the head")
        steps = values / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None]
        return {"": steps.round().clamp(-_LARGEST_INT8, _LARGEST_INT8).to(torch.int8), ".scale": scale}

    def unpack(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Steps times their size."""
        return parts[""].float() * parts[".scale"][..., None]


STORAGES: dict[str, FeatureStorage] = {"fp16": Half(), "int8": TokenInt8()}
