"""Files of tiny releases of detection sets, and what the scripts write of them."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image


def image(path: Path, size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)


def voc(path: Path, *objects, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    items = []
    for name, *box in objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False)
        inside = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
        items.append(f"<object><name>{name}</name><bndbox>{inside}</bndbox></object>")
    stated = "<size><width>{}</width><height>{}</height></size>".format(*size)
    path.write_text(f"<annotation>{stated}{''.join(items)}</annotation>")


def read(tmp_path, name):
    return json.loads((tmp_path / "sets" / name).read_text())
