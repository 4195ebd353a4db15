// The error over layers and positions with the fitted line, and whether it is a trend.
import { chart } from "../charts";
import type { Growth, Trend } from "../data";
import { h } from "../dom";
import { numberText } from "../format";

function trendView(trend: Trend, at: "layer" | "position"): HTMLElement[] {
  const heading = h("h3", {}, `By ${at}${trend.site ? `, at ${trend.site}` : ""}`);
  if (trend.points.length === 0) return [heading, h("p", { class: "empty" }, `There is no error over ${at}s.`)];
  const x = trend.points.map((point) => point[at] ?? 0);
  const logs = trend.points.map((point) => Math.log10(point.error));
  // The least-squares line goes through the means, with the slope that the program found.
  const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [middle, level] = [mean(x), mean(logs)];
  const fitted = x.map((value) => 10 ** (level + trend.slope_decades * (value - middle)));
  const drawn = chart({
    label: `Error by ${at}`, x, xLabel: at, yLabel: "relative error (rms)", log: true,
    lines: [
      { label: "error", values: trend.points.map((point) => point.error), stroke: "series-1" },
      ...(trend.enough ? [{ label: "fitted", values: fitted, stroke: "series-2", dash: [6, 3] }] : []),
    ],
  });
  const words = !trend.enough ? "too few points to say anything"
    : trend.trend ? `times ${numberText(10 ** trend.slope_decades)} a ${at}, p = ${numberText(trend.p_value, 2)}` : `no trend (p = ${numberText(trend.p_value, 2)})`;
  return [heading, drawn.element, h("p", { class: "note" }, `${words}. p: the chance that the same errors, shuffled, give as steep a line.`)];
}

export function growthView(growth: Growth): HTMLElement[] {
  return [...trendView(growth.by_layer, "layer"), ...trendView(growth.by_position, "position")];
}
