"""Act when a module is imported, so that ``import van_mm`` need not import it."""

import sys
import warnings
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.util import find_spec


class AfterImportFinder(MetaPathFinder):
    """A finder that runs a function after the first import of a module.

    Args:
        name (str): Full name of the module.
        action (Callable): Function without arguments.
    """

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self.name, self.action = name, action

    def find_spec(self, name, path=None, target=None):
        """Let the other finders find the module, and change how it is run. An import that fails is warned of."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(name)
        except Exception as error:
            warn_of_broken_module(name, error)
            raise
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module) -> None:
            try:
                run(module)
            except Exception as error:
                warn_of_broken_module(name, error)
                raise
            self.action()

        spec.loader.exec_module = exec_module
        return spec


def run_after_import(name: str, action: Callable[[], None]) -> None:
    """Run a function once a module has been imported: now, if that was before.

    Args:
        name (str): Full name of the module. It need not be installed.
        action (Callable): Function without arguments.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, AfterImportFinder(name, action))


def warn_of_broken_module(name: str, error: Exception) -> None:
    """Warn that the import of a module fails, because mmengine hides some of these errors."""
    warnings.warn(
        f"{name.partition('.')[0]} does not import ({type(error).__name__}: {error}), so VAN is not registered in it. "
        "`python -m van_mm.utils.check_env` shows which versions work together.",
        stacklevel=3,
    )
