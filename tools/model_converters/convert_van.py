#!/usr/bin/env python
"""Convert VAN weights of any published layout to another layout.

python tools/model_converters/convert_van.py van_tiny_754.pth.tar van_b0.safetensors --to huggingface

SRC is a file, a URL or a name such as van_mm://b2_in1k. Conversion only renames tensors, so a round trip is exact.
"""

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("src", help="weights in any published layout")
    parser.add_argument("dst", type=Path, help="file to write")
    parser.add_argument(
        "--to", choices=["van_mm", "official", "mmpretrain", "huggingface"], required=True, help="layout to write"
    )
    parser.add_argument(
        "--format",
        choices=["pth", "safetensors"],
        help="file format (default: safetensors if DST ends in .safetensors, else pth)",
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import torch
    from safetensors.torch import save_file

    from van_mm.checkpoints.io import read_checkpoint
    from van_mm.checkpoints.key_maps import get_state_dict, split_state_dict, to_layout
    from van_mm.utils.errors import UserError

    backbone, rest = split_state_dict(get_state_dict(read_checkpoint(args.src)))
    if not backbone:
        raise UserError(f"{args.src} holds no VAN weights: its keys match none of the known layouts")
    weights = {key: value.contiguous() for key, value in to_layout(backbone, rest, args.to).items()}

    args.dst.parent.mkdir(parents=True, exist_ok=True)
    if (args.format or args.dst.suffix.lstrip(".")) == "safetensors":
        save_file(weights, args.dst)
    elif args.to == "huggingface":  # its files hold the state dict without a wrapper
        torch.save(weights, args.dst)
    else:
        torch.save(dict(state_dict=weights), args.dst)

    # Hugging Face's layout adds the keys with ".layernorm.".
    dropped = len(backbone) + len(rest) - len([key for key in weights if ".layernorm." not in key])
    note = f"; {dropped} tensors outside the backbone and classifier were left out" if dropped > 0 else ""
    print(f"{args.dst}: {len(weights)} tensors in the layout {args.to}{note}")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
