#!/usr/bin/env python
"""Convert a detector of another project into a file that a config can start from (train.init_checkpoint).

Layers for other classes stay as the config initializes them, and so do stem and tuner.
"""

from __future__ import annotations

import json
import os
import re

from ivtuning.config import build, load_config, tool_parser
from ivtuning.errors import UserError, run_tool
from ivtuning.hub.names import KINDS

EXAMPLE = """\
tools/convert_checkpoint.py --from dino DOWNLOADED.pth weights/dino_swin_l.safetensors \\
      --config-file configs/M3FD/dino_ivtuning_swin_l.py
"""


def main(argv):
    parser = tool_parser(__doc__, EXAMPLE)
    parser.add_argument(
        "--from",
        dest="kind",
        required=True,
        choices=KINDS,
        help="the project that wrote the file: IDEA-Research/DINO, detrex, Co-DETR or mmdetection's DINO, "
        "mmdetection's R-CNNs and RetinaNet, detectron2, torchvision",
    )
    parser.add_argument("input", metavar="INPUT", help="file of the other project, or its URL")
    parser.add_argument("output", metavar="OUTPUT", help="file to write, *.safetensors or *.pth")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object with all names as the last line"
    )
    args = parser.parse_args(argv)
    # argparse distributes the words in its own order, overrides first.
    words = [*args.overrides, args.input, args.output]
    files = [w for w in words if not re.match(r"[\w.]+=", w)]
    if len(files) != 2:
        raise UserError(f"give INPUT and OUTPUT, two files, and key=value; not {' '.join(words)}")
    cfg = load_config(args.config_file, [w for w in words if w not in files])
    files = [os.path.expanduser(file) for file in files]

    import dataclasses

    import torch

    from ivtuning.checkpoint.conversion import FAMILIES, class_tensors, convert_file

    with torch.device("meta"):
        model = build(cfg, "model")
    classes = class_tensors(cfg.model, model)
    report = convert_file(*files, FAMILIES[args.kind], FAMILIES, model, classes)
    if args.json:
        print(json.dumps({"output": files[1], **dataclasses.asdict(report)}))
    else:
        print(f"{report}\nwrote {files[1]}")


if __name__ == "__main__":
    run_tool(main)
