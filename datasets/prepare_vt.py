"""Convert VT821, VT1000 or VT5000 (salient objects) to segmentation/<part>.json.

The masks become label maps of two classes, in copies in the set's folder. VT5000 has the parts train and
test, registered as vt5000_seg_train and vt5000_seg_test; the others are test sets.
"""

from __future__ import annotations

from options import prepare_parser, run

SETS = ("vt821", "vt1000", "vt5000")

PARSER = prepare_parser(__doc__, "python datasets/prepare_vt.py --set vt821 --source /data/VT821", "<set>")
PARSER.add_argument("--set", required=True, choices=SETS, help="which of the three sets")


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import data_root
    from ivtuning.data.datasets.segmentation_layouts import KNOWN
    from ivtuning.data.prepare.salient import prepare_salient

    output = args.output or data_root() / KNOWN[args.set].folder
    prepare_salient(KNOWN[args.set], args.source or output, output, args.dry_run)


if __name__ == "__main__":
    run(PARSER, main)
