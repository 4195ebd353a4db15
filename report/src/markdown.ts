// The result as text for an issue: what --md writes, and what is selected here.
import type { Payload } from "./data";
import { numberText, ratioText } from "./format";
import type { Cell } from "./sites";
import type { Selection } from "./state";

export function toMarkdown(payload: Payload, cells: Cell[], selection: Selection): string {
  const { page } = payload;
  let text = `${page.markdown.trimEnd()}\n`;
  const chosen = cells.filter((cell) => cell.site === selection.site && (selection.step === null || cell.step === selection.step));
  if (chosen.length > 0) {
    text += `\n### \`${chosen[0]!.site}\`\n\n| step | error | floor | error/floor | |\n|---:|---:|---:|---:|---|\n`;
    for (const cell of chosen) text += `| ${cell.step} | ${numberText(cell.error)} | ${numberText(cell.floor)} | ${ratioText(cell.ratio)} | ${cell.marked ? "blamed" : ""} |\n`;
  }
  return `${text}\n<sub>paritrace ${page.version}, ${page.command}</sub>\n`;
}

// The clipboard is refused to pages from files in some browsers; a selected text area is not.
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.setAttribute("aria-hidden", "true");
    area.style.position = "fixed";
    area.style.opacity = "0";
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}
