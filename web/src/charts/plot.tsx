// Bars or lines for the width there is, drawn by Chart.js. Values are read with the mouse, a finger, or the arrow keys.

import {
  BarController,
  BarElement,
  CategoryScale,
  Chart,
  type ChartConfiguration,
  type ChartDataset,
  LinearScale,
  LineController,
  LineElement,
  PointElement,
} from "chart.js";
import { useEffect, useRef, useState } from "preact/hooks";
import { compact, formatted, moneyDigits } from "../numbers";
import { colourOf, useTheme } from "./colours";
import { type Drawing, type Series, totalAt } from "./series";

Chart.register(BarController, BarElement, CategoryScale, LinearScale, LineController, LineElement, PointElement);
const MOST_LINES = 10;
const MANY_BARS = 120;

type Drawn = Chart<"bar" | "line", (number | null)[], string>;

interface Spot {
  index: number;
  left: number;
  isByKey: boolean;
}

export function Plot({ drawing, name }: { drawing: Drawing; name: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const chart = useRef<Drawn | null>(null);
  const isDark = useTheme();
  const [spot, setSpot] = useState<Spot | null>(null);

  useEffect(() => {
    const drawn: Drawn = new Chart(canvas.current as HTMLCanvasElement, settingsOf(drawing));
    chart.current = drawn;
    setSpot(null);
    return () => drawn.destroy();
  }, [drawing, isDark]);

  const look = (index: number, isByKey: boolean) => {
    const scale = chart.current?.scales.x;
    if (!scale || !drawing.labels.length) return;
    const held = Math.max(0, Math.min(drawing.labels.length - 1, index));
    setSpot({ index: held, left: scale.getPixelForValue(held), isByKey });
  };
  const point = (event: PointerEvent) => look(chart.current?.scales.x?.getValueForPixel(event.offsetX) ?? 0, false);
  const press = (event: KeyboardEvent) => {
    const at = spot?.index;
    const most = drawing.labels.length - 1;
    const to = { ArrowLeft: (at ?? most + 1) - 1, ArrowRight: (at ?? -1) + 1, Home: 0, End: most }[event.key];
    if (event.key === "Escape") setSpot(null);
    if (to === undefined) return;
    event.preventDefault();
    look(to, true);
  };

  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset is for a form
    <div
      class="plot"
      role="group"
      aria-label={`Chart: ${name}. The arrow keys read its values.`}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: the keys work here
      tabIndex={0}
      onKeyDown={press}
      onBlur={() => setSpot(null)}
      onPointerLeave={(event) => event.pointerType === "mouse" && setSpot(null)}
    >
      <canvas ref={canvas} onPointerMove={point} onPointerDown={point} />
      {spot && <Readout drawing={drawing} spot={spot} width={chart.current?.width ?? 0} />}
      <p class="unseen" aria-live="polite">
        {spot?.isByKey && spoken(drawing, spot.index)}
      </p>
    </div>
  );
}

function Readout({ drawing, spot, width }: { drawing: Drawing; spot: Spot; width: number }) {
  const { lines, more, total, before } = linesAt(drawing, spot.index);
  const write = writer(drawing);
  return (
    <>
      <div class="cursor" style={{ left: `${spot.left}px` }} />
      <div
        class={`readout ${spot.left > width / 2 ? "to-left" : ""}`}
        style={{ left: `${spot.left}px` }}
        aria-hidden="true"
      >
        <p>{drawing.periods[spot.index]}</p>
        <table>
          <tbody>
            {lines.map((series) => (
              <tr key={series.name}>
                <td>
                  <span class={`swatch ${series.shade}`} />
                  {series.name}
                </td>
                <td>{write(series.values[spot.index] ?? null)}</td>
              </tr>
            ))}
            {more > 0 && (
              <tr>
                <td colSpan={2}>and {more} more</td>
              </tr>
            )}
            {drawing.hasTotal && (
              <tr class="sum">
                <td>Total</td>
                <td>{write(total)}</td>
              </tr>
            )}
            {before && (
              <tr>
                <td>{before.name}</td>
                <td>{write(before.values[spot.index] ?? null)}</td>
              </tr>
            )}
          </tbody>
        </table>
      </div>
    </>
  );
}

const writer = (drawing: Drawing) => {
  const digits = moneyDigits(drawing.series.flatMap((one) => one.values));
  return (value: number | null) => formatted(value, drawing.unit, digits);
};

function linesAt(drawing: Drawing, index: number) {
  const parts = drawing.series.filter((one) => !one.isBefore);
  const said = parts.filter((one) => (drawing.kind === "lines" ? true : one.values[index]));
  return {
    lines: said.slice(0, MOST_LINES),
    more: said.length - MOST_LINES,
    total: totalAt(drawing, index),
    before: drawing.series.find((one) => one.isBefore),
  };
}

function spoken(drawing: Drawing, index: number): string {
  const write = writer(drawing);
  const { lines, total } = linesAt(drawing, index);
  const parts = lines.map((one) => `${one.name} ${write(one.values[index] ?? null)}`);
  const sum = drawing.hasTotal ? [`total ${write(total)}`] : [];
  return `${drawing.periods[index]}: ${[...sum, ...parts].join(", ") || "nothing"}`;
}

function settingsOf(drawing: Drawing): ChartConfiguration<"bar" | "line", (number | null)[], string> {
  const [grid, text] = [colourOf("grid"), colourOf("soft")];
  const font = { family: getComputedStyle(document.body).fontFamily, size: 11 };
  const isStacked = drawing.kind === "bars";
  return {
    type: "bar",
    data: { labels: drawing.labels, datasets: drawing.series.map((one) => dataset(one, drawing)) },
    options: {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      events: [],
      layout: { padding: { top: 6 } },
      scales: {
        x: {
          stacked: isStacked,
          grid: { display: false },
          border: { color: grid },
          ticks: { color: text, font, maxRotation: 0, autoSkipPadding: 16 },
        },
        y: {
          stacked: isStacked,
          beginAtZero: true,
          grid: { color: grid },
          border: { display: false },
          ticks: {
            color: text,
            font,
            maxTicksLimit: 5,
            padding: 6,
            callback: (value) => compact(Number(value), drawing.unit),
          },
        },
      },
    },
  };
}

function dataset(series: Series, drawing: Drawing): ChartDataset<"bar" | "line", (number | null)[]> {
  const colour = series.isBefore ? colourOf("soft") : colourOf(series.shade);
  const data = series.values;
  if (series.isBefore || drawing.kind === "lines") {
    const isSparse = data.filter((value) => value !== null).length < 3;
    return {
      type: "line",
      data,
      // A stack of its own, before the bars.
      stack: series.name,
      order: -1,
      borderColor: colour,
      backgroundColor: colour,
      borderWidth: series.isBefore ? 1.5 : 2,
      borderDash: series.isBefore ? [4, 4] : [],
      pointRadius: isSparse ? 3 : 0,
      spanGaps: false,
      tension: 0,
    };
  }
  const isThin = drawing.labels.length > MANY_BARS;
  return {
    type: "bar",
    data,
    stack: "all",
    backgroundColor: colour,
    // A line between neighbours tells them apart where colours do not.
    borderColor: colourOf("surface"),
    borderWidth: isThin ? 0 : { top: 1 },
    borderSkipped: false,
    categoryPercentage: isThin ? 1 : 0.86,
    barPercentage: 1,
    maxBarThickness: 48,
  };
}
