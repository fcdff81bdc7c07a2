#!/usr/bin/env python
"""Prepare a checkpoint for publication: keep the weights and the meta data, and append the file's hash to its name.

python tools/model_converters/publish_model.py work_dirs/upernet_van_b2/iter_160000.pth upernet_van_b2.pth

A .pth file keeps the checkpoint's meta data, and upstream's tools can read it without van_mm. A .safetensors file holds
the weights alone.
"""

import argparse
import hashlib
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("in_file", help="checkpoint of a training run")
    parser.add_argument(
        "out_file",
        type=Path,
        help="file to write, NAME.pth or NAME.safetensors; the first 8 digits of its SHA-256 are appended to NAME",
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import torch
    from safetensors.torch import save_file

    from van_mm.checkpoints.io import read_checkpoint
    from van_mm.checkpoints.key_maps import get_state_dict
    from van_mm.checkpoints.plain_types import to_plain_types

    checkpoint = read_checkpoint(args.in_file)
    weights = {key: value.cpu().contiguous() for key, value in get_state_dict(checkpoint).items()}
    args.out_file.parent.mkdir(parents=True, exist_ok=True)
    draft = args.out_file.with_name(f".{args.out_file.name}.draft")
    if args.out_file.suffix == ".safetensors":
        save_file(weights, draft)
    else:
        torch.save(dict(meta=to_plain_types(checkpoint.get("meta", {})), state_dict=weights), draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()[:8]
    published = args.out_file.with_name(f"{args.out_file.stem}-{digest}{args.out_file.suffix}")
    draft.rename(published)
    print(f"{published}: {len(weights)} tensors, {published.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
