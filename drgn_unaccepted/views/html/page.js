// SPDX-License-Identifier: LGPL-2.1-or-later
// The page around the map: summary, address, checks, tables, light and dark.

const STATES = { unaccepted: "Unaccepted", accepted: "Accepted", unknown: "Unknown", "no-ram": "No RAM" };
// The map of the firmware is about the boot and not about now, so it has colours of its own.
const EFI_COLORS = ["reserved", "loader", "loader", "boot", "boot", "runtime", "runtime", "usable", "bad", "acpi", "nvs", "mmio", "mmio", "other", "other", "boot-unaccepted"];
const E820_COLORS = { 1: "usable", 2: "reserved", 3: "acpi", 4: "nvs", 5: "bad", 128: "loader" };
const ZONE_COLORS = ["zone-a", "zone-b"];
const NOT_ASKED = "not asked for"; // the reason in a snapshot
const WORST = { critical: 0, warning: 1, info: 2, skip: 3, pass: 4 };

const byId = (id) => document.getElementById(id);

function sourceWords(data) {
  if (data.source === "none") return "no source";
  const names = { bitmap: "the bitmap", reconstructed: "page lists, pages and the EFI map", "page-lists": "the page lists", counters: "the counters" };
  const name = data.saved && data.source === "bitmap" ? "a bitmap saved earlier and the page lists" : names[data.source];
  return `${name}, ${data.exact ? "exact" : "not exact"}`;
}

/** The answer of `resolve` in short: lines for the pointer, one line for screen readers. */
function brief(guest, address) {
  const answer = guest.resolve(address), { efi, e820 } = guest.data, kind = guest.kind(address);
  const state = kind === "RAM" || kind === null || answer.state === "unaccepted" ? STATES[answer.state] : kind === "reserved" ? "Reserved" : "No RAM";
  const lines = [`${hex(address)}, ${state}`];
  if (answer.unit) lines.push(`unit ${answer.unit.index}, ${span(answer.unit.start, answer.unit.end)}`);
  lines.push(`EFI: ${answer.efi ? answer.efi.name : efi.descriptors ? "in no descriptor" : "not captured"}`);
  lines.push(`e820: ${answer.e820 ? answer.e820.name : e820.tables.current ? "in no entry" : "not captured"}`);
  if (answer.zone !== null) lines.push(`zone: node ${answer.node}, ${answer.zone}${answer.listed ? ", listed" : ""}`);
  if (answer.in_flight) lines.push("being accepted");
  return [...lines, `source: ${sourceWords(guest.data)}`];
}

const describe = (guest, address) => brief(guest, address).join("; ");

/** The whole answer of `resolve`. */
function showAnswer(guest, address) {
  const answer = guest.resolve(address), kind = guest.kind(address);
  const list = node("dl");
  const add = (name, text, className) => list.append(node("dt", name), node("dd", text, className ? { class: className } : {}));
  const yes = (value, on, off) => (value === null ? "unknown" : value ? on : off);
  const of = (found, captured) => (found ? `${found.name} (type ${found.type})\n${span(found.start, found.end)}` : captured ? "in no entry" : "not captured");
  add("reason", answer.reason);
  add("source", sourceWords(guest.data));
  if (answer.unit) add("unit", `${answer.unit.index}, bit ${answer.unit.bit === null ? "not read" : answer.unit.bit}\n${span(answer.unit.start, answer.unit.end)}`);
  else add("unit", guest.data.covered_bytes === null ? "the table was not read" : "outside the bitmap");
  add("kernel takes it as", yes(answer.kernel_predicate, "unaccepted", "accepted"));
  add("EFI", of(answer.efi, guest.data.efi.descriptors));
  add("e820", of(answer.e820, guest.data.e820.tables.current));
  if (kind !== null) add("memory", kind);
  add("zone", !guest.data.zones ? "not captured" : answer.zone === null ? "none, or several that overlap" : `node ${answer.node}, ${answer.zone}`);
  add("page lists", yes(answer.listed, "on zone->unaccepted_pages", "not listed"));
  add("in flight", yes(answer.in_flight, "being accepted", "no"));
  const json = node("details", null, {}, node("summary", "As JSON"), node("pre", JSON.stringify(answer, null, 2), { tabindex: "0" }));
  const state = node("span", STATES[answer.state], { class: `state ${answer.state}` });
  const head = node("p", null, { class: "headline" }, node("code", hex(address)), " ", state);
  byId("answer").replaceChildren(head, list, json);
}

