// Tokens that went to other experts than in the model run in f64: by how much, and what error had reached the router.
import type { Flip } from "../data";
import { h } from "../dom";
import { numberText } from "../format";
import type { Store } from "../state";

const kMostRows = 500;

export function routingView(flips: Flip[], store: Store): HTMLElement[] {
  if (flips.length === 0) return [h("p", { class: "empty" }, "No token went to other experts than in the model.")];
  // What is not benign comes first; then the widest margin.
  const order = [...flips].sort((a, b) => Number(a.benign) - Number(b.benign) || (b.margin ?? Infinity) - (a.margin ?? Infinity));
  const largest = Math.max(...flips.flatMap((flip) => [flip.margin ?? 0, flip.error ?? 0]), 1e-300);
  const bar = (value: number | null, kind: string): HTMLElement =>
    h("span", { class: `bar ${kind}`, style: `width:${(100 * Math.min(1, (value ?? largest) / largest)).toFixed(1)}%` });
  const benign = flips.filter((flip) => flip.benign).length;
  return [
    h("p", { class: "note" }, `${flips.length} changed choice${flips.length === 1 ? "" : "s"}: ${benign} benign (the margin is below the error that reached the router), ${flips.length - benign} not.${flips.length > kMostRows ? ` The first ${kMostRows} are shown.` : ""}`),
    h("div", { class: "table-holder", tabindex: 0, role: "region", "aria-label": "Changed choices of experts" }, h("table", { class: "routing" },
      h("thead", {}, h("tr", {}, ...["step", "layer", "token", "model's experts", "subject's experts", "margin", "error", "margin (solid) and error (striped)", "verdict"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, ...order.slice(0, kMostRows).map((flip) => h("tr", { class: flip.benign ? "" : "marked" },
        h("td", {}, String(flip.step)),
        h("td", {}, h("button", { class: "link", onclick: () => store.set({ site: `layers.${flip.layer}.moe.experts`, position: flip.token, head: null }) }, String(flip.layer))),
        h("td", {}, String(flip.token)), h("td", {}, flip.reference.join(", ")), h("td", {}, flip.subject.join(", ")),
        h("td", {}, numberText(flip.margin)), h("td", {}, numberText(flip.error)),
        h("td", { class: "bars" }, bar(flip.margin, "solid"), bar(flip.error, "striped")),
        h("td", {}, flip.benign ? "benign" : "not explained")))))),
  ];
}
