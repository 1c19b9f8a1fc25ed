#!/usr/bin/env python
"""Write base weights that compute alone what base and adapter compute together (LoRA, and methods that train
parts of the trunk itself)."""

from __future__ import annotations

from ivtuning.config import load_config, tool_parser
from ivtuning.errors import UserError, run_tool

EXAMPLE = """\
tools/merge_adapter.py --config-file configs/synthetic/ivtuning.py --weights base.pth \\
      --adapter lora.safetensors --output merged.pth \\
      model.backbone.net.tuner=LoRA model.backbone.net.stem=VisibleOnly
  tools/train_net.py --config-file configs/synthetic/ivtuning.py --eval-only --weights merged.pth \\
      model.backbone.net.tuner=Frozen model.backbone.net.stem=VisibleOnly
"""


def main(argv):
    parser = tool_parser(__doc__, EXAMPLE)
    parser.add_argument("--weights", required=True, metavar="FILE", help="the base, or a checkpoint with it")
    parser.add_argument("--adapter", required=True, metavar="FILE", help="adapter file, *.safetensors")
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write, *.pth")
    args = parser.parse_args(argv)
    if not args.output.endswith(".pth"):
        raise UserError(f"--output {args.output}: the name of a file of weights ends in .pth")
    cfg = load_config(args.config_file, args.overrides)

    import os

    import torch
    from detectron2.config import instantiate

    from ivtuning.backbones.trunk import find_trunk
    from ivtuning.checkpoint import load_weights
    from ivtuning.checkpoint.adapter import read_metadata
    from ivtuning.checkpoint.files import atomic

    groups = read_metadata(args.adapter)["groups"]
    if "backbone" not in groups:
        raise UserError(f"{args.adapter}: holds the group {groups[0]!r} alone: there is nothing to merge")
    model = instantiate(cfg.model).eval()
    report = load_weights(model, args.weights, args.adapter, strict=False)
    place, trunk = find_trunk(model)
    trunk.merge_adapters()
    # Neck and heads go along as far as either file has them; random ones do not.
    left_out = set(report.fresh)
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in left_out and not name.startswith(f"{place}.tuner.")
    }
    with atomic(args.output) as temp, open(temp, "wb") as f:
        torch.save({"model": state}, f)
    megabytes = os.path.getsize(args.output) / 1e6
    what = "without neck and heads" if left_out else "the whole model"
    print(f"{args.output}: {megabytes:.2f} MB, {what}; use it with model.backbone.net.tuner=Frozen")


if __name__ == "__main__":
    run_tool(main)
