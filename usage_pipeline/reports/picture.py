"""Draws a report on one page, A4, as PNG."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any

from usage_pipeline.plots.drawing import COLORS, GRID, INK, PAPER, SOFT_INK, png_of
from usage_pipeline.plots.fonts import drawable
from usage_pipeline.reports.contents import Contents, Share, added
from usage_pipeline.reports.words import amount, count, difference, parts_of, share_of, unpriced
from usage_pipeline.texts import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PAGE_INCHES, _DOTS_PER_INCH = (8.27, 11.69), 120
_COLORS = 256
_OTHERS = "#b8c0ca"
_LISTED = 8
_BIG, _NORMAL, _SMALL = 17, 9.5, 8
# From top to bottom: title, tiles, space, days, tables, parts, foot.
_HEIGHTS = (0.6, 0.8, 0.55, 2.7, 3.2, 1.8, 0.3)


def draw_report(contents: Contents) -> bytes:
    """The page: what it cost and how that changed, each day by team, the dearest teams and models, and why it changed."""
    from matplotlib.figure import Figure  # loaded by the first picture

    figure = Figure(_PAGE_INCHES, _DOTS_PER_INCH, facecolor=PAPER)
    grid = figure.add_gridspec(
        len(_HEIGHTS), 2, height_ratios=_HEIGHTS, left=0.09, right=0.95, top=0.97, bottom=0.02, hspace=0.3, wspace=0.12
    )
    _title(_blank(figure, grid[0, :]), contents)
    _tiles(_blank(figure, grid[1, :]), contents)
    _days(figure.add_subplot(grid[3, :]), contents)
    _shares(_blank(figure, grid[4, 0]), "Teams", contents.teams)
    _shares(_blank(figure, grid[4, 1]), "Models", contents.models)
    _parts(_blank(figure, grid[5, :]), contents)
    _foot(_blank(figure, grid[6, :]), contents)
    return png_of(figure, _COLORS)


def _title(axes: "Axes", contents: Contents) -> None:
    report = contents.report
    _write(axes, 0, 1, report.title, size=_BIG, weight="bold")
    before = f"{report.days_before.first} to {report.days_before.last}"
    days = f"{report.days.first} to {report.days.last}, {contents.time_zone}"
    _write(
        axes,
        0,
        0.3,
        f"{days}, as of {contents.as_of:%Y-%m-%d %H:%M} UTC. Changes are against {before}.",
        color=SOFT_INK,
        size=_SMALL,
    )


def _tiles(axes: "Axes", contents: Contents) -> None:
    now, before = contents.totals, contents.totals_before
    tiles: Sequence[tuple[str, str, Callable[[Any], str]]] = (
        ("Cost", "cost_usd", amount),
        ("Requests", "requests", count),
        ("Tokens", "total_tokens", count),
        ("Errors", "errors", count),
        ("Users", "distinct_users", count),
        ("Latency p95", "latency_p95_ms", lambda value: f"{value:,.0f} ms" if value is not None else "–"),
    )
    for number, (title, name, shown) in enumerate(tiles):
        left = number / len(tiles)
        _write(axes, left, 1, title, color=SOFT_INK, size=_SMALL)
        _write(axes, left, 0.72, shown(now[name]), size=13, weight="bold")
        _write(axes, left, 0.2, difference(now[name], before[name]), color=SOFT_INK, size=_SMALL)


def _days(axes: "Axes", contents: Contents) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_facecolor(PAPER)
    places = range(len(contents.days))
    below = [0.0] * len(contents.days)
    for name, color, costs in _stacks(contents):
        heights = [float(cost) for cost in costs]
        # The space keeps a name that begins with `_` in the legend.
        axes.bar(places, heights, bottom=below, color=color, width=0.82, label=f" {drawable(shortened(name, 30))}")
        below = [one + other for one, other in zip(below, heights, strict=True)]
    axes.set_title("Cost of each day by team", loc="left", color=INK, fontsize=_NORMAL + 1, fontweight="bold", pad=36)
    if contents.costs_by_day:
        legend = axes.legend(
            loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=3, frameon=False, labelcolor=INK, fontsize=_SMALL
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    every = 1 if len(contents.days) <= 7 else 2
    shown = [place for place in places if place % every == 0]
    form = "%a %d" if len(contents.days) <= 7 else "%d"
    axes.set_xticks(shown, [f"{contents.days[place]:{form}}" for place in shown])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(Decimal(value))))
    axes.set_ylim(bottom=0, top=None if any(below) else 1)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=SOFT_INK, length=0, labelsize=_SMALL)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _stacks(contents: Contents) -> Sequence[tuple[str, str, Sequence[Decimal]]]:
    """The dearest teams, and all others as one, from the bottom up."""
    costs: Mapping[str, Sequence[Decimal]] = contents.costs_by_day
    ordered = sorted(costs, key=lambda team: (-sum(costs[team]), team))
    stacks = [(team, color, costs[team]) for team, color in zip(ordered, COLORS, strict=False)]
    if rest := ordered[len(COLORS) :]:
        sums = [sum((costs[team][place] for team in rest), Decimal(0)) for place in range(len(contents.days))]
        stacks.append((f"{len(rest)} others", _OTHERS, sums))
    return stacks


def _shares(axes: "Axes", title: str, shares: Sequence[Share]) -> None:
    used = [one for one in shares if one.cost_usd is not None or one.previous_cost_usd is not None]
    total = sum((one.cost_usd or Decimal(0) for one in used), Decimal(0))
    lines = [(shortened(one.name, 20), one.cost_usd, one.previous_cost_usd) for one in used[:_LISTED]]
    if rest := used[_LISTED:]:
        sums = [reduce(added, each) for each in zip(*map(_both, rest), strict=True)]
        lines.append((f"{len(rest)} others", sums[0], sums[1]))
    step = 1 / (_LISTED + 2)
    _write(axes, 0, 1, title, size=_NORMAL + 1, weight="bold")
    for column, text in ((0.67, "Cost"), (0.8, "Share"), (1.0, "Change")):
        _write(axes, column, 1, text, color=SOFT_INK, size=_SMALL, align="right")
    for number, (name, cost, before) in enumerate(lines, start=1):
        top = 1 - number * step - 0.02
        _write(axes, 0, top, name, size=_SMALL)
        for column, text in ((0.67, amount(cost)), (0.8, share_of(cost, total)), (1.0, difference(cost, before))):
            _write(axes, column, top, text, size=_SMALL, align="right")
    if not lines:
        _write(axes, 0, 1 - step, "No cost is known of this period or the one before.", color=SOFT_INK)


def _both(share: Share) -> tuple[Decimal | None, Decimal | None]:
    return share.cost_usd, share.previous_cost_usd


def _parts(axes: "Axes", contents: Contents) -> None:
    change = contents.change
    _write(axes, 0, 1, "Why the cost changed", size=_NORMAL + 1, weight="bold")
    if change is None:
        _write(axes, 0, 0.75, "There was no usage in either period.", color=SOFT_INK)
        return
    if change.change_usd is None:
        _write(axes, 0, 0.75, "No cost is known of either period.", color=SOFT_INK)
        return
    before, after = amount(change.previous_cost_usd), amount(change.cost_usd)
    days = contents.report.days_before
    said = f"From {before} ({days.first} to {days.last}) to {after}. The parts add up to the difference."
    _write(axes, 0, 0.84, said, color=SOFT_INK)
    parts = parts_of(change)
    most = max((abs(value) for _, value in parts), default=Decimal(0)) or Decimal(1)
    for number, (name, value) in enumerate(parts):
        top = 0.66 - number * 0.115
        _write(axes, 0, top, name)
        width = 0.3 * float(value / most)
        axes.barh(top - 0.04, width, left=0.6, height=0.08, color=COLORS[1] if value > 0 else COLORS[3])
        _write(axes, 1.0, top, amount(value, signed=True), align="right")


def _foot(axes: "Axes", contents: Contents) -> None:
    said = [
        unpriced(contents.totals["unpriced_requests"]),
        f"All numbers are in {contents.report.name}.csv and .parquet.",
    ]
    _write(axes, 0, 0.5, " ".join(filter(None, said)), color=SOFT_INK, size=_SMALL)


def _blank(figure: "Figure", place: Any) -> "Axes":
    axes = figure.add_subplot(place)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return axes


def _write(
    axes: "Axes",
    left: float,
    top: float,
    text: str,
    *,
    size: float = _NORMAL,
    color: str = INK,
    weight: str = "normal",
    align: str = "left",
) -> None:
    axes.text(
        *(left, top, drawable(text)),
        fontsize=size,
        color=color,
        fontweight=weight,
        horizontalalignment=align,
        verticalalignment="top",
        # Names are of others' choosing: what stands between dollars is no formula.
        parse_math=False,
    )
