#!/usr/bin/env python
"""Print which parameters of a model train and which are frozen; or compare all tuners on one trunk."""

from __future__ import annotations

import json

from ivtuning.config import build, load_config, tool_parser
from ivtuning.errors import UserError, run_tool

EXAMPLE = """\
tools/analyze_model.py --config-file configs/M3FD/vitdet_ivtuning_b.py model.backbone.net.tuner=Full
  tools/analyze_model.py --trunk swin_l --all-tuners --size 512 512
"""


class TrunkNames:
    """The names of all trunks, as text. They need torch, so only ``--help`` imports them."""

    def __str__(self) -> str:
        from ivtuning.backbones.presets import TRUNKS

        return ", ".join(TRUNKS)


def main(argv):
    parser = tool_parser(__doc__, EXAMPLE, config_required=False)
    trunk = parser.add_argument("--trunk", metavar="NAME")
    trunk.names, trunk.help = TrunkNames(), "a trunk instead of a config: %(names)s"
    parser.add_argument("--all-tuners", action="store_true", help="compare all tuners on --trunk")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="image size in pixels for counting multiply-accumulates (default: 480 640)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    args = parser.parse_args(argv)
    if bool(args.config_file) == bool(args.trunk):
        raise UserError("give either --config-file FILE or --trunk NAME --all-tuners")
    if bool(args.trunk) != args.all_tuners or (args.size and not args.trunk):
        raise UserError("--trunk NAME, --all-tuners and --size H W belong together; --size may be left out")
    if args.trunk and args.overrides:
        raise UserError(f"{args.overrides[0]!r} changes a config: leave it out, or give --config-file FILE")

    if args.trunk:
        from ivtuning.comparison.costs import compare_tuners, comparison_table

        counts, table = compare_tuners(args.trunk, tuple(args.size or (480, 640))), comparison_table
    else:
        cfg = load_config(args.config_file, args.overrides)

        import torch

        from ivtuning.engine.parameters import count_parameters, parameter_table

        with torch.device("meta"):
            counts, table = count_parameters(build(cfg, "model")), parameter_table
    print(json.dumps(counts) if args.json else table(counts))


if __name__ == "__main__":
    run_tool(main)
