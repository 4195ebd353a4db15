// uPlot with our colours, keyboard-free and click-through: what is shown is also in the list and the tables.
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { h } from "./dom";
import { numberText } from "./format";
import { colour, onTheme } from "./theme";

export interface Line {
  label: string;
  values: (number | null)[];
  stroke: string; // name of a colour in the style sheet
  dash?: number[];
  points?: boolean; // points only, no line
}

export interface ChartOptions {
  label: string; // for those who cannot see it
  x: number[];
  xLabel: string;
  yLabel: string;
  lines: Line[];
  log?: boolean;
  height?: number;
  xText?: (x: number) => string;
  xName?: string; // in the legend, where xLabel is too long
  xTicks?: { at: number; text: string }[]; // in place of every few whole numbers
  marks?: { at: number; text: string; strong: boolean }[]; // vertical lines
  onPick?: (index: number) => void;
}

const kEmpty = "Nothing to plot.";

// Powers of ten, as many as can be told apart; without a whole one in sight, what lies between.
function decades(low: number, high: number): number[] {
  const [from, to] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  if (to <= from) return [1, 2, 5, 10].map((step) => step * 10 ** Math.floor(Math.log10(low))).filter((y) => y >= low && y <= high);
  const every = Math.max(1, Math.ceil((to - from) / 7));
  return Array.from({ length: Math.floor((to - from) / every) + 1 }, (_, i) => 10 ** (from + i * every));
}

// A logarithm has no zero: such values are left out, and the caller says so.
function plottable(value: number | null, log: boolean): number | null {
  return value === null || !Number.isFinite(value) || (log && value <= 0) ? null : value;
}

function marksPlugin(marks: () => NonNullable<ChartOptions["marks"]>): uPlot.Plugin {
  return {
    hooks: {
      drawAxes: (plot) => {
        const context = plot.ctx;
        context.save();
        for (const mark of marks()) {
          const x = Math.round(plot.valToPos(mark.at, "x", true));
          if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) continue;
          context.strokeStyle = colour(mark.strong ? "accent" : "bad");
          context.lineWidth = (mark.strong ? 3 : 1) * devicePixelRatio;
          context.setLineDash(mark.strong ? [] : [4 * devicePixelRatio, 3 * devicePixelRatio]);
          context.beginPath();
          context.moveTo(x, plot.bbox.top);
          context.lineTo(x, plot.bbox.top + plot.bbox.height);
          context.stroke();
        }
        context.restore();
      },
    },
  };
}

const kWholeSteps = [1, 2, 5].flatMap((step) => [0, 1, 2, 3, 4, 5, 6].map((power) => step * 10 ** power)).sort((a, b) => a - b);

function xTicksOf(options: ChartOptions): Partial<uPlot.Axis> {
  const { xTicks } = options;
  if (!xTicks || xTicks.length === 0) return { incrs: kWholeSteps, values: (_, splits) => splits.map((x) => (Number.isInteger(x) ? String(x) : "")), space: 40 };
  const texts = new Map(xTicks.map((tick) => [tick.at, tick.text]));
  return {
    splits: (plot, _, low, high) => {
      const inSight = xTicks.filter((tick) => tick.at >= low && tick.at <= high);
      const every = Math.max(1, Math.ceil(inSight.length / Math.max(1, Math.floor(plot.width / 40))));
      return inSight.filter((_tick, i) => i % every === 0).map((tick) => tick.at);
    },
    values: (_, splits) => splits.map((x) => texts.get(x) ?? ""),
  };
}

export interface Chart {
  element: HTMLElement;
  mark(marks: NonNullable<ChartOptions["marks"]>): void;
}

export function chart(options: ChartOptions): Chart {
  const log = options.log ?? false;
  const holder = h("div", { class: "chart", role: "img", "aria-label": options.label });
  const data = [options.x, ...options.lines.map((line) => line.values.map((value) => plottable(value, log)))];
  if (data.slice(1).every((values) => values.every((value) => value === null))) {
    holder.append(h("p", { class: "empty" }, kEmpty));
    return { element: holder, mark: () => {} };
  }
  let marks = options.marks ?? [];
  let plot: uPlot | null = null;
  const xText = options.xText ?? ((x: number) => String(x));
  const build = (): void => {
    const width = holder.clientWidth;
    if (width < 50) return;
    const grid = { stroke: colour("line"), width: 1 };
    const axis = { stroke: colour("soft-ink"), grid, ticks: grid, font: "11px system-ui", labelFont: "12px system-ui", labelSize: 20 };
    plot?.destroy();
    plot = new uPlot({
      width,
      height: options.height ?? 260,
      scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
      legend: { live: true },
      cursor: { drag: { x: true, y: false }, points: { size: 6 } },
      axes: [
        { ...axis, label: options.xLabel, size: 30, ...xTicksOf(options) },
        { ...axis, label: options.yLabel, size: 62, ...(log ? { splits: (_, __, low, high) => decades(low, high), filter: (_, splits) => splits } as Partial<uPlot.Axis> : {}), values: (_, splits) => splits.map((y) => (y === null ? "" : numberText(y, 2))) },
      ],
      series: [
        { label: options.xName ?? options.xLabel, value: (_, x) => (x === null ? "-" : xText(x)) },
        ...options.lines.map((line): uPlot.Series => ({
          label: line.label,
          stroke: colour(line.stroke),
          width: 1.5,
          spanGaps: false,
          value: (_, y) => (y === null ? "-" : numberText(y)),
          ...(line.dash ? { dash: line.dash } : {}),
          ...(line.points ? { paths: () => null, points: { show: true, size: 5, fill: colour(line.stroke) } } : { points: { show: options.x.length < 60, size: 4, fill: colour(line.stroke) } }),
        })),
      ],
      plugins: [marksPlugin(() => marks)],
    }, data as uPlot.AlignedData, holder);
    const current = plot;
    current.over.addEventListener("click", () => {
      const index = current.cursor.idx;
      if (options.onPick && index !== null && index !== undefined) options.onPick(index);
    });
  };
  watchSize(holder, build);
  return {
    element: holder,
    mark: (next) => {
      marks = next;
      plot?.redraw(false, true);
    },
  };
}

