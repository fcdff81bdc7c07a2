"""The log of a run shows its details only with log_level=DEBUG, and the error that ends it last."""

import pytest
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from tests.engine.runs import Net
from van_mm.apis.assembly import build_runner
from van_mm.apis.command_line import exit_with_message
from van_mm.engine.runner.quiet_runner import QuietRunner
from van_mm.utils.errors import UserError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TalkativeConstructor(DefaultOptimWrapperConstructor):
    """Logs by all ways that constructors of the codebases use."""

    def add_params(self, params, module, **kwargs):
        print_log("set param a as id 0")  # mmseg's print
        print_log("set param b as id 0", logger="current")
        super().add_params(params, module, **kwargs)


def make_runner(tmp_path, level: str, runner_type=QuietRunner):
    return runner_type(
        Net(),
        str(tmp_path / "run"),
        train_dataloader=dict(dataset=[0], sampler=dict(type="DefaultSampler"), batch_size=1),
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(
            constructor="TalkativeConstructor",
            optimizer=dict(type="SGD", lr=0.1, weight_decay=0.1),
            paramwise_cfg=dict(norm_decay_mult=0, bias_lr_mult=2),
        ),
        log_level=level,
        experiment_name=f"{tmp_path.name}_{level}",
    )


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_details(tmp_path, level, capfd):
    runner = make_runner(tmp_path, level)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.logger.info("before the training")
    runner.logger.error("The testing results of the whole dataset is empty.")
    runner.logger.error("a real error")
    (log,) = (tmp_path / "run").rglob("*.log")
    for text in (capfd.readouterr().out, log.read_text()):
        details = ("Hooks will be executed", "paramwise_options", "set param a as id 0", "set param b as id 0")
        assert [detail in text for detail in details] == [level == "DEBUG"] * 4
        assert "INFO - before the training" in text and "- a real error" in text
        assert "WARNING - The testing results of the whole dataset is empty" in text
    assert runner.optim_wrapper.param_groups[0]["weight_decay"] == 0


def test_error_of_a_constructor_is_raised(tmp_path):
    runner = make_runner(tmp_path, "INFO")
    runner.optim_wrapper["optimizer"]["lr"] = "fast"
    with pytest.raises(TypeError):
        runner.build_optim_wrapper(runner.optim_wrapper)
    runner.logger.info("still logged")
    assert "still logged" in next((tmp_path / "run").rglob("*.log")).read_text()


def test_tools_use_it(tmp_path):
    cfg = dict(model=Net(), work_dir=str(tmp_path / "run"), experiment_name=tmp_path.name)
    assert type(build_runner(cfg)) is QuietRunner


def test_error_is_the_last_line_of_the_log(tmp_path, capfd):
    with pytest.raises(SystemExit, match="^error: wrong. Right"), exit_with_message():
        make_runner(tmp_path, "WARNING")
        raise UserError("wrong. Right")
    last = next((tmp_path / "run").rglob("*.log")).read_text().splitlines()[-1]
    assert "ERROR" in last and last.endswith("- wrong. Right") and "wrong" not in capfd.readouterr().out
