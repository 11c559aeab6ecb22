"""Is this the tower that a head was trained on? What `attach_depth_head` finds, says and refuses.

Little is much: measured on DeiT-Tiny, one step of AdamW at a rate of 1e-5 moves weights by 0.04 % and, because all move
one way, hidden states by 14 %; rounding to bfloat16 moves weights by 0.26 % and hidden states by 1 %. So weights are
compared as bfloat16, in which a cast shows 0 % and that one step 0.12 %, and anything above `MOST_DISTANCE` counts.
Where one side is in float16 and the other is not, roundings one after the other show 0.18 %: `MOST_ROUNDED` holds.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from spaceclip_plugin._checks import choice
from spaceclip_plugin.attach.foreign_hooks import foreign_hooks
from spaceclip_plugin.errors import HeadMismatchError
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.towers.identity.fingerprint import (
    ADAPTED,
    MIXED,
    MOST_BLOCKS,
    PartDistance,
    TowerFingerprint,
    distances,
    precision_of,
)
from spaceclip_plugin.towers.identity.part_reader import CONTEXT, INPUT, Part
from spaceclip_plugin.towers.identity.tower_reading import read_tower
from spaceclip_plugin.towers.spec import Tower, TowerSpec

WARN, ERROR, IGNORE = OTHER_TOWER = ("warn", "error", "ignore")
"""What to do where a head was trained on another tower."""

SAME, OTHER, UNKNOWN = "same", "other", "unknown"
"""Whether a tower is the one that a head was trained on."""

MOST_DISTANCE = 0.0002
"""Relative distance of a part's weights up to which it counts as the same."""
MOST_ROUNDED = 0.003
"""The same where two roundings lie between."""
MOST_IN_EFFECT = 0.006
"""The same where one side has adapters in effect: what layers answer in half precision is not what is merged."""

_EXACT = frozenset({"float64", "float32", "bfloat16"})

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TowerMatch:
    """How a tower compares with the one that a head was trained on.

    Attributes:
        verdict: `SAME`, `OTHER`, or `UNKNOWN` where nothing speaks against it and not everything could be compared.
        distances: of every part that was compared: the weights that come before the blocks, blocks, and context.
        adapted: blocks (from 1) that adapters move away from the tower that the head was trained on, or of which
            nothing tells how far they do.
        reason: why something was not compared; None where all was.
        most: distance up to which a part counts as the same, by the precisions of both sides.
        before_blocks: whether adapters move what comes before the blocks, likewise.
    """

    verdict: str
    distances: tuple[PartDistance, ...] = ()
    adapted: tuple[int, ...] = ()
    reason: str | None = None
    most: float = MOST_DISTANCE
    before_blocks: bool = False

    @property
    def distance(self) -> float | None:
        """That of the part which is farthest, relative to the weights' norm; None where nothing was compared."""
        return max((part.distance for part in self.distances), default=None)

    def __str__(self) -> str:
        """In words, for people."""
        adapted = f"; {_adapted_parts(self)} are adapted" if self.adapted or self.before_blocks else ""
        if self.verdict == OTHER:
            return f"other weights: {_told(self)}{adapted}"
        if self.verdict == SAME:
            return f"the same weights (within {_percent(self.distance or 0.0)}){adapted}"
        so_far = f"; what could be compared is the same ({len(self.distances)} parts)" if self.distances else ""
        return f"not checked: {self.reason}{so_far}{adapted}"


def fingerprint_of(tower: Tower, config: DepthHeadConfig) -> TowerFingerprint | None:
    """The fingerprint of a tower for a head that is trained on it; None, and a warning why, where there is none."""
    blocks = _blocks(tower, config)
    parts = read_tower(tower, blocks=blocks, context=config.options.uses_context) if blocks <= MOST_BLOCKS else []
    fingerprint = TowerFingerprint.of(parts) if parts else None
    if fingerprint is None:
        why = _troubles(parts) or f"it has more than {MOST_BLOCKS} blocks"
        _logger.warning("a head trained on the %s will not know it again, its weights get no fingerprint: %s",
                        tower.spec, why)  # fmt: skip
    return fingerprint


