#!/usr/bin/env python
"""What the guards of tools/train.py cost: the same training with and without them, step by step in turn.

python tools/misc/guard_cost.py cls/van_b0_in1k --demo --demo-iters 80

The guards are DivergenceHook, ExactResumeHook, StopHook and SkipBadData. Printed are the medians of the steps' times
and their ratio.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_common_arguments  # noqa: E402  a neighbour of this folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file, a name below configs/, or an upstream name (mmdet::...)")
    parser.add_argument("--work-dir", help="where the log goes (default: work_dirs/<config>)")
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import statistics

    from mmengine.dataset import Compose
    from mmengine.hooks import Hook

    from van_mm.datasets.faults import SkipBadData, parts
    from van_mm.launch import build_data, build_runner, first_step, load_config, prepare_data
    from van_mm.safety import DivergenceHook, ExactResumeHook, StopHook

    class InTurn(Hook):
        """Takes the guards off for every other step, and times the steps."""

        def __init__(self) -> None:
            self.times = {True: [], False: []}

        def before_train(self, runner) -> None:
            self.all = list(runner.hooks)
            self.guards = [h for h in self.all if isinstance(h, (DivergenceHook, ExactResumeHook, StopHook))]
            self.pipelines = [
                (part, {True: part.pipeline, False: Compose(part.pipeline.transforms)})
                for part in parts(runner.train_dataloader.dataset)
                if isinstance(getattr(part, "pipeline", None), SkipBadData)
            ]

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            now = time.perf_counter()
            if runner.iter > 3:
                self.times[runner.iter % 2 == 0].append(now - self.began)
            guarded = runner.iter % 2 == 1  # the next step
            runner._hooks = [hook for hook in self.all if guarded or hook not in self.guards]
            for hook in self.guards:
                if not isinstance(hook, ExactResumeHook):
                    (hook.before_train if guarded else hook.after_train)(runner)
            for part, pipelines in self.pipelines:
                part.pipeline = pipelines[guarded]
            self.began = time.perf_counter()

    cfg = load_config(args)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    prepare_data(cfg, args, ("train",))
    runner = build_runner(cfg)
    build_data(runner, ("train",))
    in_turn = InTurn()
    runner.register_hook(in_turn, priority="LOWEST")
    with first_step(runner):
        runner.train()
    with_guards, without = (statistics.median(in_turn.times[kind]) for kind in (True, False))
    if runner.rank == 0:
        print(
            f"{len(in_turn.times[True])} steps with guards: {1000 * with_guards:.1f} ms; {len(in_turn.times[False])} "
            f"without: {1000 * without:.1f} ms; ratio {with_guards / without:.3f}"
        )


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
