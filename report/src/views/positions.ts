// The error at one site by position, and the tokens that stand there, tinted by it.
import { chart } from "../charts";
import { shadeOf } from "../colour";
import { h } from "../dom";
import { ratiosOf, type PositionErrors, type Tokens } from "../errors";
import { ratioText, visibleText } from "../format";
import type { Store } from "../state";
import { theme } from "../theme";

const kMostTokens = 2000;

function tokenStrip(errors: PositionErrors, tokens: Tokens, store: Store): HTMLElement {
  const ratios = ratiosOf(errors);
  const chips: HTMLElement[] = [];
  const known = tokens.ids.length > errors.first ? tokens.ids.length - errors.first : Infinity; // the last bin may reach past the end
  const count = Math.min(ratios.length * errors.bin, kMostTokens, known);
  for (let i = 0; i < count; ++i) {
    const position = errors.first + i;
    const ratio = ratios[Math.floor(i / errors.bin)] ?? null;
    const shade = shadeOf(ratio);
    const id = tokens.ids[position];
    const text = tokens.texts[position] ? visibleText(tokens.texts[position]) : id === undefined ? `#${position}` : String(id);
    const starts = tokens.steps.some((step) => step.step > 0 && step.start === position);
    chips.push(h("button", {
      class: `token${starts ? " decode" : ""}${store.selection.position === position ? " chosen" : ""}`,
      style: `background:${shade.fill[theme()]};color:${shade.ink[theme()]}`,
      "aria-pressed": store.selection.position === position ? "true" : "false",
      title: `position ${position}${id === undefined ? "" : `, token ${id}`}: error ${ratioText(ratio)} times the floor`,
      onclick: () => store.set({ position: store.selection.position === position ? null : position }),
    }, text));
  }
  return h("div", { class: "tokens", role: "group", "aria-label": "Tokens, tinted by the error at this site" }, ...chips);
}

export function positionsView(errors: PositionErrors | null, tokens: Tokens, store: Store, floorLabel: string): HTMLElement[] {
  if (!errors || errors.error.length === 0) return [h("p", { class: "empty" }, "No errors by position were kept for this site.")];
  const at = (i: number): number => errors.first + i * errors.bin;
  const position = store.selection.position;
  const drawn = chart({
    label: "Error and noise floor by position",
    x: errors.error.map((_, i) => at(i)),
    xLabel: "position",
    yLabel: "error (rms)",
    log: true,
    lines: [
      { label: "error", values: errors.error, stroke: "series-1" },
      { label: floorLabel, values: errors.floor, stroke: "series-3", dash: [2, 2] },
    ],
    marks: position === null ? [] : [{ at: position, text: "", strong: true }],
    onPick: (i) => store.set({ position: at(i) }),
  });
  return [
    tokenStrip(errors, tokens, store),
    drawn.element,
    h("p", { class: "note" }, `Colours as in the map, position by position. A position without a point has no error.${errors.bin > 1 ? ` Each entry stands for ${errors.bin} positions: the worst of them.` : ""}`),
  ];
}
