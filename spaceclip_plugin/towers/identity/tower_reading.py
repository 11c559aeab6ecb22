"""What a tower's depth depends on, read part by part: what comes before its blocks, the blocks, and the context.

What comes before are the modules that stand before the stack of blocks on the way down to it, and the tokens and
positions that lie on that way. The context's part stands after the stack, up to the module that gives it. Poolers,
projections and whatever else a host has or leaves out are in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from torch import nn

from spaceclip_plugin.towers.adapter import lineage
from spaceclip_plugin.towers.identity.adapted_layers import is_norm
from spaceclip_plugin.towers.identity.part_reader import (
    CONTEXT,
    INPUT,
    Addition,
    Part,
    PartReader,
    Reading,
    own_weights,
)
from spaceclip_plugin.towers.identity.resting_weights import RestingWeights
from spaceclip_plugin.towers.spec import Tower


def read_tower(tower: Tower, *, blocks: int, context: bool, sketching: bool = True, plain: bool = False) -> list[Part]:
    """The parts of a tower in order: input, blocks, context.

    Args:
        tower: to read; nothing of it is run as a whole, moved or changed.
        blocks: how many blocks from the first on.
        context: whether to read what gives the context, too.
        sketching: whether to read weights; else additions alone are looked for.
        plain: whether to leave out what was added to layers and is not merged.
    """
    reading = Reading(RestingWeights(tower.module), sketching, plain)
    way, spec = _way_to_blocks(tower), tower.spec

    before = PartReader(INPUT, spec.width_of(0), reading)
    for holder in way:
        for name in own_weights(holder):  # class tokens, registers, positions; no projection, and no token for masks
            if not any(word in name for word in ("mask", "proj", "flat_param")):
                before.add(holder, name)
    for module in _before(way):
        before.read(module)
    parts = [before.part()]
    for number, block in enumerate(tower.blocks[:blocks], 1):
        parts.append(_part(PartReader(f"block {number}", spec.width_of(number), reading), [block]))
    if context and tower.context_source is not None and tower.context_source not in tower.blocks:
        parts.append(_part(PartReader(CONTEXT, spec.width, reading), _after(way, tower.context_source)))
    return parts


def _part(reader: PartReader, modules: Iterable[nn.Module]) -> Part:
    for module in modules:
        if _wraps(module):
            reader.additions.append(Addition(type(module).__name__, None))
        reader.read(module)
    return reader.part()


def _way_to_blocks(tower: Tower) -> list[nn.Module]:
    """The tower and what is inside, down to the stack that holds its first block; at least the tower."""
    path = next((path for path, part in tower.module.named_modules() if part is tower.blocks[0]), "")
    way = list(lineage(tower.module, path))[::-1]
    return way[:-1] or way


def _before(way: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Modules that stand before the stack of blocks, on every level of the way to it."""
    for holder, inner in pairwise(way):
        children = list(holder.children())
        yield from children[: children.index(inner)]


def _after(way: Sequence[nn.Module], last: nn.Module) -> Iterator[nn.Module]:
    """Modules that stand after the stack of blocks, up to the one that is or holds `last`."""
    for holder, inner in reversed(list(pairwise(way))):
        children = list(holder.children())
        for child in children[children.index(inner) + 1 :]:
            yield child
            if any(part is last for part in child.modules()):
                return


def _wraps(module: nn.Module) -> bool:
    """Whether this is a block inside another module that has matrices beside it (FiLM around a block, for one).

    A plain block has its norms beside its layers; a wrapped one has all of them in one child.
    """
    norms = {child: sum(is_norm(part) for part in child.modules()) for child in module.children()}
    inner = max(norms, key=lambda child: norms[child], default=None)
    if inner is None or norms[inner] < 2 or sum(norms.values()) != norms[inner]:
        return False
    own = {id(value) for value in inner.parameters()}
    beside = [value for value in module.parameters() if id(value) not in own and value.ndim >= 2]
    return any(type(value).__name__ == "DTensor" or value.is_meta or bool(value.any()) for value in beside)
