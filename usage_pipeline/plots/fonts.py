"""Fonts for texts that others chose: Hangul, Chinese, Japanese and the rest that matplotlib's own font lacks.

A font of the system that has the letters is used beside it. Where there is none, a name says so; matplotlib would draw boxes.
"""

import logging
import threading
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from unicodedata import category

_NO_FONT = "[no font]"
# Of matplotlib; it is in every installation.
_OWN = "DejaVu Sans"
_MOST_FILES = 5_000
# Drawn over or between letters; without them a text can still be read.
_MARKS = ("Mn", "Me", "Cf")
_LESS_PLAIN = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "serif", "condensed")
_log = logging.getLogger(__name__)
_choosing = threading.Lock()


def drawable(text: str) -> str:
    """The text as it can be drawn: what no font has is left out, and `[no font]` stands in its place.

    Fonts that it needs are in use from now on, so write the text after this call.
    """
    if text.isascii():
        return text
    with _choosing:
        if missing := frozenset(text) - _letters():
            _use_fonts_with(missing)
        known = _letters()
    kept = (one for one in text if one in known or category(one) not in _MARKS)
    parts = (
        "".join(letters) if is_known else _NO_FONT for is_known, letters in groupby(kept, lambda one: one in known)
    )
    return "".join(parts)


def _letters() -> frozenset[str]:
    """All letters of the fonts in use."""
    from matplotlib.font_manager import FontProperties, findfont

    found: frozenset[str] = frozenset()
    for family in _families():
        found |= _letters_of(findfont(FontProperties(family=[family])))
    return found


def _families() -> list[str]:
    import matplotlib as mpl

    families = list(mpl.rcParams["font.family"])
    if families[0] != _OWN:
        # matplotlib looks through families that are named, and not through those behind `sans-serif`.
        families = mpl.rcParams["font.family"] = [_OWN]
    return families


@cache
def _letters_of(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(path).get_charmap()))


@cache
def _use_fonts_with(missing: frozenset[str]) -> None:
    """Takes fonts of the system until none is left that has any of these letters."""
    import matplotlib as mpl
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    left = set(missing)
    while left:
        found = max(((len(left & letters), path) for path, letters in _candidates()), default=(0, ""), key=_most)
        if not found[0]:
            _log.warning(
                "plots: no font of this system has %s; pictures say %s there. Install one, such as Debian's fonts-wqy-microhei",
                "".join(sorted(left))[:20],
                _NO_FONT,
            )
            return
        # Also where matplotlib listed the fonts before this one was installed.
        fontManager.addfont(found[1])
        mpl.rcParams["font.family"] = [*_families(), FT2Font(found[1]).family_name]
        left -= _letters_of(found[1])


def _most(found: tuple[int, str]) -> int:
    return found[0]


def _candidates() -> Iterator[tuple[str, frozenset[str]]]:
    from matplotlib.font_manager import findSystemFonts

    for path in sorted(findSystemFonts(), key=_plainness)[:_MOST_FILES]:
        try:
            yield path, _letters_of(path)
        except (RuntimeError, OSError, ValueError):
            continue  # pictures in place of outlines, such as coloured emoji, or no font at all


def _plainness(path: str) -> tuple[int, str]:
    name = Path(path).name.lower()
    return sum(word in name for word in _LESS_PLAIN), name
