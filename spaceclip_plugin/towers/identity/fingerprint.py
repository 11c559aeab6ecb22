"""Which weights a head was trained on: a few kilobytes in its config, and how far another tower is from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from spaceclip_plugin._checks import choice, shown
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers.identity.part_reader import (
    BIASES,
    CONTEXT,
    INPUT,
    KINDS,
    MATRICES,
    MAX_SHAPES,
    SCALES,
    Part,
)
from spaceclip_plugin.towers.identity.weight_sketch import Sketch, decoded, encoded

MIXED, ADAPTED = "mixed", "adapted"
PRECISIONS = ("float64", "float32", "bfloat16", "float16", MIXED, ADAPTED)
MAX_BLOCKS = 256  # a config has no room for more; such a tower gets no fingerprint

_MIN_BIAS = 0.01  # of the norm of the matrices beside them: biases that are next to nothing may be another nothing
_KEY = re.compile(r"(?:[1-9]\d{0,9}x[1-9]\d{0,9}|scales|biases)", re.ASCII)


@dataclass(frozen=True)
class TowerFingerprint:
    """Sketches of the weights that the depth of a head depends on, as text."""

    input: tuple[str, ...]  # "KIND SKETCH" each, of what is before the blocks: a shape, "scales" or "biases"
    blocks: tuple[str, ...]  # of each that the head needs, from the first on: its `KINDS` in one line
    context: str | None = None  # likewise; None where the head reads none or the last block gives it
    precision: str = MIXED  # dtype of the matrices; `MIXED` of several, `ADAPTED` where adapters had an effect

    def __post_init__(self) -> None:
        for name, most in (("input", MAX_SHAPES), ("blocks", MAX_BLOCKS)):
            lines = getattr(self, name)
            if not isinstance(lines, list | tuple) or len(lines) > most or not all(isinstance(x, str) for x in lines):
                raise ConfigError(f"tower_fingerprint.{name} must be at most {most} lines, got {shown(lines)}")
            object.__setattr__(self, name, tuple(lines))
        keys = [line.partition(" ")[0] for line in self.input]
        if len(set(keys)) != len(keys) or not all(_KEY.fullmatch(key) for key in keys):
            raise ConfigError(f"tower_fingerprint.input must name each kind of weight once, got {shown(keys)}")
        choice("tower_fingerprint.precision", self.precision, PRECISIONS)
        self.sketches()

    @classmethod
    def of(cls, parts: Sequence[Part]) -> TowerFingerprint | None:
        """The fingerprint of parts that were all read; None where one was not, or there are too many."""
        if any(part.trouble for part in parts):
            return None
        by_name = {part.name: part for part in parts}
        inputs = tuple(f"{key} {encoded(sketch)}" for key, sketch in by_name.pop(INPUT).sketches.items())
        lines = {name: encoded(*(part.sketches[kind] for kind in KINDS)) for name, part in by_name.items()}
        context = lines.pop(CONTEXT, None)
        return None if len(lines) > MAX_BLOCKS else cls(inputs, tuple(lines.values()), context, precision_of(parts))

    def sketches(self) -> dict[str, dict[str, Sketch]]:
        """By part, as `tower_reading.read_tower` names them, and by kind of weight."""
        first = [line.partition(" ") for line in self.input]
        found = {INPUT: {key: decoded("tower_fingerprint.input", text, 1)[0] for key, _, text in first}}
        lines = {f"block {number}": line for number, line in enumerate(self.blocks, 1)}
        if self.context is not None:
            lines[CONTEXT] = self.context
        for name, line in lines.items():
            found[name] = dict(zip(KINDS, decoded(f"tower_fingerprint, {name}", line, len(KINDS)), strict=True))
        return found


@dataclass(frozen=True)
class PartDistance:
    """How far one part of a tower is from the one that a head was trained on."""

    part: str
    distance: float  # of the kind of weights that moved most, relative to their norm: 0 the same, about 1.4 unrelated
    kind: str
    added: int = 0  # how many weights of matrices it has more; fewer if negative


def precision_of(parts: Sequence[Part]) -> str:
    """One of `PRECISIONS`."""
    if any(part.is_adapted for part in parts):
        return ADAPTED
    dtypes = {dtype for part in parts for dtype in part.dtypes}
    return dtypes.pop() if len(dtypes) == 1 and dtypes <= set(PRECISIONS) else MIXED


def distances(fingerprint: TowerFingerprint, parts: Sequence[Part]) -> list[PartDistance]:
    """Of every part that both sides have; shapes of the input that only one has are left out."""
    known = fingerprint.sketches()
    found = []
    for part in parts:
        theirs = known.get(part.name)
        if theirs is None or not part.sketches:
            continue
        largest = max((value.norm for key, value in theirs.items() if key not in (SCALES, BIASES)), default=0.0)
        by_kind = {
            kind: part.sketches[kind].distance(sketch, min_norm=_MIN_BIAS * largest if kind == BIASES else 0.0)
            for kind, sketch in theirs.items()
            if kind in part.sketches  # another image size has other positions, another library tokens in one
        }
        if by_kind:
            kind = max(by_kind, key=by_kind.__getitem__)
            added = part.sketches[MATRICES].count - theirs[MATRICES].count if MATRICES in by_kind else 0
            found.append(PartDistance(part.name, by_kind[kind], kind, added))
    return found
