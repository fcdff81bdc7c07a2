#!/usr/bin/env python
"""Measure what the guards of tools/train.py cost: every other pair of steps of a training runs without them.

python tools/misc/guard_cost.py cls/van_b0_in1k --demo --demo-iters 80

The guards are DivergenceHook, ExactResumeHook, StopHook and SkipBadSamples. The tool prints the median time of a step
with and without them, and the ratio.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import CONFIG_HELP, add_common_arguments, load_config  # noqa: E402  found through the line above


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument("--work-dir", help="folder of the log (default: work_dirs/<config>)")
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import statistics

    cfg = load_config(args)

    from van_mm.apis.assembly import build_datasets, build_runner, wrap_first_step_errors
    from van_mm.apis.run_config import prepare_data

    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    prepare_data(cfg, ("train",), args.demo)
    runner = build_runner(cfg)
    build_datasets(runner, ("train",))
    alternation = build_alternation_hook()
    runner.register_hook(alternation, priority="LOWEST")
    with wrap_first_step_errors(runner):
        runner.train()

    if runner.rank == 0:
        guarded, unguarded = (statistics.median(alternation.times[kind]) for kind in (True, False))
        print(
            f"{len(alternation.times[True])} steps with guards: {1000 * guarded:.1f} ms; "
            f"{len(alternation.times[False])} without: {1000 * unguarded:.1f} ms; ratio {guarded / unguarded:.3f}"
        )


def build_alternation_hook():
    """Build a hook that turns the guards off for every other pair of steps and times the steps.

    Pairs rather than single steps, so that both kinds have steps in which ranks agree on signals.

    Its attribute ``times`` maps True to the seconds of the steps with guards, and False to those of the steps without.
    """
    from mmengine.dataset import Compose
    from mmengine.hooks import Hook

    from van_mm.datasets.bad_samples import SkipBadSamples, iter_datasets
    from van_mm.engine.hooks.divergence_hook import DivergenceHook
    from van_mm.engine.hooks.exact_resume_hook import ExactResumeHook
    from van_mm.engine.hooks.preemption_hook import StopHook

    class AlternationHook(Hook):
        def __init__(self) -> None:
            self.times = {True: [], False: []}

        def before_train(self, runner) -> None:
            self.is_guarded, self.hooks = True, list(runner.hooks)
            self.guards = [h for h in self.hooks if isinstance(h, (DivergenceHook, ExactResumeHook, StopHook))]
            self.pipelines = [
                (dataset, {True: dataset.pipeline, False: Compose(dataset.pipeline.transforms)})
                for dataset in iter_datasets(runner.train_dataloader.dataset)
                if isinstance(getattr(dataset, "pipeline", None), SkipBadSamples)
            ]

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            now = time.perf_counter()
            if runner.iter > 3:  # the first steps are slower
                self.times[self.is_guarded].append(now - self.step_start)
            if runner.iter % 2:
                self.turn_guards(runner, not self.is_guarded)
            self.step_start = time.perf_counter()

        def turn_guards(self, runner, on: bool) -> None:
            """Turn the guards on or off. StopHook's handlers stay, because they do nothing in a step."""
            self.is_guarded = on
            runner._hooks = [hook for hook in self.hooks if on or hook not in self.guards]
            for hook in self.guards:
                if isinstance(hook, DivergenceHook):
                    (hook.before_train if on else hook.after_train)(runner)
            for dataset, pipelines in self.pipelines:
                dataset.pipeline = pipelines[on]

    return AlternationHook()


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
