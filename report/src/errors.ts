// Errors by position, from what a diagnosis or a diff kept of a site.
import { unpackF32 } from "./bytes";
import type { DiffSite, Header, SiteView } from "./data";

export interface PositionErrors {
  first: number; // absolute position of the first entry
  bin: number; // positions an entry stands for: the worst of them
  error: number[];
  floor: number[];
}

export function positionsOfView(view: SiteView | undefined): PositionErrors | null {
  if (!view?.tokens) return null;
  return { first: 0, bin: view.tokens.bin, error: [...unpackF32(view.tokens.error)], floor: [...unpackF32(view.tokens.floor)] };
}

// A diff knows what rounding explains for the site as a whole; it is held against each position.
export function positionsOfDiff(site: DiffSite | undefined): PositionErrors | null {
  if (!site?.positions) return null;
  const error = [...unpackF32(site.positions.nmse)].map(Math.sqrt);
  const floor = site.allowed_nmse === null || site.allowed_nmse === undefined ? NaN : Math.sqrt(site.allowed_nmse);
  return { first: site.first_position ?? 0, bin: site.positions.bin, error, floor: error.map(() => floor) };
}

export function ratiosOf(errors: PositionErrors): (number | null)[] {
  return errors.error.map((error, i) => {
    if (Number.isNaN(error)) return null;
    if (error === 0) return 0;
    const floor = errors.floor[i]!;
    return Number.isNaN(floor) ? null : floor > 0 ? error / floor : Infinity;
  });
}

export interface Tokens {
  ids: number[];
  texts: string[];
  steps: { step: number; start: number; count: number }[];
}

export function tokensOf(header: Header | undefined, texts: string[] | undefined): Tokens {
  return { ids: header?.run?.tokens?.[0] ?? [], texts: texts ?? [], steps: header?.run?.steps ?? [] };
}
