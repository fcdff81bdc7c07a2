#!/usr/bin/env python
"""Time the operators of mmcv-torchops and the compiled ones of mmcv on the CPU, by turns, and print a table.

python tools/misc/test_environments.py py311-compiled --run "python packages/mmcv-torchops/benchmark.py"

Sizes are those of a COCO detector. Times are medians of a forward pass, and of a backward pass where there is one.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import mmcv.ops as ops
import mmcv_torchops
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "tests"))
from torchops_testing import EXT, HAS_COMPILED, use_operators  # noqa: E402  found through the line above


def make_boxes(count: int) -> Tensor:
    """Return boxes (count, 4) of 8 to 200 pixels in an image of 1333 x 800."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([1333.0, 800.0])
    return torch.cat([corner, corner + 8 + 192 * torch.rand(count, 2, generator=generator)], 1)


def make_cases() -> dict[str, tuple[Callable[..., object], list[Tensor]]]:
    """Return for each operator a function and its inputs; those that require gradients are differentiated."""
    boxes, scores = make_boxes(2000), torch.rand(2000)
    rois = torch.cat([torch.zeros(512, 1), make_boxes(512)], 1)
    rotated = torch.cat([make_boxes(512), torch.rand(512, 1)], 1)
    rotated_rois = torch.cat([torch.zeros(512, 1), rotated], 1)
    features = torch.rand(1, 256, 100, 168, requires_grad=True)
    small = torch.rand(1, 256, 50, 84, requires_grad=True)
    offset = torch.randn(1, 18, 50, 84, requires_grad=True)
    mask = torch.rand(1, 9, 50, 84, requires_grad=True)
    weight = torch.randn(256, 256, 3, 3, requires_grad=True)
    attention = torch.rand(1, 59 * 59, 30, 30, requires_grad=True)
    return {
        "nms, 2000 boxes": (lambda b, s: ops.nms(b, s, 0.5), [boxes, scores]),
        "soft_nms, 1000 boxes": (lambda b, s: ops.soft_nms(b, s, min_score=0.001), [boxes[:1000], scores[:1000]]),
        "nms_match, 1000 boxes": (lambda d: ops.nms_match(d, 0.5), [torch.cat([boxes, scores[:, None]], 1)[:1000]]),
        "nms_rotated, 512 boxes": (lambda b, s: ops.nms_rotated(b, s, 0.5), [rotated, scores[:512]]),
        "box_iou_rotated, 512 x 512": (ops.box_iou_rotated, [rotated, rotated]),
        "bbox_overlaps, 2000 x 2000": (ops.bbox_overlaps, [boxes, boxes]),
        "RoIAlign, average": (ops.RoIAlign(7, 0.125, 2), [features, rois]),
        "RoIAlign, maximum": (ops.RoIAlign(7, 0.125, 2, "max"), [features, rois]),
        "RoIAlignRotated": (ops.RoIAlignRotated(7, 0.125, 2), [features, rotated_rois]),
        "deform_conv2d": (lambda x, o, w: ops.deform_conv2d(x, o, w, 1, 1), [small, offset, weight]),
        "modulated_deform_conv2d": (
            lambda x, o, m, w: ops.modulated_deform_conv2d(x, o, m, w, None, 1, 1),
            [small, offset, mask, weight],
        ),
        "PSAMask, 30 x 30": (ops.PSAMask("collect", (59, 59)), [attention]),
    }


def time_once(function: Callable[..., object], inputs: list[Tensor]) -> tuple[float, float]:
    """Return the seconds of a forward and of a backward pass."""
    start = time.perf_counter()
    output = function(*inputs)
    forward = time.perf_counter() - start
    if not (isinstance(output, Tensor) and output.requires_grad):
        return forward, 0.0
    grad = torch.ones_like(output)
    start = time.perf_counter()
    output.backward(grad)
    return forward, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="passes of each (default: %(default)s)")
    args = parser.parse_args()
    if not HAS_COMPILED:
        sys.exit("This environment has no compiled mmcv to compare with. Use the command in --help.")
    print("| operator | ours, ms | compiled, ms | compiled / ours |\n| --- | ---: | ---: | ---: |")
    for name, (function, inputs) in make_cases().items():
        times = {"ours": [], "compiled": []}
        for turn in range(args.repeats + 1):
            for key, extension in (("ours", mmcv_torchops), ("compiled", EXT)):
                with use_operators(extension):
                    seconds = time_once(function, inputs)
                if turn:  # the first pass warms up
                    times[key].append(seconds)
        ours, compiled = (
            [1000 * median(column) for column in zip(*times[key], strict=True)] for key in ("ours", "compiled")
        )
        texts = [" + ".join(f"{value:.1f}" for value in (row if row[1] else row[:1])) for row in (ours, compiled)]
        print(f"| {name} | {texts[0]} | {texts[1]} | {sum(compiled) / sum(ours):.2f} |", flush=True)
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads; two figures: forward + backward")


if __name__ == "__main__":
    main()
