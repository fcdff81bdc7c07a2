"""Fold the model before testing."""

from mmengine.hooks import EMAHook, Hook

from van_mm.models import fold
from van_mm.registry import HOOKS


@HOOKS.register_module()
class FoldHook(Hook):
    """Before testing, fold the model with :func:`van_mm.fold`.

    The hook acts in ``before_test_epoch``, after an EMAHook has put the averaged weights into the model. The EMAHook is
    then removed from the runner, because after the test it would swap weights with a copy that is not folded. The model
    is folded in place and left in eval mode, so it cannot be trained afterwards.
    """

    priority = "LOWEST"  # after EMAHook

    def before_test_epoch(self, runner) -> None:
        fold(runner.model.eval())
        runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, EMAHook)]