// Any two columns against each other, as points; the diagonal is where both are equal.
export function scatter(x: ArrayLike<number>, y: ArrayLike<number>, xLabel: string, yLabel: string, label: string): HTMLElement {
  const holder = h("div", { class: "chart", role: "img", "aria-label": label });
  const order = Array.from({ length: x.length }, (_, i) => i).filter((i) => Number.isFinite(x[i]) && Number.isFinite(y[i])).sort((a, b) => x[a]! - x[b]!);
  if (order.length === 0) {
    holder.append(h("p", { class: "empty" }, kEmpty));
    return holder;
  }
  const xs = order.map((i) => x[i]!);
  const ys = order.map((i) => y[i]!);
  let plot: uPlot | null = null;
  watchSize(holder, () => {
    if (holder.clientWidth < 50) return;
    const grid = { stroke: colour("line"), width: 1 };
    const axis = { stroke: colour("soft-ink"), grid, ticks: grid, font: "11px system-ui", labelFont: "12px system-ui", labelSize: 20 };
    plot?.destroy();
    plot = new uPlot({
      width: holder.clientWidth,
      height: 280,
      scales: { x: { time: false } },
      cursor: { drag: { x: true, y: true } },
      axes: [{ ...axis, label: xLabel, size: 30, values: (_, s) => s.map((v) => numberText(v, 2)) }, { ...axis, label: yLabel, size: 62, values: (_, s) => s.map((v) => numberText(v, 2)) }],
      series: [
        { label: xLabel, value: (_, v) => numberText(v) },
        { label: "equal", stroke: colour("soft-ink"), dash: [4, 4], width: 1, points: { show: false }, value: (_, v) => numberText(v) },
        { label: yLabel, stroke: colour("series-1"), paths: () => null, points: { show: true, size: 4, fill: colour("series-1") }, value: (_, v) => numberText(v) },
      ],
    }, [xs, xs, ys] as uPlot.AlignedData, holder);
  });
  return holder;
}

export function bars(edges: number[], groups: { label: string; counts: number[]; stroke: string }[], xLabel: string, label: string): HTMLElement {
  const holder = h("div", { class: "chart", role: "img", "aria-label": label });
  let plot: uPlot | null = null;
  const stepped = uPlot.paths.stepped!({ align: 1 });
  watchSize(holder, () => {
    if (holder.clientWidth < 50) return;
    const grid = { stroke: colour("line"), width: 1 };
    const axis = { stroke: colour("soft-ink"), grid, ticks: grid, font: "11px system-ui", labelFont: "12px system-ui", labelSize: 20 };
    plot?.destroy();
    plot = new uPlot({
      width: holder.clientWidth,
      height: 240,
      scales: { x: { time: false } },
      axes: [{ ...axis, label: xLabel, size: 30, values: (_, s) => s.map((v) => numberText(v, 2)) }, { ...axis, label: "values", size: 62 }],
      series: [{ label: xLabel, value: (_, v) => numberText(v) }, ...groups.map((group, i): uPlot.Series => ({
        label: group.label, stroke: colour(group.stroke), width: 1.5, paths: stepped, points: { show: false },
        ...(i === 0 ? { fill: `${colour(group.stroke)}33` } : { dash: [5, 3] }),
      }))],
    }, [edges, ...groups.map((group) => group.counts)] as uPlot.AlignedData, holder);
  });
  return holder;
}

// Builds once the holder is in the page, and again when its width or the theme changes.
function watchSize(holder: HTMLElement, build: () => void): void {
  let width = -1;
  new ResizeObserver(() => {
    if (holder.clientWidth === width) return;
    width = holder.clientWidth;
    build();
  }).observe(holder);
  onTheme(() => {
    if (!holder.isConnected) return false;
    build();
    return undefined;
  });
}
