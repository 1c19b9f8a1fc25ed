"""Aligns two folders of images: one warp for all pairs, the warped infrared images, and a report."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ...errors import UserError, nearest
from ...utils.files import atomic_folder, make_folder, remove_empty
from ...utils.progress import track
from ..image_files import IMAGE_SUFFIXES, BadPair, decode, image_size, turned
from ..images import inspect_infrared, read_photograph
from ..prepare import pairing
from ..prepare.folders import find_files, fixed_folder, pair_files
from . import report
from .agreement import Agreement, estimate, estimate_steps, measure
from .estimate import MODELS
from .estimate import Pair as Images
from .warp import Size, Warp, read_calibration, resizing

# The share of the sample that only checks the warp, where the set has more pairs than the estimate takes.
_HELD_OUT = 3
_SAVE: dict[str, dict[str, Any]] = {".jpg": {"quality": 95, "subsampling": 0}, ".webp": {"lossless": True}}
_SAVE[".jpeg"] = _SAVE[".jpg"]


def align_pairs(
    visible: str,
    infrared: str,
    output: Path,
    *,
    model: str = "homography",
    pairs: int = 60,
    calibration: Path | None = None,
    limit: float | None = None,
    crop: bool = False,
) -> dict:
    """Write infrared/ (and visible/ if cropped), warp.json, seen.png, report.json, report.html, or nothing.

    Args:
        visible, infrared: folders or patterns, see :func:`..prepare.folders.find_files`.
        output: a folder that is new or empty.
        model: one of MODELS.
        pairs: how many, drawn with a seed, are read for the estimate.
        calibration: a file with the warp, which is then not estimated.
        limit: how far pairs may disagree, in visible pixels; None: 1 % of the diagonal.
        crop: also cut both images to the view that they share.

    Returns:
        The content of report.json.

    Raises:
        UserError: bad options or files, images of several sizes in one folder, too few pairs that show where
            they belong, or pairs that disagree.
    """
    if model not in MODELS:
        raise UserError(f"model {model!r} is unknown{nearest(model, MODELS)}")
    if pairs < 5:
        raise UserError(f"--pairs {pairs}: give at least 5")
    if limit is not None and not 0 < limit < np.inf:
        raise UserError(f"--limit {limit:g}: give a number of pixels above 0")
    places = [os.path.abspath(os.path.expanduser(place)) for place in (visible, infrared)]
    if places[0] == places[1]:
        raise UserError(f"--vis and --ir are both {visible!r}: give the place of each kind of image")
    _check_output(output, places)
    vis, ir = (find_files(p, IMAGE_SUFFIXES, o) for p, o in zip(places, ("--vis", "--ir"), strict=True))
    found = pair_files(vis, ir, places)
    sizes = _sizes(found)
    pairing.check_not_swapped(found)
    plain = resizing(sizes[1], sizes[0])
    given = None if calibration is None else read_calibration(calibration, sizes[1], sizes[0])
    created = make_folder(output)
    try:
        warp, groups, samples = _find_warp(found, plain, given, model, pairs, limit)
        view = warp.common_view() if crop else None
        content = warp.as_dict() | ({"crop": list(view)} if view else {})
        result = {
            "warp": content,
            "corner_distance_px": round(report.corner_distance(warp, plain), 2),
            **{name.replace(" ", "_"): agreement.as_dict() for name, agreement in groups.items()},
        }
        sources = [
            "pairs: {}, visible {}x{} px, infrared {}x{} px".format(len(found), *sizes[0], *sizes[1]),
            f"warp: {warp.model}" + (f" from {calibration.name}" if calibration else ""),
        ]
        with atomic_folder(output) as folder:
            _write_images(found, warp, view, folder, [fixed_folder(place) for place in places])
            seen = (
                warp.seen()
                if view is None
                else np.full((view[3] - view[1], view[2] - view[0]), 255, np.uint8)
            )
            Image.fromarray(seen).save(folder / "seen.png")
            (folder / "warp.json").write_text(json.dumps(content, indent=1) + "\n")
            (folder / "report.json").write_text(json.dumps(result, indent=1) + "\n")
            report.write(folder / "report.html", warp, plain, groups, samples, sources)
    except BaseException:
        remove_empty(created)
        raise
    return result


def _check_output(output: Path, places: Sequence[str]) -> None:
    target = Path(os.path.abspath(output))
    for place in places:
        folder = fixed_folder(place)
        if target == folder or target.is_relative_to(folder):
            raise UserError(
                f"--output {output} is inside {folder}, whose images it would join: choose another"
            )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--output {output} is not an empty folder: choose a new one, or remove it first")


def _sizes(pairs: Sequence[pairing.Pair]) -> tuple[Size, Size]:
    """The (width, height) of all visible and of all infrared images."""
    with ThreadPoolExecutor() as pool:
        both = pool.map(lambda pair: (image_size(pair.visible), inspect_infrared(pair.infrared)), pairs)
        sizes = list(track(both, "sizes", len(pairs)))
    for role in (0, 1):
        counts: dict[Size, int] = {}
        for size in sizes:
            counts[size[role]] = counts.get(size[role], 0) + 1
        usual = max(counts, key=lambda size: counts[size])
        if len(counts) > 1:
            odd = next(i for i, size in enumerate(sizes) if size[role] != usual)
            odd_ones = len(pairs) - counts[usual]
            path = (pairs[odd].visible, pairs[odd].infrared)[role]
            raise BadPair(
                "{} is {}x{}, and most are {}x{}".format(path, *sizes[odd][role], *usual)
                + f": one warp fits one size, so align such pairs by themselves ({odd_ones} of them)",
                str(path),
            )
    return sizes[0]


def _read(pair: pairing.Pair) -> Images:
    """The two images as (H, W) uint8."""
    visible, infrared = (
        cv2.cvtColor(np.ascontiguousarray(read_photograph(str(path))), cv2.COLOR_RGB2GRAY)
        for path in (pair.visible, pair.infrared)
    )
    return visible, infrared


def _find_warp(
    found: Sequence[pairing.Pair],
    plain: Warp,
    given: Warp | None,
    model: str,
    count: int,
    limit: float | None,
) -> tuple[Warp, dict[str, Agreement], dict[str, Images]]:
    """The warp, the agreement of the pairs behind it and of others, and the sampled images by name."""
    drawn = random.Random(0).sample(range(len(found)), min(len(found), count + count // _HELD_OUT))
    chosen = [found[i] for i in drawn]
    with ThreadPoolExecutor() as pool:
        images = list(track(pool.map(_read, chosen), "reading", len(chosen)))
    named = [(pair.stem, image) for pair, image in zip(chosen, images, strict=True)]
    warp = given
    behind = named[:count]
    if warp is None:
        used = [image for _, image in behind]
        with track((), "estimating", estimate_steps(len(used), model)) as bar:
            matrix = estimate(used, model, bar.update)
        warp = Warp(matrix, model, plain.infrared_size, plain.visible_size)
    parts: Mapping[str, list] = {"sample": behind, "held out": named[count:]}
    groups = {}
    with track((), "checking", len(named)) as bar:
        for name, part in parts.items():
            if part:
                groups[name] = measure(part, warp.matrix, plain.matrix, limit, bar.update)
    if given is None:
        groups["sample"].check()
        warp.check("the estimated warp")
    return warp, groups, dict(named)


def _write_images(
    pairs: Sequence[pairing.Pair],
    warp: Warp,
    view: tuple[int, int, int, int] | None,
    folder: Path,
    roots: Sequence[Path],
) -> None:
    """Write the warped infrared images below infrared/ and, if they are cropped to `view`, visible/ too."""

    def cut(pixels: np.ndarray) -> np.ndarray:
        return pixels if view is None else pixels[view[1] : view[3], view[0] : view[2]]

    def write(pair: pairing.Pair) -> None:
        image = turned(decode(pair.infrared, "infrared image")[0])
        pixels = np.asarray(image)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        _save(cut(warp.apply(pixels)), folder / "infrared" / pair.infrared.relative_to(roots[1]))
        if view is not None:
            image = turned(decode(pair.visible, "visible image")[0])
            image = image if image.mode == "L" else image.convert("RGB")
            _save(cut(np.asarray(image)), folder / "visible" / pair.visible.relative_to(roots[0]))

    with ThreadPoolExecutor() as pool:
        for _ in track(pool.map(write, pairs), "warping", len(pairs)):
            pass


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **_SAVE.get(path.suffix.lower(), {}))
