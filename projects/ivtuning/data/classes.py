"""The classes of registered sets, and one order for sets that list the same classes differently.

A label is an index into a set's class names, so sets that are used together need one order: that of the set
that the model trains on. A set's own order is that of its file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.data import DatasetCatalog

from ..errors import UserError, nearest
from .catalog import listed, metadata, set_facts
from .tasks import task_of

_IDS = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
_COLORS = ("thing_colors", "stuff_colors")
_OWN = "own_classes"  # a fact of sets that follow another set's order: their names in their own order


def class_names(name: str) -> list[str]:
    """The class names of a registered set in the order of its labels. The set is read if need be.

    Raises:
        UserError: an unknown name, a set without classes, or a fault of its files.
    """
    key = _key(name)
    if metadata(name).get(key) is None:
        DatasetCatalog.get(name)
    names = metadata(name).get(key)
    if not names:
        raise UserError(f"{name} names no classes: register it with them")
    return list(names)


def align_classes(names: Sequence[str], recorded: Sequence[str] = ()) -> list[str]:
    """Give several sets one order of classes, in which they are read from then on.

    Args:
        names: registered sets. The first keeps its own order, that of its file, which the others follow: name
            those to train on first, and then those to evaluate on.
        recorded: the order of a model that was trained on a set with these classes; all sets follow it if
            they have the same.

    Returns:
        The class names of all sets, in the order of their labels.

    Raises:
        UserError: an unknown name, sets whose classes differ in more than their order, or a fault of a set's
            files.
    """
    if own := metadata(names[0]).get(_OWN):
        _reorder(names[0], own)
    order = class_names(names[0])
    if sorted(recorded) == sorted(order):
        order = list(recorded)
    for name in names:
        _follow(name, names[0], order)
    return order


def read_sets(names: str | Sequence[str]) -> dict[str, list[dict]]:
    """The dicts of one or several registered sets by name, labeled in the order of the first set's classes.

    That order is the one that :func:`align_classes` gave the first set, or else its own.

    Raises:
        UserError: an unknown name, a name that occurs twice, sets whose classes differ in more than their
            order, or a fault of a set's files.
    """
    names = listed(names)
    sets = {}
    for name in names:
        metadata(name)
        sets[name] = DatasetCatalog.get(name)
        if _follow(name, names[0], class_names(names[0])):
            sets[name] = DatasetCatalog.get(name)
    return sets


def _follow(name: str, first: str, order: list[str]) -> bool:
    """Give set `name` the `order` of the set `first`; return whether that changed anything."""
    present = class_names(name)
    if sorted(present) != sorted(order):
        raise UserError(_difference(first, order, name, present))
    if present != order:
        _reorder(name, order)
    return present != order


def in_order(name: str, classes: Sequence[str]) -> list[str]:
    """`classes`, as a set's file lists them, in the order in which the set is to be read."""
    facts = metadata(name)
    order = facts.get(_key(name))
    return list(order) if facts.get(_OWN) and sorted(order) == sorted(classes) else list(classes)


def _key(name: str) -> str:
    return task_of(metadata(name)).classes


def _reorder(name: str, order: list[str]) -> None:
    """Change the metadata of a set to another order of its classes, which its next reading follows."""
    facts = metadata(name)
    if facts.get("json_file") is None and facts.get("evaluator_type") != "classification":
        raise UserError(
            f"{name} numbers its classes in another order, and cannot follow {', '.join(order)}: list the "
            "other set's classes in its order"
        )
    present = facts.get(_key(name))
    own = facts.get(_OWN) or present
    to = [order.index(class_name) for class_name in present]
    changes: dict[str, object] = {_key(name): order, _OWN: None if order == own else own}
    for key in _IDS:
        if isinstance(ids := facts.get(key), Mapping):
            changes[key] = {number: to[i] for number, i in ids.items()}
    for key in _COLORS:
        if colors := facts.get(key):
            changes[key] = [colors[to.index(i)] for i in range(len(to))]
    set_facts(name, **changes)


def first_of(classes: Sequence[str]) -> str:
    """The first eight of the names, for messages."""
    return ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")


def _difference(first: str, order: Sequence[str], name: str, present: Sequence[str]) -> str:
    parts = []
    for holder, extra, lacking in ((name, present, order), (first, order, present)):
        if more := sorted(set(extra) - set(lacking)):
            some = ", ".join(map(repr, more[:5])) + (f" and {len(more) - 5} more" if len(more) > 5 else "")
            parts.append(f"{holder} alone has {some}{nearest(more[0], set(lacking) - set(extra))}")
    return (
        f"{first} and {name} have different classes ({len(order)} and {len(present)}): {'; '.join(parts)}. "
        "Prepare both with the same class names"
    )
