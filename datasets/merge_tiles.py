"""Put predictions on the tiles of prepare_dota.py together, evaluate them, and write files for DOTA's server.

Detections of one class that overlap are one: the NMS of whole images. Where the part has labels, its rotated
AP is printed. The folder gets merged.json and one Task1_<class>.txt for each class.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from options import ScriptParser, run

PARSER = ScriptParser(
    __doc__,
    "python datasets/merge_tiles.py --predictions output/val/predictions.json --part val --output merged",
)
PARSER.add_argument("--predictions", type=Path, required=True, help="JSON that tools/predict.py wrote")
PARSER.add_argument("--part", required=True, choices=["train", "val", "test"], help="part that it predicted")
PARSER.add_argument("--output", type=Path, required=True, help="folder for the files")
PARSER.add_argument("--set", default="dota", help="name of the set (default dota)")
PARSER.add_argument("--iou", type=float, default=0.1, help="IoU above which two are one (default 0.1)")


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    import json

    import torch
    from detectron2.structures import Instances, RotatedBoxes

    from ivtuning.data.catalog import data_root
    from ivtuning.data.datasets.detection import read_json, register_pairs
    from ivtuning.data.prepare.tiles import merge
    from ivtuning.errors import UserError
    from ivtuning.evaluation.oriented import OrientedEvaluator
    from ivtuning.oriented.boxes import corners
    from ivtuning.utils import text
    from ivtuning.utils.files import StagedFiles

    if not 0 <= args.iou <= 1:
        raise UserError(f"--iou {args.iou}: give an IoU in 0..1")
    root = data_root() / args.set
    whole_json = root / "annotations" / f"whole_{args.part}.json"
    tiles = read_json(root / "annotations" / f"tiles_{args.part}.json")
    content = read_json(whole_json)
    names = {image["id"]: image["group"] for image in content["images"]}
    results = text.read_json(args.predictions)
    if not isinstance(results, list):
        raise UserError(
            f"{args.predictions} is no list of results: give the predictions.json of tools/predict.py"
        )
    try:
        merged = merge(results, tiles, {name: i for i, name in names.items()}, args.iou)
    except UserError as error:
        raise UserError(f"{args.predictions}: {error}") from error
    print(f"{len(results)} detections in tiles are {len(merged)} in {len(names)} images")

    with StagedFiles(advice="choose a writable place with --output") as staged:
        staged.write(args.output / "merged.json", (json.dumps(merged) + "\n").encode())
        points = corners(torch.tensor([r["bbox"] for r in merged], dtype=torch.float64).reshape(-1, 5))
        lines: dict[int, list[str]] = defaultdict(list)
        for r, ends in zip(merged, points.flatten(1).tolist(), strict=True):
            values = f"{r['score']:.6f}", *(f"{v:.2f}" for v in ends)
            lines[r["category_id"]].append(" ".join((names[r["image_id"]], *values)))
        for category in content["categories"]:
            path = args.output / f"Task1_{category['name']}.txt"
            staged.write(path, "".join(f"{line}\n" for line in lines[category["id"]]).encode())
        staged.commit()
    if not content.get("annotations"):
        print(f"{whole_json} has no boxes: no AP")
        return
    name = f"{args.set}_whole_{args.part}"
    register_pairs(name, whole_json, root)
    evaluator = OrientedEvaluator(name)
    evaluator.reset()
    label_of = {category: label for label, category in enumerate(evaluator.classes)}
    found: dict[int, list[dict]] = defaultdict(list)
    for r in merged:
        found[r["image_id"]].append(r)
    for image in names:
        some = found[image]
        instances = Instances((1, 1), scores=torch.tensor([r["score"] for r in some]))
        instances.pred_boxes = RotatedBoxes(torch.tensor([r["bbox"] for r in some]).reshape(-1, 5))
        instances.pred_classes = torch.tensor([label_of[r["category_id"]] for r in some], dtype=torch.int64)
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    for key, value in evaluator.evaluate()["bbox"].items():
        print(f"{key:<32} {value:.2f}")


if __name__ == "__main__":
    run(PARSER, main)
