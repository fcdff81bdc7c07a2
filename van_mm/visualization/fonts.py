"""Fonts for class names in any script."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from mmengine.logging import print_log
from mmengine.visualization import Visualizer

DEFAULT_FAMILY = "DejaVu Sans"  # comes with matplotlib; has Latin, Greek, Cyrillic, Armenian, Arabic and others


@contextmanager
def use_fonts(figure: Figure) -> Iterator[None]:
    """Set the fonts of all texts of a figure, which is drawn inside the ``with`` block."""
    texts = figure.findobj(Text)
    families = choose_families(text.get_text() for text in texts)
    if len(families) > 1:
        for text in texts:
            text.set_family(families)
    with ignore_missing_glyphs():
        yield


@contextmanager
def ignore_missing_glyphs() -> Iterator[None]:
    """Suppress matplotlib's warnings inside the ``with`` block, because :func:`choose_families` has printed a line."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


@contextmanager
def use_visualizer_fonts(visualizer: Visualizer, texts: Iterable[str]) -> Iterator[None]:
    """Draw texts of a visualizer inside the ``with`` block in fonts that have their characters.

    Args:
        visualizer (Visualizer): mmengine's visualizer or a subclass.
        texts (Iterable[str]): Everything that may be drawn.
    """
    families = choose_families(texts)
    if len(families) > 1:
        visualizer.draw_texts = add_families(visualizer.draw_texts, families)
    try:
        with ignore_missing_glyphs():
            yield
    finally:
        vars(visualizer).pop("draw_texts", None)


def add_families(draw_texts: Callable, families: list[str]) -> Callable:
    """Return ``draw_texts`` of a visualizer with other font families, the first that has a character for each."""

    def draw_in_families(texts: str | list[str], *args, **kwargs):
        number = 1 if isinstance(texts, str) else len(texts)
        return draw_texts(texts, *args, **{**kwargs, "font_families": [families] * number})

    return draw_in_families


def choose_families(texts: Iterable[str]) -> list[str]:
    """Return the font families that have the characters of texts, the default one first.

    A line is printed, once, if no installed font has some of them.
    """
    return list(find_families(frozenset("".join(map(str, texts)))))


@cache
def find_families(characters: frozenset[str]) -> tuple[str, ...]:
    """Return the font families that have these characters, see :func:`choose_families`."""
    missing = {ord(c) for c in characters if c.isprintable() and not c.isspace()}
    missing -= read_characters(font_manager.findfont(DEFAULT_FAMILY))
    families = [DEFAULT_FAMILY]
    fonts = list_installed_fonts() if missing else {}
    while missing:
        path = max(fonts, key=lambda path: len(missing & read_characters(path)), default=None)
        found = missing & read_characters(path) if path else set()
        if not found:
            examples = "".join(map(chr, sorted(missing)[:8]))
            print_log(
                f"no installed font has {len(missing)} of the characters in the class names, such as {examples}. They "
                "are drawn as boxes. Install a font that has them, such as Noto",
                "current",
                level=30,
            )
            break
        families.append(fonts[path])
        missing -= found
    return tuple(families)


def list_installed_fonts() -> dict[str, str]:
    """Return the family of each installed font of normal style by its path. Fonts new to matplotlib are added to it."""
    manager = font_manager.fontManager
    known = {font.fname for font in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                manager.addfont(path)
            except Exception:  # FreeType raises several types for a broken font
                continue
    return {font.fname: font.name for font in manager.ttflist if font.style == "normal"}


@cache
def read_characters(path: str) -> frozenset[int]:
    """Return the code points that a font file has; none if it cannot be read."""
    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except Exception:  # FreeType raises several types for a broken font
        return frozenset()
