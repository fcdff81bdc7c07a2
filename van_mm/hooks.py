"""Hooks that the four codebases lack."""

import tempfile
from pathlib import Path

import cv2
import numpy as np
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.visualization import Visualizer

from .models import VAN, fold
from .registry import HOOKS
from .weights import match_state_dict


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
            image = cv2.imread(sample.img_path)
            panels = [image, *self._draw(runner.visualizer, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), sample)]
            panels = [cv2.resize(panel, image.shape[1::-1]) for panel in panels]
            name = f"{batch_idx:05d}_{i}_{Path(sample.img_path).stem}.png"
            cv2.imwrite(str(self.out_dir / name), np.concatenate(panels, axis=1))

    def _draw(self, visualizer: Visualizer, image: np.ndarray, sample) -> list[np.ndarray]:
        """The panels (H, W, 3, BGR) of ``image`` (H, W, 3, RGB), as the codebase's visualizer writes them."""
        if "seg_logits" in sample and len(sample.seg_logits.data) == 1:
            maps = (sample.gt_sem_seg.data, sample.seg_logits.data)
            return [cv2.cvtColor((255 * m[0].float()).byte().cpu().numpy(), cv2.COLOR_GRAY2BGR) for m in maps]
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/panel.png"
            if hasattr(visualizer, "visualize_cls"):
                visualizer.visualize_cls(image, sample, classes=visualizer.dataset_meta["classes"], out_file=file)
                return [cv2.imread(file)]
            panels = []
            for truth in (True, False):
                if truth and not any(
                    getattr(sample, key, None) is not None and (key != "gt_instances" or len(sample.gt_instances))
                    for key in ("gt_sem_seg", "gt_instances", "gt_panoptic_seg")
                ):
                    continue
                visualizer.add_datasample(
                    "", image, sample, draw_gt=truth, draw_pred=not truth, out_file=file, **self._threshold(visualizer)
                )
                panels.append(cv2.imread(file))
            return panels

    def _threshold(self, visualizer: Visualizer) -> dict:
        codebase = type(visualizer).__module__.partition(".")[0]
        return {"mmdet": dict(pred_score_thr=self.score_thr), "mmpose": dict(kpt_thr=0.1)}.get(codebase, {})


@HOOKS.register_module()
class AnyVANWeightsHook(Hook):
    """Let ``load_from`` and testing take VAN weights of any origin: names them as the runner's model does.

    A resumed checkpoint is left alone. See :mod:`van_mm.weights`.
    """

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if isinstance(model, BaseTTAModel):
            model = model.module
        if not runner._resume and isinstance(getattr(model, "backbone", None), VAN):
            checkpoint["state_dict"] = match_state_dict(model, checkpoint)


@HOOKS.register_module()
class FoldHook(Hook):
    """Before testing, :func:`van_mm.fold` the loaded model."""

    def before_test(self, runner) -> None:
        fold(runner.model.eval())