def match_tower(tower: Tower, config: DepthHeadConfig) -> TowerMatch:
    """Compare a tower with the one that a head was trained on; nothing is run as a whole, moved or changed."""
    fingerprint = config.tower_fingerprint
    parts = read_tower(
        tower,
        blocks=_blocks(tower, config),
        context=config.options.uses_context,
        sketching=fingerprint is not None,
    )
    adapted = {part.name for part in parts if _is_adapted(part, config)}
    if fingerprint is None:
        why = "the head carries no fingerprint of the tower it was trained on"
        return TowerMatch(UNKNOWN, (), _numbers(adapted), why, before_blocks=INPUT in adapted)
    found = tuple(distances(fingerprint, parts))
    most = _most(fingerprint.precision, precision_of(parts))
    others = {part.part for part in found if part.distance > most or part.added}
    adapted |= {part.name for part in parts if part.name in others and part.is_adapted}
    suspects = {part.name for part in parts if part.name not in others and part.is_adapted}
    if suspects:
        adapted |= _farther_by_additions(tower, config, fingerprint, found, suspects)
    reason = _troubles(parts)
    if not any(part.part not in (INPUT, CONTEXT) for part in found):
        reason = reason or "no block of it could be compared"
    verdict = OTHER if others else SAME if reason is None else UNKNOWN
    return TowerMatch(verdict, found, _numbers(adapted), reason, most, INPUT in adapted)


def check_tower(tower: Tower, config: DepthHeadConfig, other_tower: str) -> TowerMatch | None:
    """Compare, and say or refuse what `other_tower` calls for; None where it is to be ignored.

    Raises:
        ConfigError: no such choice.
        HeadMismatchError: it is `ERROR`, and the head was trained on another tower, or adapters change this one.
    """
    choice("other_tower", other_tower, OTHER_TOWER)
    if other_tower == IGNORE:
        return None
    match = match_tower(tower, config)
    for text in _complaints(match, tower, config):
        if other_tower == ERROR:
            raise HeadMismatchError(text)
        _logger.warning("%s", text)
    _say_what_is_unknown(match, tower.spec, config)
    return match


def _complaints(match: TowerMatch, tower: Tower, config: DepthHeadConfig) -> list[str]:
    made_for = f" ({config.base_model})" if config.base_model else ""
    found = []
    if match.verdict == OTHER:
        held = match.adapted or match.before_blocks
        adapted = f"; {_adapted_parts(match)} hold adapters" if held else ""
        found.append(
            f"the head was trained on another tower{made_for} than the {tower.spec}: its weights differ, "
            f"{_told(match)}{adapted}. The depth will be off: attach the head to the tower it was trained "
            "on, train one on this host, or accept it with other_tower='ignore' (--other-tower ignore)"
        )
    elif match.adapted or match.before_blocks:
        found.append(
            f"{_adapted_parts(match)} of the {tower.spec} are adapted (LoRA or the like): its activations "
            "differ from the frozen tower's, and so will the depth; train the head on this host, or keep adapters out "
            "of the vision tower"
        )
    hooked = {name: number for number, block in enumerate(tower.blocks, 1) for name in foreign_hooks(block)}
    if hooked:
        found.append(
            f"hooks in blocks of the {tower.spec} may change what these give ({', '.join(list(hooked)[:4])}): where "
            "they do the depth will be off, unless the head was trained with them"
        )
    return found


def _say_what_is_unknown(match: TowerMatch, spec: TowerSpec, config: DepthHeadConfig) -> None:
    if match.reason is None or config.trained_on is None:
        return
    if config.tower_fingerprint is None:
        _logger.info("whether the %s is the one the head was trained on cannot be checked: %s", spec, match.reason)
    else:
        _logger.warning("the %s could not be compared with the one the head was trained on: %s", spec, match.reason)


