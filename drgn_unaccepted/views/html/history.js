// SPDX-License-Identifier: LGPL-2.1-or-later
// A recording: time goes to the right, addresses go down. Below are the unaccepted bytes and the rate of acceptance.

const HEAT = 260, CURVE = 90, RATE = 60, BETWEEN = 26;
const UNACCEPTED = "unaccepted", ACCEPTED = "accepted a second";

class HistoryView {
  constructor(recording, view) {
    this.recording = recording;
    this.view = view; // has the colours
    this.slices = recording.slices;
    this.selected = this.slices.length - 1;
    const section = byId("recording");
    section.hidden = false;
    const bins = `${plural(recording.bins.length, "bin")} of ${about(recording.bytes_per_bin)}`;
    const note = `${plural(recording.samples, "sample")} in ${recording.elapsed_seconds.toFixed(1)} seconds; ${bins}, addresses from top to bottom. The expected shape is a sweep.`;
    this.element = node("div", null, {
      id: "history", role: "slider", tabindex: "0", "aria-label": "Time of the recording", "aria-valuemin": "0",
      "aria-valuemax": String(this.slices.length - 1),
    });
    this.canvas = node("canvas");
    this.said = node("p", null, { class: "muted small", id: "history-said" });
    this.element.append(this.canvas);
    section.append(node("p", note, { class: "muted" }), this.element, this.said);
    this.listen();
    this.resize();
    this.select(this.selected);
  }

  /** Unaccepted bytes; null: unknown. */
  bytesAt(slice, bin) {
    const bins = this.slices[slice].bins_unaccepted_bytes;
    return bins && bins[bin];
  }

  resize() {
    this.width = Math.max(280, this.element.clientWidth);
    this.height = HEAT + CURVE + RATE + 2 * BETWEEN + 20;
    const addresses = labelWidth(this.canvas, "11px --mono", this.recording.bins.map(hex).slice(-1));
    const names = labelWidth(this.canvas, "11px --sans", [UNACCEPTED, ACCEPTED]);
    this.left = Math.max(this.width < 560 ? 0 : 124, addresses, names);
    this.plot = this.width - this.left - 70;
    fit(this.canvas, this.width, this.height);
    this.draw();
  }

  /** From the end of the slice before to the end of this one. */
  span(slice) {
    const first = this.slices[0].elapsed_seconds, length = this.recording.elapsed_seconds || 1;
    const x = (seconds) => this.left + Math.round(((seconds - first) / length) * this.plot);
    const to = x(this.slices[slice].elapsed_seconds);
    return [slice ? x(this.slices[slice - 1].elapsed_seconds) : this.left - 4, Math.max(to, this.left)];
  }

  draw() {
    const ctx = blank(this.canvas), { view, recording } = this, rows = recording.bins.length;
    this.slices.forEach((_, slice) => {
      const [x0, x1] = this.span(slice);
      for (let bin = 0; bin < rows; bin++) {
        const bytes = this.bytesAt(slice, bin);
        ctx.fillStyle = bytes === null ? view.patterns.unknown : view.levels[eighths(bytes, recording.bytes_per_bin)];
        const y0 = Math.round((bin / rows) * HEAT), y1 = Math.round(((bin + 1) / rows) * HEAT);
        ctx.fillRect(x0, y0, Math.max(1, x1 - x0), Math.max(1, y1 - y0));
      }
    });
    this.labels(ctx);
    const curve = HEAT + BETWEEN, rate = curve + CURVE + BETWEEN;
    const most = Math.max(1, ...this.slices.map((s) => s.unaccepted_bytes || 0));
    const fastest = Math.max(1, ...this.slices.map((s) => s.rate_bytes_per_second || 0));
    this.bars(ctx, curve, CURVE, most, (s) => s.unaccepted_bytes, view.color("unaccepted"), UNACCEPTED, about(most));
    this.bars(ctx, rate, RATE, fastest, (s) => s.rate_bytes_per_second, view.color("accepting"), ACCEPTED, `${about(fastest)}/s`);
    const ticks = this.plot < 320 ? 2 : 4;
    for (let tick = 0; tick <= ticks; tick++) {
      pen(ctx, view, "11px sans", "muted", tick ? "center" : "left", "top");
      const seconds = (recording.elapsed_seconds * tick) / ticks;
      ctx.fillText(`${seconds.toFixed(1)} s`, this.left + (tick / ticks) * this.plot, this.height - 16);
    }
    const [from, to] = this.span(this.selected);
    frame(ctx, view.color("text"), 2, from - 1, 1, Math.max(3, to - from + 2), this.height - 22);
  }

