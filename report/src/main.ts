// Puts the page together from what the program embedded: the answer, the map, and the views linked by selection.
import "./style.css";
import { readPayload, type Diagnosis, type Diff, type DiffSite, type Growth, type Header, type Logits, type Payload } from "./data";
import { h, replace } from "./dom";
import { positionsOfDiff, positionsOfView, tokensOf } from "./errors";
import { numberText, percentText, ratioText } from "./format";
import { copyText, toMarkdown } from "./markdown";
import { unpackNoise } from "./noise";
import { cellsOfDiagnosis, cellsOfDiff, type Cell } from "./sites";
import { Store } from "./state";
import { tabs, type View } from "./tabs";
import { theme, toggleTheme } from "./theme";
import { afterwards, answer } from "./views/answer";
import { depthView } from "./views/depth";
import { growthView } from "./views/growth";
import { headsView } from "./views/heads";
import { siteList, type SiteList } from "./views/list";
import { logitsView } from "./views/logits";
import { modelMap } from "./views/map";
import { positionsView } from "./views/positions";
import { routingView } from "./views/routing";
import { tablesView } from "./views/tables";
import { valuesView } from "./views/values";

const kKeys: [string, string][] = [
  ["/", "search sites"], ["↓ ↑ or j k", "next, previous site"], ["n p", "next, previous blamed site"],
  ["c", "copy as Markdown"], ["t", "dark or light"], ["Esc", "leave the search"], ["?", "these keys"],
];