function cards(guest) {
  const data = guest.data, table = data.table;
  const rows = [];
  const ram = guest.layers.ram.total;
  if (data.unaccepted_bytes === null) rows.push(["Unaccepted", "unknown", ""]);
  else rows.push(["Unaccepted", about(data.unaccepted_bytes), guest.data.memory_from === null ? "" : `${share(data.unaccepted_bytes, ram) || "0%"} of ${about(ram)} RAM`]);
  if (data.source === "none" && table.state === "absent") rows[0] = ["Unaccepted", "none", "nothing for the kernel to accept"];
  rows.push(["Source", data.source, data.source === "none" ? "" : data.exact ? "exact" : "not exact"]);
  rows.push(["Table", table.state, table.address === null ? "" : `at ${hex(table.address)}`]);
  rows.push(["Bitmap", data.covered ? about(data.covered_bytes) : "unknown", data.covered ? span(...data.covered) : ""]);
  rows.push(["NR_UNACCEPTED", about(data.nr_unaccepted_bytes), data.listed_chunks === null ? "" : `${plural(data.listed_chunks, "chunk")} listed`]);
  const platform = data.platform;
  const names = { tdx: "Intel TDX", snp: "AMD SEV-SNP", none: "neither TDX nor SNP" };
  rows.push(["Platform", platform && platform.kind ? names[platform.kind] : "unknown", platform && platform.lazy !== null ? (platform.lazy ? "lazy" : "eager") : ""]);
  byId("cards").replaceChildren(
    ...rows.map(([name, value, more]) => {
      const card = node("div", null, {}, node("dt", name), node("dd", value, { class: "big" }));
      if (more) card.append(node("dd", more, { class: "muted" }));
      return card;
    }),
  );
  const notes = data.torn.map((note) => `Torn: ${note}`);
  if (data.source_reason) notes.push(`Why no better source: ${data.source_reason}`);
  if (data.source === "page-lists") notes.push("A listed chunk can hold a unit that is accepted already, as a guard.");
  const missing = Object.entries(data.missing), unasked = missing.filter(([, reason]) => reason === NOT_ASKED);
  for (const [part, reason] of missing) if (reason !== NOT_ASKED) notes.push(`Without ${part}: ${reason}`);
  if (unasked.length) notes.push(`${data.recording ? "A recording's samples are taken" : "Taken"} without ${unasked.map(([part]) => part).join(", ")}; checks that need them are skipped.`);
  byId("notes").replaceChildren(...notes.map((note) => node("li", note)));
}

/** The maps beside the state: segments with their colour and name, and listed chunks in the lane of the zones. */
function lanes({ data, listed }) {
  const lane = (name, entries, color) => entries && { name, segments: entries.filter((e) => e.start < e.end).map((e, i) => ({ ...e, color: color(e, i) })) };
  const zones = data.zones && data.zones.map((zone) => ({ ...zone, name: `node ${zone.node} ${zone.name}` }));
  return [
    lane("EFI", data.efi.descriptors, (e) => EFI_COLORS[e.type] || "other"),
    lane("e820", data.e820.tables.current, (e) => E820_COLORS[e.type] || "other"),
    zones && { ...lane("zones", zones, (_, i) => ZONE_COLORS[i % 2]), runs: listed },
  ].filter(Boolean);
}

function legend(guest, shown) {
  const items = [["unaccepted", "unaccepted"], ["accepted", "accepted"]];
  const words = { outside: "outside the bitmap, taken as accepted", unknown: "unknown", guard: "listed, perhaps accepted (guard)" };
  for (const [name, text] of Object.entries(words)) if (guest.layers[name].length) items.push([name, text]);
  items.push(["reserved", "reserved"], ["hole", "no RAM"]);
  if (guest.accepting.length) items.push(["accepting", "being accepted"]);
  const group = (title, entries) => {
    const swatch = (color) => node("span", null, { class: `swatch ${color}`, "aria-hidden": "true" });
    const rows = entries.map(([color, text]) => node("li", null, {}, swatch(color), text));
    return node("div", null, {}, node("h3", title), node("ul", null, {}, ...rows));
  };
  const ofLane = ({ name, segments, runs }) => {
    const names = {};
    for (const one of segments) (names[one.color] ??= new Set()).add(one.name);
    const entries = Object.entries(names).map(([color, set]) => [color, [...set].join(", ")]);
    return group(name, runs ? [...entries, ["unaccepted", "on zone->unaccepted_pages"]] : entries);
  };
  byId("legend").replaceChildren(group("State", items), ...shown.map(ofLane));
}

function findings(guest, view) {
  const { status, findings: all, explain } = guest.data.checks;
  const words = { ok: "Nothing is wrong", warning: "Something should not be so", critical: "Something cannot be so in a correct kernel", unknown: "Neither the table nor the lists could be read" };
  byId("verdict").replaceChildren(node("span", status, { class: `pill ${status}` }), ` ${words[status]}.`);
  const shown = (finding) => {
    const head = node("div", null, {}, node("span", finding.status, { class: `pill ${finding.status}` }), " ", node("code", finding.rule));
    const item = node("li", null, { class: "finding" }, head, node("p", finding.message));
    if (finding.ranges.length) {
      const bytes = finding.ranges.reduce((sum, [a, b]) => sum + b - a, 0);
      item.append(
        button(`Show ${plural(finding.ranges.length, "range")} (${about(bytes)}) on the map`, (event) => toggle(event.currentTarget, finding), { class: "plain show", "aria-pressed": "false" }),
      );
    }
    const why = explain[finding.rule];
    if (why) item.append(node("details", null, {}, node("summary", "Why"), ...why.map((text) => node("p", text))));
    return item;
  };
  const toggle = (pressed, finding) => {
    const on = pressed.getAttribute("aria-pressed") !== "true";
    for (const other of document.querySelectorAll("button.show")) other.setAttribute("aria-pressed", "false");
    pressed.setAttribute("aria-pressed", String(on));
    view.setHighlight(on ? Runs.of(finding.ranges) : null);
    if (on) view.select(finding.ranges[0][0]);
  };
  const sorted = all.slice().sort((a, b) => WORST[a.status] - WORST[b.status]);
  const faults = sorted.filter((f) => WORST[f.status] < 3), others = sorted.filter((f) => WORST[f.status] >= 3);
  byId("findings").replaceChildren(...faults.map(shown));
  const count = (name) => others.filter((f) => f.status === name).length;
  byId("others").hidden = !others.length;
  byId("others").firstElementChild.textContent = `${count("pass")} passed, ${count("skip")} skipped`;
  byId("other-findings").replaceChildren(...others.map(shown));
}

