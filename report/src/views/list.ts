// Every site in order of execution, as in the map: of the chosen step, or the worst of all. Only the rows in sight are in the document: ten thousand scroll as ten do.
import { h, replace } from "../dom";
import { shadeOf } from "../colour";
import { ratioText } from "../format";
import { cellsOfStep, filterSites, type Cell } from "../sites";
import type { Store } from "../state";
import { onTheme, theme } from "../theme";

const kRow = 26; // pixels, as in the style sheet

export interface SiteList {
  element: HTMLElement;
  search: HTMLInputElement;
  next(by: number, only?: (cell: Cell) => boolean): void;
}

export function siteList(cells: Cell[], store: Store): SiteList {
  const steps = new Set(cells.map((cell) => cell.step)).size;
  let step = store.selection.step;
  let shown = cellsOfStep(cells, step);
  let found = shown;
  const search = h("input", { type: "search", id: "search", placeholder: "Search sites  ( / )", "aria-label": "Search sites", autocomplete: "off", spellcheck: "false" });
  const count = h("p", { class: "count", "aria-live": "polite" });
  const rows = h("div", { class: "rows" });
  const box = h("div", { class: "list", role: "listbox", tabindex: 0, "aria-label": "Sites in order of execution" }, rows);

  const selectedAt = (): number => found.findIndex((cell) => cell.site === store.selection.site);

  function render(): void {
    const first = Math.max(0, Math.floor(box.scrollTop / kRow) - 4);
    const last = Math.min(found.length, first + Math.ceil(Math.max(box.clientHeight, 200) / kRow) + 8);
    rows.style.height = `${found.length * kRow}px`;
    const active = selectedAt();
    const items: HTMLElement[] = [];
    for (let i = first; i < last; ++i) {
      const cell = found[i]!;
      const shade = shadeOf(cell.ratio);
      items.push(h("div", {
        role: "option", id: `site-${i}`, class: cell.marked ? "site marked" : "site", style: `top:${i * kRow}px`,
        "aria-selected": i === active ? "true" : "false", "aria-setsize": found.length, "aria-posinset": i + 1, "data-index": i,
      }, h("span", { class: "name" }, `${cell.marked ? "● " : ""}${cell.site}`, steps > 1 && h("small", {}, ` ${cell.step}`)),
      h("span", { class: "chip", style: `background:${shade.fill[theme()]};color:${shade.ink[theme()]}` }, ratioText(cell.ratio))));
    }
    replace(rows, ...items);
    if (active >= first && active < last) box.setAttribute("aria-activedescendant", `site-${active}`);
    else box.removeAttribute("aria-activedescendant");
  }

  function reveal(index: number): void {
    if (index < 0) return;
    const top = index * kRow;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + kRow > box.scrollTop + box.clientHeight) box.scrollTop = top + kRow - box.clientHeight;
  }

  function choose(cell: Cell): void {
    store.set({ site: cell.site, position: null, head: null });
  }

  function next(by: number, only: (cell: Cell) => boolean = () => true): void {
    let at = selectedAt();
    if (at < 0) at = by > 0 ? -1 : found.length;
    for (at += by; at >= 0 && at < found.length; at += by) {
      if (only(found[at]!)) return choose(found[at]!);
    }
  }

  let pending = 0;
  box.addEventListener("scroll", () => {
    if (pending === 0) pending = requestAnimationFrame(() => {
      pending = 0;
      render();
    });
  });
  box.addEventListener("click", (event) => {
    const option = (event.target as HTMLElement).closest<HTMLElement>("[role=option]");
    if (option) choose(found[Number(option.dataset["index"])]!);
  });
  box.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(box.clientHeight / kRow) - 1);
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page }[event.key];
    if (by === undefined && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    const to = event.key === "Home" ? 0 : event.key === "End" ? found.length - 1 : Math.max(0, Math.min(found.length - 1, selectedAt() + by!));
    if (found[to]) choose(found[to]);
  });
  function filter(): void {
    found = filterSites(shown, search.value);
    replace(count, search.value.trim() === "" ? `${shown.length} sites` : `${found.length} of ${shown.length}`);
  }
  search.addEventListener("input", () => {
    filter();
    box.scrollTop = 0;
    render();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && found[0]) choose(found[0]);
    if (event.key === "Enter" || event.key === "ArrowDown") {
      event.preventDefault();
      box.focus();
    }
    if (event.key === "Escape") {
      search.value = "";
      search.dispatchEvent(new Event("input"));
      search.blur();
    }
  });
  filter();
  onTheme(render);
  new ResizeObserver(() => {
    reveal(selectedAt());
    render();
  }).observe(box);
  store.watch((selection) => {
    if (selection.step !== step) {
      step = selection.step;
      shown = cellsOfStep(cells, step);
      filter();
    }
    reveal(selectedAt());
    render();
  });
  return { element: h("section", { class: "sites", "aria-label": "Sites" }, search, count, box), search, next };
}
