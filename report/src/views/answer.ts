// The first thing on the page: what is wrong, where, and what to do.
import type { Defect, Diagnosis, Diff, Payload } from "../data";
import { h } from "../dom";
import { percentText, rangesText, ratioText } from "../format";
import { describeSites } from "../sites";
import type { Store } from "../state";

const siteLink = (store: Store, site: string, text = site): HTMLElement =>
  h("button", { class: "link", onclick: () => store.set({ site, position: null, head: null }) }, text);

const capitalised = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

// Beyond this the size alone tells; below it the error hides in the noise, and it is its shape that was recognised.
const kPlainRatio = 2;

function proof(diagnosis: Diagnosis, defect: Defect, store: Store): (HTMLElement | string)[] {
  const link = siteLink(store, defect.site);
  // Without weights some sites are compared, not computed again.
  if (defect.side === "subject" && !diagnosis.noise.some((noise) => noise.site === defect.site)) {
    return [link, ` differs from the reference by ${ratioText(defect.ratio ?? Infinity)} times what rounding explains.`];
  }
  const start = ["Computed again from its own inputs, ", link];
  if (defect.ratio === null || defect.ratio > kPlainRatio) {
    return [...start, ` is off by ${ratioText(defect.ratio ?? Infinity)} times the noise floor of ${diagnosis.arithmetic}.`];
  }
  const row = diagnosis.noise.find((noise) => noise.site === defect.site && noise.step === defect.step);
  const share = row && defect.side === "subject" ? ` Only ${percentText(row.exact)} of the values equal ${diagnosis.arithmetic} to the bit.` : "";
  return [...start, ` is off by about what rounding makes (${ratioText(defect.ratio)} of the noise floor): no tolerance sees this, the shape of the error tells.${share}`];
}

const kMostLinks = 6;

function causeCard(diagnosis: Diagnosis, group: Diagnosis["summary"][number], store: Store): HTMLElement {
  const side = group.side ?? "subject";
  const defects = diagnosis.defects.filter((d) => d.side === side && d.cause.id === group.cause && group.sites.includes(d.site));
  const first = defects[0];
  const sure = defects.length ? Math.min(...defects.map((d) => d.cause.confidence)) : 0;
  const within = first
    ? (["tokens", "heads", "channels", "experts"] as const).filter((kind) => first.where[kind]?.length).map((kind) => `${kind} ${rangesText(first.where[kind]!)}`).join(", ")
    : "";
  const value = (x: unknown): string => (x === null || x === undefined ? "none" : typeof x === "string" ? x : JSON.stringify(x));
  const hasParameter = first && (first.cause.expected !== undefined || first.cause.found !== undefined);
  return h("article", { class: "cause" },
    h("h2", {}, h("code", {}, group.cause), h("span", { class: "sure" }, `${sure > 0 ? `${Math.round(100 * sure)} % sure` : "place certain, reason not"}${side === "reference" ? ", in the reference" : ""}`)),
    h("p", {}, `${capitalised(group.statement)}.`),
    h("dl", {},
      h("dt", {}, "Where"), h("dd", {}, h("strong", {}, describeSites(group.sites)), within && `; only ${within}`),
      hasParameter ? h("dt", {}, "Expected") : null, hasParameter ? h("dd", {}, value(first.cause.expected), " — found ", h("strong", {}, value(first.cause.found))) : null,
      group.fix ? h("dt", {}, "Fix") : null, group.fix ? h("dd", {}, `${capitalised(group.fix)}.`) : null,
      first ? h("dt", {}, "Proof") : null,
      first ? h("dd", {}, ...proof(diagnosis, first, store)) : null,
      first?.alternatives.length ? h("dt", {}, "Or") : null,
      first?.alternatives.length ? h("dd", {}, first.alternatives.map((a) => `${a.id} (${Math.round(100 * a.confidence)} %)`).join(", ")) : null),
    h("p", { class: "links wide" }, ...group.sites.slice(0, kMostLinks).map((site) => siteLink(store, site)),
      group.sites.length > kMostLinks && `and ${group.sites.length - kMostLinks} more`));
}

