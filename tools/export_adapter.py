#!/usr/bin/env python
"""Write the trained part of a model, and nothing of its frozen base, to an adapter file.

A model card, README.md, is written beside it, so that the folder can be uploaded as it is.
"""

from __future__ import annotations

import json

from ivtuning.config import build, find_config, load_config, set_names, tool_parser
from ivtuning.errors import UserError, run_tool

EXAMPLE = """\
tools/export_adapter.py --config-file configs/synthetic/ivtuning.py \\
      --weights output/synthetic/ivtuning/model_best.pth --output iv/iv.safetensors --dtype bf16 \\
      --note AP=41.2 --note license=apache-2.0
  hf upload OWNER/REPO iv
"""


def main(argv):
    parser = tool_parser(__doc__, EXAMPLE)
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of the whole model")
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write, *.safetensors")
    parser.add_argument(
        "--only", choices=("backbone", "task"), help="write one group: stem and tuner, or neck and heads"
    )
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16"), help="precision of the parameters (default: as trained)"
    )
    parser.add_argument(
        "--note",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a fact for metadata and card, such as AP, license or base_license; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    notes = dict(note.partition("=")[::2] for note in args.note)
    if not all(notes) or any("=" not in note for note in args.note):
        raise UserError("--note takes KEY=VALUE, e.g. --note AP=41.2")
    args.config_file = find_config(args.config_file)  # the card names it
    cfg = load_config(args.config_file, args.overrides)

    import os
    from pathlib import Path

    import torch
    from omegaconf import OmegaConf

    from ivtuning.checkpoint import load_weights, save_adapter
    from ivtuning.checkpoint.adapter import GROUPS, group_sizes
    from ivtuning.checkpoint.card import model_card, write_card
    from ivtuning.hub.names import base_name, check_output, local_path

    check_output(args.output, args.weights)
    local_path(args.weights)  # it is missing, or fetched, before the model is built
    model = build(cfg, "model")
    load_weights(model, args.weights)
    base = OmegaConf.select(cfg, "train.init_checkpoint") or ""
    metadata = {
        "dataset": _sets(cfg, "train"),
        "classes": _classes(cfg),
        "base_weights": base_name(base),
        **notes,
    }
    header = save_adapter(
        model,
        args.output,
        groups=(args.only,) if args.only else GROUPS,
        dtype={"fp32": torch.float32, "bf16": torch.bfloat16, None: None}[args.dtype],
        metadata=metadata,
        config=cfg,
    )
    test_set = _sets(cfg, "test")
    card = write_card(
        Path(args.output),
        model_card(Path(args.output), header, args.config_file, args.overrides, _task(model), test_set),
    )
    megabytes = {group: size / 1e6 for group, size in group_sizes(args.output).items()}
    if args.json:
        facts = {"output": args.output, "card": card, "megabytes": megabytes, **header}
        print(json.dumps(facts, default=str))
        return
    shown = f"model card {card}" if card else "no model card: another README.md is in that folder"
    size = os.path.getsize(args.output) / 1e6
    print(f"{args.output}: {size:.2f} MB on the base {header['fingerprint'][:12]}; {shown}")
    for group, size in megabytes.items():
        print(f"  {group:9}{size:9.2f} MB")


def _task(model):
    """The hub's name for what `model` does."""
    from ivtuning.heads.classification import ImageClassifier

    if isinstance(model, ImageClassifier):
        return "image-classification"
    return "image-segmentation" if hasattr(model, "sem_seg_head") else "object-detection"


def _sets(cfg, part):
    """The sets of a loader, as others may read them."""
    from ivtuning.data.own import public_name

    return public_name(set_names(cfg, part)) or None


def _classes(cfg):
    """The names of the model's classes, which pictures show; [] where the config's sets are not here."""
    from ivtuning.data.datasets import classification, detection  # noqa: F401  (register their sets)
    from ivtuning.engine.checks import sets_classes

    try:
        return sets_classes(cfg)
    except UserError:  # sets of different classes, of which an export knows nothing
        return []


if __name__ == "__main__":
    run_tool(main)
