// Everything that is drawn: the map of the whole run, the lanes, the charts of partitions.

const LABEL = 112;
const OUTCOME = ["--ok", "--no", "--maybe"];
const map = document.getElementById("map");
const lanes = document.getElementById("lanes");
const scroll = document.getElementById("scroll");
let colours = {};
function colour(name) {
  if (!(name in colours)) colours[name] = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return colours[name];
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours = {}; redraw(); });

/** The rows of the lane canvas: where each lane and chart lies. Clients without a passing event of a chosen partition stay. */
let layout = [];
function lay() {
  layout = [];
  let y = 22;
  D.lanes.forEach((lane, at) => {
    const bars = barsOfLane[at].rows;
    const height = lane.role === "broker" ? 44 : Math.max(24, bars ? 14 + bars * 7 : 0);
    layout.push({ kind: "lane", at, y, height });
    y += height + 2;
  });
  D.parts.forEach((part, at) => {
    if (view.part >= 0 && view.part !== at) return;
    layout.push({ kind: "chart", at, y, height: view.part === at ? 150 : 74 });
    y += (view.part === at ? 150 : 74) + 4;
  });
  return y + 6;
}

const x = t => LABEL + (t - view.from) / (view.to - view.from) * (lanes.clientWidth - LABEL);
const timeAt = px => view.from + (px - LABEL) / (lanes.clientWidth - LABEL) * (view.to - view.from);

function fitCanvas(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = height + "px";
  if (canvas !== map) canvas.style.width = width + "px";
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  return pen;
}

function drawMap() {
  const width = map.clientWidth, height = 46;
  const pen = fitCanvas(map, width, height);
  const at = t => LABEL + t / Math.max(1, D.end) * (width - LABEL);
  const bins = new Float64Array(Math.max(1, Math.floor(width - LABEL)));
  for (const i of passing) bins[Math.min(bins.length - 1, Math.floor(D.t[i] / Math.max(1, D.end) * bins.length))]++;
  const most = bins.reduce((a, b) => Math.max(a, b), 1);
  pen.fillStyle = colour("--dim");
  pen.globalAlpha = .5;
  bins.forEach((count, bin) => {
    const tall = count ? 2 + 20 * Math.log1p(count) / Math.log1p(most) : 0;
    pen.fillRect(LABEL + bin, 42 - tall, 1, tall);
  });
  pen.globalAlpha = 1;
  pen.fillStyle = colour("--fault");
  for (const i of faults) pen.fillRect(at(D.t[i]), 4, 1.5, 12);
  pen.fillStyle = colour("--find");
  for (const i of evidence) pen.fillRect(at(D.t[i]) - 1, 2, 3, 16);
  pen.fillStyle = colour("--ink");
  pen.globalAlpha = .08;
  pen.fillRect(LABEL, 0, at(view.from) - LABEL, height);
  pen.fillRect(at(view.to), 0, width - at(view.to), height);
  pen.globalAlpha = 1;
  pen.strokeStyle = colour("--ink");
  pen.strokeRect(at(view.from) + .5, .5, Math.max(2, at(view.to) - at(view.from)) - 1, height - 1);
  pen.fillStyle = colour("--dim");
  pen.fillText("whole run", 8, 18);
  pen.fillText(seconds(D.end, 1) + " s", 8, 34);
}

function tickStep(width) {
  const want = (view.to - view.from) / Math.max(1, width / 110);
  const power = Math.pow(10, Math.floor(Math.log10(want)));
  return [1, 2, 5, 10].map(times => times * power).find(step => step >= want) || power * 10;
}

function drawGrid(pen, width, height) {
  const step = tickStep(width - LABEL);
  const digits = Math.max(0, Math.min(9, 9 - Math.floor(Math.log10(step))));
  pen.strokeStyle = colour("--line");
  pen.fillStyle = colour("--dim");
  for (let t = Math.ceil(view.from / step) * step; t <= view.to; t += step) {
    const px = Math.round(x(t)) + .5;
    pen.beginPath(); pen.moveTo(px, 16); pen.lineTo(px, height); pen.stroke();
    pen.fillText(seconds(t, digits), px + 3, 12);
  }
}

function drawFaults(pen, height) {
  let free = -1e9;
  for (const i of faults) {
    const px = x(D.t[i]);
    if (px < LABEL - 1 || D.t[i] > view.to) continue;
    pen.strokeStyle = colour("--fault");
    pen.globalAlpha = .55;
    pen.setLineDash(D.kinds[D.kind[i]] === "phase" ? [] : [4, 3]);
    pen.beginPath(); pen.moveTo(px, 16); pen.lineTo(px, height); pen.stroke();
    pen.setLineDash([]);
    pen.globalAlpha = 1;
    const text = D.text[i].slice(0, 22);
    if (px > free) {
      pen.fillStyle = colour("--fault");
      pen.fillText(text, px + 3, layout.length ? layout[0].y + 11 : 30);
      free = px + 6 + pen.measureText(text).width;
    }
  }
  for (const i of evidence) {
    const px = x(D.t[i]);
    if (px < LABEL - 1 || D.t[i] > view.to) continue;
    const row = layout.find(row => row.kind === "lane" && row.at === D.lane[i]);
    pen.strokeStyle = pen.fillStyle = colour("--find");
    if (i === D.broken) {
      pen.fillRect(px - 1, 16, 2, height);
      const text = "FOUND: " + D.checker, wide = pen.measureText(text).width;
      pen.fillText(text, px + wide + 8 > lanes.clientWidth ? px - wide - 5 : px + 4, layout[0].y + 24);
    } else if (row) {
      pen.strokeRect(px - 4, row.y + 1, 8, row.height - 2);
    }
  }
}

