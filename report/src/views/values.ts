// Values of both sides at one site: a sample of them as a table and a scatter plot, and the histogram of all.
import { unpackF32, unpackU32 } from "../bytes";
import { bars, scatter } from "../charts";
import type { SiteView } from "../data";
import { h } from "../dom";
import { numberText } from "../format";
import type { Store } from "../state";

const kMostRows = 64;

export function valuesView(view: SiteView | undefined, store: Store, referenceLabel: string, subjectLabel: string): HTMLElement[] {
  if (!view?.samples) return [h("p", { class: "empty" }, "No values were kept for this site.")];
  const rows = unpackU32(view.samples.rows);
  const columns = unpackU32(view.samples.columns);
  const reference = unpackF32(view.samples.reference);
  const subject = unpackF32(view.samples.subject);
  const { worst } = view.samples;
  const position = store.selection.position;
  let order = Array.from({ length: rows.length }, (_, i) => i);
  const here = position === null ? order : order.filter((i) => rows[i] === position);
  const narrowed = here.length > 0 && position !== null;
  if (narrowed) order = here;
  const error = (i: number): number => Math.abs(subject[i]! - reference[i]!);
  // Not finite counts as the largest error.
  const key = (i: number): number => (Number.isFinite(error(i)) ? error(i) : Infinity);
  const listed = [...order].sort((a, b) => key(b) - key(a)).slice(0, kMostRows);
  const parts: HTMLElement[] = [
    h("p", { class: "note" }, `A sample: ${rows.length} of ${view.values.toLocaleString("en")} values, the ${worst} largest errors and the rest evenly spaced.${narrowed ? ` Position ${position} only: ${here.length} of them.` : position !== null ? ` None of them at position ${position}; all are shown.` : ""}`),
    h("div", { class: "two" },
      h("div", {}, h("h3", {}, "Both sides"), scatter(order.map((i) => reference[i]!), order.map((i) => subject[i]!), referenceLabel, subjectLabel, `Scatter plot: ${subjectLabel} against ${referenceLabel}`)),
      h("div", {}, h("h3", {}, "Largest errors of the sample"),
        h("div", { class: "table-holder", tabindex: 0, role: "region", "aria-label": "Sampled values" }, h("table", {},
          h("thead", {}, h("tr", {}, ...["row", "column", referenceLabel, subjectLabel, "difference"].map((text) => h("th", { scope: "col" }, text)))),
          h("tbody", {}, ...listed.map((i) => h("tr", {}, h("td", {}, String(rows[i])), h("td", {}, String(columns[i])), h("td", {}, numberText(reference[i], 6)), h("td", {}, numberText(subject[i], 6)), h("td", {}, numberText(subject[i]! - reference[i]!)))))))),
    ),
  ];
  const histogram = view.histogram;
  if (histogram && histogram.high > histogram.low) {
    const width = (histogram.high - histogram.low) / histogram.reference.length;
    const edges = histogram.reference.map((_, i) => histogram.low + i * width);
    parts.push(h("h3", {}, "All values"),
      bars([...edges, histogram.high], [
        { label: referenceLabel, counts: [...histogram.reference, 0], stroke: "series-3" },
        { label: subjectLabel, counts: [...histogram.subject, 0], stroke: "series-1" },
      ], "value", "Histogram of both sides' values"),
      h("p", { class: "note" }, `Of all ${view.values.toLocaleString("en")} values, not of the sample.${histogram.outside > 0 ? ` ${histogram.outside} are not finite and not shown.` : ""}`));
  }
  return parts;
}
