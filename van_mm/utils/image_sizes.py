"""Scale every size in pixels of a config: of pipelines, preprocessors, codecs, heads and test settings."""

from mmengine.config import Config

from van_mm.utils.config_walk import iter_dicts

# Arguments that are sizes in pixels, in transforms, data preprocessors, codecs, heads and test settings.
SIZE_KEYS = {"scale", "scales", "input_size", "heatmap_size", "in_featuremap_size", "img_scale", "border", "out_shape"}
# Sizes that are rounded to a multiple of 32, the largest stride of the models.
CROP_KEYS = {"crop_size", "size", "stride", "random_size_range"}
# The classes whose sizes are scaled. Any other dict is scaled only if it has a crop_size or an input_size.
SIZED_TYPES = {
    "Resize", "RandomResize", "RandomChoiceResize", "ResizeEdge", "ResizeShortestEdge", "RandomCrop",
    "RandomResizedCrop", "CenterCrop", "BatchFixedSizePad", "SegDataPreProcessor", "Mosaic", "MixUp", "CachedMosaic",
    "CachedMixUp", "RandomAffine", "Pad", "BatchSyncRandomResize", "MSPNHead",
}  # fmt: skip


def scale_size(size, factor: float, unit: int = 1):
    """Multiply a size, or a nested sequence of sizes, by ``factor``.

    Args:
        size (int | Sequence): Pixels. Negative sizes stay negative.
        factor (float): The factor.
        unit (int): Results are rounded to a nonzero multiple of it. Defaults to 1.

    Returns:
        int | Sequence: The scaled sizes, in the same nesting.
    """
    if isinstance(size, (list, tuple)):
        return type(size)(scale_size(side, factor, unit) for side in size)
    return unit * max(1, round(abs(size) * factor / unit)) * (-1 if size < 0 else 1)


def scale_image_sizes(cfg: Config, factor: float) -> None:
    """Multiply all image sizes of an experiment by a factor, in place.

    The number of points that mask losses sample changes with the area.

    Args:
        cfg (Config): An experiment.
        factor (float): The factor.
    """
    scaled = set()  # data loaders can share dicts, which must be scaled once
    loaders = [cfg.get(f"{split}_dataloader") for split in ("train", "val", "test")]
    for node in iter_dicts([loaders, cfg.get("tta_pipeline"), cfg.get("custom_hooks"), cfg.model]):
        if id(node) in scaled:
            continue
        scaled.add(id(node))
        if node.get("type") in SIZED_TYPES or {"crop_size", "input_size"} & set(node):
            for key in (SIZE_KEYS | CROP_KEYS) & set(node):
                if node[key] is not None:
                    node[key] = scale_size(node[key], factor, 32 if key in CROP_KEYS else 1)
        if "oversample_ratio" in node:
            node.num_points = max(1, round(node.num_points * factor**2))
