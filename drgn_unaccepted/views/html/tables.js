// SPDX-License-Identifier: LGPL-2.1-or-later
// Elements, and tables that sort. Text from the target becomes text nodes only.

const ROWS_AT_ONCE = 200;

function node(tag, text, attributes = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== null && text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function button(text, onClick, attributes = {}) {
  const element = node("button", text, { type: "button", ...attributes });
  element.addEventListener("click", onClick);
  return element;
}

/**
 * A section with a table. Columns are {name, kind, of}: `of` takes a row to its value, `kind` is text, number, size or
 * address (a button that shows the place on the map).
 */
function tableSection({ id, title, note, columns, rows, order, show }) {
  const section = node("section", null, { "aria-labelledby": `${id}-title`, class: "card", id }, node("h2", title, { id: `${id}-title` }));
  if (note) section.append(node("p", note, { class: "muted" }));
  if (!rows || !rows.length) return section;
  const box = node("div", null, { class: "table", tabindex: "0", role: "region", "aria-label": `${title}: table` });
  const head = node("tr"), body = node("tbody");
  const more = button("", () => fill(shown + ROWS_AT_ONCE), { class: "plain" });
  let sorted = rows, shown = ROWS_AT_ONCE;
  const fill = (limit) => {
    shown = limit;
    body.replaceChildren(...sorted.slice(0, limit).map((row) => line(columns, row, show)));
    more.hidden = sorted.length <= limit;
    more.textContent = `Show more (${(sorted.length - limit).toLocaleString("en")} left)`;
  };
  const sort = (column, cell) => {
    const down = cell.getAttribute("aria-sort") === "ascending";
    for (const other of head.children) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    sorted = rows.slice().sort((a, b) => compare(column.of(a), column.of(b)) * (down ? -1 : 1));
    fill(ROWS_AT_ONCE);
  };
  for (const column of columns) {
    const cell = node("th", null, { scope: "col", class: column.kind }, button(column.name, () => sort(column, cell), { class: "sort" }));
    if (column.name === order) cell.setAttribute("aria-sort", "ascending");
    head.append(cell);
  }
  fill(ROWS_AT_ONCE);
  box.append(node("table", null, {}, node("thead", null, {}, head), body));
  section.append(box, more);
  return section;
}

function line(columns, row, show) {
  const tr = node("tr");
  for (const { kind, of } of columns) {
    const value = of(row);
    const cell = node("td", null, { class: kind });
    if (value === null || value === undefined) cell.append(node("span", "unknown", { class: "muted" }));
    else if (kind === "address" && value < END) cell.append(button(hex(value), () => show(value), { class: "link" }));
    else cell.textContent = kind === "address" ? hex(value) : kind === "size" ? exact(value) : kind === "number" ? value.toLocaleString("en") : value;
    tr.append(cell);
  }
  return tr;
}

/** Unknown first; numbers by value, all else as text. */
function compare(a, b) {
  if (a === null || b === null) return (a === null ? 0 : 1) - (b === null ? 0 : 1);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

const text = (name, of) => ({ name, kind: "text", of });
const number = (name, of) => ({ name, kind: "number", of });
const size = (name, of) => ({ name, kind: "size", of });
const end = (name, of) => ({ name, kind: "end", of });

function tables(guest, show) {
  const { data, unaccepted } = guest, { accepting: flight, efi } = data;
  const from = { name: "start", kind: "address", of: (r) => r.start }, to = end("end", (r) => (r.end === null ? null : hex(r.end)));
  const bytes = size("size", (r) => r.end - r.start), type = text("type", (r) => `${r.name} (${r.type})`);
  const found = [], add = (section) => found.push(tableSection({ ...section, show }));

  add({
    id: "ranges",
    title: "Unaccepted ranges",
    note: `${plural(unaccepted.length, "range")}, from ${sourceWords(data)}`,
    columns: [from, to, bytes],
    rows: Array.from(unaccepted.starts, (start, i) => ({ start, end: unaccepted.ends[i] })),
    order: "start",
  });
  const task = (key) => (r) => (r.task ? r.task[key] : null);
  add({
    id: "accepting",
    title: "Accepts in flight",
    note: flight.accepting ? (flight.accepting.length ? flight.problems.join("; ") : "accepting_list is empty") : `not captured: ${flight.missing}`,
    columns: [from, to, text("units", (r) => `${r.start_unit}-${r.end_unit}`), number("pid", task("pid")), text("command", task("comm")), number("CPU", task("cpu"))],
    rows: flight.accepting,
  });
  add({
    id: "zones",
    title: "Zones",
    note: data.zones ? "" : `not captured: ${data.missing.zones}`,
    columns: [
      number("node", (z) => z.node), text("zone", (z) => z.name), from, to,
      size("managed", (z) => z.managed_bytes), size("free", (z) => z.free_bytes), size("NR_UNACCEPTED", (z) => z.unaccepted_bytes),
      number("listed chunks", (z) => z.listed_chunks), size("min", (z) => z.watermarks.min), size("high", (z) => z.watermarks.high),
    ],
    rows: data.zones,
  });
  add({
    id: "efi",
    title: "EFI memory map",
    note: efi.descriptors
      ? `${plural(efi.descriptors.length, "descriptor")} from the ${efi.provenance}, ${efi.complete ? "complete" : "incomplete"}${efi.note ? `: ${efi.note}` : ""}`
      : `not captured: ${efi.note}`,
    columns: [from, to, bytes, type, end("attribute", (r) => r.attribute)],
    rows: efi.descriptors,
  });

  const titles = { current: "e820_table", kexec: "e820_table_kexec", firmware: "e820_table_firmware", boot_params: "boot_params.e820_table" };
  const entries = [], notes = [];
  for (const [name, table] of Object.entries(data.e820.tables)) {
    if (table) for (const entry of table) entries.push({ ...entry, table: titles[name] });
    else notes.push(`${titles[name]} not captured: ${data.e820.missing[name]}`);
  }
  const differences = data.e820.differences;
  if (differences) notes.push(differences.length ? `firmware and current differ in ${plural(differences.length, "range")}` : "firmware and current do not differ");
  add({
    id: "e820",
    title: "e820 tables",
    note: notes.join("; "),
    columns: [text("table", (r) => r.table), from, to, bytes, type],
    rows: entries,
  });

  return found;
}
