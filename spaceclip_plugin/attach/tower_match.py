"""Is this the tower that a head was trained on? What `attach_depth_head` finds, says and refuses.

Weights are compared as bfloat16. In DeiT-Tiny a cast then shows 0 %; one step of AdamW at a rate of 1e-5, which moves
hidden states by 14 %, shows 0.12 %; roundings one after the other, as by way of float16, show 0.18 %.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from spaceclip_plugin._checks import choice
from spaceclip_plugin.errors import HeadMismatchError
from spaceclip_plugin.head import DepthHeadConfig
from spaceclip_plugin.towers import Tower
from spaceclip_plugin.towers.identity.fingerprint import (
    ADAPTED,
    MAX_BLOCKS,
    MIXED,
    PartDistance,
    TowerFingerprint,
    distances,
    precision_of,
)
from spaceclip_plugin.towers.identity.part_reader import CONTEXT, INPUT, Part
from spaceclip_plugin.towers.identity.tower_reading import read_tower

WARN, ERROR, IGNORE = OTHER_TOWER = ("warn", "error", "ignore")  # what to do where a head was trained on another tower

SAME, OTHER, UNKNOWN = "same", "other", "unknown"  # whether a tower is the one that a head was trained on

# Relative distance of a part's weights up to which it counts as the same.
MAX_DISTANCE = 0.0002
MAX_ROUNDED = 0.003  # where two roundings lie between
MAX_IN_EFFECT = 0.006  # where one side has adapters in effect: layers answer in half precision, and merging does not

_HARMLESS_PACKAGES = frozenset({"spaceclip_plugin", "torch", "accelerate", "transformers", "timm", "peft"})
_NOT_BLOCKS = frozenset({INPUT, CONTEXT})
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
        max_distance: of a part that counts as the same, by the precisions of both sides.
        before_blocks: whether adapters move what comes before the blocks, likewise.

    Example:
        >>> from spaceclip_plugin.attach.tower_match import PartDistance
        >>> str(TowerMatch("same", (PartDistance("block 1", 0.0001, "attention"),)))
        'the same weights (within 0.01 %)'
    """

    verdict: str
    distances: tuple[PartDistance, ...] = ()
    adapted: tuple[int, ...] = ()
    reason: str | None = None
    max_distance: float = MAX_DISTANCE
    before_blocks: bool = False

    @property
    def distance(self) -> float | None:
        """That of the part which is farthest, relative to the weights' norm; None where nothing was compared."""
        return max((part.distance for part in self.distances), default=None)

    @property
    def adapted_parts(self) -> str:
        """Where adapters are, in words, plural; empty where there are none."""
        return _places(self.adapted, before=self.before_blocks)

    @property
    def difference(self) -> str:
        """Which parts differ and by how much, in words."""
        others = [part for part in self.distances if part.added or part.distance > self.max_distance]
        names = {part.part for part in others}
        places = _places(_numbers(names), before=INPUT in names, context=CONTEXT in names)
        worst = max(others, key=lambda part: part.distance)
        added = sum(part.added for part in others)
        weights = f", {abs(added)} weights were {'added' if added > 0 else 'left out'}" if added else ""
        return f"{places} by up to {_percent(worst.distance)} ({worst.kind} of {worst.part}){weights}"

    def __str__(self) -> str:
        """In words, for people."""
        adapted = f"; {self.adapted_parts} are adapted" if self.adapted_parts else ""
        if self.verdict == OTHER:
            return f"other weights: in {self.difference}{adapted}"
        if self.verdict == SAME:
            return f"the same weights (within {_percent(self.distance or 0.0)}){adapted}"
        so_far = f"; what could be compared is the same ({len(self.distances)} parts)" if self.distances else ""
        return f"not checked: {self.reason}{so_far}{adapted}"


def fingerprint_of(tower: Tower, config: DepthHeadConfig) -> TowerFingerprint | None:
    """The fingerprint of a tower for a head that is trained on it; None, and a warning why, where there is none."""
    blocks = _blocks(tower, config)
    parts = read_tower(tower, blocks=blocks, context=config.options.uses_context) if blocks <= MAX_BLOCKS else []
    fingerprint = TowerFingerprint.of(parts) if parts else None
    if fingerprint is None:
        why = _troubles(parts) or f"it has more than {MAX_BLOCKS} blocks"
        _logger.warning("a head trained on the %s will not know it again, its weights get no fingerprint: %s",
                        tower.spec, why)  # fmt: skip
    return fingerprint


def match_tower(tower: Tower, config: DepthHeadConfig) -> TowerMatch:
    """Compare a tower with the one that a head was trained on; nothing is run as a whole, moved or changed."""
    fingerprint = config.tower_fingerprint
    read = functools.partial(read_tower, tower, blocks=_blocks(tower, config), context=config.options.uses_context)
    parts = read(sketching=fingerprint is not None)
    adapted = {part.name for part in parts if _is_adapted(part, config)}
    if fingerprint is None:
        why = "the head carries no fingerprint of the tower it was trained on"
        return TowerMatch(UNKNOWN, (), _numbers(adapted), why, before_blocks=INPUT in adapted)
    found = tuple(distances(fingerprint, parts))
    most = _most(fingerprint.precision, precision_of(parts))
    others = {part.part for part in found if part.distance > most or part.added}
    adapted |= {part.name for part in parts if part.name in others and part.is_adapted}
    suspects = {part.name for part in parts if part.name not in others and part.is_adapted}
    if suspects:  # adapters move those away that lie nearer without, by however little
        within = {part.part: part.distance for part in found}
        plain = [part for part in distances(fingerprint, read(plain=True)) if part.part in suspects]
        adapted |= {part.part for part in plain if 2 * part.distance < within.get(part.part, 0.0)}
    reason = _troubles(parts)
    if not any(part.part not in _NOT_BLOCKS for part in found):
        reason = reason or "no block of it could be compared"
    verdict = OTHER if others else SAME if reason is None else UNKNOWN
    return TowerMatch(verdict, found, _numbers(adapted), reason, most, INPUT in adapted)


