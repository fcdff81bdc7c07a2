"""Try the validation on one batch before the training starts."""

import contextlib
import copy
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.evaluator.metric import _to_cpu
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import ValLoop
from mmengine.runner.amp import autocast

from van_mm.registry import HOOKS
from van_mm.utils.errors import UserError, locate_error
from van_mm.utils.random_state import get_random_state, set_random_state

TRIAL_SAMPLES = 2  # our choice
# Metrics that compute a figure from a part of the data set. An error in one of them would end the first validation.
PARTIAL_METRICS = {
    "Accuracy", "SingleLabelMetric", "MultiLabelMetric", "AveragePrecision", "IoUMetric", "SaliencyMetric", "VOCMetric",
    "PCKAccuracy", "NME", "EPE", "AUC", "DumpResults",
}  # fmt: skip
# Metrics that need the whole data set, or minutes for it. They only process the batch.
WHOLE_METRICS = {"CocoPanopticMetric", "LVISMetric", "CrowdHumanMetric"}
# Errors of other metrics that tell of a mistake in the code or the settings, not of missing data.
CODE_ERRORS = (TypeError, AttributeError, NameError, ImportError, NotImplementedError)
OUTPUT_SETTINGS = ("outfile_prefix", "output_dir", "out_file_path", "out_dir", "seg_out_dir")  # paths of metrics


@HOOKS.register_module()
class ValidationTrialHook(Hook):
    """Run the validation on one batch before the training starts, so that its errors do not end a run hours later.

    The batch has at most two samples. The model predicts them, and copies of the metrics process the predictions and
    compute their figures. The random states, the model and the results of the metrics stay as they are, and nothing is
    written to the folders of the run.

    A metric that needs the whole data set, such as panoptic quality, may fail on a part of it. Such an error is a
    warning, unless it can only come from a mistake in the code.

    Raises:
        UserError: If the validation would fail.
    """

    priority = "VERY_LOW"

    def before_train(self, runner) -> None:
        loop = runner.val_loop
        if type(loop) is not ValLoop or not len(loop.dataloader.dataset):
            return
        state, was_training = get_random_state(), runner.model.training
        try:
            with silence(), tempfile.TemporaryDirectory() as folder:
                evaluator = copy_evaluator(loop.evaluator, Path(folder))
                predict_batch(runner, loop, evaluator)
                figures, problems = compute_figures(evaluator)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the config does not build or run: the validation fails on its first batch: {locate_error(error)}. "
                "Correct the model, val_dataloader or val_evaluator, or train with --no-validate"
            ) from error
        finally:
            runner.model.train(was_training)
            set_random_state(state)
        for problem in problems:
            runner.logger.warning(problem)
        if all(type(metric).__name__ in PARTIAL_METRICS for metric in loop.evaluator.metrics):
            check_best_key(runner, figures)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep what metrics print and log off the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def copy_evaluator(evaluator: Evaluator, folder: Path) -> Evaluator:
    """Return an evaluator with the settings of another one and no results, whose metrics write to ``folder``.

    Large contents, such as annotations, are shared.
    """
    twin = copy.copy(evaluator)
    twin.metrics = [copy_metric(metric, folder) for metric in evaluator.metrics]
    return twin


def copy_metric(metric: BaseMetric, folder: Path) -> BaseMetric:
    """Return a metric with the settings of another one and no results, which writes to ``folder``."""
    twin = copy.copy(metric)
    for key, value in vars(metric).items():
        if isinstance(value, dict):  # of several metrics, as in MultiTasksMetric
            nested = {k: copy_metric(v, folder) if isinstance(v, BaseMetric) else v for k, v in value.items()}
            setattr(twin, key, nested)
        elif isinstance(value, list):
            setattr(twin, key, [copy_metric(one, folder) if isinstance(one, BaseMetric) else one for one in value])
        elif isinstance(value, tempfile.TemporaryDirectory):  # a metric deletes it when it is no longer used
            setattr(twin, key, tempfile.TemporaryDirectory(dir=folder))
        elif key in OUTPUT_SETTINGS and value is not None:
            path = Path(tempfile.mkdtemp(dir=folder), Path(value).name)
            if key in ("output_dir", "out_dir", "seg_out_dir"):
                path.mkdir()
            setattr(twin, key, str(path))
    twin.results = []
    return twin


@torch.no_grad()
def predict_batch(runner, loop: ValLoop, evaluator: Evaluator) -> None:
    """Predict the first samples of a validation loop, and let the metrics process them."""
    loader = loop.dataloader
    number = min(TRIAL_SAMPLES, loader.batch_size or TRIAL_SAMPLES, len(loader.dataset))
    batch = loader.collate_fn([loader.dataset[i] for i in range(number)])
    runner.model.eval()
    with autocast(enabled=loop.fp16):
        outputs = runner.model.val_step(batch)
    if list(outputs[-1].keys() if hasattr(outputs[-1], "keys") else ()) == ["loss"]:  # as ValLoop does
        outputs = outputs[:-1]
    evaluator.process(data_samples=outputs, data_batch=batch)


def compute_figures(evaluator: Evaluator) -> tuple[dict, list[str]]:
    """Return the figures of the metrics, as far as these compute them from a part of the data, and what failed."""
    figures, problems = {}, []
    if type(evaluator) is not Evaluator:  # evaluators of several data sets distribute whole sets of results
        return figures, problems
    for metric in evaluator.metrics:
        name = type(metric).__name__
        if name in WHOLE_METRICS:
            continue
        limit_to_results(metric)
        try:
            values = metric.compute_metrics(_to_cpu(list(metric.results)))
        except Exception as error:
            if name in PARTIAL_METRICS or isinstance(error, CODE_ERRORS):
                raise
            problems.append(
                f"{name} fails on the first validation batch alone: {locate_error(error)}. Go on if it needs the "
                "whole data set, or else correct val_evaluator"
            )
            continue
        figures |= {f"{metric.prefix}/{key}" if metric.prefix else key: value for key, value in values.items()}
    return figures, problems


def limit_to_results(metric) -> None:
    """Let COCO's metric of mmdet evaluate the images of its results only, because all of them take minutes."""
    if type(metric).__name__ == "CocoMetric" and metric.results and getattr(metric, "img_ids", ...) is None:
        if metric._coco_api is None:
            return
        metric.img_ids = [truth["img_id"] for truth, _ in metric.results]
        metric.cat_ids = metric._coco_api.get_cat_ids(cat_names=metric.dataset_meta["classes"])


def check_best_key(runner, figures: dict) -> None:
    """Raise if the checkpoint hook should keep the best checkpoint by a figure that the validation does not give."""
    for hook in runner.hooks if figures else ():
        for key in getattr(hook, "key_indicators", None) or [] if isinstance(hook, CheckpointHook) else []:
            if key != "auto" and key not in figures:
                raise UserError(
                    f"default_hooks.checkpoint.save_best is '{key}', which the validation does not give. Set it to "
                    f"'auto' or to one of {', '.join(figures)}"
                )
