// SPDX-License-Identifier: LGPL-2.1-or-later
// The map: rows of equal size, each with its lanes, drawn only while they are visible. Rows without memory are left out.

const ROW_SIZES = [2 ** 27, 2 ** 30, 2 ** 33, 2 ** 36, 2 ** 39, 2 ** 42, 2 ** 45, 2 ** 48];
const USUAL_ROW = 2 ** 30;
const MOST_ROWS = 20000; // a browser's scroll area has an end
const GAP = 26, OVERVIEW = 26, AXIS = 20;
const ROOMY = { state: 20, lane: 9, pitch: 11, rest: 10, labels: true };
const COMPACT = { state: 12, lane: 4, pitch: 5, rest: 7, labels: false };

class MapView {
  constructor(guest, lanes, onSelect, onLayout) {
    this.guest = guest;
    this.lanes = lanes; // [{name, segments: [{start, end, color}]}]
    this.onSelect = onSelect;
    this.onLayout = () => onLayout(this);
    this.element = byId("map");
    for (const id of ["scroller", "canvas", "overview", "axis", "tip"]) this[id] = byId(id);
    this.highlight = null;
    this.selected = null;
    this.pending = false;
    this.sizes = ROW_SIZES.filter((size) => size >= 8 * guest.unit && this.rowStarts(size));
    if (!this.sizes.length) this.sizes = [ROW_SIZES[ROW_SIZES.length - 1]];
    this.setRow(this.sizes.find((size) => size >= USUAL_ROW) || this.sizes[this.sizes.length - 1]);
    this.listen();
  }

  /** The starts of all rows of a size; null for more than `most`. */
  rowStarts(size, most = MOST_ROWS) {
    const { starts, ends } = this.guest.filled, rows = [];
    for (let i = 0, next = 0; i < starts.length; i++) {
      for (next = Math.max(next, Math.floor(starts[i] / size)); next * size < ends[i]; next++) {
        if (rows.length === most) return null;
        rows.push(next * size);
      }
    }
    return rows;
  }

  setRow(size) {
    const anchor = this.selected;
    this.row = size;
    this.rows = this.rowStarts(size);
    this.layout();
    if (anchor !== null) this.reveal(anchor);
  }

  layout() {
    this.style = this.rows.length <= 24 && !this.printing ? ROOMY : COMPACT;
    this.rowHeight = this.style.state + this.lanes.length * this.style.pitch + this.style.rest;
    this.tops = new Float64Array(this.rows.length + 1);
    let y = 4;
    for (let i = 0; i < this.rows.length; i++) {
      if (i && this.rows[i] > this.rows[i - 1] + this.row) y += GAP;
      this.tops[i] = y;
      y += this.rowHeight;
    }
    this.tops[this.rows.length] = y;
    this.height = Math.max(60, y);
    this.element.style.height = this.printing ? "auto" : `${this.height}px`;
    const limit = Math.max(320, Math.round(window.innerHeight * 0.62));
    this.scroller.style.height = this.printing ? "auto" : `${Math.min(this.height, limit)}px`;
    this.resize();
    this.onLayout();
  }

  resize() {
    this.width = this.printing ? 1000 : this.scroller.clientWidth;
    this.viewport = this.printing ? this.height : this.scroller.clientHeight;
    const narrow = this.width < 560;
    const last = this.rows.length ? this.rows[this.rows.length - 1] : 0;
    this.left = Math.max(narrow ? 0 : 124, labelWidth(this.canvas, "12px --mono", [hex(last)]));
    this.plot = Math.max(64, this.width - this.left - (narrow ? 8 : 56));
    fit(this.canvas, this.width, this.viewport);
    fit(this.overview, this.width, OVERVIEW);
    fit(this.axis, this.width, AXIS);
    this.overview.hidden = this.height <= this.viewport;
    this.theme();
  }

  /** Read the colours again; they are the style sheet's. */
  theme() {
    const css = getComputedStyle(document.documentElement);
    this.color = (name) => css.getPropertyValue(`--${name}`).trim();
    this.levels = Array.from({ length: 9 }, (_, level) => mix(this.color("accepted"), this.color("unaccepted"), shade(level)));
    this.patterns = {};
    for (const [name, ink] of [["unknown", "unknown-ink"], ["guard", "accepted"], ["hole", "hole-ink"], ["outside", "outside-ink"]]) {
      this.patterns[name] = hatch(this.canvas.getContext("2d"), this.color(name === "guard" ? "unaccepted" : name), this.color(ink));
    }
    this.redraw();
  }

  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  draw() {
    const ctx = blank(this.canvas);
    const top = this.printing ? 0 : this.scroller.scrollTop;
    for (let i = this.rowAt(top); i < this.rows.length && this.tops[i] - GAP < top + this.viewport; i++) {
      this.drawRow(ctx, i, this.tops[i] - top);
    }
    this.drawOverview(top);
    this.drawAxis();
  }

