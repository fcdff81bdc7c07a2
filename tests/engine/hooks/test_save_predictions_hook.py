"""The figures of a test have names of their own, on all ranks, and can be limited in number."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.structures import BaseDataElement

from van_mm.engine.hooks import save_predictions_hook
from van_mm.engine.hooks.save_predictions_hook import PanelHook


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Return a function that tests on images of equal names, in several ranks, and returns the images of the files."""
    monkeypatch.setattr(save_predictions_hook, "predicts_saliency", lambda cfg: False)
    monkeypatch.setattr(save_predictions_hook, "draw_sample", lambda visualizer, image, *args, **kwargs: image)
    monkeypatch.setattr(save_predictions_hook, "complete_classes", lambda meta, cfg: meta)

    def run(images: int, batch_size: int, ranks: int, num=None) -> list[int]:
        for index in range(images):
            (tmp_path / f"{index}").mkdir()
            cv2.imwrite(str(tmp_path / f"{index}/1.png"), np.full((2, 2, 3), index, np.uint8))
        loader = SimpleNamespace(dataset=range(images), batch_size=batch_size)
        for rank in range(ranks):
            runner = SimpleNamespace(test_dataloader=loader, world_size=ranks, rank=rank, cfg=None)
            runner.visualizer = SimpleNamespace(dataset_meta={})
            hook = PanelHook(tmp_path / "out", num=num)
            hook.before_test_epoch(runner)
            indices = [i % images for i in range(-(-images // ranks) * ranks)][rank::ranks]  # of DefaultSampler
            for start in range(0, len(indices), batch_size):
                batch = [
                    BaseDataElement(metainfo=dict(img_path=str(tmp_path / f"{index}/1.png")))
                    for index in indices[start : start + batch_size]
                ]
                hook.after_test_iter(runner, start // batch_size, None, batch)
        return [int(cv2.imread(str(file))[0, 0, 0]) for file in sorted((tmp_path / "out").iterdir())]

    return run


@pytest.mark.parametrize(("batch_size", "ranks"), [(1, 1), (2, 1), (2, 2), (3, 4)])
def test_equal_names(draw, batch_size, ranks):
    assert draw(7, batch_size, ranks) == list(range(7))


@pytest.mark.parametrize(("num", "shown"), [(1, [0]), (3, [0, 3, 5]), (7, list(range(7))), (9, list(range(7)))])
def test_limited_number(draw, num, shown):
    assert draw(7, 2, 2, num) == shown
