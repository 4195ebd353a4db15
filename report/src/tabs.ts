// Views side by side behind tabs; the selected one stands in the URL.
import { h, replace } from "./dom";
import type { Store } from "./state";

export interface View {
  id: string;
  label: string;
  build: () => HTMLElement[];
  lasting?: boolean; // watches the store itself: built once
}

export function tabs(views: View[], store: Store): HTMLElement {
  const buttons = views.map((view) => h("button", { role: "tab", id: `tab-${view.id}`, "aria-controls": "panel", onclick: () => store.set({ view: view.id }) }, view.label));
  const panel = h("div", { role: "tabpanel", id: "panel", tabindex: 0 });
  const list = h("div", { role: "tablist", "aria-label": "Views" }, ...buttons);
  list.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const at = views.findIndex((view) => view.id === current());
    const next = (at + by + views.length) % views.length;
    store.set({ view: views[next]!.id });
    buttons[next]!.focus();
  });
  const focusable = (): HTMLElement[] => [...panel.querySelectorAll<HTMLElement>("button, [tabindex]")];
  const kept = new Map<string, HTMLElement[]>();
  const current = (): string => views.find((view) => view.id === store.selection.view)?.id ?? views[0]!.id;
  store.watch(() => {
    const id = current();
    views.forEach((view, i) => {
      buttons[i]!.setAttribute("aria-selected", view.id === id ? "true" : "false");
      buttons[i]!.tabIndex = view.id === id ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `tab-${id}`);
    const view = views.find((other) => other.id === id)!;
    if (!view.lasting) {
      // A view that is built again has the same parts: the keyboard stays where it was.
      const focus = focusable().indexOf(document.activeElement as HTMLElement);
      replace(panel, ...view.build());
      if (focus >= 0) focusable()[focus]?.focus();
      return;
    }
    if (!kept.has(id)) kept.set(id, view.build());
    const elements = kept.get(id)!;
    if (elements[0]?.parentElement !== panel) replace(panel, ...elements);
  });
  return h("section", { class: "views" }, list, panel);
}
