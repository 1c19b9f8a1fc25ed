"""Convert a semantic segmentation release to segmentation/<part>.json, registered as <set>_seg_<part>.

msrs, mfnet, fmb and pst900 are pairs, also registered without their background, as
<set>_seg_foreground_<part>; ade20k has visible images only. The layouts of the releases are described in
datasets/README.md.
"""

from __future__ import annotations

from options import prepare_parser, run

PARSER = prepare_parser(
    __doc__, "python datasets/prepare_segmentation.py --set msrs --source /data/MSRS --dry-run", "<set>"
)
PARSER.add_argument("--set", required=True, help="name of the set, such as msrs; a wrong one lists all")


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import data_root
    from ivtuning.data.datasets.segmentation_layouts import releases
    from ivtuning.data.prepare.segmentation import prepare
    from ivtuning.errors import UserError, nearest

    sets = releases()
    if args.set not in sets:
        raise UserError(f"--set {args.set}: give {', '.join(sets)}{nearest(args.set, sets)}")
    known = sets[args.set]
    output = args.output or data_root() / known.folder
    prepare(known, args.source or output, output, args.dry_run)


if __name__ == "__main__":
    run(PARSER, main)
