// Elements, numbers and charts of the dashboard. Text only ever becomes text nodes: ids and titles come from outside.

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const exactMoney = new Intl.NumberFormat("en", { style: "currency", currency: "USD", maximumFractionDigits: 4 });
const shortMoney = new Intl.NumberFormat("en", { style: "currency", currency: "USD", notation: "compact" });

export const count = (value) => whole.format(value);
export const compact = (value) => (value < 100_000 ? whole.format(value) : short.format(value));
export function money(value) {
  if (value === null) return "no price";
  if (value >= 10_000) return shortMoney.format(value);
  return value >= 1 || value === 0 ? exactMoney.format(Math.round(value * 100) / 100) : exactMoney.format(value);
}

export const empty = (text) => element("p", { class: "empty" }, text);

const dayName = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", timeZone: "UTC" });
export const shortDay = (day) => dayName.format(new Date(`${day}T00:00:00Z`));

// A round number at or above the greatest value, so that the axis reads well.
function ceiling(value) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  // The axis also names the half of it.
  return 2 * Math.ceil(Math.max(4, [1, 1.2, 1.6, 2, 3, 4, 6, 8, 10].map((factor) => factor * unit).find((round) => round >= value)) / 2);
}

// Days as groups of bars. `series` are {name, shade, values}; one value for each day.
export function bars(days, series, title) {
  const [width, height, left, right, bottom, top] = [1080, 190, 46, 8, 24, 10];
  const most = ceiling(Math.max(0, ...series.flatMap((one) => one.values)));
  const step = (width - left - right) / days.length;
  const thick = Math.min(18, (step * 0.76) / series.length);
  const y = (value) => top + (height - top - bottom) * (1 - value / most);
  const chart = drawn("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const part of [0, 0.5, 1]) {
    const at = y(most * part);
    chart.append(drawn("line", { class: "line", x1: left, x2: width - right, y1: at, y2: at }));
    chart.append(drawn("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, compact(most * part)));
  }
  days.forEach((day, place) => {
    const from = left + place * step;
    const said = series.map((one) => `${one.name}: ${count(one.values[place])}`).join("\n");
    const group = drawn("g", { class: "day" }, drawn("title", {}, `${day}\n${said}`));
    group.append(drawn("rect", { class: "hover", x: from, y: top, width: step, height: height - top - bottom }));
    series.forEach((one, number) => {
      const value = one.values[place];
      if (!value) return;
      const x = from + (step - thick * series.length) / 2 + number * thick;
      const tall = Math.max(1.5, y(0) - y(value));
      group.append(drawn("rect", { class: one.shade, x, y: y(0) - tall, width: thick - 1.5, height: tall, rx: 2 }));
    });
    const labels = Math.ceil(days.length / 10);
    if ((days.length - 1 - place) % labels === 0) {
      group.append(drawn("text", { x: from + step / 2, y: height - 6, "text-anchor": "middle" }, shortDay(day)));
    }
    chart.append(group);
  });
  return [chart, asTable(days, series, title)];
}

// The same numbers for those who do not see the chart.
function asTable(days, series, title) {
  const head = element("tr", {}, ...["Day", ...series.map((one) => one.name)].map((name) => element("th", { scope: "col" }, name)));
  const rows = days.map((day, place) =>
    element("tr", {}, element("th", { scope: "row" }, day), ...series.map((one) => element("td", {}, count(one.values[place])))),
  );
  return element("div", { class: "only-read" }, element("table", {}, element("caption", {}, title), element("thead", {}, head), element("tbody", {}, ...rows)));
}

export function meter(share) {
  return drawn(
    "svg",
    { class: "meter", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("rect", { class: "track", width: 100, height: 4 }),
    drawn("rect", { class: "fill", width: Math.max(0.5, 100 * share), height: 4 }),
  );
}

// `columns` are {name, isNumber}; a cell is a node or text.
export function table(columns, rows, title) {
  const kind = (place) => (columns[place].isNumber ? { class: "number" } : {});
  const head = columns.map((column, place) => element("th", { scope: "col", ...kind(place) }, column.name));
  const body = rows.map((cells) => element("tr", {}, ...cells.map((cell, place) => element("td", kind(place), ...[cell].flat()))));
  return element("table", { "aria-label": title }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}
