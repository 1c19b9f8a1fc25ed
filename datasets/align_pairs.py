"""Align pairs of two cameras that do not coincide: warp infrared images into the frame of the visible ones.

One warp is estimated for the whole set from a sample of its pairs, on the edges that both cameras see, or is
taken from a calibration file. The result is <output>/infrared/, in the size of the visible images, with
warp.json (the matrix), seen.png (where infrared sees) and report.html (residuals and pictures). Pairs that
disagree, because the cameras moved or scenes are near, are refused.
"""

from __future__ import annotations

from pathlib import Path

from options import ScriptParser, run

EXAMPLE = r"""python datasets/align_pairs.py --vis my/visible --ir my/infrared --output my/aligned
  python datasets/align_pairs.py --vis my/visible --ir my/infrared --output my/cropped --model affine --crop
  python datasets/align_pairs.py --vis my/visible --ir my/infrared --output my/aligned \
    --calibration rig.yml"""

PARSER = ScriptParser(__doc__, EXAMPLE)
PARSER.add_argument(
    "--vis", required=True, help="visible images: a folder, or a pattern as in prepare_pairs.py"
)
PARSER.add_argument("--ir", required=True, help="infrared images")
PARSER.add_argument("--output", type=Path, required=True, help="new folder for the result")
PARSER.add_argument(
    "--model",
    default="homography",
    choices=("homography", "affine", "shift"),
    help="what the warp may do; shift is translation and one scale (default homography)",
)
PARSER.add_argument(
    "--pairs",
    type=int,
    default=60,
    help="pairs that the warp is estimated from (default 60, drawn with a seed)",
)
PARSER.add_argument(
    "--calibration",
    type=Path,
    help="take the 3x3 matrix from infrared to visible pixels from this file: a warp.json, another JSON, or "
    "YAML or XML of OpenCV",
)
PARSER.add_argument(
    "--limit",
    type=float,
    help="how many pixels of the visible image pairs may disagree (default: 1%% of its diagonal)",
)
PARSER.add_argument(
    "--crop", action="store_true", help="write both images, cropped to the view that they share"
)


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.align.folders import align_pairs

    result = align_pairs(
        args.vis,
        args.ir,
        args.output,
        model=args.model,
        pairs=args.pairs,
        calibration=args.calibration,
        limit=args.limit,
        crop=args.crop,
    )
    agreement = result["sample"]
    print(
        f"{agreement['clear']} of {agreement['sampled']} sampled pairs are clear; three quarters are within "
        f"{agreement['spread_px']} px; edge correlation {agreement['correlation_before']} before, "
        f"{agreement['correlation_after']} after"
    )
    if agreement["spread_px"] > agreement["limit_px"]:
        print(
            f"warning: the pairs disagree with {args.calibration.name}: look at {args.output / 'report.html'}"
        )
    visible = args.output / "visible" if args.crop else args.vis
    print(
        f"report: {args.output / 'report.html'}; go on with --vis {visible} --ir {args.output / 'infrared'}"
    )


if __name__ == "__main__":
    run(PARSER, main)
