// SPDX-License-Identifier: LGPL-2.1-or-later
// How much of something, as a level, in words and as a colour; and what is drawn with.

/** Eighths, 0 only for nothing and 8 only for all. */
function eighths(part, whole) {
  if (!part) return 0;
  return part >= whole ? 8 : Math.max(1, Math.min(7, Math.round((part * 8) / whole)));
}

/** How far from one colour to the other: one unit in a thousand is not to look like none, nor all but one like all. */
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

/** Room for right-aligned labels and what sets them off; the font is a size and one of the style sheet's families. */
function labelWidth(canvas, font, texts) {
  const [size, family] = font.split(" "), ctx = canvas.getContext("2d");
  ctx.font = `${size} ${getComputedStyle(document.documentElement).getPropertyValue(family)}`;
  return Math.ceil(Math.max(...texts.map((text) => ctx.measureText(text).width))) + 14;
}
