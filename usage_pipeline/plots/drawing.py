"""Draws small PNG pictures with matplotlib. The first picture loads it, because loading takes longer than a short run.

A picture has its own background, so that people can read it in the light and the dark theme of the UI.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING

from usage_pipeline.plots.fonts import drawable
from usage_pipeline.texts import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, SOFT_INK, GRID = "#f7f8fa", "#1f2733", "#5b6776", "#dfe3e8"
# Apart from each other for eyes that do not tell red from green, too.
COLORS = ("#3468c0", "#e08a1e", "#b5382f", "#3f8f7f", "#7a5cab")
_WIDTH_INCHES, _HEIGHT_INCHES, _DOTS_PER_INCH = 8.0, 3.0, 100
# A longer title is written smaller, so that all of it is there.
_TITLE_SIZE, _TITLE_LENGTH = 12.0, 68
# With so few colours a picture takes a third of the bytes, and nobody sees it.
_PALETTE = 16
_NAME_LENGTH = 44


def draw_bars(title: str, times: Sequence[datetime], values: Sequence[float], *, width: timedelta) -> bytes:
    """Bars over time, each as wide as its window. The newest bar is the partition itself, and stands out."""
    figure, axes = _empty(title)
    colors = [COLORS[0] if time == times[-1] else "#9db8e3" for time in times]
    axes.bar(list(times), list(values), width=width * 0.82, color=colors)  # type: ignore[arg-type]  # its stub knows no datetimes
    newest = f"{times[-1]:%Y-%m-%d %H:%M}".removesuffix(" 00:00")
    axes.set_title(f"{newest}: {values[-1]:,.0f}", loc="right", color=COLORS[0], fontsize=10, pad=8)
    return _png(figure, axes)


def draw_lines(title: str, times: Sequence[datetime], lines: Mapping[str, Sequence[float | None]]) -> bytes:
    """Lines over time by name; None leaves a gap."""
    figure, axes = _empty(title)
    for color, (name, values) in zip(COLORS, lines.items(), strict=False):
        points = [float("nan") if value is None else value for value in values]
        axes.plot(list(times), points, color=color, linewidth=2.2, marker="o", markersize=3.5, label=drawable(name))  # type: ignore[arg-type]  # its stub knows no datetimes
    axes.legend(loc="upper left", ncols=len(lines), frameon=False, labelcolor=INK, fontsize=10)
    axes.margins(y=0.25)
    return _png(figure, axes)


def draw_ranking(title: str, entries: Sequence[tuple[str, float]]) -> bytes:
    """Horizontal bars, the best on top, each with its name and score."""
    # Before the axes, whose ticks are written in the fonts that are in use when they are made.
    names = [_no_formula(drawable(shortened(name, _NAME_LENGTH))) for name, _ in entries]
    figure, axes = _empty(title, height=0.8 + 0.3 * len(entries))
    places = range(len(entries))
    scores = [score for _, score in entries]
    axes.barh(list(places), scores, color=["#9db8e3" if place else COLORS[0] for place in places], height=0.7)
    axes.set_yticks(list(places), names, color=INK)
    axes.invert_yaxis()
    for place, score in enumerate(scores):
        axes.annotate(f"{score:,.0f}", (score, place), (4, 0), textcoords="offset points", va="center", color=INK)
    axes.set_xlim(0, (max(scores, default=0) or 1) * 1.12)
    axes.grid(False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return png_of(figure)


def _empty(title: str, height: float = _HEIGHT_INCHES) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure  # loaded by the first picture

    # Not by pyplot: it keeps its figures in the process, and other threads may draw.
    figure = Figure((_WIDTH_INCHES, height), _DOTS_PER_INCH, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot(facecolor=PAPER)
    size = min(_TITLE_SIZE, _TITLE_SIZE * _TITLE_LENGTH / len(title))
    figure.suptitle(title, x=0.012, horizontalalignment="left", color=INK, fontsize=size, fontweight="bold")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]  # of the constrained layout
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=SOFT_INK, length=0, labelsize=10)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: "Figure", axes: "Axes") -> bytes:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import EngFormatter, MaxNLocator

    locator = AutoDateLocator(minticks=3, maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylim(bottom=0)
    return png_of(figure)


def png_of(figure: "Figure", colors: int = _PALETTE) -> bytes:
    """A figure as PNG, with so many colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = bytes(canvas.buffer_rgba())
    picture = Image.frombuffer("RGBA", canvas.get_width_height(), pixels).convert("RGB")
    written = BytesIO()
    picture.quantize(colors, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    return written.getvalue()


def _no_formula(name: str) -> str:
    # matplotlib reads what stands between dollars as one.
    return name.replace("$", r"\$")