/** Draws one thing a pixel column at most: `done` remembers the last column. */
function columns(list, each) {
  const first = lower(list, view.from);
  let last = -1;
  for (let at = first; at < list.length && D.t[list[at]] <= view.to; at++) {
    const px = Math.floor(x(D.t[list[at]]));
    if (px === last) continue;
    last = px;
    each(list[at], px);
    // Skip what falls into the same column.
    const next = lower(list, view.from + (px + 1 - LABEL) / (lanes.clientWidth - LABEL) * (view.to - view.from));
    if (next > at + 1) at = next - 1;
  }
}

function drawLives(pen, row) {
  for (const life of D.lives) {
    if (life.lane !== row.at || life.to < view.from || life.from > view.to) continue;
    const from = Math.max(LABEL, x(life.from)), to = x(Math.min(life.to, view.to));
    const tall = D.lanes[row.at].role === "broker" ? 14 : 5;
    const ready = life.ready === null ? (D.lanes[row.at].role === "broker" ? life.to : life.from) : life.ready;
    const middle = Math.min(Math.max(from, x(ready)), to);
    pen.fillStyle = colour("--recover");
    pen.fillRect(from, row.y + 1, Math.max(0, middle - from), tall);
    pen.fillStyle = colour("--serve");
    pen.fillRect(middle, row.y + 1, Math.max(0, to - middle), tall);
    if (tall > 8 && to - from > 26) {
      pen.fillStyle = colour("--ink");
      pen.fillText("." + life.incarnation, from + 3, row.y + 12);
    }
    if (life.to <= view.to && life.how && tall > 8) {
      pen.fillStyle = life.how === "stopped" ? colour("--dim") : colour("--bad");
      pen.fillRect(to - 1, row.y, 2, tall + 2);
      pen.fillText({ power: "power cut", kill: "killed", unfit: "gave up", stopped: "stopped" }[life.how] || life.how, to + 3, row.y + 12);
    }
  }
  for (const [lane, from, to] of D.pauses) {
    if (lane !== row.at || to < view.from || from > view.to) continue;
    pen.fillStyle = colour("--pause");
    pen.fillRect(Math.max(LABEL, x(from)), row.y + 3, Math.max(1, x(Math.min(to, view.to)) - Math.max(LABEL, x(from))), 10);
    pen.fillStyle = colour("--ink");
    if (x(to) - x(from) > 40) pen.fillText("paused", Math.max(LABEL, x(from)) + 3, row.y + 12);
  }
}

function drawBars(pen, row) {
  const { bars } = barsOfLane[row.at];
  const last = new Map();
  let low = 0, high = bars.length;
  while (low < high) {
    const mid = (low + high) >> 1;
    if (bars[mid].from < view.from - slowest[row.at]) low = mid + 1; else high = mid;
  }
  for (let at = low; at < bars.length && bars[at].from <= view.to; at++) {
    const { bar, row: line, from, to } = bars[at];
    if (to < view.from || (view.part >= 0 && D.part[bar.event] !== view.part)) continue;
    if (!view.shown[groupOfKind[D.kind[bar.event]]]) continue;
    const left = Math.max(LABEL, x(from)), right = Math.max(left + 1, x(Math.min(to, view.to)));
    const key = line * 4 + bar.outcome, column = Math.floor(right);
    if (right - left <= 1.5 && last.get(key) === column) continue;
    last.set(key, column);
    pen.fillStyle = colour(OUTCOME[bar.outcome]);
    pen.globalAlpha = bar.attempts > 1 ? 1 : .62;
    pen.fillRect(left, row.y + 9 + line * 7, right - left, 5);
    pen.globalAlpha = 1;
  }
}

function drawLane(pen, row, width) {
  const lane = D.lanes[row.at];
  pen.fillStyle = colour("--line");
  pen.fillRect(0, row.y + row.height, width, 1);
  drawLives(pen, row);
  drawBars(pen, row);
  const base = lane.role === "broker" ? 18 : 8, tall = row.height - base - 2;
  columns(passingOfLane[row.at], (i, px) => {
    const kind = D.kinds[D.kind[i]];
    if (kind === "sent" || kind === "fault" || kind === "phase") return;
    pen.fillStyle = colour(GROUPS[groupOfKind[D.kind[i]]][1]);
    const short = kind === "disk" || kind === "send" || kind === "recv" || kind === "polled";
    pen.globalAlpha = short ? .55 : .9;
    pen.fillRect(px, row.y + base + (short ? tall / 2 : 0), 1.2, short ? tall / 2 : tall);
    pen.globalAlpha = 1;
  });
}

