// Error over noise floor as a colour. Blue is inside the noise, yellow to brown beyond it: the pair that all common kinds of
// colour blindness tell apart; lightness moves one way only, so that it also reads in grey.

export type Theme = "light" | "dark";

export interface Shade {
  upTo: number; // ratio, included
  label: string;
  fill: Record<Theme, string>;
  ink: Record<Theme, string>; // text on it, contrast 4.5 or more
}

const kDarkInk = "#0b1623";
const kLightInk = "#ffffff";

export const kShades: readonly Shade[] = [
  { upTo: 0, label: "exact", fill: { light: "#eef4fa", dark: "#0e1c2a" }, ink: { light: kDarkInk, dark: "#c9d7e6" } },
  { upTo: 1, label: "to 1", fill: { light: "#bcd9f0", dark: "#163a59" }, ink: { light: kDarkInk, dark: "#dbe9f6" } },
  { upTo: 2, label: "to 2", fill: { light: "#8fc0e6", dark: "#1f5685" }, ink: { light: kDarkInk, dark: kLightInk } },
  { upTo: 10, label: "to 10", fill: { light: "#e2a92c", dark: "#9a6a08" }, ink: { light: kDarkInk, dark: kLightInk } },
  { upTo: 100, label: "to 100", fill: { light: "#cf7d18", dark: "#c98616" }, ink: { light: kDarkInk, dark: kDarkInk } },
  { upTo: 1e4, label: "to 1e4", fill: { light: "#a8480b", dark: "#f0a83c" }, ink: { light: kLightInk, dark: kDarkInk } },
  { upTo: Infinity, label: "more", fill: { light: "#5f1d06", dark: "#ffdf9e" }, ink: { light: kLightInk, dark: kDarkInk } },
];

export const kUnknown: Shade = {
  upTo: NaN,
  label: "unknown",
  fill: { light: "#d5d7db", dark: "#3a3f47" },
  ink: { light: kDarkInk, dark: kLightInk },
};

// NaN is no ratio that is known to be small: it is unknown.
export function shadeOf(ratio: number | null): Shade {
  if (ratio === null || Number.isNaN(ratio)) return kUnknown;
  return kShades.find((shade) => ratio <= shade.upTo) ?? kUnknown;
}

// Relative luminance and contrast as WCAG 2 defines them; the tests hold every shade against its ink.
export function luminance(colour: string): number {
  const channel = (at: number): number => {
    const value = parseInt(colour.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5);
}

export function contrast(a: string, b: string): number {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y) as [number, number];
  return (high + 0.05) / (low + 0.05);
}
