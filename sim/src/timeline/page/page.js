// What a person does: zoom, move, filter, search, pick; and the list beside.

const get = id => document.getElementById(id);

// The head: the verdict, and the line that brings it back.
get("status").textContent = D.status;
get("status").className = D.status;
get("verdict").textContent = D.status === "Pass"
  ? `${D.total} events in ${seconds(D.end, 1)} simulated seconds; everything that was claimed held`
  : `${D.checker}: ${D.message}`;
get("replay").textContent = D.replay;
get("replay").onclick = () => navigator.clipboard && navigator.clipboard.writeText(D.replay);
document.title = `${D.status} ${D.replay}`;

// The whole run, and no closer than a microsecond.
function look(from, to) {
  const least = 1000, most = Math.max(1, D.end);
  let width = Math.min(most, Math.max(least, to - from));
  view.from = Math.max(0, Math.min(most - width, from));
  view.to = view.from + width;
  redraw();
  followList();
}
function zoom(times, t) {
  const at = t === undefined ? (view.from + view.to) / 2 : t;
  look(at - (at - view.from) * times, at + (view.to - at) * times);
}
function centre(i) {
  const half = (view.to - view.from) / 2;
  look(D.t[i] - half, D.t[i] + half);
}

// The list: only the rows in view exist.
const ROW = 20;
const list = get("list"), rows = get("rows");
function drawList() {
  const limit = 15e6 / ROW; // the tallest element that browsers draw
  get("room").style.height = Math.min(passing.length, limit) * ROW + "px";
  const scale = passing.length > limit ? passing.length / limit : 1;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW * scale) - 2);
  const count = Math.ceil(list.clientHeight / ROW) + 6;
  rows.style.transform = `translateY(${Math.floor(first / scale) * ROW}px)`;
  const made = [];
  for (let at = first; at < Math.min(passing.length, first + count); at++) {
    const i = passing[at], row = document.createElement("div");
    row.className = "row" + (i === view.picked ? " picked" : "") + (evidence.has(i) ? " evidence" : "");
    const cell = (name, text, tint) => {
      const span = document.createElement("span");
      span.className = name;
      span.textContent = text;
      if (tint) span.style.color = `var(${tint})`;
      row.append(span);
    };
    cell("t", seconds(D.t[i], 6));
    cell("w", D.lanes[D.lane[i]].name);
    cell("k", D.kinds[D.kind[i]], GROUPS[groupOfKind[D.kind[i]]][1]);
    cell("x", D.text[i]);
    row.onclick = () => pick(i, true);
    made.push(row);
  }
  rows.replaceChildren(...made);
  const left = Object.values(D.dropped).reduce((a, b) => a + b, 0);
  get("count").textContent = `${passing.length} of ${D.total} events`
    + (left ? ` (${left} of chatter left out of this page: ${Object.keys(D.dropped).join(", ")})` : "");
}
list.addEventListener("scroll", drawList);
function scrollTo(at) {
  const scale = passing.length > 15e6 / ROW ? passing.length / (15e6 / ROW) : 1;
  list.scrollTop = Math.max(0, at / scale * ROW - list.clientHeight / 3);
  drawList();
}
let following = true;
function followList() {
  if (following) scrollTo(lower(passing, view.from));
}

function pick(i, show) {
  view.picked = i;
  const part = D.part[i] >= 0 ? `  partition ${D.parts[D.part[i]]}` : "";
  get("detail").textContent =
    `${seconds(D.t[i], 9)} s  ${D.lanes[D.lane[i]].name} ${D.lanes[D.lane[i]].role}  ${D.kinds[D.kind[i]]}${part}\n${D.text[i]}`;
  following = false;
  if (show && (D.t[i] < view.from || D.t[i] > view.to)) centre(i);
  following = true;
  const at = lower(passing, D.t[i]);
  let exact = at;
  while (exact < passing.length && passing[exact] !== i && D.t[passing[exact]] === D.t[i]) exact++;
  const visible = exact * ROW >= list.scrollTop && (exact + 1) * ROW <= list.scrollTop + list.clientHeight;
  if (visible) drawList(); else scrollTo(exact);
  redraw();
}

