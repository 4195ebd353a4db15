// Dark or light: the system's choice until the reader makes one.
import type { Theme } from "./colour";

const kKey = "paritrace-theme";
const listeners = new Set<() => void | false>();
const system = matchMedia("(prefers-color-scheme: dark)");

// Storage is refused on file: pages in some browsers; the choice then lasts as long as the page.
function stored(): Theme | null {
  try {
    const value = localStorage.getItem(kKey);
    return value === "light" || value === "dark" ? value : null;
  } catch {
    return null;
  }
}

let chosen: Theme | null = stored();

export function theme(): Theme {
  return chosen ?? (system.matches ? "dark" : "light");
}

function apply(): void {
  document.documentElement.dataset["theme"] = theme();
  for (const listener of listeners) if (listener() === false) listeners.delete(listener);
}

export function toggleTheme(): void {
  chosen = theme() === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(kKey, chosen);
  } catch {
    // as above
  }
  apply();
}

// Runs after every change: canvases do not follow style sheets. A listener that returns false is done for.
export function onTheme(listener: () => void | false): void {
  listeners.add(listener);
}

system.addEventListener("change", apply);
apply();

export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
