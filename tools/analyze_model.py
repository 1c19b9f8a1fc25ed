#!/usr/bin/env python
"""Print who trains and who is frozen in a model, with both ratios."""

from __future__ import annotations

import json

from ivtuning.config import load_config, tool_parser
from ivtuning.errors import run_tool

EXAMPLE = (
    "tools/analyze_model.py --config-file configs/M3FD/vitdet_ivtuning_b.py model.backbone.net.tuner=Full"
)


def main(argv):
    parser = tool_parser(__doc__, EXAMPLE)
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    args = parser.parse_args(argv)
    cfg = load_config(args.config_file, args.overrides)

    import torch
    from detectron2.config import instantiate

    from ivtuning.engine.report import count_parameters, parameter_table

    with torch.device("meta"):
        counts = count_parameters(instantiate(cfg.model))
    print(json.dumps(counts) if args.json else parameter_table(counts))


if __name__ == "__main__":
    run_tool(main)