// Filters.
function refilter() {
  filter();
  redraw();
  followList();
  drawList();
}
GROUPS.forEach(([name, tint], at) => {
  if (!groupCounts[at]) return;
  const button = document.createElement("button");
  button.textContent = `${name} ${groupCounts[at]}`;
  button.style.color = `var(${tint})`;
  button.className = view.shown[at] ? "on" : "";
  button.onclick = event => {
    // With Alt: this one alone.
    if (event.altKey) view.shown = view.shown.map((_, other) => other === at); else view.shown[at] = !view.shown[at];
    [...get("kinds").children].forEach(child => { child.className = view.shown[child.dataset.at] ? "on" : ""; });
    refilter();
  };
  button.dataset.at = at;
  button.title = "show or hide; with Alt: this alone";
  get("kinds").append(button);
});
["all", ...D.parts].forEach((name, at) => get("part").append(new Option(name, at - 1)));
get("part").onchange = () => { view.part = Number(get("part").value); refilter(); };
get("search").oninput = () => { view.search = get("search").value.trim().toLowerCase(); refilter(); };

// Buttons and keys.
function step(listOf, forward) {
  const now = view.picked >= 0 ? D.t[view.picked] : (forward ? -1 : D.end + 1);
  const next = forward ? listOf.find(i => D.t[i] > now) : listOf.findLast(i => D.t[i] < now);
  if (next === undefined) return;
  const half = Math.min(view.to - view.from, 2e9) / 2;
  look(D.t[next] - half, D.t[next] + half);
  pick(next, true);
}
function finding() {
  const all = [...evidence].sort((a, b) => a - b);
  if (!all.length) return;
  const at = all.indexOf(view.picked);
  const next = at < 0 && D.broken !== null ? D.broken : all[(at + 1) % all.length];
  const half = Math.min(view.to - view.from, 2e9) / 2;
  look(D.t[next] - half, D.t[next] + half);
  pick(next, true);
}
get("finding").disabled = !evidence.size;
const keys = {
  f: () => look(0, D.end), "+": () => zoom(.5), "=": () => zoom(.5), "-": () => zoom(2),
  "[": () => step(faults, false), "]": () => step(faults, true), v: finding,
  ArrowLeft: () => look(view.from - (view.to - view.from) / 5, view.to - (view.to - view.from) / 5),
  ArrowRight: () => look(view.from + (view.to - view.from) / 5, view.to + (view.to - view.from) / 5),
  ArrowUp: () => move(-1), ArrowDown: () => move(1),
};
function move(by) {
  const at = passing.indexOf(view.picked);
  const next = at < 0 ? passing[lower(passing, view.from)] : passing[at + by];
  if (next !== undefined) pick(next, true);
}
document.addEventListener("keydown", event => {
  if (/INPUT|SELECT/.test(event.target.tagName) || event.ctrlKey || event.metaKey) return;
  if (keys[event.key]) { keys[event.key](); event.preventDefault(); }
});
get("fit").onclick = keys.f;
get("in").onclick = keys["+"];
get("out").onclick = keys["-"];
get("prev-fault").onclick = keys["["];
get("next-fault").onclick = keys["]"];
get("finding").onclick = finding;

// The mouse: wheel zooms, drag moves, shift-drag zooms into a span, a click picks.
lanes.addEventListener("wheel", event => {
  if (event.shiftKey) return; // scrolls the lanes
  event.preventDefault();
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    const by = event.deltaX / lanes.clientWidth * (view.to - view.from);
    look(view.from + by, view.to + by);
  } else {
    zoom(Math.exp(event.deltaY * .0016), timeAt(event.offsetX));
  }
}, { passive: false });
let drag = null;
lanes.addEventListener("pointerdown", event => {
  drag = { x: event.offsetX, y: event.clientY, top: scroll.scrollTop, from: view.from, to: view.to, moved: false, into: event.shiftKey };
  lanes.setPointerCapture(event.pointerId);
});
lanes.addEventListener("pointermove", event => {
  if (!drag) return hover(event);
  if (Math.abs(event.offsetX - drag.x) > 3 || Math.abs(event.clientY - drag.y) > 3) drag.moved = true;
  if (!drag.moved || drag.into) return;
  const by = (drag.x - event.offsetX) / (lanes.clientWidth - LABEL) * (drag.to - drag.from);
  look(drag.from + by, drag.to + by);
  scroll.scrollTop = drag.top + drag.y - event.clientY;
});
lanes.addEventListener("pointerup", event => {
  if (drag && drag.into && drag.moved) {
    const [a, b] = [timeAt(drag.x), timeAt(event.offsetX)].sort((a, b) => a - b);
    look(a, b);
  } else if (drag && !drag.moved) {
    const i = nearest(event);
    if (i >= 0) pick(i, false);
  }
  drag = null;
});
lanes.addEventListener("pointerleave", () => { get("tip").style.display = "none"; });

