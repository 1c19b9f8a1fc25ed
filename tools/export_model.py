#!/usr/bin/env python
"""Write a model as one file that runs without this project: ONNX, or a program of torch.export.

The file takes uint8 images and gives boxes, label maps or class scores. docs/deploy.md shows how to run it.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ivtuning.config import find_config, load_config, tool_parser
from ivtuning.errors import UserError, run_tool

EXAMPLE = """\
tools/export_model.py --config-file configs/M3FD/vitdet_ivtuning_b.py --weights base.pth \\
      --adapter m3fd.safetensors --output m3fd.onnx --size 1024x768
  tools/export_model.py --config-file configs/MSRS/segformer_ivtuning_swin_l.py --weights model.pth \\
      --output msrs.onnx --size 640x480 --dynamic batch --precision fp16
"""


def parse(argv: Sequence[str]) -> Namespace:
    """Read the command line.

    Raises:
        UserError: an unknown flag, or a flag without its value.
    """
    parser = tool_parser(__doc__, EXAMPLE)
    add = parser.add_argument
    add("--weights", metavar="FILE", help="checkpoint, or the base of an adapter (default: init_checkpoint)")
    add("--adapter", metavar="FILE", help="adapter file to load on top of the weights")
    add("--output", required=True, metavar="FILE", help="file to write, *.onnx or *.pt2")
    add("--size", required=True, metavar="WxH", help="width x height of the images in pixels, as 640x512")
    add("--batch", type=int, default=1, metavar="N", help="pairs in a batch (default: 1)")
    add(
        "--dynamic",
        action="append",
        default=[],
        metavar="WHAT",
        help="batch or size may differ at run time; give the flag twice for both",
    )
    add("--precision", default="fp32", metavar="TYPE", help="fp32, or fp16 for the backbone (default: fp32)")
    add(
        "--stage",
        metavar="NAME",
        help="where the graph ends: backbone (feature maps), raw (before selection), detections (default: "
        "predictions)",
    )
    add("--format", metavar="NAME", help="onnx or pt2 (default: by the name of --output)")
    add(
        "--check", type=int, default=4, metavar="N", help="compare N pairs with PyTorch; 0: none (default: 4)"
    )
    add("--json", action="store_true", help="print one JSON object, last")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    if args.check < 0:
        raise UserError(f"--check {args.check}: give a number of pairs, or 0")
    args.config_file = find_config(args.config_file)
    cfg = load_config(args.config_file, args.overrides, ("dataloader", "model", "train"))

    from ivtuning.checkpoint.header import adapter_classes
    from ivtuning.engine.run import load_model
    from ivtuning.export.export import export_model
    from ivtuning.export.options import FORMATS, Options, file_format, known, parse_size
    from ivtuning.export.pairs import pairs_of_config
    from ivtuning.export.writing import need_exporters
    from ivtuning.hub.names import check_output
    from ivtuning.predictor.classes import model_classes

    output = Path(args.output)
    if args.format:
        known("--format", args.format, FORMATS)
    if file_format(output, args.format) == "onnx":
        need_exporters()
    options = Options(parse_size(args.size), args.batch, tuple(args.dynamic), args.precision, args.stage)
    weights = args.weights or cfg.train.init_checkpoint
    if not weights:
        raise UserError("there are no weights: give --weights, or set train.init_checkpoint in the config")
    check_output(output, weights, *([args.adapter] if args.adapter else []))
    cfg.train.device = "cpu"
    model = load_model(cfg, weights, args.adapter).eval()
    comparison = export_model(
        model,
        output,
        options,
        check=args.check,
        pairs=pairs_of_config(cfg, model, args.check, options.size),
        config=str(args.config_file),
        overrides=args.overrides,
        classes=model_classes(cfg, adapter_classes(args.adapter)),
        adapter=args.adapter,
    )
    size = sum(file.stat().st_size for file in (output, Path(f"{output}.data")) if file.is_file())
    lines = [] if comparison is None else comparison.lines()
    if args.json:
        print(
            json.dumps(
                {
                    "output": str(output),
                    "bytes": size,
                    "pairs": getattr(comparison, "pairs", 0),
                    "check": lines,
                }
            )
        )
        return
    print(f"{output}: {size / 1e6:.2f} MB")
    if comparison is not None:
        print(f"compared with PyTorch on {comparison.pairs} pairs:")
    for line in lines:
        print(f"  {line}")


if __name__ == "__main__":
    run_tool(main)