function drawLine(pen, points, y, stepped) {
  pen.beginPath();
  let began = false, lastPx = -1, lastY = 0;
  for (const [t, offset] of points) {
    const px = x(t);
    if (t > view.to) break;
    if (t < view.from) { lastY = y(offset); began = true; pen.moveTo(LABEL, lastY); continue; }
    if (!began) { pen.moveTo(px, y(offset)); began = true; } else if (Math.floor(px) !== lastPx) {
      if (stepped) pen.lineTo(px, lastY);
      pen.lineTo(px, y(offset));
    }
    lastPx = Math.floor(px);
    lastY = y(offset);
  }
  if (stepped && began) pen.lineTo(Math.min(x(D.end), lanes.clientWidth), lastY);
  pen.stroke();
}

/** Where an offset lies in a chart: over what is in view, so that zooming in time zooms in offsets, too. */
function chartY(row) {
  const chart = charts[row.at], foot = row.y + row.height - 4, tall = row.height - 12;
  let low = Infinity, high = -Infinity;
  if (view.to - view.from < D.end / 2) {
    for (const list of [chart.acks, chart.ends]) {
      for (const [t, offset] of list) {
        if (t < view.from || t > view.to || offset < 0) continue;
        low = Math.min(low, offset);
        high = Math.max(high, offset + 1);
      }
    }
  }
  if (low >= high) { low = 0; high = chart.top; }
  const y = offset => foot - Math.min(1, Math.max(0, (offset - low) / (high - low))) * tall;
  return { y, low, high, foot };
}

function drawChart(pen, row, width) {
  const chart = charts[row.at], { y, low, high, foot } = chartY(row);
  pen.fillStyle = colour("--panel");
  pen.fillRect(LABEL, row.y, width - LABEL, row.height);
  pen.lineWidth = 1;
  for (const points of chart.reads.values()) {
    pen.strokeStyle = colour("--read");
    pen.globalAlpha = .8;
    drawLine(pen, points, y, true);
    pen.globalAlpha = 1;
  }
  pen.strokeStyle = colour("--mark");
  drawLine(pen, chart.ends, y, true);
  pen.strokeStyle = colour("--fault");
  drawLine(pen, chart.trims, y, true);
  const drawn = new Set();
  for (const [t, offset, outcome, event] of chart.acks) {
    if (t < view.from || t > view.to) continue;
    const px = x(t), py = outcome === 0 && offset >= 0 ? y(offset) : foot + 1;
    const key = Math.floor(px) * 4096 + Math.floor(py);
    const found = evidence.has(event);
    if (drawn.has(key) && !found) continue;
    drawn.add(key);
    pen.fillStyle = found ? colour("--find") : colour(OUTCOME[outcome]);
    pen.fillRect(px - (found ? 3 : 1), py - (found ? 3 : 1), found ? 6 : 2, found ? 6 : 2);
  }
  pen.fillStyle = colour("--dim");
  pen.fillText(String(high), LABEL + 3, row.y + 12);
  pen.fillText(String(low), LABEL + 3, foot);
}

function drawLabels(pen, height) {
  pen.fillStyle = colour("--bg");
  pen.fillRect(0, 16, LABEL - 2, height);
  for (const row of layout) {
    pen.font = "600 12px system-ui, sans-serif";
    pen.fillStyle = colour("--ink");
    const name = row.kind === "lane" ? D.lanes[row.at].name : D.parts[row.at];
    pen.fillText(name.length > 13 ? name.slice(0, 12) + "…" : name, 8, row.y + 14);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour("--dim");
    const role = row.kind === "lane" ? D.lanes[row.at].role : "offsets";
    if (row.height > 28) pen.fillText(role, 8, row.y + 27); else pen.fillText(role, 48, row.y + 14);
  }
}

function drawLanes() {
  const height = Math.max(lay(), scroll.clientHeight);
  const width = scroll.clientWidth;
  const pen = fitCanvas(lanes, width, height);
  drawGrid(pen, width, height);
  for (const row of layout) {
    if (row.kind === "lane") drawLane(pen, row, width); else drawChart(pen, row, width);
  }
  drawFaults(pen, height);
  if (view.picked >= 0) {
    const px = x(D.t[view.picked]);
    pen.strokeStyle = colour("--ink");
    if (px >= LABEL) { pen.beginPath(); pen.moveTo(px, 16); pen.lineTo(px, height); pen.stroke(); }
  }
  drawLabels(pen, height);
}

let pending = false;
function redraw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    drawMap();
    drawLanes();
    document.getElementById("range").textContent =
      `${seconds(view.from, 3)} to ${seconds(view.to, 3)} s (${span(view.to - view.from)})`;
  });
}