def check_tower(tower: Tower, config: DepthHeadConfig, other_tower: str) -> TowerMatch | None:
    """Compare, and say or refuse what `other_tower` calls for; None where it is to be ignored."""
    choice("other_tower", other_tower, OTHER_TOWER)
    if other_tower == IGNORE:
        return None
    match = match_tower(tower, config)
    for text in _complaints(match, tower, config):
        if other_tower == ERROR:
            raise HeadMismatchError(text)
        _logger.warning("%s", text)
    if match.reason is not None and config.trained_on is not None:
        say = _logger.info if config.tower_fingerprint is None else _logger.warning
        say("the %s cannot be compared with the one the head was trained on: %s", tower.spec, match.reason)
    return match


def _complaints(match: TowerMatch, tower: Tower, config: DepthHeadConfig) -> list[str]:
    made_for = f" ({config.base_model})" if config.base_model else ""
    adapted, found = match.adapted_parts, []
    if match.verdict == OTHER:
        found.append(
            f"the head was trained on another tower{made_for} than the {tower.spec}: its weights differ in "
            f"{match.difference}{f'; {adapted} hold adapters' * bool(adapted)}. The depth will be off: attach the head "
            "to the tower it was trained on, train one on this host, or accept it with other_tower='ignore' "
            "(--other-tower ignore)"
        )
    elif adapted:
        found.append(
            f"{adapted} of the {tower.spec} are adapted (LoRA or the like): its activations differ from the frozen "
            "tower's, and so will the depth; train the head on this host, or keep adapters out of the vision tower"
        )
    hooked = list(dict.fromkeys(name for block in tower.blocks for name in foreign_hooks(block)))
    if hooked:
        found.append(
            f"hooks in blocks of the {tower.spec} may change what these give ({', '.join(hooked[:4])}): where "
            "they do the depth will be off, unless the head was trained with them"
        )
    return found


def _is_adapted(part: Part, config: DepthHeadConfig) -> bool:
    """Whether additions move this part in a way that its weights, where they are compared, do not show."""
    known = config.tower_fingerprint is not None and part.trouble is None
    beside = [addition for addition in part.additions if not (known and addition.counted)]
    return dataclasses.replace(part, additions=tuple(beside)).is_adapted


def _most(theirs: str, ours: str) -> float:
    """How far the same weights may be apart, by their precisions."""
    if ADAPTED in (theirs, ours):
        return MAX_IN_EFFECT
    exact = {theirs, ours} <= _EXACT or (theirs == ours and theirs != MIXED)
    return MAX_DISTANCE if exact else MAX_ROUNDED


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


def _percent(distance: float) -> str:
    return f"{100 * distance:.2g} %" if distance < 1 else f"{100 * distance:.0f} %"


def _numbers(names: Iterable[str]) -> tuple[int, ...]:
    """Of the blocks among these parts, ascending."""
    return tuple(sorted(int(name.removeprefix("block ")) for name in names if name not in _NOT_BLOCKS))


def _places(blocks: Sequence[int], *, before: bool = False, context: bool = False) -> str:
    """Parts of a tower in words, runs of blocks shortened: blocks 1 to 4, 7."""
    runs: list[list[int]] = []
    for number in blocks:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    listed = ", ".join(f"{a} to {b}" if b > a else str(a) for a, b in runs)
    words = (f"blocks {listed}" * bool(runs), "layers before the blocks" * before, "what gives the context" * context)
    return " and ".join(filter(None, words))


def foreign_hooks(block: nn.Module) -> list[str]:
    """Names of others' hooks below a block that may change what it gives, each once: one that returns something does.

    Hooks of libraries that move, shard or collect are not meant, nor those that can be seen to return nothing.
    """
    kinds = (hooks for part in block.modules() for hooks in (part._forward_pre_hooks, part._forward_hooks))
    return list(dict.fromkeys(_name(hook) for hooks in kinds for hook in hooks.values() if _may_change(hook)))


def _may_change(hook: Callable[..., Any]) -> bool:
    function = _function(hook)
    package = str(getattr(function, "__module__", None) or "").partition(".")[0]
    return package not in _HARMLESS_PACKAGES and not _returns_nothing(function)


def _function(hook: Any) -> Any:
    """The function inside partials, methods and callable objects; a builtin stays what it is."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    hook = getattr(hook, "__func__", hook)
    if hasattr(hook, "__code__") or not callable(hook):
        return hook
    called = type(hook).forward if isinstance(hook, nn.Module) else type(hook).__call__
    return called if hasattr(called, "__code__") else hook


def _returns_nothing(function: Any) -> bool:
    """Whether every return of a function is a plain `return`."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("NOP", "CACHE", "RESUME")]
    returns = [index for index, step in enumerate(steps) if step.opname in ("RETURN_VALUE", "RETURN_CONST")]
    return all(
        steps[i].argval is None if steps[i].opname == "RETURN_CONST"
        else i > 0 and steps[i - 1].opname == "LOAD_CONST" and steps[i - 1].argval is None
        for i in returns
    )  # fmt: skip


def _name(hook: Callable[..., Any]) -> str:
    function = _function(hook)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", type(hook).__name__)
    return f"{module}.{name}" if module else str(name)
