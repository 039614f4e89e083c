// SPDX-License-Identifier: LGPL-2.1-or-later
// Amounts as levels, in words and as colours; and tools for drawing.

/** Eighths, 0 only for nothing and 8 only for all. */
function eighths(part, whole) {
  if (!part) return 0;
  return part >= whole ? 8 : Math.max(1, Math.min(7, Math.round((part * 8) / whole)));
}

/** How far from one colour to the other: one unit in a thousand must not look like none, nor all but one like all. */
function shade(level) {
  return level % 8 ? (level + 5) / 18 : level / 8;
}

function share(part, whole) {
  if (!whole) return part ? "!" : "";
  const percent = (part / whole) * 100;
  if (percent > 0 && percent < 1) return "<1%";
  return percent < 100 && percent > 99 ? ">99%" : `${Math.round(percent)}%`;
}

function mix(a, b, part) {
  const [x, y] = [a, b].map((color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)));
  return `rgb(${x.map((value, i) => Math.round(value + (y[i] - value) * part)).join(" ")})`;
}

function hatch(ctx, back, ink) {
  const tile = document.createElement("canvas"), size = 6;
  tile.width = tile.height = size;
  const pen = tile.getContext("2d");
  pen.fillStyle = back;
  pen.fillRect(0, 0, size, size);
  pen.strokeStyle = ink;
  pen.lineWidth = 1.2;
  for (const offset of [-size, 0, size]) {
    pen.beginPath();
    pen.moveTo(offset - 1, size + 1);
    pen.lineTo(offset + size + 1, -1);
    pen.stroke();
  }
  return ctx.createPattern(tile, "repeat");
}

/** Give a canvas its size in CSS pixels. */
function fit(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
}

/** The context of an empty canvas, in CSS pixels. */
function blank(canvas) {
  const ctx = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, canvas.width, canvas.height);
  return ctx;
}

function fill(ctx, style, x, y, width, height) {
  ctx.fillStyle = style;
  ctx.fillRect(x, y, width, height);
}

function frame(ctx, style, line, x, y, width, height) {
  ctx.strokeStyle = style;
  ctx.lineWidth = line;
  ctx.strokeRect(x, y, width, height);
}

/** How to write on a canvas; the font is a size and one of the view's families. */
function pen(ctx, view, font, color, align, baseline = "middle") {
  const [size, family] = font.split(" ");
  ctx.font = `${size} ${view.color(family)}`;
  ctx.fillStyle = view.color(color);
  ctx.textAlign = align;
  ctx.textBaseline = baseline;
}

/** Room for right-aligned labels and what sets them off; the font is a size and one of the style sheet's families. */
function labelWidth(canvas, font, texts) {
  const [size, family] = font.split(" "), ctx = canvas.getContext("2d");
  ctx.font = `${size} ${getComputedStyle(document.documentElement).getPropertyValue(family)}`;
  return Math.ceil(Math.max(...texts.map((text) => ctx.measureText(text).width))) + 14;
}
