// Tables as the command laid them out: for commands without views of their own.
import type { Section } from "../data";
import { h } from "../dom";

export function tablesView(sections: Section[]): HTMLElement[] {
  return sections.map((section) => {
    const marked = new Set(section.marked);
    const cell = (tag: "th" | "td", column: number, text: string): HTMLElement =>
      h(tag, { class: section.columns[column]?.text ? "text" : null, scope: tag === "th" ? "col" : null }, text);
    return h("div", { class: "table-holder", tabindex: 0, role: "region", "aria-label": section.heading || "Table" },
      section.heading !== "" && h("h3", {}, section.heading),
      h("table", {}, h("thead", {}, h("tr", {}, ...section.columns.map((column, i) => cell("th", i, column.heading)))),
        h("tbody", {}, ...section.rows.map((row, r) => h("tr", { class: marked.has(r) ? "marked" : "" }, ...row.map((text, i) => cell("td", i, text)))))));
  });
}