/** The event nearest to the mouse in its lane or chart, or -1. */
function nearest(event) {
  const row = layout.find(row => event.offsetY >= row.y && event.offsetY < row.y + row.height + 2);
  if (!row || event.offsetX < LABEL) return -1;
  let best = -1, distance = 7;
  const offer = (i, far) => { if (far < distance) { best = i; distance = far; } };
  if (row.kind === "chart") {
    const chart = charts[row.at], { y } = chartY(row);
    for (const [t, offset, , i] of chart.acks) offer(i, Math.hypot(x(t) - event.offsetX, y(Math.max(0, offset)) - event.offsetY));
    for (const [t, offset, i] of chart.ends) offer(i, Math.hypot(x(t) - event.offsetX, y(offset) - event.offsetY));
    for (const points of chart.reads.values()) {
      for (const [t, offset, i] of points) offer(i, Math.hypot(x(t) - event.offsetX, y(offset) - event.offsetY));
    }
    return best;
  }
  for (const { bar, row: line, from, to } of barsOfLane[row.at].bars) {
    const y = row.y + 9 + line * 7;
    if (event.offsetY >= y - 1 && event.offsetY <= y + 6 && x(from) - 2 <= event.offsetX && x(to) + 2 >= event.offsetX
      && view.shown[groupOfKind[D.kind[bar.event]]]) offer(bar.event, 0);
  }
  const candidates = passingOfLane[row.at], t = timeAt(event.offsetX);
  const at = lower(candidates, t);
  for (let near = Math.max(0, at - 3); near < Math.min(candidates.length, at + 3); near++) {
    offer(candidates[near], Math.abs(x(D.t[candidates[near]]) - event.offsetX) + .5);
  }
  return best;
}
function hover(event) {
  const i = nearest(event), tip = get("tip");
  tip.style.display = i < 0 ? "none" : "block";
  if (i < 0) return;
  tip.textContent = `${seconds(D.t[i], 6)} ${D.lanes[D.lane[i]].name} ${D.kinds[D.kind[i]]}\n${D.text[i]}`;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - 470) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - 80) + "px";
}
map.addEventListener("pointerdown", event => {
  const to = event => {
    const t = (event.offsetX - LABEL) / (map.clientWidth - LABEL) * D.end, half = (view.to - view.from) / 2;
    look(t - half, t + half);
  };
  to(event);
  map.setPointerCapture(event.pointerId);
  map.onpointermove = to;
  map.onpointerup = () => { map.onpointermove = map.onpointerup = null; };
});
addEventListener("resize", () => { redraw(); drawList(); });

const legend = [["serving", "--serve"], ["starting", "--recover"], ["paused", "--pause"], ["sent: ok", "--ok"], ["unknown", "--maybe"],
  ["refused", "--no"], ["read up to", "--read"], ["end told", "--mark"], ["fault, start asked for", "--fault"], ["frames", "--net"], ["disk", "--disk"], ["the finding", "--find"]];
get("legend").append(...legend.map(([name, tint]) => {
  const item = document.createElement("span"), box = document.createElement("i");
  box.style.background = `var(${tint})`;
  item.append(box, name);
  return item;
}));

redraw();
drawList();
// A place in the address, as #from-to in seconds, or #finding.
const place = location.hash.match(/^#([\d.]+)-([\d.]+)$/);
if (place) look(Number(place[1]) * 1e9, Number(place[2]) * 1e9);
if (location.hash === "#finding") finding();
