"""Pairs of image files, given as two files, two folders or two patterns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..data.image_files import IMAGE_SUFFIXES, image_files
from ..data.modalities import FILE_KEYS, MODALITIES
from ..data.prepare import folders
from ..errors import UserError


def pair_files(vis: str | os.PathLike, ir: str | os.PathLike) -> list[tuple[Path, Path]]:
    """Pair a visible with an infrared file, or the images of two folders or patterns by their names.

    The names of a pair are equal but for suffixes and words that all names of a folder share, or, in
    patterns, what ``*`` stands for.

    Returns:
        [(visible, infrared)], sorted by stem.

    Raises:
        UserError: a path is missing, one is a file and the other a folder, a folder holds no image or a stem
            twice, or an image has no partner.
    """
    places = [os.path.abspath(path) for path in (vis, ir)]
    if all("*" in place for place in places):
        visible, infrared = (
            folders.find_files(place, IMAGE_SUFFIXES, option)
            for place, option in zip(places, ("--vis", "--ir"), strict=True)
        )
        return _paired(visible, infrared, places)
    vis, ir = Path(vis), Path(ir)
    for path in (vis, ir):
        if not path.exists():
            raise UserError(f"no such file or folder: {path}")
    if vis.is_dir() != ir.is_dir():
        raise UserError(f"{vis} and {ir}: give two files or two folders")
    if not vis.is_dir():
        return [(vis, ir)]
    return _paired(_images(vis), _images(ir), places)


def _paired(
    visible: dict[str, Path], infrared: dict[str, Path], places: Sequence[str]
) -> list[tuple[Path, Path]]:
    return [(pair.visible, pair.infrared) for pair in folders.pair_files(visible, infrared, places)]


def file_records(vis: str | os.PathLike | None, ir: str | os.PathLike | None) -> list[dict]:
    """Dataset dicts of two files or folders, see :func:`pair_files`, whose ids are the files' names.

    One of the two may be None; its images are then missing.

    Raises:
        UserError: see :func:`pair_files`.
    """
    if vis is not None and ir is not None:
        return [
            {"file_name": str(v), "ir_file_name": str(i), "image_id": v.name} for v, i in pair_files(vis, ir)
        ]
    path = Path(os.fspath(ir if vis is None else vis))
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    files = [path] if not path.is_dir() else list(_images(path).values())
    # A dict has a file_name in any case; messages call the pair by it.
    keys = FILE_KEYS if vis is None else FILE_KEYS[:1]
    missing = MODALITIES[0 if vis is None else 1]
    return [dict.fromkeys(keys, str(f)) | {"image_id": f.name, "missing": missing} for f in files]


def _images(folder: Path) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in images:
            raise UserError(f"{images[path.stem]} and {path.name} share a stem: keep one of them")
        images[path.stem] = path
    if not images:
        raise UserError(f"no images in {folder}: expected {', '.join(sorted(IMAGE_SUFFIXES))}")
    return images
