"""What a tower's depth depends on, read part by part; poolers, projections and what hosts may leave out are in none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from spaceclip_plugin.towers.adapter import lineage
from spaceclip_plugin.towers.identity.adapted_layers import is_norm
from spaceclip_plugin.towers.identity.part_reader import CONTEXT, INPUT, Addition, Part, PartReader, own_weights
from spaceclip_plugin.towers.identity.resting_weights import RestingWeights
from spaceclip_plugin.towers.spec import Tower


def read_tower(tower: Tower, *, blocks: int, context: bool, sketching: bool = True, plain: bool = False) -> list[Part]:
    """The parts of a tower in order: input, so many blocks, and what gives the context where that is asked for.

    Without `sketching` additions alone are looked for; `plain` leaves out of the weights those that are not merged.
    """
    reader = partial(PartReader, weights=RestingWeights(tower.module), sketching=sketching, plain=plain)
    spec = tower.spec
    first = next((path for path, part in tower.module.named_modules() if part is tower.blocks[0]), "")
    way = list(lineage(tower.module, first.rpartition(".")[0]))[::-1]  # from the tower down to the stack of blocks

    before = reader(INPUT, spec.width_of(0))
    for holder in way:
        for name in own_weights(holder):  # class tokens, registers, positions; no projection, and no token for masks
            if not any(word in name for word in ("mask", "proj", "flat_param")):
                before.add(holder, name)
    for holder, inner in pairwise(way):
        children = list(holder.children())
        for module in children[: children.index(inner)]:
            before.read(module)
    parts = [before.part()]
    for number, block in enumerate(tower.blocks[:blocks], 1):
        parts.append(_part(reader(f"block {number}", spec.width_of(number)), [block]))
    if context and tower.context_source is not None and tower.context_source not in tower.blocks:
        parts.append(_part(reader(CONTEXT, spec.width), _after(way, tower.context_source)))
    return parts


def _part(reader: PartReader, modules: Iterable[nn.Module]) -> Part:
    for module in modules:
        if _wraps(module):
            reader.additions.append(Addition(type(module).__name__, None))
        reader.read(module)
    return reader.part()


def _after(way: Sequence[nn.Module], last: nn.Module) -> Iterator[nn.Module]:
    """Modules that stand after the stack of blocks, up to the one that is or holds `last`."""
    for holder, inner in reversed(list(pairwise(way))):
        children = list(holder.children())
        for child in children[children.index(inner) + 1 :]:
            yield child
            if any(part is last for part in child.modules()):
                return


def _wraps(module: nn.Module) -> bool:
    """Whether this is a block inside another module that has matrices beside it (FiLM around a block, for one)."""
    # A plain block has its norms beside its layers; a wrapped one has all of them in one child.
    norms = {child: sum(is_norm(part) for part in child.modules()) for child in module.children()}
    inner = max(norms, key=lambda child: norms[child], default=None)
    if inner is None or norms[inner] < 2 or sum(norms.values()) != norms[inner]:
        return False
    own = {id(value) for value in inner.parameters()}
    beside = [value for value in module.parameters() if id(value) not in own and value.ndim >= 2]
    return any(type(value).__name__ == "DTensor" or value.is_meta or bool(value.any()) for value in beside)
