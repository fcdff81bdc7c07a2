#!/usr/bin/env python
"""Show the samples of a data set as the model receives them.

python tools/visualization/browse_dataset.py det/mask_rcnn_van_b2_ms_3x_coco --num 12
python tools/visualization/browse_dataset.py seg/upernet_van_b2 --split val --out val.png

The images have passed the config's pipeline and the model's own preprocessing, including mixup and cutmix. They are
denormalized and drawn with their boxes, masks, keypoints or labels, as a grid in one PNG. The grid shows the first
samples of the data set, or random ones with --shuffle.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import CONFIG_HELP, add_config_arguments, add_out_argument, load_config  # noqa: E402  found through the line above


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument(
        "--split", choices=["train", "val", "test"], default="train", help="split to show (default: %(default)s)"
    )
    parser.add_argument("--num", type=int, default=8, metavar="N", help="number of samples (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=4, metavar="N", help="grid columns (default: %(default)s)")
    parser.add_argument("--shuffle", action="store_true", help="show random samples instead of the first ones")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of --shuffle and of the augmentation (default: %(default)s)"
    )
    add_out_argument(parser, "dataset.png")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from van_mm.utils.errors import UserError, wrap_build_errors

    if args.num < 1 or args.columns < 1:
        raise UserError("--num and --columns must be at least 1")
    cfg = load_config(args)

    import numpy as np
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DATASETS
    from mmengine.runner import set_random_seed
    from rich.console import Console
    from rich.progress import track

    from van_mm.apis.build import build_random_model
    from van_mm.apis.run_config import prepare_data
    from van_mm.visualization.figures import save_image_grid
    from van_mm.visualization.model_inputs import draw_batch, format_caption

    loader = cfg.get(f"{args.split}_dataloader")
    if not loader:
        raise UserError(f"{args.config} has no {args.split}_dataloader")
    prepare_data(cfg, (args.split,), args.demo)

    # The samples, and the batch that the model makes of them.
    set_random_seed(args.seed)
    transform_annotations(loader.dataset)
    preprocessor = build_random_model(cfg).data_preprocessor  # from the model, which may add mixup and cutmix
    with wrap_build_errors():
        dataset = DATASETS.build(loader.dataset)
    order = np.random.permutation(len(dataset)) if args.shuffle else np.arange(len(dataset))
    order = order[: args.num].tolist()
    samples = [dataset[i] for i in track(order, "loading", console=Console(stderr=True))]
    batch = preprocessor(pseudo_collate(samples), args.split == "train")

    # The grid.
    images = draw_batch(batch, preprocessor, dataset.metainfo, cfg)
    titles = [format_caption(sample, dataset.metainfo) for sample in batch["data_samples"]]
    starts = range(0, len(images), args.columns)
    save_image_grid(
        [images[i : i + args.columns] for i in starts],
        args.out,
        titles=[titles[i : i + args.columns] for i in starts],
        side=2.8,
    )
    print(f"wrote {args.out}: {len(images)} of {len(dataset)} samples")


def transform_annotations(dataset_cfg) -> None:
    """Change the pipelines so that they transform the annotations together with the images."""
    from van_mm.utils.config_walk import get_type_name, iter_dicts

    for node in iter_dicts(dataset_cfg):
        if "pipeline" in node:  # test pipelines load annotations last, so that they keep the file's size
            node.pipeline.sort(key=lambda transform: "Load" not in get_type_name(transform))
        if node.get("bbox_file"):  # boxes of a person detector, which have no keypoints
            node.bbox_file = None
        if get_type_name(node) == "PackPoseInputs":
            node.pack_transformed = True  # adds the keypoints in coordinates of the transformed image


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
