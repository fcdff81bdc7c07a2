#!/usr/bin/env python
"""Class activation maps of classifiers, a row for each picture and a column for each model (figure 6).

python tools/visualization/vis_cam.py cat.jpg dog.jpg --model cls/van_b2_in1k CHECKPOINT \\
    --model mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py CHECKPOINT --target 'tiger cat' --out cam.png

By default the backbone's last layer before its final norm is weighed, and the class is the one predicted. A NAME.json
beside the picture tells the class and its probability for each.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_config_arguments  # noqa: E402  a neighbour of this folder

METHODS = [
    "gradcam",
    "gradcamplusplus",
    "xgradcam",
    "layercam",
    "hirescam",
    "eigencam",
    "eigengradcam",
    "scorecam",
    "ablationcam",
]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, folders, quoted patterns")
    parser.add_argument(
        "--model", nargs=2, action="append", required=True, metavar=("CONFIG", "CHECKPOINT"), help="may be repeated"
    )
    parser.add_argument("--method", choices=METHODS, default="gradcam", help="of the grad-cam library")
    parser.add_argument("--target", metavar="CLASS", help="name or number of a class (default: the predicted one)")
    parser.add_argument("--target-layer", metavar="NAME", help="a module, such as backbone.block3.4")
    parser.add_argument("--size", type=int, help="resize pictures to so many pixels a side")
    parser.add_argument("--out", type=Path, default=Path("cam.png"), metavar="FILE.png", help="default: %(default)s")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from importlib.util import find_spec

    from van_mm.errors import UserError

    if find_spec("pytorch_grad_cam") is None:
        raise UserError("vis_cam.py needs the grad-cam library: pip install grad-cam")
    from van_mm.visualization.cam import Network, activation_map, find_class
    from van_mm.visualization.draw import class_name
    from van_mm.visualization.figures import grid, heat_over
    from van_mm.visualization.inputs import find_inputs
    from van_mm.visualization.models import load_models, prepare
    from van_mm.visualization.predict import dataset_meta

    files = find_inputs(args.inputs)
    models = load_models(args, args.model)
    rows, titles = [[] for _ in files], [[] for _ in files]
    found = {str(file): [] for file in files}
    for (name, _), (cfg, model) in zip(args.model, models, strict=True):
        if cfg.default_scope != "mmpretrain" or not getattr(model, "with_head", False):
            raise UserError(f"{name} is no classifier")
        classes = dataset_meta(cfg).get("classes")
        seen, images = prepare(cfg, model, files, args.size)
        targets = None
        if args.target is not None:
            targets = [find_class(args.target, classes, model.head.num_classes)] * len(files)
        maps, scores = activation_map(Network(model), images, targets, args.target_layer, args.method)
        targets = targets or scores.argmax(1).tolist()
        for i, (file, target) in enumerate(zip(files, targets, strict=True)):
            label = class_name(classes, target)
            if not rows[i]:
                rows[i].append(seen[i])
                titles[i].append(file.name[:28])
            rows[i].append(heat_over(seen[i], maps[i]))
            titles[i].append(f"{Path(name).stem[:28]}\n{label[:22]} {scores[i, target]:.2f}")
            found[str(file)].append({"model": name, "class": label, "index": target, "score": float(scores[i, target])})
    grid(rows, args.out, titles=titles)
    args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {args.out} and {args.out.with_suffix('.json')}")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
