"""Pairs of image files, given as two files or two folders."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def find_pairs(vis: str | os.PathLike, ir: str | os.PathLike) -> list[tuple[Path, Path]]:
    """Pair a visible with an infrared file, or the images of two folders by their stems.

    Returns:
        [(visible, infrared)], sorted by stem.

    Raises:
        UserError: a path is missing, one is a file and the other a folder, a folder holds no image or a stem
            twice, or an image has no partner.
    """
    vis, ir = Path(vis), Path(ir)
    for path in (vis, ir):
        if not path.exists():
            raise UserError(f"no such file or folder: {path}")
    if vis.is_dir() != ir.is_dir():
        raise UserError(f"{vis} and {ir}: give two files or two folders")
    if not vis.is_dir():
        return [(vis, ir)]
    sides = [_images(vis), _images(ir)]
    for (here, other), folder in zip((sides, sides[::-1]), (ir, vis), strict=True):
        lonely = sorted(here.keys() - other.keys())
        if lonely:
            more = f" (and {len(lonely) - 1} more)" if len(lonely) > 1 else ""
            raise UserError(
                f"{here[lonely[0]]}{more} has no partner of the same stem in {folder}: add or remove it"
            )
    return [(sides[0][stem], sides[1][stem]) for stem in sorted(sides[0])]


def _images(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise UserError(f"{found[path.stem]} and {path.name} share a stem: keep one of them")
            found[path.stem] = path
    if not found:
        raise UserError(f"no images in {folder}: expected {', '.join(sorted(SUFFIXES))}")
    return found