  /** Offsets in a row. */
  drawAxis() {
    const ctx = blank(this.axis), ticks = this.width < 560 ? 2 : 8;
    pen(ctx, this, "10px sans", "muted", "left", "alphabetic");
    for (let tick = 0; tick <= ticks; tick++) {
      const x = this.left + Math.round((tick / ticks) * this.plot);
      ctx.fillRect(Math.min(x, this.left + this.plot - 1), AXIS - 5, 1, 5);
      if (tick < ticks) ctx.fillText(`+${tick ? about((tick / ticks) * this.row) : 0}`, x + (tick ? 3 : 0), AXIS - 7);
    }
  }

  /** Index of the row at a height, or the one after it. */
  rowAt(y) {
    return bisect(this.rows.length, (i) => this.tops[i] + this.rowHeight > y);
  }

  drawRow(ctx, i, y) {
    const start = this.rows[i], end = start + this.row, { state, lane, pitch, labels } = this.style;
    if (i && start > this.rows[i - 1] + this.row) this.drawGap(ctx, this.rows[i - 1] + this.row, start, y - GAP);
    pen(ctx, this, "12px mono", "text", "right");
    ctx.fillText(hex(start), this.left - 10, y + state / 2 + 0.5);
    this.drawState(ctx, start, end, y, state);
    this.lanes.forEach((one, n) => {
      const at = y + state + 2 + n * pitch;
      pen(ctx, this, "9px sans", "muted", "right");
      if (labels) ctx.fillText(one.name, this.left - 10, at + lane / 2 + 0.5);
      for (const segment of one.segments) {
        if (segment.start >= end || segment.end <= start) continue;
        const [x0, x1] = this.edges(start, segment.start, segment.end);
        fill(ctx, this.color(segment.color), x0, at, Math.max(1, x1 - x0), lane);
      }
      if (one.runs) this.bars(ctx, one.runs, start, end, at, lane, this.color("unaccepted"));
    });
    if (this.width >= 560) {
      const ram = this.guest.layers.ram.inside(start, end);
      pen(ctx, this, "11px mono", "muted", "left");
      ctx.fillText(share(this.guest.unaccepted.inside(start, end), ram), this.left + this.plot + 8, y + state / 2 + 0.5);
    }
    this.drawMarks(ctx, start, end, y);
  }

  drawGap(ctx, start, end, y) {
    pen(ctx, this, "11px sans", "muted", "left");
    const reserved = this.guest.layers.reserved.inside(start, end);
    ctx.fillText(`${about(end - start)} without RAM${reserved ? `, ${about(reserved)} reserved` : ""}`, this.left, y + GAP / 2 - 2);
  }

  drawState(ctx, start, end, y, height) {
    const { layers, accepting } = this.guest, { patterns } = this;
    const bars = (runs, style) => this.bars(ctx, runs, start, end, y, height, style);
    fill(ctx, patterns.hole, this.left, y, this.plot, height);
    bars(layers.reserved, this.color("reserved"));
    bars(layers.ram, this.levels[0]);
    bars(layers.outside, patterns.outside);
    bars(layers.unknown, patterns.unknown);
    this.shade(ctx, start, y, height);
    bars(layers.guard, patterns.guard);
    this.bars(ctx, accepting, start, end, y + height - 4, 4, this.color("accepting"));
  }

  /** Unaccepted memory by its share of each unit, or of each pixel where a unit is less than one. */
  shade(ctx, start, y, height) {
    const cells = Math.min(Math.floor(this.row / this.guest.unit), Math.floor(this.plot)), step = this.row / cells;
    let from = 0, last = 0;
    for (let cell = 0; cell <= cells; cell++) {
      // Whole bytes, so that a full cell is counted as full.
      const low = start + Math.round(cell * step), high = start + Math.round((cell + 1) * step);
      const level = cell === cells ? 0 : eighths(this.guest.unaccepted.inside(low, high), high - low);
      if (level === last) continue;
      if (last) {
        const x0 = this.x(start, start + from * step), x1 = this.x(start, start + cell * step);
        fill(ctx, this.levels[last], x0, y, Math.max(1, x1 - x0), height);
        if (last === 1 && step >= 4 * this.guest.unit) {
          // A hairline is easily missed: a mark above points at the least unaccepted.
          fill(ctx, this.levels[8], x0 - 1, y - 4, Math.max(1, x1 - x0) + 2, 4);
        }
      }
      from = cell;
      last = level;
    }
  }

