#!/usr/bin/env python
"""Merge an adapter into its base weights (LoRA, and methods that train parts of the trunk itself).

The merged weights compute alone what base and adapter compute together. --undo takes LoRA out of them again.
"""

from __future__ import annotations

from ivtuning.config import build, load_config, tool_parser
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
    parser.add_argument(
        "--undo", action="store_true", help="--weights is what this tool wrote: write the base again"
    )
    args = parser.parse_args(argv)
    if not args.output.endswith(".pth"):
        raise UserError(f"--output {args.output}: the name of a file of weights ends in .pth")
    cfg = load_config(args.config_file, args.overrides)

    import os

    import torch

    from ivtuning.backbones.trunk import find_trunk
    from ivtuning.checkpoint import load_adapter, load_weights
    from ivtuning.checkpoint.adapter import fingerprint, read_metadata
    from ivtuning.checkpoint.files import read
    from ivtuning.hub.names import check_output, local_path
    from ivtuning.utils.files import atomic_write, file_sha256

    check_output(args.output, args.weights, args.adapter)
    header = read_metadata(args.adapter)
    if "backbone" not in header["groups"]:
        held = header["groups"][0]
        raise UserError(f"{args.adapter}: holds the group {held!r} alone: there is nothing to merge")
    digest = file_sha256(local_path(args.adapter))
    model = build(cfg, "model").eval()
    place = find_trunk(model)
    trunk = place.trunk
    if args.undo:
        _check_merged(args, read(local_path(args.weights)), digest)
        report = load_weights(model, args.weights, strict=False, place=place)
        load_adapter(model, args.adapter, merged=True, place=place)
        trunk.unmerge_adapters()
        same = fingerprint(trunk) == header["fingerprint"]
        use = "it takes the adapter" if same else "rounding changed it so far that the adapter refuses it"
        note, extra = f"the base again, up to rounding; {use}", {}
    else:
        report = load_weights(model, args.weights, args.adapter, strict=False, place=place)
        trunk.merge_adapters()
        note, extra = "use it with model.backbone.net.tuner=Frozen", {"merged": digest}
    # Neck and heads are written as far as either file has them; random ones are left out.
    left_out = set(report.fresh)
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in left_out and not name.startswith(f"{place.prefix}tuner.")
    }
    with atomic_write(args.output) as temp, open(temp, "wb") as f:
        torch.save({"model": state, **extra}, f)
    megabytes = os.path.getsize(args.output) / 1e6
    what = "without neck and heads" if left_out else "the whole model"
    print(f"{args.output}: {megabytes:.2f} MB, {what}; {note}")


def _check_merged(args, file, digest):
    """Raise UserError where `file`, read from --weights, is not the adapter merged into something."""
    merged = file.get("merged") if isinstance(file, dict) else None
    if merged is None:
        raise UserError(f"{args.weights}: was not written by merging: give the file that this tool wrote")
    if merged != digest:
        raise UserError(
            f"{args.weights}: another adapter is merged into it, not {args.adapter}: give that one"
        )


if __name__ == "__main__":
    run_tool(main)
