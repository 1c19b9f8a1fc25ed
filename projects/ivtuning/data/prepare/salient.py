"""The releases of VT821, VT1000 and VT5000: pairs of images with a mask of what is salient.

Copies of these sets differ in their files' suffixes, and in the name of the folder of thermal images.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from ...errors import UserError
from ..datasets.segmentation_layouts import SegmentationSet
from ..image_files import image_files
from .pairing import Pair, check_not_swapped, check_stems
from .segmentation import write_parts

# What the folders of visible images, thermal images and masks may be called.
FOLDERS = (("RGB",), ("T", "thermal", "Thermal"), ("GT",))


def prepare_salient(
    layout: SegmentationSet, source: Path, output: Path, dry_run: bool = False
) -> dict[str, dict]:
    """Check a release and write its set, see :func:`.segmentation.write_parts`; masks become label maps.

    Images whose files have no mask, and masks without images, are left out and counted.

    Returns:
        The content of each part's JSON.

    Raises:
        UserError: a folder is missing or empty, an image lacks its partner, or a file that cannot be used.
    """
    source = Path(os.path.abspath(source))
    parts, left_out = {}, {}
    for part, (folder, _) in layout.parts.items():
        visible, infrared, masks = (_files(source / folder, names) for names in FOLDERS)
        check_stems(visible, infrared, lambda stem, side: f"{stem}.* in the folder of {side} images")
        pairs = [Pair(stem, visible[stem], infrared[stem], masks.get(stem)) for stem in visible]
        left_out[part] = Counter({"skipped: pairs without mask": sum(pair.label is None for pair in pairs)})
        left_out[part]["skipped: masks without pair"] = len(masks.keys() - visible.keys())
        parts[part] = [pair for pair in pairs if pair.label is not None]
        if not parts[part]:
            raise UserError(f"no image of {source / folder} has a mask: their names must be the same")
        check_not_swapped(parts[part])
    return write_parts(layout, parts, left_out, source, output, dry_run)


def _files(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """The images of the first folder of these names, by stem."""
    for name in names:
        if (folder / name).is_dir():
            files = image_files(folder / name)
            stems = {path.stem: path for path in files}
            if not stems:
                raise UserError(f"{folder / name} has no images: fetch the release again")
            if len(stems) < len(files):
                twice = next(path for path in files if stems[path.stem] != path)
                raise UserError(f"{twice} and {stems[twice.stem]} have one name: keep one of them")
            return stems
    known = " or ".join(names)
    raise UserError(f"{folder} has no folder {known}: is --source the folder of the release?")
