#!/usr/bin/env python
"""See what a model is really fed: pictures after the config's pipeline and the model's own preprocessing (mixup and
cutmix too), un-normalised, with the boxes, masks, keypoints or labels that go with them.

python tools/visualization/browse_dataset.py det/mask_rcnn_van_b2_ms_3x_coco --num 12
python tools/visualization/browse_dataset.py seg/upernet_van_b2 --split val --out val.png

The first --num samples of the data set, or with --shuffle any, as a grid in one PNG.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_config_arguments  # noqa: E402  a neighbour of this folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file, a name below configs/, or an upstream name (mmdet::...)")
    parser.add_argument("--split", choices=["train", "val", "test"], default="train", help="default: %(default)s")
    parser.add_argument("--num", type=int, default=8, metavar="N", help="samples (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=4, metavar="N", help="of the grid (default: %(default)s)")
    parser.add_argument("--shuffle", action="store_true", help="any samples instead of the first")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and the augmentation (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("dataset.png"), metavar="FILE.png", help="default: %(default)s"
    )
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import numpy as np
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DATASETS
    from mmengine.runner import set_random_seed
    from rich.console import Console
    from rich.progress import track

    from van_mm.demo import dicts
    from van_mm.errors import UserError
    from van_mm.launch import build_random, building, load_config, prepare_data
    from van_mm.visualization.fed import caption, fed
    from van_mm.visualization.figures import grid

    if args.num < 1 or args.columns < 1:
        raise UserError("--num and --columns must be at least 1")
    cfg = load_config(args)
    loader = cfg.get(f"{args.split}_dataloader")
    if not loader:
        raise UserError(f"{args.config} has no {args.split}_dataloader")
    prepare_data(cfg, args, (args.split,))
    set_random_seed(args.seed)
    for node in dicts(loader.dataset):
        if "pipeline" in node:  # tests load annotations last, as they are in the file: here they are to be resized too
            node.pipeline.sort(key=lambda transform: "Load" not in transform.type)
        if node.get("type") == "PackPoseInputs":
            node.pack_transformed = True  # keypoints of the picture that is fed, beside those of the file
    preprocessor = build_random(cfg).data_preprocessor  # a model may add to it: mixup, cutmix
    with building():
        dataset = DATASETS.build(loader.dataset)
    order = np.random.permutation(len(dataset)) if args.shuffle else np.arange(len(dataset))
    order = order[: args.num].tolist()
    samples = [dataset[i] for i in track(order, "loading", console=Console(stderr=True))]
    batch = preprocessor(pseudo_collate(samples), args.split == "train")
    pictures = fed(batch, preprocessor, dataset.metainfo, cfg)
    titles = [caption(sample, dataset.metainfo) for sample in batch["data_samples"]]
    starts = range(0, len(pictures), args.columns)
    grid(
        [pictures[i : i + args.columns] for i in starts],
        args.out,
        titles=[titles[i : i + args.columns] for i in starts],
        side=2.8,
    )
    print(f"wrote {args.out}: {len(pictures)} of {len(dataset)} samples")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
