"use strict";
// The run as the page knows it: the embedded numbers, what kinds mean, what is filtered, what is in view.

const D = JSON.parse(document.getElementById("data").textContent);
const N = D.t.length;

// Kinds in groups: name, colour, whether shown at first, and the kinds (those not named here are "other").
const GROUPS = [
  ["faults", "--fault", true, ["phase", "fault", "broken", "dark", "rotten", "trim", "reset", "tell"]],
  ["process", "--ok", true, ["start", "ready", "stopped", "unfit", "kill", "power", "image", "pause", "resume", "wipe", "listen"]],
  ["log", "--log", true, ["log"]],
  ["marks", "--mark", true, ["mark"]],
  ["sends", "--ok", true, ["sent"]],
  ["reads", "--read", true, ["polled", "seek", "end", "drained"]],
  ["admin", "--read", true, ["admin"]],
  ["groups", "--read", true, ["group", "txn", "consumer", "derived", "committed"]],
  ["frames", "--net", false, ["connect", "send", "recv"]],
  ["disk", "--disk", false, ["disk"]],
  ["tasks", "--dim", false, ["spawn", "random"]],
  ["other", "--dim", true, []],
];
const groupOfKind = D.kinds.map(kind => {
  const at = GROUPS.findIndex(group => group[3].includes(kind));
  return at < 0 ? GROUPS.length - 1 : at;
});
const groupCounts = GROUPS.map(() => 0);
for (let i = 0; i < N; i++) groupCounts[groupOfKind[D.kind[i]]]++;

const view = { from: 0, to: Math.max(1, D.end), part: -1, search: "", shown: GROUPS.map(group => group[2]), picked: -1 };
const evidence = new Set(D.evidence);
if (D.broken !== null) evidence.add(D.broken);
const faults = [];
for (let i = 0; i < N; i++) if (D.kinds[D.kind[i]] === "fault" || D.kinds[D.kind[i]] === "phase") faults.push(i);

/** The events that pass the filters, as indexes in order of time. */
let passing = [];
/** The same, by lane. */
let passingOfLane = [];
function passes(i) {
  if (evidence.has(i)) return true;
  if (!view.shown[groupOfKind[D.kind[i]]]) return false;
  if (view.part >= 0 && D.part[i] >= 0 && D.part[i] !== view.part) return false;
  return !view.search || D.text[i].toLowerCase().includes(view.search) || D.kinds[D.kind[i]].includes(view.search)
    || D.lanes[D.lane[i]].name === view.search;
}
function filter() {
  passing = [];
  passingOfLane = D.lanes.map(() => []);
  for (let i = 0; i < N; i++) {
    if (passes(i)) {
      passing.push(i);
      passingOfLane[D.lane[i]].push(i);
    }
  }
}
filter();

/** The first place in `list` (event indexes, ascending in time) whose time is not below `t`. */
function lower(list, t) {
  let low = 0, high = list.length;
  while (low < high) {
    const mid = (low + high) >> 1;
    if (D.t[list[mid]] < t) low = mid + 1; else high = mid;
  }
  return low;
}

// Sends of each lane in rows, so that bars that overlap in time lie below one another; at most 5 rows.
const barsOfLane = D.lanes.map(() => ({ bars: [], rows: 0 }));
for (const bar of [...D.sends].sort((a, b) => a.from - b.from)) {
  const lane = barsOfLane[D.lane[bar.event]];
  lane.ends = lane.ends || [];
  const to = D.t[bar.event];
  let row = lane.ends.findIndex(end => end <= bar.from);
  if (row < 0) row = lane.ends.length < 5 ? lane.ends.length : lane.ends.indexOf(Math.min(...lane.ends));
  lane.ends[row] = to;
  lane.bars.push({ bar, row, from: bar.from, to });
  lane.rows = Math.max(lane.rows, row + 1);
}
const slowest = barsOfLane.map(lane => lane.bars.reduce((most, item) => Math.max(most, item.to - item.from), 0));

// What each partition's chart shows: offsets over time.
const charts = D.parts.map(() => ({ acks: [], reads: new Map(), ends: [], trims: [], top: 1 }));
const chartOf = event => charts[D.part[event]];
for (const bar of D.sends) {
  const chart = chartOf(bar.event);
  if (!chart) continue;
  chart.acks.push([D.t[bar.event], bar.offset, bar.outcome, bar.event]);
  chart.top = Math.max(chart.top, bar.offset + 1);
}
for (const poll of D.polls) {
  const chart = chartOf(poll.event);
  if (!chart) continue;
  const lane = D.lane[poll.event];
  if (!chart.reads.has(lane)) chart.reads.set(lane, []);
  chart.reads.get(lane).push([D.t[poll.event], poll.next, poll.event]);
  chart.top = Math.max(chart.top, poll.next);
}
for (const [event, offset] of D.ends) {
  const chart = chartOf(event);
  if (chart) { chart.ends.push([D.t[event], offset, event]); chart.top = Math.max(chart.top, offset); }
}
for (const [event, offset] of D.trims) {
  const chart = chartOf(event);
  if (chart) chart.trims.push([D.t[event], offset, event]);
}

function seconds(t, digits) {
  return (t / 1e9).toFixed(digits);
}
function span(ns) {
  if (ns >= 1e9) return (ns / 1e9).toFixed(2) + " s";
  if (ns >= 1e6) return (ns / 1e6).toFixed(2) + " ms";
  return (ns / 1e3).toFixed(1) + " µs";
}
