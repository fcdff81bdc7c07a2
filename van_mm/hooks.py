"""Hooks that the four codebases lack."""

from pathlib import Path

import cv2
import numpy as np
from mmengine.hooks import Hook

from .models import VAN, fold
from .registry import HOOKS
from .visualization.draw import draw, has_truth
from .weights import bare, match_state_dict


@HOOKS.register_module()
class PanelHook(Hook):
    """While testing, save a PNG for each image: the image, the ground truth and the prediction side by side.

    It draws with the visualizer of the codebase that runs. The ground truth is left out where the data pipeline
    does not load it (person boxes from a detector); classification shows the image and one labelled copy, saliency
    the mask and the map in grey.

    Args:
        out_dir (str): Folder of the pictures, made if absent.
        score_thr (float): Detections below this score are not drawn. Defaults to 0.3.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr

    def before_test_epoch(self, runner) -> None:
        self.out_dir.mkdir(parents=True, exist_ok=True)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        for i, sample in enumerate(outputs):
            image = cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB)
            which = (True, False) if has_truth(sample) else (False,)
            drawn = [draw(runner.visualizer, image, sample, truth, self.score_thr) for truth in which]
            panels = [cv2.resize(panel, image.shape[1::-1]) for panel in (image, *drawn)]
            name = f"{batch_idx:05d}_{i}_{Path(sample.img_path).stem}.png"
            cv2.imwrite(str(self.out_dir / name), cv2.cvtColor(np.concatenate(panels, axis=1), cv2.COLOR_RGB2BGR))


@HOOKS.register_module()
class AnyVANWeightsHook(Hook):
    """Let ``load_from`` and testing take VAN weights of any origin: names them as the runner's model does.

    A resumed checkpoint is left alone. See :mod:`van_mm.weights`.
    """

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        model = bare(runner.model)
        if not runner._resume and isinstance(getattr(model, "backbone", None), VAN):
            checkpoint["state_dict"] = match_state_dict(model, checkpoint)


@HOOKS.register_module()
class FoldHook(Hook):
    """Before testing, :func:`van_mm.fold` the loaded model."""

    def before_test(self, runner) -> None:
        fold(runner.model.eval())
