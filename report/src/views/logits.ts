// What the difference does to the answer: divergence by position, and the best tokens of both sides at one of them.
import { chart } from "../charts";
import { shadeOf } from "../colour";
import type { Logits, LogitsPosition, RankedToken, Token } from "../data";
import { h } from "../dom";
import { numberText, percentText, visibleText } from "../format";
import type { Store } from "../state";
import { theme } from "../theme";

const nameOf = (token: Token | null): string => (token === null ? "not finite" : token.text ? `“${visibleText(token.text)}”` : `#${token.id}`);

function ranked(tokens: RankedToken[], others: RankedToken[], heading: string): HTMLElement {
  return h("div", { class: "table-holder whole", tabindex: 0, role: "region", "aria-label": heading }, h("h3", {}, heading), h("table", { class: "ranked" },
    h("thead", {}, h("tr", {}, ...["rank", "token", "id", "logit", "probability"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, ...tokens.map((token, i) => {
      const rank = others.findIndex((other) => other.id === token.id);
      const moved = rank < 0 ? "not among the other's" : rank === i ? "" : `other side: ${rank + 1}`;
      return h("tr", { class: moved ? "moved" : "" }, h("td", {}, String(i + 1)), h("td", { class: "text" }, nameOf(token), moved && h("small", {}, ` ${moved}`)),
        h("td", {}, String(token.id)), h("td", {}, numberText(token.logit, 5)),
        h("td", { class: "bars short" }, h("span", { class: "bar solid", style: `width:${(100 * token.probability).toFixed(1)}%` }), percentText(token.probability)));
    }))));
}

// How bad a position is, on the map's scale: what differs over what the noise is worth here.
const shadeRatio = (position: LogitsPosition): number | null =>
  position.status === "identical" ? 0 : position.status === "within_noise" ? 1 : position.greedy_differs && !position.benign_tie ? Infinity : 100;

export function logitsView(logits: Logits, store: Store): HTMLElement[] {
  const { positions } = logits;
  if (positions.length === 0) return [h("p", { class: "empty" }, "No position has logits on both sides.")];
  const fallback = logits.first_divergence?.position ?? positions[0]!.position;
  const chosen = positions.find((p) => p.position === (store.selection.position ?? fallback)) ?? positions[0]!;
  const drawn = chart({
    label: "KL divergence and largest difference of logits by position",
    x: positions.map((p) => p.position), xLabel: "position", yLabel: "difference", log: true,
    lines: [
      { label: "largest difference of a logit", values: positions.map((p) => p.max_abs), stroke: "series-1" },
      { label: "KL divergence (nats)", values: positions.map((p) => p.kl_reference_subject), stroke: "series-2", dash: [6, 3] },
    ],
    marks: [{ at: chosen.position, text: "", strong: true }],
    onPick: (i) => positions[i] && store.set({ position: positions[i].position }),
  });
  const strip = h("div", { class: "tokens", role: "group", "aria-label": "Winning token of the reference at each position" }, ...positions.slice(0, 2000).map((p) => {
    const shade = shadeOf(shadeRatio(p));
    return h("button", { class: `token${p === chosen ? " chosen" : ""}`, "aria-pressed": p === chosen ? "true" : "false", style: `background:${shade.fill[theme()]};color:${shade.ink[theme()]}`,
      title: `position ${p.position}: ${p.status.replaceAll("_", " ")}${p.greedy_differs ? `, ${nameOf(p.top_reference)} becomes ${nameOf(p.top_subject)}` : ""}`,
      onclick: () => store.set({ position: p.position }) }, p.greedy_differs ? `${nameOf(p.top_reference)} → ${nameOf(p.top_subject)}` : nameOf(p.top_reference));
  }));
  return [
    h("h3", {}, "The winning token at each position"), strip,
    h("p", { class: "note" }, "Coloured as in the map: within noise, diverged with the same winner, diverged with another. An arrow: another token wins in the subject."),
    drawn.element,
    h("h3", {}, `Position ${chosen.position}: ${chosen.status.replaceAll("_", " ")}`),
    h("p", { class: "note" }, `cosine ${numberText(chosen.cosine, 7)}, KL ${numberText(chosen.kl_reference_subject)} nats, the reference's winner is number ${chosen.rank_in_subject ?? "?"} in the subject${chosen.benign_tie ? "; a benign tie" : ""}.`),
    chosen.best_reference && chosen.best_subject
      ? h("div", { class: "two" }, ranked(chosen.best_reference, chosen.best_subject, "Reference"), ranked(chosen.best_subject, chosen.best_reference, "Subject"))
      : h("p", { class: "empty" }, "The best tokens of this position were not kept."),
  ];
}
