#!/usr/bin/env python
"""Rename VAN weights of any origin for another implementation.

    python tools/model_converters/convert_van.py van_tiny_754.pth.tar van_b0.safetensors --to huggingface

SRC is a file, a URL or a name (van_mm://b2_in1k). Round trips are exact: tensors are only renamed.
"""

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("src", help="weights of any published layout")
    parser.add_argument("dst", type=Path, help="file to write")
    parser.add_argument("--to", choices=["van_mm", "official", "mmpretrain", "huggingface"], required=True)
    parser.add_argument("--format", choices=["pth", "safetensors"], help="default: by the ending of DST, else pth")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import torch
    from safetensors.torch import save_file

    from van_mm.launch import UserError
    from van_mm.weights import read_checkpoint, split_state_dict, to_family, unwrap

    backbone, rest = split_state_dict(unwrap(read_checkpoint(args.src)))
    if not backbone:
        raise UserError(f"{args.src} holds no VAN weights: no key is a VAN's, in any of the known layouts")
    weights = {key: value.contiguous() for key, value in to_family(backbone, rest, args.to).items()}
    args.dst.parent.mkdir(parents=True, exist_ok=True)
    if (args.format or args.dst.suffix.lstrip(".")) == "safetensors":
        save_file(weights, args.dst)
    else:
        bare = args.to == "huggingface"  # the only family whose files are the state dict itself
        torch.save(weights if bare else dict(state_dict=weights), args.dst)
    dropped = len(backbone) + len(rest) - len([key for key in weights if ".layernorm." not in key])
    print(
        f"{args.dst}: {len(weights)} tensors, named as {args.to}" + (f"; {dropped} of heads left out" * (dropped > 0))
    )


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
