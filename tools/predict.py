#!/usr/bin/env python
"""Predict boxes, label maps, saliency or classes of pairs of images or videos, as JSON, CSV, PNG and MP4."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ivtuning.config import find_config, load_config, tool_parser
from ivtuning.errors import Stopped, UserError, run_tool

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONFIG = "configs/M3FD/vitdet_ivtuning_b.py"
EXAMPLE = f"""\
two folders whose files have the same stems
    tools/predict.py --config-file {CONFIG} --weights model.pth --vis my/visible --ir my/infrared \\
        --output out/mine --batch 4 --workers 2 --draw
  one pair, with an adapter on its base
    tools/predict.py --config-file {CONFIG} --weights base.pth --adapter m3fd.safetensors \\
        --vis visible.png --ir infrared.png --output out/one
  two videos of the same frames, or one that shows both cameras (needs the extra `video`)
    tools/predict.py --config-file {CONFIG} --weights model.pth --vis visible.mp4 --ir infrared.mp4 \\
        --output out/video --draw
    tools/predict.py --config-file {CONFIG} --weights model.pth --vis both.mp4 --split left-right \\
        --output out/video
  a file of tools/export_model.py
    tools/predict.py --onnx m3fd.onnx --vis my/visible --ir my/infrared --output out/onnx
  a registered set, or a COCO JSON whose images name their infrared partners
    tools/predict.py --config-file {CONFIG} --weights model.pth --dataset m3fd_scene_val --output out/val
    tools/predict.py --config-file {CONFIG} --weights model.pth --dataset my.json --images my --output out/my

