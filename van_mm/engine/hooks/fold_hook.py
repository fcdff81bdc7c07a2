"""Fold the model before testing."""

from mmengine.hooks import Hook

from van_mm.models import fold
from van_mm.registry import HOOKS


@HOOKS.register_module()
class FoldHook(Hook):
    """Before testing, fold the model with :func:`van_mm.fold`.

    The hook acts in ``before_test``, after the weights have been loaded. The model is folded in place and left in eval
    mode, so it cannot be trained afterwards.

    The hook does not work together with mmengine's EMAHook, which swaps weights with a copy that is not folded.
    """

    def before_test(self, runner) -> None:
        fold(runner.model.eval())