/** Light, dark, or as the system has it. */
function themes(view, history) {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const now = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const label = () => {
    byId("theme").textContent = now() === "dark" ? "Light" : "Dark";
    byId("theme").setAttribute("aria-label", `Switch to ${now() === "dark" ? "light" : "dark"} colours`);
    view.theme();
    if (history) history.draw();
  };
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = now() === "dark" ? "light" : "dark";
    label();
  });
  dark.addEventListener("change", label);
  label();
}

function search(guest, view) {
  const status = byId("search-status"), input = byId("address");
  const say = (text, kind = "muted") => Object.assign(status, { textContent: text, className: kind });
  const go = (text) => {
    input.removeAttribute("aria-invalid");
    try {
      const address = parseAddress(text);
      view.select(address);
      say(describe(guest, address));
      return true;
    } catch (error) {
      say(`${text.slice(0, 40)}: ${error.message}`, "error");
      input.setAttribute("aria-invalid", "true");
      return false;
    }
  };
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    go(input.value);
  });
  for (const [id, forward] of [["next", true], ["previous", false]]) {
    byId(id).addEventListener("click", () => {
      const edge = view.toChange(forward);
      say(edge === null ? `No ${forward ? "later" : "earlier"} change of state.` : describe(guest, edge));
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.tagName === "INPUT") return;
    event.preventDefault();
    input.focus();
    input.select();
  });
  const fromHash = () => location.hash.startsWith("#0x") && go(location.hash.slice(1));
  window.addEventListener("hashchange", fromHash);
  return fromHash;
}

async function main() {
  const data = JSON.parse(byId("data").textContent);
  if (typeof DecompressionStream === "undefined") throw new Error("this browser has no DecompressionStream; one of 2023 or later has it");
  const guest = await Guest.unpack(data);
  const target = data.target;
  byId("target").textContent = `${target.release || "kernel of unknown release"}, ${target.path || "running"}, ${target.kind} of ${target.taken_at}`;
  document.title = `Unaccepted memory: ${target.release || "kernel of unknown release"}`;
  cards(guest);
  const sizes = byId("row-size");
  const selected = (address, how) => {
    showAnswer(guest, address);
    if (!how.quiet) window.history.replaceState(null, "", `#${hex(address)}`);
  };
  const laidOut = (map) => {
    sizes.value = String(map.row);
    byId("scale").textContent = `${plural(map.rows.length, "row")} of ${about(map.row)}; a unit is ${about(guest.unit)}${data.covered ? "" : " (assumed)"}. From top to bottom: state from ${sourceWords(data)}${map.lanes.map((lane) => `, ${lane.name}`).join("")}.`;
  };
  const view = new MapView(guest, lanes(guest), selected, laidOut);
  const last = view.rows.length ? view.rows[view.rows.length - 1] + view.row : 0;
  view.element.setAttribute("aria-valuemax", String(Math.max(0, Math.floor(last / guest.unit) - 1)));
  sizes.replaceChildren(...view.sizes.map((size) => node("option", about(size), { value: String(size) })));
  sizes.addEventListener("change", () => view.setRow(Number(sizes.value)));
  laidOut(view);
  legend(guest, view.lanes);
  findings(guest, view);
  const history = data.recording && new HistoryView(data.recording, view);
  themes(view, history);
  const fromHash = search(guest, view);
  byId("tables").replaceChildren(...tables(guest, (address) => {
    view.select(address);
    byId("map-section").scrollIntoView({ block: "nearest" });
  }));
  if (data.recording) byId("tables").append(historyTable(data.recording));
  byId("made").textContent = `Made by drgn-unaccepted ${data.version} from ${target.path || "the running kernel"}. Addresses are physical, ends are exclusive.`;
  if (view.rows.length && !fromHash()) view.select(guest.unaccepted.edge(0, true) ?? view.rows[0], { quiet: true });
  document.documentElement.dataset.ready = "true";
  window.unaccepted = { guest, view, history };
}

main().catch((error) => {
  byId("failure").hidden = false;
  byId("failure").textContent = `The page cannot draw itself: ${error.message}`;
});
