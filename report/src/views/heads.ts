// Heads by tokens at one site: a mistake that sits in some heads only is a row here, one that grows with position a ramp.
import { unpackF32 } from "../bytes";
import { shadeOf } from "../colour";
import type { SiteView } from "../data";
import { h, sizeCanvas } from "../dom";
import { ratioText } from "../format";
import type { Store } from "../state";
import { colour, onTheme, theme } from "../theme";

// floor: what the error is measured against, in words.
export function headsView(view: SiteView | undefined, store: Store, floor: string): HTMLElement[] {
  const heads = view?.heads;
  if (!heads) return [h("p", { class: "empty" }, "The values of this site are not split into heads.")];
  const ratios = unpackF32(heads.ratio);
  const bins = ratios.length / heads.count;
  const ratio = (head: number, bin: number): number | null => {
    const value = ratios[head * bins + bin]!;
    return Number.isNaN(value) ? null : value;
  };
  const canvas = h("canvas", { tabindex: 0, role: "application", "aria-label": "Heads by tokens: arrow keys move, the text below says the error" });
  const says = h("p", { class: "says", "aria-live": "polite" });
  const holder = h("div", { class: "map-holder" }, canvas);
  const left = 52;
  let size = 14;
  let height = 16;

  function draw(): void {
    const width = Math.max(200, holder.clientWidth - 4);
    size = Math.max(3, Math.min(24, Math.floor((width - left) / bins)));
    height = Math.max(8, Math.min(18, size));
    const context = sizeCanvas(canvas, Math.max(width, left + bins * size), heads!.count * height + 22);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.fillStyle = colour("soft-ink");
    for (let head = 0; head < heads!.count; head += Math.ceil(12 / height)) context.fillText(head === 0 ? "head 0" : String(head), 0, (head + 0.5) * height);
    const every = Math.max(1, Math.ceil(40 / size));
    for (let bin = 0; bin < bins; bin += every) context.fillText(String(bin * heads!.bin), left + bin * size, heads!.count * height + 12);
    for (let head = 0; head < heads!.count; ++head) {
      for (let bin = 0; bin < bins; ++bin) {
        context.fillStyle = shadeOf(ratio(head, bin)).fill[theme()];
        context.fillRect(left + bin * size, head * height, size - (size > 5 ? 1 : 0), height - 1);
      }
    }
    const { head, position } = store.selection;
    if (head !== null && position !== null) {
      context.strokeStyle = colour("accent");
      context.lineWidth = 3;
      context.strokeRect(left + Math.floor(position / heads!.bin) * size - 1, head * height - 1, size + 1, height + 1);
    }
  }
  const say = (head: number, bin: number): void => {
    says.textContent = `head ${head}, position ${bin * heads.bin}: error ${ratioText(ratio(head, bin))} times ${floor}`;
  };
  const at = (event: MouseEvent): [number, number] | null => {
    const bounds = canvas.getBoundingClientRect();
    const bin = Math.floor((event.clientX - bounds.left - left) / size);
    const head = Math.floor((event.clientY - bounds.top) / height);
    return bin >= 0 && bin < bins && head >= 0 && head < heads.count ? [head, bin] : null;
  };
  canvas.addEventListener("mousemove", (event) => {
    const place = at(event);
    if (place) say(...place);
  });
  canvas.addEventListener("click", (event) => {
    const place = at(event);
    if (place) store.set({ head: place[0], position: place[1] * heads.bin });
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    const head = Math.max(0, Math.min(heads.count - 1, (store.selection.head ?? 0) + move[0]!));
    const bin = Math.max(0, Math.min(bins - 1, Math.floor((store.selection.position ?? 0) / heads.bin) + move[1]!));
    store.set({ head, position: bin * heads.bin });
  });
  const { head, position } = store.selection;
  if (head !== null && position !== null && head < heads.count) say(head, Math.min(bins - 1, Math.floor(position / heads.bin)));
  new ResizeObserver(draw).observe(holder);
  onTheme(() => {
    if (!holder.isConnected) return false;
    draw();
    return undefined;
  });
  return [holder, says, h("p", { class: "note" }, `Error of each head at each position over ${floor}; colours as in the map. Grey: nothing to judge.${heads.bin > 1 ? ` Each column stands for ${heads.bin} positions: the worst of them.` : ""}`)];
}