  drawMarks(ctx, start, end, y) {
    const height = this.rowHeight - this.style.rest + 2;
    if (this.highlight) {
      const { starts, ends } = this.highlight;
      for (let i = this.highlight.after(start); i < starts.length && starts[i] < end; i++) {
        const [x0, x1] = this.edges(start, starts[i], ends[i]);
        frame(ctx, this.color("finding"), 2, x0 - 2, y - 2, Math.max(4, x1 - x0 + 4), height + 2);
      }
    }
    if (!this.printing && this.selected !== null && start <= this.selected && this.selected < end) {
      const unit = this.unitRange(this.selected);
      const [x0, x1] = this.edges(start, unit.start, unit.end);
      frame(ctx, this.color("text"), 2, x0 - 1, y - 3, Math.max(3, x1 - x0 + 2), height + 4);
    }
  }

  bars(ctx, runs, start, end, y, height, style) {
    ctx.fillStyle = style;
    let painted = -1;
    for (let i = runs.after(start); i < runs.length && runs.starts[i] < end; i++) {
      const [from, to] = this.edges(start, runs.starts[i], runs.ends[i]), x0 = Math.max(painted, from), x1 = Math.max(x0 + 1, to);
      if (x1 <= painted) continue;
      ctx.fillRect(x0, y, x1 - x0, height);
      painted = x1;
    }
  }

  /** Left and right of the part of a range that is in a row. */
  edges(start, low, high) {
    return [this.x(start, Math.max(start, low)), this.x(start, Math.min(start + this.row, high))];
  }

  x(start, address) {
    return this.left + Math.round(((address - start) / this.row) * this.plot);
  }

  /** All rows in one strip, with a frame around the visible ones. */
  drawOverview(top) {
    if (this.overview.hidden) return;
    const ctx = blank(this.overview), { layers, unaccepted } = this.guest;
    const at = (x) => {
      const place = Math.min(this.rows.length, (x / this.plot) * this.rows.length), i = Math.min(this.rows.length - 1, Math.floor(place));
      return this.rows[i] + Math.round((place - i) * this.row);
    };
    for (let x = 0; x < this.plot; x++) {
      const low = at(x), high = at(x + 1), ram = layers.ram.inside(low, high), waiting = unaccepted.inside(low, high);
      const level = waiting || ram ? this.levels[eighths(waiting, Math.max(waiting, ram))] : this.color("hole");
      const isUnknown = !waiting && layers.unknown.inside(low, high);
      fill(ctx, isUnknown ? this.color("unknown") : level, this.left + x, 4, 1, 14);
      if (waiting) {
        // A mark for any amount.
        fill(ctx, this.color("unaccepted"), this.left + x - 1, 22, 3, 4);
      }
      if (this.highlight && this.highlight.inside(low, high)) {
        fill(ctx, this.color("finding"), this.left + x, 0, 2, 3);
      }
    }
    const from = this.rowAt(top), to = this.rowAt(top + this.viewport);
    const x0 = this.left + (from / this.rows.length) * this.plot, x1 = this.left + (Math.min(this.rows.length, to + 1) / this.rows.length) * this.plot;
    frame(ctx, this.color("text"), 1.5, x0, 2, Math.max(3, x1 - x0), 18);
    pen(ctx, this, "9px sans", "muted", "right");
    ctx.fillText("all rows", this.left - 10, 11);
  }

  unitRange(address) {
    const { unit, data } = this.guest, base = data.covered === null ? 0 : data.covered[0] % unit;
    const start = Math.floor((address - base) / unit) * unit + base;
    return { start, end: start + unit };
  }

  /** Index of the row that holds the address or comes after it, and whether it holds it. */
  rowOf(address) {
    const start = Math.floor(address / this.row) * this.row, index = bisect(this.rows.length, (i) => this.rows[i] >= start);
    return { index, found: this.rows[index] === start };
  }

  reveal(address) {
    const { index } = this.rowOf(address);
    const y = this.tops[Math.min(index, this.rows.length - 1)], top = this.scroller.scrollTop;
    if (y < top + 8 || y + this.rowHeight > top + this.viewport) {
      this.scroller.scrollTop = Math.max(0, y - (this.viewport - this.rowHeight) / 2);
    }
    this.redraw();
  }

