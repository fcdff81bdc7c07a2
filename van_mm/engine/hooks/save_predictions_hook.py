"""Save predictions as images while testing."""

from pathlib import Path

import cv2
import numpy as np
from mmengine.hooks import Hook

from van_mm.registry import HOOKS
from van_mm.visualization.class_names import get_trained_meta, use_trained_names
from van_mm.visualization.drawing import complete_classes, draw_sample, has_ground_truth, predicts_saliency
from van_mm.visualization.model_inputs import enlarge_small_image, get_input_image


@HOOKS.register_module()
class PanelHook(Hook):
    """While testing, save a PNG for each image: the image, the ground truth and the prediction side by side.

    The hook acts after each test iteration and draws with the visualizer of the codebase that runs. Predictions have
    the class names that the checkpoint was trained with, the ground truth those of the data set. The ground truth is
    omitted if the data pipeline does not load it, as for person boxes from a detector. Saliency is drawn as the mask
    and the predicted map in gray. Images that have no file, as those of CIFAR-10, are drawn as the model receives them.

    Args:
        out_dir (str): Folder of the PNG files. It is created if it does not exist.
        score_thr (float): Detections below this score are not drawn. Defaults to 0.3.
        num (int, optional): Number of images, evenly spaced in the data set. Defaults to all.

    The name of a file is the place of the image in the data set and the stem of its name, so that images of equal names
    in several folders do not collide, whichever rank draws them.

    Raises:
        OSError: If the folder cannot be created.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3, num: int | None = None) -> None:
        self.out_dir = Path(out_dir)
        self.num = num
        self.score_thr = score_thr
        self.trained_meta = {}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self.trained_meta = get_trained_meta(checkpoint)

    def before_test_epoch(self, runner) -> None:
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self.saliency = predicts_saliency(runner.cfg)
        meta = getattr(runner.visualizer, "dataset_meta", None) or {}
        self.meta = complete_classes(meta, runner.cfg)
        self.trained_meta = complete_classes(use_trained_names(meta, self.trained_meta, report=False), runner.cfg)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loader = runner.test_dataloader
        total = len(loader.dataset)
        num = min(self.num or total, total)
        for i, sample in enumerate(outputs):
            # mmengine's samplers deal the samples to the ranks in turn.
            place = (batch_idx * (loader.batch_size or 1) + i) * runner.world_size + runner.rank
            if place >= total or place * num % total >= num:  # a repeated sample of the last batch, or not chosen
                continue
            path = sample.get("img_path")
            if path:
                image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
            else:
                image = get_input_image(data_batch["inputs"][i], runner.model)
            image, sample = enlarge_small_image(image, sample)
            truth_flags = (True, False) if has_ground_truth(sample) else (False,)
            drawings = []
            for truth in truth_flags:
                if meta := self.meta if truth else self.trained_meta:
                    runner.visualizer.dataset_meta = meta
                drawings.append(
                    draw_sample(runner.visualizer, image, sample, truth, self.score_thr, saliency=self.saliency)
                )
            panels = [cv2.resize(panel, image.shape[1::-1]) for panel in (image, *drawings)]
            name = f"{place:05d}_{Path(path or str(sample.get('sample_idx', ''))).stem}.png"
            cv2.imwrite(str(self.out_dir / name), cv2.cvtColor(np.concatenate(panels, axis=1), cv2.COLOR_RGB2BGR))
