"""How every space grows by copies: all by one factor, single ones to their sizes, or both.

Query heads may be copied within the group that reads one key and value head, which then stays; whole groups may be
copied with it; or the key and value heads alone, each copy serving a part of its group. Copies of the last kind have
gradients that differ at once, being those of different queries. They sum to the old one, so each copy is expected to
have 1/c of it, and 1/c of its square too where queries' gradients are uncorrelated.

Source: Chen, Goodfellow, Shlens, "Net2Net", arXiv 1511.05641; the groups and their moments are derived here.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.errors import RequestError
from ckptgrow.growth.refusals import check_exact
from ckptgrow.growth.shrinking import shrunken_spaces
from ckptgrow.spaces.growth import Growth, copies, identity, product, serving_copies, shrunken_copies
from ckptgrow.state.architecture import Architecture


def multiplied(old: Architecture, factor: int, sizes: Mapping[str, int]) -> dict[str, Growth]:
    """Everything `factor` times as large, but for the spaces whose sizes are given.

    Raises RequestError for sizes that cannot be.
    """
    check_exact(old, "width", "residual")
    _check_sizes(old, sizes)
    shrunken = shrunken_spaces(old)
    growths: dict[str, Growth] = {}
    for space, size in old.sizes.items():
        if space in shrunken:
            growths[space] = shrunken_copies(size, factor * size, shrunken[space])
        elif space in old.family.residual or space in old.family.units:
            growths[space] = copies(size, sizes.get(space, factor * size))
        else:
            growths[space] = identity(size)
    if "kv_heads" in old.sizes and {"heads", "kv_heads"} & sizes.keys():
        asked = {space: sizes.get(space, factor * old.sizes[space]) for space in ("heads", "kv_heads")}
        growths |= _heads(old.sizes, asked)
    return growths


def resized(old: Architecture, sizes: Mapping[str, int]) -> dict[str, Growth]:
    """Single spaces at the sizes given, all others as they are; raises RequestError for sizes that cannot be."""
    _check_sizes(old, sizes)
    if all(size == old.sizes[space] for space, size in sizes.items()):
        asked = " ".join(f"⟦{space} {size}⟧" for space, size in sizes.items())
        raise RequestError(f"{asked}: the model has this size already, expected a larger one")
    growths = {space: copies(size, sizes.get(space, size)) for space, size in old.sizes.items()}
    if serves_parts(old.sizes, sizes):
        return {**growths, "kv_heads": _served(old.sizes, sizes["kv_heads"])}
    return {**growths, **_heads(old.sizes, sizes)} if {"heads", "kv_heads"} & set(sizes) else growths


def serves_parts(old: Mapping[str, int], sizes: Mapping[str, int]) -> bool:
    """Whether key and value heads are to be copied while the query heads that they serve are not."""
    if "kv_heads" not in old or sizes.get("heads", old["heads"]) != old["heads"]:
        return False
    return sizes.get("kv_heads", 0) > old["kv_heads"]


def _check_sizes(old: Architecture, sizes: Mapping[str, int]) -> None:
    for space, size in sizes.items():
        check_exact(old, space)
        if space not in old.sizes:
            raise RequestError(f"⟦{space}⟧: {old.family.model_type} has no such size of its own")
        if size < old.sizes[space]:
            raise RequestError(f"⟦{space} {size}⟧: expected at least the old size, {old.sizes[space]}")


def _served(old: Mapping[str, int], kv_heads: int) -> Growth:
    """Copies of key and value heads side by side, as the query heads of their groups are."""
    if kv_heads % old["kv_heads"] or old["heads"] % kv_heads:
        raise RequestError(
            f"⟦kv_heads {kv_heads}⟧: {old['heads']} heads share {old['kv_heads']} key heads, expected a multiple of "
            f"{old['kv_heads']} that divides {old['heads']}, or more ⟦heads⟧ with it"
        )
    return serving_copies(old["kv_heads"], kv_heads)


def _heads(old: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, Growth]:
    """Copies of heads under which every query head still reads its own key head.

    Query head (group j, member m) copies (source_kv[j], source_member[m]); its readers are split over the copies of
    both. A group may not shrink where query heads are copied: its members would be dealt out among copies of their key
    head, whose gradients would then be different parts of the old one.
    """
    if "kv_heads" not in old:
        return {}
    heads, kv_heads = old["heads"], old["kv_heads"]
    new_heads = sizes.get("heads", heads)
    new_kv_heads = sizes.get("kv_heads", new_heads if heads == kv_heads else kv_heads)
    members, new_members = heads // kv_heads, new_heads // new_kv_heads
    if new_heads % new_kv_heads or new_members < members:
        raise RequestError(
            f"⟦heads {new_heads}⟧ ⟦kv_heads {new_kv_heads}⟧: {heads} heads share {kv_heads} key heads, expected a "
            f"multiple of {new_kv_heads} heads, at least {members * new_kv_heads}; grow the key heads first, with "
            "⟦kv_heads⟧ alone"
        )
    groups = copies(kv_heads, new_kv_heads)
    return {"heads": product([groups, copies(members, new_members)]), "kv_heads": groups}