  select(address, how = {}) {
    this.selected = address;
    this.element.setAttribute("aria-valuenow", String(Math.floor(address / this.guest.unit)));
    this.element.setAttribute("aria-valuetext", describe(this.guest, address));
    if (how.reveal !== false) this.reveal(address);
    this.redraw();
    this.onSelect(address, how);
  }

  setHighlight(runs) {
    this.highlight = runs;
    this.redraw();
  }

  /** The address under the pointer, or null. */
  addressAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const y = event.clientY - box.top + this.scroller.scrollTop, x = event.clientX - box.left - this.left;
    const i = this.rowAt(y);
    if (i >= this.rows.length || y < this.tops[i] - 3 || x < 0 || x >= this.plot) return null;
    return this.rows[i] + Math.floor((x / this.plot) * this.row);
  }

  /** By units and rows, over the gaps. */
  move(by) {
    const first = this.rows[0], last = this.rows[this.rows.length - 1] + this.row - this.guest.unit;
    const from = this.selected === null ? first : this.unitRange(this.selected).start;
    let to = Math.min(last, Math.max(first, from + by));
    const place = this.rowOf(to);
    if (!place.found) {
      const offset = Math.abs(by) >= this.row ? to - Math.floor(to / this.row) * this.row : by > 0 ? 0 : this.row - this.guest.unit;
      to = this.rows[Math.max(0, by > 0 ? Math.min(place.index, this.rows.length - 1) : place.index - 1)] + offset;
    }
    this.select(to);
  }

  /** To where unaccepted memory begins or ends. */
  toChange(forward) {
    const from = this.selected === null ? (forward ? 0 : END) : this.selected;
    const edge = this.guest.unaccepted.edge(from, forward);
    if (edge !== null) this.select(edge);
    return edge;
  }

  listen() {
    const keys = {
      ArrowLeft: () => this.move(-this.guest.unit),
      ArrowRight: () => this.move(this.guest.unit),
      ArrowUp: () => this.move(-this.row),
      ArrowDown: () => this.move(this.row),
      PageUp: () => this.move(-10 * this.row),
      PageDown: () => this.move(10 * this.row),
      Home: () => this.select(this.rows[0]),
      End: () => this.select(this.rows[this.rows.length - 1] + this.row - this.guest.unit),
      n: () => this.toChange(true),
      p: () => this.toChange(false),
    };
    this.element.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || !(event.key in keys) || !this.rows.length) return;
      event.preventDefault();
      this.tip.hidden = true;
      keys[event.key]();
    });
    this.element.addEventListener("focus", () => {
      if (this.selected === null && this.rows.length) this.select(this.guest.unaccepted.edge(0, true) ?? this.rows[0]);
    });
    this.element.addEventListener("pointermove", (event) => this.point(event));
    this.element.addEventListener("pointerleave", () => (this.tip.hidden = true));
    this.element.addEventListener("click", (event) => {
      const address = this.addressAt(event);
      if (address !== null) this.select(this.unitRange(address).start, { reveal: false });
    });
    this.scroller.addEventListener("scroll", () => this.redraw());
    const scroll = (event) => {
      const place = (event.offsetX - this.left) / this.plot;
      this.scroller.scrollTop = place * this.height - this.viewport / 2;
    };
    this.overview.addEventListener("pointerdown", scroll);
    this.overview.addEventListener("pointermove", (event) => event.buttons && scroll(event));
    window.addEventListener("resize", () => this.layout());
    const printing = (on) => {
      const usual = this.beforePrint || this.row;
      document.documentElement.toggleAttribute("data-printing", on);
      this.printing = on;
      this.beforePrint = on ? this.row : null;
      // On paper all rows are shown, larger ones if there are too many.
      this.setRow(on ? this.sizes.find((size) => size >= usual && this.rowStarts(size, 48)) || this.sizes[this.sizes.length - 1] : usual);
      this.pending = false;
      this.draw();
    };
    window.addEventListener("beforeprint", () => printing(true));
    window.addEventListener("afterprint", () => printing(false));
  }

  point(event) {
    const address = this.addressAt(event);
    this.tip.hidden = address === null;
    if (address === null) return;
    this.showTip(event, brief(this.guest, this.unitRange(address).start));
  }

  showTip(event, lines) {
    this.tip.hidden = false;
    this.tip.replaceChildren(...lines.map((text, i) => node(i ? "div" : "strong", text)));
    const box = this.tip.getBoundingClientRect();
    const below = event.clientY + 18 + box.height <= window.innerHeight;
    this.tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - box.width - 8)}px`;
    this.tip.style.top = `${below ? event.clientY + 18 : event.clientY - box.height - 12}px`;
  }
}
