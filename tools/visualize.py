#!/usr/bin/env python
"""Draw boxes, label maps or a detector's queries on pairs of images, or the curves of training runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ivtuning.config import tool_parser
from ivtuning.errors import UserError, run_tool

CONFIG = "configs/M3FD/vitdet_ivtuning_b.py"
DETR = "configs/M3FD/dino_ivtuning_swin_l.py"
SEGMENTATION = "configs/MSRS/segformer_ivtuning_swin_l.py"
EXAMPLE = f"""\
ground truth of a dataset
    tools/visualize.py --dataset m3fd_scene_val --output out/truth --limit 20
  ground truth and predictions
    tools/visualize.py --config-file {CONFIG} --weights model.pth --dataset m3fd_scene_val --output out/seen
  one pair of files, or two folders whose files have the same stems
    tools/visualize.py --config-file {CONFIG} --weights base.pth --adapter adapter.safetensors \\
        --vis my/visible --ir my/infrared --output out/mine --threshold 0.4
  less text in crowded pictures
    tools/visualize.py --dataset m3fd_scene_val --output out/plain --labels none
  predictions of a file of tools/export_model.py
    tools/visualize.py --onnx m3fd.onnx --dataset m3fd_scene_val --output out/onnx
  label maps: the same, with a segmentation set and config
    tools/visualize.py --config-file {SEGMENTATION} --weights model.pth --dataset msrs_seg_test \\
        --output out/labels
  the points that DINO's queries sample
    tools/visualize.py --config-file {DETR} --weights model.pth --dataset m3fd_scene_val \\
        --output out/queries --queries 8 --threshold 0.3
  training curves of two runs
    tools/visualize.py --curves output/ivtuning output/full --output out/curves"""


def parse(argv: Sequence[str]):
    """Read and check the command line.

    Raises:
        UserError: flags that need others or exclude each other.
    """
    # Unlike the other tools, pictures of ground truth need no config.
    parser = tool_parser(__doc__, EXAMPLE, config_required=False)
    parser.add_argument("--weights", metavar="FILE", help="checkpoint; no predictions are drawn without it")
    parser.add_argument(
        "--adapter", metavar="FILE", help="adapter file; --weights defaults to the config's init_checkpoint"
    )
    parser.add_argument(
        "--onnx",
        metavar="FILE",
        help="file of tools/export_model.py instead of weights; --config-file defaults to its config",
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="registered dataset, e.g. m3fd_scene_val, or your JSON"
    )
    parser.add_argument("--vis", metavar="PATH", help="visible image, a folder of images, or a pattern")
    parser.add_argument(
        "--ir", metavar="PATH", help="infrared image, or a folder or pattern with names that fit"
    )
    parser.add_argument("--curves", nargs="+", metavar="RUN", help="output folders of training runs")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for pictures and index.html")
    parser.add_argument("--no-predictions", action="store_true", help="draw ground truth only")
    parser.add_argument(
        "--queries",
        type=int,
        metavar="N",
        help="draw the N best queries of a DINO or Co-DETR model: boxes through the decoder, sampled points",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="least score of a drawn box (default: 0.5)"
    )
    parser.add_argument(
        "--labels",
        choices=("auto", "all", "class", "none"),
        default="auto",
        help="at boxes: names and scores, names alone, nothing, or by default as much as has room",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="draw only the first N pairs")
    parser.add_argument(
        "--grid", action="store_true", help="also write contact_sheet.png, one image of the first 24 pictures"
    )
    args = parser.parse_args(argv)

    given = [bool(args.curves), bool(args.dataset), bool(args.vis or args.ir)]
    if sum(given) != 1 or bool(args.vis) != bool(args.ir):
        raise UserError("give one of --dataset NAME, --vis PATH with --ir PATH, or --curves RUN...")
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold:g} is not a score: give a number from 0 to 1")
    if args.dataset and "," in args.dataset:
        raise UserError(f"--dataset {args.dataset}: draw one set after the other, each with its own --output")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: give at least 1")
    if args.queries is not None and args.queries < 1:
        raise UserError(f"--queries {args.queries}: give at least 1")
    if (args.weights or args.adapter or args.overrides) and not (args.config_file or args.onnx):
        raise UserError("--weights, --adapter and key=value go with --config-file, which describes the model")
    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise UserError(f"--output {args.output} is a file: name a folder")
    args.predict = bool(args.weights or args.adapter or args.onnx) and not args.no_predictions
    if args.queries and not args.predict:
        raise UserError("--queries needs predictions: give --weights, and not --no-predictions")
    if args.onnx and args.curves:
        raise UserError("--onnx goes with --dataset, or --vis and --ir")
    return args


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    output = Path(args.output)
    if args.curves:
        from ivtuning.visualization.curves import plot_curves

        print(f"wrote {plot_curves(args.curves, output / 'curves.png')}")
        return

    from ivtuning.config import load_config
    from ivtuning.data.classes import align_classes
    from ivtuning.data.own import find_set
    from ivtuning.predictor import Predictor, QueryTracer
    from ivtuning.visualization.gallery import draw_records, painter_of, painter_of_config, read_dataset
    from ivtuning.visualization.painters import BoxPainter, QueryPainter
    from ivtuning.visualization.pair_files import file_records

    if args.onnx:
        from ivtuning.export.config import use_config_of_file

        use_config_of_file(args)
    cfg = load_config(args.config_file, args.overrides) if args.config_file else None
    if args.dataset:
        args.dataset = find_set(args.dataset)
        records, order = read_dataset(args.dataset)
    else:
        records, order = file_records(args.vis, args.ir), []
    kind = QueryTracer if args.queries else Predictor
    predict, classes = None, []
    if args.predict:
        predict = kind.from_onnx(args.onnx, cfg) if args.onnx else kind(cfg, args.weights, args.adapter)
        classes = predict.classes  # from here on, the config's sets have the model's order
    if args.dataset:
        if classes and order and align_classes([args.dataset], classes) != order:
            records = read_dataset(args.dataset)[0]
        painter = painter_of(args.dataset, args.threshold, args.labels)
    else:
        painter = painter_of_config(cfg, args.threshold, args.labels)
    if args.queries and isinstance(painter, BoxPainter):
        painter = QueryPainter(painter.classes, args.threshold, args.queries, args.labels)
    records = records[: args.limit]
    page = draw_records(
        records,
        painter,
        predict,
        output,
        args.grid,
        facts={
            "source": args.dataset or f"{args.vis} + {args.ir}",
            "config": args.config_file,
            "overrides": " ".join(args.overrides) or None,
            "weights": (args.onnx or args.weights) if args.predict else None,
            "adapter": args.adapter if args.predict else None,
            "threshold": f"{args.threshold:g}" if args.predict and isinstance(painter, BoxPainter) else None,
        },
    )
    print(f"wrote {len(records)} picture{'s' * (len(records) != 1)} and {page}")


if __name__ == "__main__":
    run_tool(main)
