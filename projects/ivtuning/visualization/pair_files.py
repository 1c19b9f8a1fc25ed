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

    One may be a folder and the other a pattern. The names of a pair are equal but for suffixes and words that
    all names of a folder share, or, in patterns, what ``*`` stands for.

    Returns:
        [(visible, infrared)], sorted by stem.

    Raises:
        UserError: a path is missing, one is a file and the other a folder, a folder holds no image or a stem
            twice, or an image has no partner.
    """
    if not any("*" in os.fspath(path) for path in (vis, ir)):
        vis, ir = Path(vis), Path(ir)
        for path in (vis, ir):
            if not path.exists():
                raise UserError(f"no such file or folder: {path}")
        if vis.is_dir() != ir.is_dir():
            raise UserError(f"{vis} and {ir}: give two files or two folders")
        if not vis.is_dir():
            return [(vis, ir)]
    visible, infrared = _find(vis, "--vis"), _find(ir, "--ir")
    places = [os.path.abspath(path) for path in (vis, ir)]
    return [(pair.visible, pair.infrared) for pair in folders.pair_files(visible, infrared, places)]


def file_records(vis: str | os.PathLike | None, ir: str | os.PathLike | None) -> list[dict]:
    """Dataset dicts of two files, folders or patterns, see :func:`pair_files`.

    Their ids are the names of the (visible) files, with the folders that tell them apart where names repeat.
    One of the two may be None; its images are then missing.

    Raises:
        UserError: see :func:`pair_files`.
    """
    if vis is not None and ir is not None:
        pairs = pair_files(vis, ir)
        records = [{"file_name": str(v), "ir_file_name": str(i)} for v, i in pairs]
        return [{**r, "image_id": k} for r, k in zip(records, _ids([v for v, _ in pairs]), strict=True)]
    path = Path(os.fspath(ir if vis is None else vis))
    many = "*" in str(path)
    if not many and not path.exists():
        raise UserError(f"no such file or folder: {path}")
    option = "--ir" if vis is None else "--vis"
    files = list(_find(path, option).values()) if many or path.is_dir() else [path]
    # A dict has a file_name in any case; messages call the pair by it.
    keys = FILE_KEYS if vis is None else FILE_KEYS[:1]
    missing = MODALITIES[0 if vis is None else 1]
    return [
        dict.fromkeys(keys, str(file)) | {"image_id": number, "missing": missing}
        for file, number in zip(files, _ids(files), strict=True)
    ]


def _ids(files: Sequence[Path]) -> list[str]:
    """The files' names, or their paths below the folder that all of them are in."""
    names = [file.name for file in files]
    if len(set(names)) == len(names):
        return names
    above = os.path.commonpath(files)
    return [Path(os.path.relpath(file, above)).as_posix() for file in files]


def _find(place: str | os.PathLike, option: str) -> dict[str, Path]:
    """The images of a folder or of a pattern by what tells them apart."""
    if "*" in os.fspath(place):
        return folders.find_files(os.path.abspath(place), IMAGE_SUFFIXES, option)
    return _images(Path(place))


def _images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    images: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in images:
            raise UserError(f"{images[path.stem]} and {path.name} share a stem: keep one of them")
        images[path.stem] = path
    if not images:
        raise UserError(
            f"no images in {folder}: expected {', '.join(sorted(IMAGE_SUFFIXES))}; for "
            f"those of folders in it give a pattern, such as '{folder}/*/*.png'"
        )
    return images