function aboutDiagnosis(diagnosis: Diagnosis, store: Store): HTMLElement[] {
  const parts: HTMLElement[] = diagnosis.summary.map((group) => causeCard(diagnosis, group, store));
  for (const equivalence of diagnosis.equivalences) {
    parts.push(h("article", { class: "cause harmless" }, h("h2", {}, "No effect"), h("p", {}, `${equivalence.statement} (`, siteLink(store, equivalence.site), ").")));
  }
  if (diagnosis.counterfactual) parts.push(h("p", { class: "remark" }, diagnosis.counterfactual));
  const unproven = diagnosis.unproven?.length ?? 0;
  const isClean = diagnosis.verdict === "within_noise" || diagnosis.verdict === "identical";
  if (isClean && diagnosis.summary.length === 0) {
    parts.push(h("article", { class: "cause harmless" }, h("h2", {}, unproven > 0 ? "Nothing is known to be wrong" : "Nothing is wrong"),
      h("p", {}, `${diagnosis.explained.values.toLocaleString("en")} recorded values were computed again from their own inputs. ${percentText(diagnosis.explained.exact)} equal ${diagnosis.arithmetic} to the bit, ${percentText(diagnosis.explained.one_ulp)} within one unit in the last place.`)));
  }
  const flips = diagnosis.routing.filter((flip) => flip.benign).length;
  if (flips > 0) parts.push(h("p", { class: "remark" }, `${flips} choice${flips === 1 ? "" : "s"} of experts fell the other way by less than the error that reached the router: benign. `, h("button", { class: "link", onclick: () => store.set({ view: "routing" }) }, "Show")));
  return parts;
}

function aboutDiff(diff: Diff, store: Store): HTMLElement[] {
  const first = diff.first_divergence;
  const counts = Object.entries(diff.counts).filter(([key, n]) => key !== "total" && n > 0).map(([key, n]) => `${n} ${key.replaceAll("_", " ")}`).join(", ");
  const parts: HTMLElement[] = [h("p", { class: "remark" }, `${diff.counts["total"] ?? diff.sites.length} sites: ${counts}.`)];
  if (first) {
    parts.unshift(h("article", { class: "cause" }, h("h2", {}, "First divergence"),
      h("p", {}, siteLink(store, first.site), first.position === null ? "" : `, position ${first.position}`, first.step > 0 ? `, decode step ${first.step}` : "", ". What differs after it may only have been inherited."),
      h("p", {}, "A comparison sees that the two differ, not why. To have the mistake named: ", h("code", {}, "paritrace diagnose SUB --model MODEL"))));
  }
  return parts;
}

export function answer(payload: Payload, store: Store): HTMLElement {
  const { page } = payload;
  const schema = payload.result.schema ?? "";
  const parts = schema.startsWith("paritrace/diagnosis/") ? aboutDiagnosis(payload.result as Diagnosis, store)
    : schema.startsWith("paritrace/diff/") ? aboutDiff(payload.result as Diff, store) : [];
  return h("div", { class: "answer" }, ...parts,
    page.facts.length > 0 && h("dl", { class: "facts" }, ...page.facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

// After the views: what was ruled out, remarks, tables of commands without views of their own.
export function afterwards(payload: Payload): HTMLElement | null {
  const { page } = payload;
  const cleared = (payload.result as Partial<Diagnosis>).cleared ?? [];
  // Remarks of logits and growth are about the tables of the terminal.
  const remarks = /^paritrace\/(logits|growth)\//.test(payload.result.schema ?? "") ? [] : page.remarks;
  if (cleared.length + remarks.length === 0) return null;
  return h("section", { class: "after" },
    cleared.length > 0 && h("h2", {}, "Ruled out"),
    cleared.length > 0 && h("ul", {}, ...cleared.map((note) => h("li", {}, h("strong", {}, note.what), `: ${note.evidence}`))),
    ...remarks.map((remark) => h("p", { class: "remark" }, remark)));
}
