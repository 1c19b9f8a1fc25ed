#!/usr/bin/env python
"""Train and evaluate a model from a LazyConfig, in one process or under torchrun."""

from __future__ import annotations

from ivtuning.config import RUN_GROUPS, find_config, load_config, tool_parser
from ivtuning.errors import Stopped, run_tool

EXAMPLE = """\
tools/train_net.py --config-file configs/synthetic/ivtuning.py train.max_iter=100
  tools/train_net.py --config-file X --resume
  tools/train_net.py --config-file X --eval-only --weights base.pth --adapter m3fd.safetensors
  tools/train_net.py --eval-only --onnx m3fd.onnx
  tools/train_net.py --config-file configs/M3FD/vitdet_ivtuning_b.py method=Full
  torchrun --nproc_per_node 2 tools/train_net.py --config-file X model.backbone.net.tuner=Frozen
"""


def main(argv):
    parser = tool_parser(__doc__, EXAMPLE, config_required=False)
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint of train.output_dir"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument(
        "--weights",
        default="",
        help="weights to start from or to evaluate, a file or a name (docs/weights.md); sets "
        "train.init_checkpoint",
    )
    parser.add_argument(
        "--adapter", help="adapter to load on top of --weights, a file or a name; with --eval-only"
    )
    parser.add_argument(
        "--onnx",
        metavar="FILE",
        help="evaluate a file of tools/export_model.py; --config-file defaults to its config",
    )
    args = parser.parse_args(argv)
    for flag in ("adapter", "onnx"):
        if getattr(args, flag) and not args.eval_only:
            parser.error(f"--{flag} goes with --eval-only")
    if args.onnx:
        from ivtuning.export.config import use_config_of_file

        use_config_of_file(args)
    elif args.config_file:
        args.config_file = find_config(args.config_file)  # it is printed into the log
    else:
        parser.error("the following arguments are required: --config-file")
    cfg = load_config(args.config_file, args.overrides, RUN_GROUPS)
    if args.weights:
        cfg.train.init_checkpoint = args.weights

    from ivtuning.engine import run

    run.setup(cfg, args)
    if args.eval_only:
        run.record_evaluation(cfg, cfg.train.init_checkpoint, args.adapter, args.onnx)
        return
    try:
        run.train(cfg, resume=args.resume)
    except Stopped as stopped:
        go_on = "the same command with --resume (make: OPTS=--resume) goes on from the last checkpoint"
        raise Stopped(stopped.number, f"{stopped}: {go_on} in {cfg.train.output_dir}") from stopped


if __name__ == "__main__":
    run_tool(main)