function figuresOf(cells: Cell[], store: Store, isDiagnosis: boolean, noise: Diagnosis["noise"], sites: DiffSite[]): HTMLElement {
  const holder = h("div", { class: "figures", id: "detail", tabindex: -1 });
  store.watch((selection) => {
    const chosen = cells.filter((cell) => cell.site === selection.site && (selection.step === null || cell.step === selection.step));
    const cell = chosen.sort((a, b) => (b.ratio ?? -1) - (a.ratio ?? -1))[0];
    if (!cell) return replace(holder, h("h2", {}, "No site selected"));
    const facts: [string, string][] = [
      [isDiagnosis ? "error / noise floor" : "difference / what rounding explains", ratioText(cell.ratio)],
      [isDiagnosis ? "introduced here" : "difference", numberText(cell.error)],
      [isDiagnosis ? "noise floor" : "rounding explains", numberText(cell.floor)],
    ];
    const row = noise[cell.index];
    if (row) {
      facts.push(["inherited", numberText(cell.propagated)], ["equal to the bit", percentText(row.exact)], ["within 1 ULP", percentText(row.one_ulp)], ["values", row.values.toLocaleString("en")]);
    }
    const site = sites[cell.index];
    if (site) facts.push(["shape", `[${site.shape.join(", ")}]`], ["cosine", numberText(site.cosine, 8)], ["largest difference", numberText(site.max_abs)], ["at", site.max_abs_at ? `[${site.max_abs_at.join(", ")}]` : "-"]);
    replace(holder, h("h2", {}, h("code", {}, cell.site), cell.step > 0 ? ` step ${cell.step}` : "", cell.marked ? h("span", { class: "flag" }, isDiagnosis ? "blamed" : "first divergence") : null),
      h("dl", { class: "row" }, ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      cell.note && !row && h("p", { class: "note" }, cell.note));
  });
  return holder;
}

function viewsOf(payload: Payload, cells: Cell[], store: Store): View[] {
  const { page, result, views } = payload;
  const schema = result.schema ?? "";
  if (schema.startsWith("paritrace/logits/")) return [{ id: "logits", label: "Logits and tokens", build: () => logitsView(result as Logits, store) }];
  if (schema.startsWith("paritrace/growth/")) return [{ id: "growth", label: "Growth", lasting: true, build: () => growthView(result as Growth) }];
  const isDiagnosis = schema.startsWith("paritrace/diagnosis/");
  if (!isDiagnosis && !schema.startsWith("paritrace/diff/")) return [{ id: "tables", label: "Tables", lasting: true, build: () => tablesView(page.sections) }];
  const sites = (result as Partial<Diff>).sites ?? [];
  const header = (result as { subject?: Header }).subject;
  const tokens = tokensOf(header, page.tokens);
    // A diff has an entry a step; without a choice the worst one speaks.
  const siteOf = (): DiffSite | undefined => {
    const { site, step } = store.selection;
    const chosen = sites.filter((s) => s.site === site && (step === null || s.step === step));
    return chosen.sort((a, b) => (b.nmse ?? -1) - (a.nmse ?? -1))[0];
  };
  // A diagnosis has one view a site, a diff one a step of it.
  const viewOf = () => views?.sites[store.selection.site ?? ""] ?? views?.sites[`${siteOf()?.step}/${store.selection.site}`];
  const list: View[] = [
    { id: "depth", label: "Along the depth", lasting: true, build: () => [depthView(cells, store, isDiagnosis)] },
    { id: "positions", label: "By position", build: () => positionsView(isDiagnosis ? positionsOfView(viewOf()) : positionsOfDiff(siteOf()), tokens, store, isDiagnosis ? "noise floor" : "rounding explains (whole site)") },
    { id: "values", label: "Values", build: () => valuesView(viewOf(), store, views?.reference_label ?? "reference", views?.subject_label ?? "subject") },
  ];
  if (isDiagnosis || Object.values(views?.sites ?? {}).some((view) => view.heads)) {
    list.push({ id: "heads", label: "Heads × tokens", build: () => headsView(viewOf(), store, isDiagnosis ? "its noise floor" : "what rounding explains at this site") });
  }
  if (isDiagnosis) {
    list.push({ id: "routing", label: `Expert routing${(result as Diagnosis).routing.length ? ` (${(result as Diagnosis).routing.length})` : ""}`, build: () => routingView((result as Diagnosis).routing, store) });
  }
  return list;
}

function bindKeys(list: SiteList | null, copy: () => void, help: HTMLDialogElement): void {
  addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select, textarea")) return;
    const actions: Record<string, () => void> = {
      "/": () => list?.search.focus(), j: () => list?.next(1), k: () => list?.next(-1),
      n: () => list?.next(1, (cell) => cell.marked), p: () => list?.next(-1, (cell) => cell.marked),
      c: copy, t: toggleTheme, "?": () => help.showModal(),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function build(payload: Payload, app: HTMLElement): void {
  const { page, result } = payload;
  const schema = result.schema ?? "";
  const isDiagnosis = schema.startsWith("paritrace/diagnosis/");
  const isDiff = schema.startsWith("paritrace/diff/");
  if (isDiagnosis) (result as Diagnosis).noise = unpackNoise((result as Diagnosis).noise);
  const cells = isDiagnosis ? cellsOfDiagnosis(result as Diagnosis) : isDiff ? cellsOfDiff(result as Diff) : [];
  const worst = cells.reduce<Cell | null>((best, cell) => (best === null || (cell.ratio ?? -1) > (best.ratio ?? -1) ? cell : best), null);
  const store = new Store({ view: "", site: (cells.find((cell) => cell.marked) ?? worst)?.site ?? null, step: null, position: null, head: null });

  const said = h("span", { role: "status", class: "copied" });
  const copy = async (): Promise<void> => {
    const done = await copyText(toMarkdown(payload, cells, store.selection));
    said.textContent = done ? "copied" : "this browser refuses to copy";
    setTimeout(() => (said.textContent = ""), 2500);
  };
  const help = h("dialog", { "aria-label": "Keys" }, h("h2", {}, "Keys"),
    h("dl", { class: "facts" }, ...kKeys.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    h("form", { method: "dialog" }, h("button", {}, "Close")));
  const themeButton = h("button", { onclick: toggleTheme, "aria-label": "Dark or light" }, theme() === "dark" ? "Light" : "Dark");
  new MutationObserver(() => (themeButton.textContent = theme() === "dark" ? "Light" : "Dark")).observe(document.documentElement, { attributes: true });

  const list = cells.length > 0 ? siteList(cells, store) : null;
  const measured = isDiagnosis ? "error over noise floor" : "difference over what rounding explains";
  const arithmetic = isDiagnosis ? (result as Diagnosis).arithmetic : "";
  const views = viewsOf(payload, cells, store);
  replace(app,
    h("header", {}, h("strong", {}, "paritrace ", page.command), h("span", { class: "space" }), said,
      h("button", { onclick: () => void copy() }, "Copy as Markdown"), themeButton, h("button", { onclick: () => help.showModal(), "aria-label": "Keys" }, "?")),
    h("main", {},
      h("h1", { class: page.tone }, page.sentence),
      h("div", { class: cells.length > 0 ? "first two-thirds" : "first" }, answer(payload, store),
        cells.length > 0 && modelMap(cells, store, { heading: isDiagnosis ? `Every site against the noise floor of ${arithmetic}` : "Every site against what rounding explains", measured, marked: isDiagnosis ? "blamed" : "first divergence" })),
      h("div", { class: list ? "evidence" : "" }, list ? list.element : h("h2", {}, "Evidence"),
        h("div", { class: "panel" }, list ? figuresOf(cells, store, isDiagnosis, (result as Partial<Diagnosis>).noise ?? [], (result as Partial<Diff>).sites ?? []) : null, tabs(views, store))),
      afterwards(payload)),
    h("footer", {}, `Written by paritrace ${page.version}. One file, nothing is loaded or sent.`), help);
  bindKeys(list, () => void copy(), help);
}

const app = document.getElementById("app");
if (app) {
  try {
    build(readPayload(document), app);
  } catch (error) {
    replace(app, h("main", {}, h("h1", { class: "odd" }, `This page cannot be shown: ${error instanceof Error ? error.message : String(error)}`)));
  }
}
