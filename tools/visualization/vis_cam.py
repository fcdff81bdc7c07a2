#!/usr/bin/env python
"""Draw class activation maps of classifiers (figure 6).

python tools/visualization/vis_cam.py cat.jpg dog.jpg --model cls/van_b2_in1k CHECKPOINT \\
    --model mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py CHECKPOINT --target 'tiger cat' --out cam.png

The figure has a row for each image and a column for each model. By default, the map is of the predicted class and comes
from the last layer of the backbone before its final norm. A JSON file of the same name lists the classes and their
probabilities.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_config_arguments, add_out_argument, load_models  # noqa: E402  found through the line above

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
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders, or quoted patterns")
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        required=True,
        metavar=("CONFIG", "CHECKPOINT"),
        help="classifier to show; may be repeated",
    )
    parser.add_argument(
        "--method", choices=METHODS, default="gradcam", help="method of the grad-cam library (default: %(default)s)"
    )
    parser.add_argument("--target", metavar="CLASS", help="name or index of a class (default: the predicted class)")
    parser.add_argument(
        "--target-layer",
        metavar="NAME",
        help="module whose activations are used, such as backbone.block3.4 (default: the last before the final norm)",
    )
    parser.add_argument("--size", type=int, help="side in pixels to resize images to (default: the config's size)")
    add_out_argument(parser, "cam.png")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from importlib.util import find_spec

    from van_mm.utils.errors import UserError

    if find_spec("pytorch_grad_cam") is None:
        raise UserError("vis_cam.py needs the grad-cam library: pip install grad-cam")
    from van_mm.utils.image_files import find_input_files

    files = find_input_files(args.inputs)
    models = load_models(args, args.model)

    from van_mm.apis.inferencer import get_dataset_meta, preprocess_images
    from van_mm.visualization.cam import ClassifierLogits, compute_cam, parse_target_class
    from van_mm.visualization.drawing import get_class_name
    from van_mm.visualization.figures import overlay_heatmap, save_image_grid

    rows, titles = [[] for _ in files], [[] for _ in files]
    predictions = {str(file): [] for file in files}
    for (name, _), (cfg, model) in zip(args.model, models, strict=True):
        if cfg.default_scope != "mmpretrain" or not getattr(model, "with_head", False):
            raise UserError(f"{name} is no classifier")
        classes = get_dataset_meta(cfg, model).get("classes")
        images, inputs = preprocess_images(cfg, model, files, args.size)
        targets = None
        if args.target is not None:
            targets = [parse_target_class(args.target, classes, model.head.num_classes)] * len(files)
        maps, scores = compute_cam(ClassifierLogits(model), inputs, targets, args.target_layer, args.method)
        targets = targets or scores.argmax(1).tolist()
        for i, (file, target) in enumerate(zip(files, targets, strict=True)):
            label, score = get_class_name(classes, target), float(scores[i, target])
            if not rows[i]:
                rows[i].append(images[i])
                titles[i].append(file.name[:28])
            rows[i].append(overlay_heatmap(images[i], maps[i]))
            titles[i].append(f"{Path(name).stem[:28]}\n{label[:22]} {score:.2f}")
            predictions[str(file)].append({"model": name, "class": label, "index": target, "score": score})

    save_image_grid(rows, args.out, titles=titles)
    args.out.with_suffix(".json").write_text(json.dumps(predictions, indent=1) + "\n")
    print(f"wrote {args.out} and {args.out.with_suffix('.json')}")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