  labels(ctx) {
    const { bins, bytes_per_bin } = this.recording, rows = bins.length;
    pen(ctx, this.view, "11px mono", "text", "right");
    let last = -HEAT;
    bins.forEach((start, bin) => {
      const y = Math.round((bin / rows) * HEAT);
      const apart = bin && start !== bins[bin - 1] + bytes_per_bin;
      if (apart) ctx.fillRect(this.left, y, this.plot, 1);
      if (y - last < (apart ? 12 : HEAT / 5)) return;
      ctx.fillText(hex(start), this.left - 10, Math.max(6, y));
      last = y;
    });
  }

  bars(ctx, top, height, most, of, color, name, label) {
    fill(ctx, this.view.color("line"), this.left, top + height, this.plot, 1);
    ctx.fillStyle = color;
    this.slices.forEach((slice, i) => {
      const value = of(slice);
      if (value === null || value <= 0) return;
      const [x0, x1] = this.span(i), tall = Math.max(1, (value / most) * height);
      ctx.fillRect(x0, top + height - tall, Math.max(1, x1 - x0), tall);
    });
    pen(ctx, this.view, "11px sans", "muted", "right");
    ctx.fillText(name, this.left - 10, top + height / 2);
    ctx.textAlign = "left";
    ctx.fillText(label, this.left + this.plot + 6, top + 6);
  }

  describe(slice) {
    const now = this.slices[slice];
    const parts = [`${now.elapsed_seconds.toFixed(1)} seconds`, `${about(now.unaccepted_bytes)} unaccepted`];
    if (now.rate_bytes_per_second !== null) parts.push(`${about(now.rate_bytes_per_second)} accepted a second`);
    parts.push(now.source);
    return parts.join(", ");
  }

  select(slice) {
    this.selected = Math.max(0, Math.min(this.slices.length - 1, slice));
    this.element.setAttribute("aria-valuenow", String(this.selected));
    this.element.setAttribute("aria-valuetext", this.describe(this.selected));
    this.said.textContent = this.describe(this.selected);
    this.draw();
  }

  /** The slice and the bin under the pointer. */
  at(event) {
    const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const slice = this.slices.findIndex((_, i) => x < this.span(i)[1]);
    const bin = Math.floor((y / HEAT) * this.recording.bins.length);
    return { slice: slice < 0 ? this.slices.length - 1 : slice, bin: y >= 0 && y < HEAT ? bin : null };
  }

  listen() {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };
    this.element.addEventListener("keydown", (event) => {
      if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      this.select(this.selected + steps[event.key]);
    });
    this.element.addEventListener("click", (event) => this.select(this.at(event).slice));
    this.element.addEventListener("pointerleave", () => (this.view.tip.hidden = true));
    this.element.addEventListener("pointermove", (event) => {
      const { slice, bin } = this.at(event), lines = [this.describe(slice)];
      if (bin !== null) {
        const start = this.recording.bins[bin], bytes = this.bytesAt(slice, bin), size = this.recording.bytes_per_bin;
        lines.push(span(start, start + size), bytes === null ? "unknown" : `${exact(bytes)} of ${exact(size)} unaccepted`);
      }
      this.view.showTip(event, lines);
    });
    window.addEventListener("resize", () => this.resize());
  }
}

function historyTable(recording) {
  const rate = (s) => (s.rate_bytes_per_second === null ? null : Math.round(s.rate_bytes_per_second));
  return tableSection({
    id: "samples",
    title: "Recording",
    note: plural(recording.slices.length, "line"),
    columns: [
      number("seconds", (s) => s.elapsed_seconds), size("unaccepted", (s) => s.unaccepted_bytes), size("accepted a second", rate),
      number("samples", (s) => s.samples), text("source", (s) => s.source),
    ],
    rows: recording.slices,
    order: "seconds",
  });
}
