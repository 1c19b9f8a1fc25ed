"""Verify paired sets: files, sizes, channels, boxes or label maps, duplicates, misaligned images.

Give a training and a validation set together to find images that are in both. Errors give exit code 1,
warnings do not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from options import ScriptParser, run

PARSER = ScriptParser(
    __doc__,
    "python datasets/check_pairs.py m3fd_scene_train m3fd_scene_val --json\n"
    "  python datasets/check_pairs.py msrs_seg_train msrs_seg_test",
)
PARSER.add_argument(
    "sets", nargs="+", help="registered names, such as m3fd_scene_val, or JSON files in the same format"
)
PARSER.add_argument(
    "--image-root",
    type=Path,
    help="images' folder of JSON files that do not record it (default: theirs, or that above annotations/)",
)
PARSER.add_argument(
    "--sample", type=int, default=64, help="pairs per set whose misalignment is estimated (default 64)"
)
PARSER.add_argument(
    "--gray-visible", action="store_true", help="accept gray visible images, of a camera without color"
)
PARSER.add_argument("--json", action="store_true", help="print a JSON object last")


def main(argv=None) -> int:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import home_of, metadata
    from ivtuning.data.verify.verification import verify
    from ivtuning.errors import UserError

    sets = {}
    for name in args.sets:
        if name.lower().endswith(".json"):
            sets[name] = (name, args.image_root or home_of(name))
        else:
            known = metadata(name)
            if known.get("json_file") is None:
                raise UserError(f"{name} has no JSON to check: give a set of boxes or label maps")
            sets[name] = (known.json_file, known.image_root)
    report = verify(sets, args.sample, args.gray_visible)
    print(report.text())
    if args.json:
        print(json.dumps(report.as_dict(), allow_nan=False))
    if not (errors := report.count("error")):
        return 0
    first = report.first_error()
    print(f"error: {errors} errors in {', '.join(sets)}, reported above; the first: {first}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run(PARSER, main)
