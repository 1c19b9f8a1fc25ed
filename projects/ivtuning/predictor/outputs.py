"""Writes the files that hold all predictions, one image at a time."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..utils.files import atomic_write
from .results import COLUMNS, rows_of


def write_predictions(
    entries: Iterable[dict],
    results_file: Path,
    table_file: Path,
    *,
    fields: Sequence[str],
    classes: Sequence[str],
    categories: Sequence[int],
    threshold: float,
) -> int:
    """Write the JSON file of all results, and the table of those of at least `threshold`.

    Args:
        entries: what a journal notes of each image, all of one kind; at least one.
        fields: keys of an entry that both files state beside the file's name.
        classes, categories: names and category ids by label.

    Returns:
        The number of entries.
    """
    count, between = 0, ""
    with contextlib.ExitStack() as stack:
        results, table = (
            stack.enter_context(
                open(stack.enter_context(atomic_write(path)), "w", encoding="utf-8", errors="surrogateescape")
            )
            for path in (results_file, table_file)
        )
        writer = csv.writer(table, lineterminator="\n")
        results.write("[")
        for entry in entries:
            kind, found = entry["kind"], entry["results"]
            where = {key: entry[key] for key in fields}
            if not count:
                writer.writerow(("file_name", *fields, *COLUMNS[kind]))
            rows = rows_of(kind, found, classes, categories, threshold)
            writer.writerows((entry["file_name"], *where.values(), *row) for row in rows)
            keys = () if kind in ("boxes", "oriented") else ("file_name", "label_map", "saliency_map")
            more = {key: entry[key] for key in keys if key in entry}
            for result in found:
                results.write(between + json.dumps({**more, **result, **where}))
                between = ", "
            count += 1
        results.write("]")
    return count