def _is_adapted(part: Part, config: DepthHeadConfig) -> bool:
    """Whether additions move this part in a way that its weights, where they are compared, do not show."""
    known = config.tower_fingerprint is not None and part.trouble is None
    beside = [addition for addition in part.additions if not (known and addition.counted)]
    return dataclasses.replace(part, additions=tuple(beside)).is_adapted


def _farther_by_additions(
    tower: Tower,
    config: DepthHeadConfig,
    fingerprint: TowerFingerprint,
    found: Sequence[PartDistance],
    suspects: Set[str],
) -> set[str]:
    """The suspects that adapters move away from what the head was trained on, by however little."""
    within = {part.part: part.distance for part in found}
    blocks, context = _blocks(tower, config), config.options.uses_context
    plain = distances(fingerprint, read_tower(tower, blocks=blocks, context=context, plain=True))
    return {part.part for part in plain if part.part in suspects and 2 * part.distance < within.get(part.part, 0.0)}


def _most(theirs: str, ours: str) -> float:
    """How far the same weights may be apart, by their precisions."""
    if ADAPTED in (theirs, ours):
        return MOST_IN_EFFECT
    exact = {theirs, ours} <= _EXACT or (theirs == ours and theirs != MIXED)
    return MOST_DISTANCE if exact else MOST_ROUNDED


def _blocks(tower: Tower, config: DepthHeadConfig) -> int:
    """Blocks that the head depends on: up to its last tap, or all where it reads the context."""
    return len(tower.blocks) if config.options.uses_context else min(config.options.taps[-1], len(tower.blocks))


def _troubles(parts: Sequence[Part]) -> str | None:
    """Why parts were not read: each reason once, with the first part it concerns."""
    reasons: dict[str, list[str]] = {}
    for part in parts:
        if part.trouble:
            reasons.setdefault(part.trouble, []).append(part.name)
    told = [f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {why}" for why, names in reasons.items()]
    return "; ".join(told[:3]) or None


def _told(match: TowerMatch) -> str:
    """Which parts differ and by how much."""
    others = [part for part in match.distances if part.added or part.distance > match.most]
    blocks = [part for part in others if part.part not in (INPUT, CONTEXT)]
    words = []
    if blocks:
        low, high = min(blocks, key=_distance), max(blocks, key=_distance)
        span = _percent(high.distance) if len(blocks) == 1 else f"{_percent(low.distance)} to {_percent(high.distance)}"
        numbers = [int(part.part.removeprefix("block ")) for part in blocks]
        most = "" if len(blocks) == 1 else f", most in block {high.part.removeprefix('block ')} ({high.kind})"
        words.append(f"in blocks {_listed(numbers)} by {span}{most}")
    words += [
        f"in {'what comes before the blocks' if part.part == INPUT else 'what gives the context'} by "
        f"{_percent(part.distance)} ({part.kind})"
        for part in others
        if part.part in (INPUT, CONTEXT)
    ]
    if added := sum(part.added for part in others):
        words.append(f"{abs(added)} weights were {'added' if added > 0 else 'left out'}")
    return ", ".join(words)


def _adapted_parts(match: TowerMatch) -> str:
    """Where adapters are, plural."""
    blocks = f"blocks {_listed(match.adapted)}" if match.adapted else ""
    before = "layers before the blocks" if match.before_blocks else ""
    return " and ".join(filter(None, (blocks, before)))


def _distance(part: PartDistance) -> float:
    return part.distance


def _percent(distance: float) -> str:
    return f"{100 * distance:.2g} %" if distance < 1 else f"{100 * distance:.0f} %"


def _numbers(names: Iterable[str]) -> tuple[int, ...]:
    """Of the blocks among these parts, ascending."""
    return tuple(sorted(int(name.removeprefix("block ")) for name in names if name not in (INPUT, CONTEXT)))


def _listed(numbers: Sequence[int]) -> str:
    """Numbers in words, runs shortened: 1 to 4, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a} to {b}" if b > a else str(a) for a, b in runs)
