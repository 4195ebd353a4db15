// What is selected and shown. The URL's hash says it in full, so that a link opens the same view.

export interface Selection {
  view: string;
  site: string | null;
  step: number | null; // null: the worst of all steps
  position: number | null;
  head: number | null;
}

export function toHash(selection: Selection): string {
  const parameters = new URLSearchParams();
  if (selection.view) parameters.set("view", selection.view);
  if (selection.site !== null) parameters.set("site", selection.site);
  for (const key of ["step", "position", "head"] as const) {
    if (selection[key] !== null) parameters.set(key, String(selection[key]));
  }
  return `#${parameters.toString()}`;
}

export function fromHash(hash: string, fallback: Selection): Selection {
  const parameters = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (key: string): number | null => {
    const text = parameters.get(key);
    return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : null;
  };
  return {
    view: parameters.get("view") ?? fallback.view,
    site: parameters.get("site") ?? fallback.site,
    step: number("step"),
    position: number("position"),
    head: number("head"),
  };
}

export class Store {
  private readonly listeners: ((selection: Selection) => void)[] = [];
  private readonly initial: Selection;

  constructor(public selection: Selection) {
    this.initial = selection;
    this.selection = fromHash(location.hash, selection);
    addEventListener("hashchange", () => {
      const next = fromHash(location.hash, this.initial);
      if (toHash(next) !== toHash(this.selection)) this.set(next);
    });
  }

  // Listeners run once when added, and after every change.
  watch(listener: (selection: Selection) => void): void {
    this.listeners.push(listener);
    listener(this.selection);
  }

  set(change: Partial<Selection>): void {
    this.selection = { ...this.selection, ...change };
    history.replaceState(null, "", toHash(this.selection));
    for (const listener of this.listeners) listener(this.selection);
  }
}
