// The error along the run: what each site introduced, against what it inherited and what rounding alone makes.
import { chart, type Chart } from "../charts";
import { h, replace } from "../dom";
import { cellsOfStep, type Cell } from "../sites";
import type { Store } from "../state";

// Where layers begin: the only ticks that are short enough to stand side by side.
function layerStarts(cells: Cell[]): { at: number; text: string }[] {
  const starts: { at: number; text: string }[] = [];
  cells.forEach((cell, at) => {
    if (cell.layer !== null && cells[at - 1]?.layer !== cell.layer) starts.push({ at, text: String(cell.layer) });
  });
  return starts;
}

export function depthView(cells: Cell[], store: Store, isDiagnosis: boolean): HTMLElement {
  const holder = h("div", {});
  let drawn: Chart | null = null;
  let shown: Cell[] = [];
  let step: number | null | undefined;

  function draw(): void {
    step = store.selection.step;
    shown = cellsOfStep(cells, step).filter((cell) => isDiagnosis || cell.ratio !== null);
    const exact = shown.filter((cell) => cell.error === 0).length;
    drawn = chart({
      label: isDiagnosis ? "Introduced error, propagated error and noise floor at each site in order of execution" : "Difference and what rounding explains at each site in order of execution",
      x: shown.map((_, i) => i),
      xLabel: "site, in order of execution; layers are numbered where they begin",
      xName: "site",
      yLabel: "relative error (rms)",
      log: true,
      height: 300,
      xText: (x) => shown[x]?.site ?? "",
      xTicks: layerStarts(shown),
      lines: [
        { label: isDiagnosis ? "introduced here" : "difference", values: shown.map((cell) => cell.error), stroke: "series-1" },
        ...(isDiagnosis ? [{ label: "inherited", values: shown.map((cell) => cell.propagated), stroke: "series-2", dash: [6, 3] }] : []),
        { label: isDiagnosis ? "noise floor" : "rounding explains", values: shown.map((cell) => cell.floor), stroke: "series-3", dash: [2, 2] },
      ],
      onPick: (i) => shown[i] && store.set({ site: shown[i].site, position: null, head: null }),
    });
    replace(holder, drawn.element, h("p", { class: "note" },
      `Relative to the rms of each output, logarithmic. ${isDiagnosis ? "Dashed: blamed." : "Dashed: the first divergence."} Blue: selected; click to select.${exact > 0 ? ` ${exact} exact site${exact === 1 ? " has" : "s have"} no logarithm and no point.` : ""}${step === null && new Set(cells.map((cell) => cell.step)).size > 1 ? " The worst of all steps." : ""}`));
  }

  const kMostMarks = 200;
  store.watch((selection) => {
    if (step !== selection.step) draw();
    drawn?.mark([
      ...shown.flatMap((cell, at) => (cell.marked ? [{ at, text: cell.site, strong: false }] : [])).slice(0, kMostMarks),
      ...shown.flatMap((cell, at) => (cell.site === selection.site ? [{ at, text: cell.site, strong: true }] : [])),
    ]);
  });
  return holder;
}
