// SPDX-License-Identifier: LGPL-2.1-or-later
// What the page can do beyond being read: tables sort, addresses can be looked up, the map answers the pointer.

const byId = (id) => document.getElementById(id);

function button(text, onClick) {
  const element = document.createElement("button");
  Object.assign(element, { type: "button", textContent: text });
  element.addEventListener("click", onClick);
  return element;
}

/** The value of a cell: an address, a size or a number; null for text. */
function value(text) {
  const found = /^(0x[0-9a-f]+|[0-9.]+)(?: ([KMGT])iB| bytes?)?$/.exec(text);
  return found && Number(found[1]) * (SIZES[found[2]] || 1);
}

function compare(a, b) {
  const x = value(a), y = value(b);
  return x !== null && y !== null ? x - y : (x === null) - (y === null) || a.localeCompare(b);
}

function makeSortable(table) {
  const head = table.tHead.rows[0], body = table.tBodies[0];
  for (const cell of head.cells) {
    const text = (row) => row.cells[cell.cellIndex].textContent;
    const sort = () => {
      const down = cell.getAttribute("aria-sort") === "ascending";
      for (const other of head.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...Array.from(body.rows).sort((a, b) => compare(text(a), text(b)) * (down ? -1 : 1)));
    };
    cell.replaceChildren(button(cell.textContent, sort));
  }
}

/** The address under the pointer on one of the drawings, or null. */
function addressAt({ target, clientX }) {
  const { start, end } = target.dataset, box = target.getBoundingClientRect();
  if (start === undefined) return null;
  return Number(start) + Math.floor((Math.max(0, clientX - box.left) / box.width) * (end - start));
}

/** A frame on the map around the selected address. */
function mark(address) {
  for (const old of document.querySelectorAll("#map .cursor")) old.remove();
  for (const row of document.querySelectorAll("#map [data-start]")) {
    const [start, end] = [Number(row.dataset.start), Number(row.dataset.end)];
    if (address < start || address >= end) continue;
    const { x, y, width, height } = row.getBBox();
    row.before(svgNode("rect", { class: "cursor", x: x + (width * (address - start)) / (end - start) - 2, y, width: 5, height }));
  }
}

function showAnswer(closeup, address, quiet) {
  const list = [["address", hex(address)], ["unit", span(closeup.start(address), closeup.start(address) + closeup.unit)]];
  byId("answer").replaceChildren(...[...list, ...said(closeup.tracks, address)].flatMap(([name, words]) => {
    const [dt, dd] = ["dt", "dd"].map((tag) => document.createElement(tag));
    dt.textContent = name;
    dd.textContent = words;
    return [dt, dd];
  }));
  mark(address);
  if (!quiet) history.replaceState(null, "", `#${hex(address)}`);
}

function search(closeup) {
  const status = byId("status"), input = byId("address");
  const go = (text) => {
    let error = "";
    try {
      closeup.select(parseAddress(text));
    } catch (wrong) {
      error = `${text.slice(0, 40)}: ${wrong.message}`;
    }
    Object.assign(status, { textContent: error, className: "error" });
    input.toggleAttribute("aria-invalid", error !== "");
    return error === "";
  };
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    go(input.value);
  });
  for (const key of document.querySelectorAll("[data-key]")) key.addEventListener("click", () => closeup.press(key.dataset.key));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.type === "text") return;
    event.preventDefault();
    input.select();
  });
  const fromHash = () => location.hash.startsWith("#0x") && go(location.hash.slice(1));
  window.addEventListener("hashchange", fromHash);
  return fromHash;
}

function pointer(closeup) {
  const tip = byId("tip");
  document.addEventListener("pointermove", (event) => {
    const address = addressAt(event);
    tip.hidden = address === null;
    if (address === null) return;
    tip.textContent = closeup.describe(address);
    const box = tip.getBoundingClientRect(), below = event.clientY + 18 + box.height <= window.innerHeight;
    tip.style.left = `${Math.max(0, Math.min(event.clientX + 14, window.innerWidth - box.width - 8))}px`;
    tip.style.top = `${below ? event.clientY + 18 : event.clientY - box.height - 12}px`;
  });
  document.addEventListener("click", (event) => {
    const address = addressAt(event);
    if (address !== null) closeup.select(closeup.start(address));
  });
}

async function main() {
  document.querySelectorAll("table").forEach(makeSortable);
  const packed = byId("data").textContent;
  if (!packed || typeof DecompressionStream === "undefined") return;
  const data = await unpack(packed);
  if (!data.top) return;
  const entries = data.tracks.flatMap((track) => track.entries);
  for (const entry of entries) entry.ranges = new Ranges(entry.ranges);
  byId("closeup").hidden = false;
  const closeup = new CloseUp(data, (...where) => showAnswer(closeup, ...where));
  for (const cell of document.querySelectorAll("td.a")) {
    const address = Number(cell.textContent);
    if (address < END) {
      cell.replaceChildren(button(hex(address), () => {
        closeup.select(address);
        byId("closeup").scrollIntoView({ block: "nearest" });
      }));
    }
  }
  pointer(closeup);
  if (!search(closeup)()) {
    const first = (name) => entries.find((entry) => entry.class === name && entry.ranges.length)?.ranges.starts[0];
    closeup.select(first("accepting") ?? first("unaccepted") ?? 0, true);
  }
  Object.assign(window, { closeup });
}

main().finally(() => (document.documentElement.dataset.ready = "true"));