The same command again goes on where it was stopped."""


def parse(argv: Sequence[str]) -> Namespace:
    """Read and check the command line.

    Raises:
        UserError: flags that need others or exclude each other, or a value out of range.
    """
    parser = tool_parser(__doc__, EXAMPLE, config_required=False)
    add = parser.add_argument
    add("--weights", metavar="FILE", help="checkpoint, or the base of an adapter (default: init_checkpoint)")
    add("--adapter", metavar="FILE", help="adapter file to load on top of the weights")
    add(
        "--onnx",
        metavar="FILE",
        help="file of tools/export_model.py instead; --config-file defaults to its config",
    )
    add("--vis", metavar="PATH", help="visible image or video, or a folder of images")
    add("--ir", metavar="PATH", help="infrared image or video, or a folder with the same stems")
    add(
        "--split", metavar="WAY", help="--vis shows both cameras: left-right (visible first), top-bottom, ..."
    )
    add("--sync", action="store_true", help="pair frames of two videos by their times")
    add("--stride", type=int, metavar="N", help="predict every N-th frame of a video")
    add("--dataset", metavar="NAME", help="registered data set, or its JSON file")
    add("--images", metavar="DIR", help="where the images of a JSON are (default: as in training)")
    add("--output", required=True, metavar="DIR", help="folder for predictions.json, predictions.csv, ...")
    add("--batch", type=int, default=1, metavar="N", help="pairs in a batch (default: 1)")
    add("--workers", type=int, default=0, metavar="N", help="processes that read images (default: 0, none)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:N (default: train.device)")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default: fp32, as evaluation")
    add("--threshold", type=float, default=0.5, help="least score of a box in the CSV and in pictures (0.5)")
    add("--draw", action="store_true", help="also write pictures, or a video")
    add("--on-bad-pair", choices=("stop", "skip"), default="stop", help="what an unreadable pair does (stop)")
    add("--json", action="store_true", help="print one JSON object, last")
    args = parser.parse_args(argv)
    if not (args.config_file or args.onnx):
        parser.error("the following arguments are required: --config-file, or --onnx")
    if args.onnx and args.precision != "fp32":
        raise UserError(f"--precision {args.precision} goes with --weights: an ONNX file has its own")
    if bool(args.dataset) == bool(args.vis or args.ir):
        raise UserError("give --dataset NAME, or --vis PATH and --ir PATH (or one of them)")
    if args.images and not str(args.dataset).endswith(".json"):
        raise UserError("--images goes with --dataset FILE.json")
    if args.split and (args.ir or not args.vis):
        raise UserError(f"--split {args.split} takes one video, --vis, which shows both cameras")
    if args.sync and not (args.vis and args.ir):
        raise UserError("--sync pairs two videos: give --vis and --ir")
    if args.stride is not None and args.stride < 1:
        raise UserError(f"--stride {args.stride}: give at least 1")
    if args.batch < 1 or args.workers < 0:
        raise UserError(f"--batch {args.batch} --workers {args.workers}: give at least 1 and 0")
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold:g} is not a score: give a number from 0 to 1")
    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise UserError(f"--output {args.output} is a file: name a folder")
    return args


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    if args.onnx:
        from ivtuning.export.config import use_config_of_file

        use_config_of_file(args)
    else:
        args.config_file = find_config(args.config_file)
    cfg = load_config(args.config_file, args.overrides, ("dataloader", "model", "train"))

    from ivtuning.data.own import find_set, register_set
    from ivtuning.predictor import Predictor
    from ivtuning.predictor.folder import Settings, predict_records
    from ivtuning.predictor.video_file import is_video
    from ivtuning.utils.files import file_identity

    videos = any(path and is_video(path) for path in (args.vis, args.ir))
    dataset = args.dataset and (
        register_set(args.dataset, args.images) if args.images else find_set(args.dataset)
    )
    if videos:
        source = _videos(args, _fills(cfg, args.onnx))
        given = [file_identity(args.vis), file_identity(args.ir), args.split, args.sync, args.stride]
    else:
        source = _files(args, dataset)
        given = args.dataset or [args.vis, args.ir]
    weights = args.onnx or args.weights or cfg.train.init_checkpoint
    options = {
        "config": args.config_file,
        "overrides": args.overrides,
        "weights": file_identity(weights),
        "adapter": file_identity(args.adapter),
        "source": given,
        "precision": args.precision,
    }
    settings = Settings(args.batch, args.workers, args.on_bad_pair == "skip", args.draw, args.threshold)

    def make() -> Predictor:
        if args.onnx:
            return Predictor.from_onnx(args.onnx, cfg, device=args.device)
        return Predictor(cfg, weights, args.adapter, device=args.device, precision=args.precision)

    try:
        summary = predict_records(make, source, Path(args.output), settings, options, dataset)
    except Stopped as stopped:
        raise Stopped(stopped.number, f"{stopped}: the same command goes on in {args.output}") from stopped
    if args.json:
        print(json.dumps({"output": args.output, **summary}))
        return
    before = f", {summary['finished_before']} finished before" if summary["finished_before"] else ""
    skipped = f", {len(summary['skipped'])} left out" if summary["skipped"] else ""
    rate = f" ({summary['images_per_second']:.1f} {source.unit}/s)" if summary["images"] else ""
    print(f"predicted {summary['images']} {source.unit}{rate}{before}{skipped}: {args.output}")


def _fills(cfg: DictConfig, onnx: str | None) -> bool:
    """Whether the model, or the exported file, takes a pair that lacks an image."""
    fill = cfg.model.get("fill_missing")
    if onnx:
        from ivtuning.export.runner import read_metadata

        fill = read_metadata(onnx)["fill_missing"]
    return fill not in (None, "error")


def _videos(args: Namespace, fills: bool):
    """The frames of --vis and --ir; those without infrared partner are kept if the model fills it."""
    from ivtuning.predictor.video_pairs import VideoPairs

    if args.workers:
        raise UserError("--workers read image files: a video is decoded in a thread, without it")
    return VideoPairs(
        args.vis,
        args.ir,
        split=args.split,
        sync=args.sync,
        fills=fills,
        stride=args.stride or 1,
        skip=args.on_bad_pair == "skip",
    )


def _files(args: Namespace, dataset: str | None):
    """The pairs of a set, or of --vis and --ir."""
    from ivtuning.predictor.sources import FilePairs
    from ivtuning.visualization.gallery import read_dataset
    from ivtuning.visualization.pair_files import file_records

    if args.split or args.sync or args.stride:
        raise UserError("--split, --sync and --stride go with videos")
    return FilePairs(read_dataset(dataset)[0] if dataset else file_records(args.vis, args.ir))


if __name__ == "__main__":
    run_tool(main)
