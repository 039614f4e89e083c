// SPDX-License-Identifier: LGPL-2.1-or-later
// The selected address, and what is around it as a strip with one lane for each track.

const LEFT = 96, LANE = 14, STEP = 19, TOP = 26;
const LEAST = 2; // pixels of anything that is there at all
const UNITS_AT_LEAST = 16;

function svgNode(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

class CloseUp {
  constructor(data, onSelect) {
    Object.assign(this, data, { onSelect, element: byId("strip"), selected: null });
    this.least = UNITS_AT_LEAST * this.unit;
    this.width = this.top; // bytes that are shown
    this.element.setAttribute("aria-valuemax", String(Math.max(0, Math.floor((this.top - 1) / this.unit))));
    this.keys = {
      ArrowLeft: () => this.select(this.start(this.selected) - this.unit),
      ArrowRight: () => this.select(this.start(this.selected) + this.unit),
      PageUp: () => this.select(this.selected - this.width),
      PageDown: () => this.select(this.selected + this.width),
      Home: () => this.select(0),
      End: () => this.select(this.start(this.top - 1)),
      "+": () => this.zoom(1 / 4),
      "-": () => this.zoom(4),
      n: () => this.toChange(true),
      p: () => this.toChange(false),
    };
    this.element.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || !this.press(event.key)) return;
      event.preventDefault();
    });
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  press(key) {
    const found = Object.hasOwn(this.keys, key);
    if (found) this.keys[key]();
    return found;
  }

  /** Where the unit of an address begins. */
  start(address) {
    return Math.floor((address - this.base) / this.unit) * this.unit + this.base;
  }

  select(address, quiet = false) {
    this.selected = Math.min(END - 1, Math.max(0, address));
    this.draw();
    this.element.setAttribute("aria-valuenow", String(Math.floor(this.selected / this.unit)));
    this.element.setAttribute("aria-valuetext", this.describe(this.selected));
    this.onSelect(this.selected, quiet);
  }

  describe(address) {
    return [hex(address), ...said(this.tracks, address).map(([name, words]) => `${name}: ${words}`)].join("\n");
  }

  zoom(by) {
    this.width = Math.min(Math.max(this.width * by, this.least), Math.max(this.top, this.least));
    this.draw();
  }

  /** To where the state changes next, or changed before. */
  toChange(forward) {
    const edges = this.tracks[0].entries.flatMap(({ ranges }) => {
      const i = ranges.after(forward ? this.selected : this.selected - 1);
      return [ranges.starts[i], ranges.ends[forward ? i : i - 1]];
    });
    const beyond = edges.filter((edge) => (forward ? edge > this.selected : edge < this.selected) && edge < END);
    if (beyond.length) this.select(forward ? Math.min(...beyond) : Math.max(...beyond));
  }

  draw() {
    const pixels = this.element.clientWidth, plot = pixels - LEFT;
    if (plot < 50 || this.selected === null) return;
    const low = Math.max(0, Math.min(this.start(this.selected - this.width / 2), Math.max(this.top, this.selected) - this.width)), high = low + this.width;
    const lanes = this.tracks.filter((track) => track.entries.length);
    const height = TOP + lanes.length * STEP;
    const svg = svgNode("svg", { viewBox: `0 0 ${pixels} ${height}`, height, "aria-hidden": "true", "font-size": "12" });
    const x = (address) => LEFT + ((address - low) / this.width) * plot;
    const ticks = Math.max(1, Math.floor(plot / 180));
    for (let tick = 0; tick < ticks; tick++) {
      const address = low + Math.floor((this.width * tick) / ticks / this.unit) * this.unit;
      svg.append(svgNode("text", { x: x(address), y: 12, class: "ink", "font-family": "monospace" }, hex(address)));
    }
    lanes.forEach(({ name, entries }, number) => {
      const y = TOP + number * STEP;
      svg.append(svgNode("text", { x: LEFT - 8, y: y + 11, class: "muted", "text-anchor": "end" }, name));
      for (const entry of entries) this.lane(svg, entry, low, high, x, plot, y);
    });
    svg.append(svgNode("rect", { class: "cursor", x: x(this.start(this.selected)) - 1, y: TOP - 5, width: Math.max(LEAST, (this.unit / this.width) * plot) + 2, height: height - TOP + 5 }));
    svg.append(svgNode("rect", { "data-start": low, "data-end": high, x: LEFT, y: 0, width: plot, height, fill: "none", "pointer-events": "all" }));
    this.element.replaceChildren(svg);
  }

  /** Ranges that are less than a pixel apart are one bar, as dense as they are. */
  lane(svg, { class: name, fill, ranges }, low, high, x, plot, y) {
    const pixel = this.width / plot;
    for (let i = ranges.after(low); i < ranges.length && ranges.starts[i] < high; ) {
      const start = Math.max(low, ranges.starts[i]);
      let end = ranges.ends[i++];
      while (i < ranges.length && ranges.starts[i] < Math.min(high, end + pixel)) {
        i = Math.max(i + 1, ranges.after(end + pixel));
        end = ranges.ends[i - 1];
      }
      end = Math.min(end, high);
      const part = ranges.inside(start, end) / (end - start);
      svg.append(svgNode("rect", {
        class: name, fill,
        x: x(start), y, width: Math.max(LEAST, x(end) - x(start)), height: LANE, "fill-opacity": part < 1 ? (part * 8 + 5) / 18 : 1,
      }));
    }
  }
}
