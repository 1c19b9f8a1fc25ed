"""Turn a semantic segmentation release into segmentation/<part>.json, registered as <set>_seg_<part>.

msrs, mfnet, fmb and pst900 are pairs, also registered without their background, as
<set>_seg_foreground_<part>; ade20k has visible images alone. Layouts of the releases: datasets/README.md.
"""

from __future__ import annotations

from options import prepare_parser, run

SETS = ("msrs", "mfnet", "fmb", "pst900", "ade20k")

PARSER = prepare_parser(
    __doc__, "python datasets/prepare_segmentation.py --set msrs --source /data/MSRS --dry-run", "<set>"
)
PARSER.add_argument("--set", required=True, choices=SETS, help="which release it is")


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.segmentation import prepare
    from ivtuning.data.prepare.segmentation_layouts import LAYOUTS

    output = args.output or data_root() / args.set
    prepare(LAYOUTS[args.set], args.source or output, output, args.dry_run)


if __name__ == "__main__":
    run(PARSER, main)
