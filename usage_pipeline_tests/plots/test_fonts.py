"""Names in any script are drawn, and what no font of the system has is told; matplotlib would draw boxes and warn."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from usage_pipeline.plots import fonts
from usage_pipeline.plots.drawing import draw_ranking
from usage_pipeline.plots.fonts import drawable

KOREAN = "결제 오류 500"


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    fonts._use_fonts_with.cache_clear()
    with mpl.rc_context({"font.family": ["sans-serif"]}):
        yield
    fonts._use_fonts_with.cache_clear()


def test_without_a_font_a_name_says_so_and_no_box_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    assert drawable(KOREAN) == "[no font] [no font] 500"
    assert drawable("日本") == "[no font]"
    assert drawable("naïve – Ω ≤ ü") == "naïve – Ω ≤ ü"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_ranking("Issues", [(KOREAN, 5.0), ("plain", 3.0)])


def test_a_font_of_the_system_that_has_the_letters_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    own = font_manager.findfont("DejaVu Sans")
    with_korean = next((path for path in font_manager.findSystemFonts() if has(path, "결")), None)
    if with_korean is None:
        pytest.skip("this system has no font with Hangul, such as Debian's fonts-wqy-microhei")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [own, __file__, with_korean])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = draw_ranking("Issues", [(KOREAN, 5.0)])
    assert drawn != draw_ranking("Issues", [("[no font] [no font] 500", 5.0)])
    assert drawable(KOREAN) == KOREAN
    assert len(mpl.rcParams["font.family"]) == 2


def has(path: str, letter: str) -> bool:
    try:
        return ord(letter) in FT2Font(path).get_charmap()
    except (RuntimeError, OSError, ValueError):
        return False


def test_the_image_has_a_font_for_names_in_any_script() -> None:
    dockerfile = Path(__file__).parents[2] / "deploy" / "Dockerfile"
    assert "fonts-wqy-microhei" in dockerfile.read_text(encoding="utf-8")
