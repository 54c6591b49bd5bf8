// The fixed parts of a report's page: its style, and the script that draws its curves. Private to src/report.
#pragma once

namespace longhaul::report {

inline constexpr const char* style = R"css(
:root { color-scheme: light dark; --ink: #16202b; --soft: #5b6875; --line: #d9dfe5; --paper: #ffffff; --card: #f6f8fa;
  --accent: #0b63c5; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9aa7b4; --line: #303a44; --paper: #12181e;
  --card: #1a222a; --accent: #6fb1ff; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 28px 24px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 25px; margin: 0 0 2px; } h2 { font-size: 18px; margin: 36px 0 10px; }
p { margin: 4px 0; color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 13px; } th:first-child, td:first-child { text-align: left; }
td.text { text-align: left; white-space: normal; }
.wide { overflow-x: auto; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
.bar { display: flex; flex-wrap: wrap; gap: 14px; align-items: center; margin: 22px 0 12px; color: var(--soft); font-size: 14px; }
.bar label { display: inline-flex; gap: 6px; align-items: center; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 9px; padding: 12px 14px 6px; }
figcaption { font-weight: 600; font-size: 14px; } figcaption span { color: var(--soft); font-weight: 400; }
svg { display: block; width: 100%; height: auto; touch-action: none; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.tip { min-height: 21px; font-size: 12.5px; color: var(--soft); font-variant-numeric: tabular-nums; }
.tip b { color: var(--ink); font-weight: 600; }
ul { margin: 4px 0; padding-left: 20px; } li.bad, td.bad { color: var(--bad); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 9px; padding: 12px 14px; overflow-x: auto;
  font-size: 12.5px; line-height: 1.45; }
summary { cursor: pointer; color: var(--accent); margin: 8px 0; }
)css";

inline constexpr const char* script = R"js(
(() => {
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const colours = ['#0b72d9', '#d9480f', '#2b8a3e', '#9c36b5', '#c2255c', '#0c8599', '#a66a00', '#5f6b78'];
const W = 600, H = 250, left = 58, right = 10, top = 10, bottom = 26;
const svgName = 'http://www.w3.org/2000/svg';
const make = (name, attributes, parent) => {
  const node = document.createElementNS(svgName, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (parent) parent.appendChild(node);
  return node;
};
const short = v => {
  if (!isFinite(v)) return '–';
  const a = Math.abs(v);
  if (a >= 1e12) return +(v / 1e12).toPrecision(4) + 'T';
  if (a >= 1e9) return +(v / 1e9).toPrecision(4) + 'G';
  if (a >= 1e6) return +(v / 1e6).toPrecision(4) + 'M';
  if (a >= 1e4) return +(v / 1e3).toPrecision(4) + 'k';
  if (a !== 0 && a < 1e-3) return v.toExponential(2);
  return String(+v.toPrecision(5));
};
// A point's place on the axis that was chosen: its step, or what the run had trained or spent by then.
const place = (run, step, axis) => {
  if (axis === 'step') return step;
  const series = run.series[axis];
  if (!series) return step;
  let low = 0, high = series.step.length - 1;
  while (low < high) { const middle = (low + high) >> 1; if (series.step[middle] < step) low = middle + 1; else high = middle; }
  return series.value[low];
};
const ticks = (low, high, count) => {
  const raw = (high - low) / count || 1, power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw * 0.999);
  const list = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) list.push(v);
  return list;
};
// Exponential mean over `share` of the run's points.
const smooth = (values, share) => {
  const keep = Math.exp(-1 / Math.max(1e-9, share * values.length));
  let mean = values[0];
  return values.map(v => (isFinite(v) ? mean = keep * mean + (1 - keep) * v : mean, mean));
};
function draw(figure) {
  const { keys, log } = figure, axis = document.getElementById('axis').value;
  const share = figure.smooth ? +document.getElementById('smooth').value / 100 : 0;
  const curves = [];
  data.runs.forEach((run, r) => keys.forEach((key, k) => {
    const series = run.series[key];
    if (!series || !document.getElementById('run' + r).checked) return;
    const x = series.step.map(step => figure.positions ? Math.log2(step) : place(run, step, axis));
    const points = series.value.length < 60 && (k > 0 || figure.positions);
    curves.push({ run, r, key, x, y: series.value, step: series.step, dashed: k > 0, points,
      mean: share > 0 && k === 0 && series.value.length > 20 ? smooth(series.value, share) : null });
  }));
  const svg = figure.svg;
  svg.replaceChildren();
  const shown = curves.flatMap(c => c.y).filter(v => isFinite(v) && (!log || v > 0));
  if (!shown.length) { figure.node.hidden = curves.length === 0 && !figure.had; return; }
  figure.had = true;
  const f = log ? Math.log10 : v => v;
  // The first steps of a loss are far above the rest: the axis ends where all but a fiftieth lie, the curve may leave it.
  const sorted = shown.map(f).sort((a, b) => a - b);
  let low = sorted[0], high = sorted[sorted.length - 1];
  if (figure.smooth && sorted.length > 50) high = Math.min(high, sorted[Math.floor(sorted.length * 0.98)] + 0.15 * (high - low));
  if (figure.zero) low = Math.min(0, low);
  if (high - low < 1e-12 * Math.abs(high) + 1e-300) { low -= Math.abs(low) * 0.05 + 1e-9; high += Math.abs(high) * 0.05 + 1e-9; }
  const pad = 0.04 * (high - low); high += pad; if (!figure.zero) low -= pad;
  const xs = curves.flatMap(c => [c.x[0], c.x[c.x.length - 1]]);
  let first = Math.min(...xs), last = Math.max(...xs);
  if (last <= first) { first -= 0.5; last += 0.5; }
  const px = v => left + (v - first) / (last - first) * (W - left - right);
  const py = v => Math.max(-H, Math.min(2 * H, top + (high - f(v)) / (high - low) * (H - top - bottom)));
  const decades = () => {
    const list = [];
    for (let k = Math.floor(low); k <= Math.ceil(high); ++k)
      for (const m of [1, 2, 5]) { const v = k + Math.log10(m); if (v >= low && v <= high) list.push(v); }
    if (list.length < 3) return ticks(Math.pow(10, low), Math.pow(10, high), 5).filter(v => v > 0).map(Math.log10);
    return list.length > 9 ? list.filter(v => Math.abs(v - Math.round(v)) < 1e-9) : list;
  };
  for (const v of log ? decades() : ticks(low, high, 5)) {
    const y = top + (high - v) / (high - low) * (H - top - bottom);
    make('line', { x1: left, x2: W - right, y1: y, y2: y, stroke: 'var(--line)' }, svg);
    make('text', { x: left - 6, y: y + 4, 'text-anchor': 'end' }, svg).textContent = short(log ? Math.pow(10, v) : v);
  }
  // Doublings of the context where it is on the axis, not what lies between them.
  for (const v of ticks(first, last, 6).filter(v => !figure.positions || Math.abs(v - Math.round(v)) < 1e-9))
    make('text', { x: px(v), y: H - 8, 'text-anchor': 'middle' }, svg).textContent = short(figure.positions ? Math.pow(2, v) : v);
  const area = make('clipPath', { id: 'plot' + figure.id }, svg);
  make('rect', { x: left, y: top, width: W - left - right, height: H - top - bottom }, area);
  const clip = make('g', { 'clip-path': 'url(#plot' + figure.id + ')' }, svg);
  const path = (x, y) => {
    let text = '', pen = false;
    for (let i = 0; i < x.length; ++i) {
      if (!isFinite(y[i]) || (log && y[i] <= 0)) { pen = false; continue; }
      text += (pen ? 'L' : 'M') + px(x[i]).toFixed(1) + ' ' + py(y[i]).toFixed(1);
      pen = true;
    }
    return text;
  };
  for (const c of curves) {
    const stroke = colours[c.r % colours.length];
    make('path', { d: path(c.x, c.y), fill: 'none', stroke, 'stroke-width': c.mean ? 1 : 1.8, 'stroke-linejoin': 'round',
      'stroke-opacity': c.mean ? 0.3 : 1, 'stroke-dasharray': c.dashed ? '5 4' : 'none' }, clip);
    if (c.mean) make('path', { d: path(c.x, c.mean), fill: 'none', stroke, 'stroke-width': 2, 'stroke-linejoin': 'round' }, clip);
    if (c.points || c.y.length === 1)
      c.x.forEach((x, i) => isFinite(c.y[i]) && make('circle', { cx: px(x), cy: py(c.y[i]), r: 2.6, fill: stroke }, clip));
  }
  for (const run of data.runs) for (const mark of figure.positions ? [] : run.marks) {
    const r = data.runs.indexOf(run);
    if (!document.getElementById('run' + r).checked) continue;
    const x = px(place(run, mark.step, axis));
    if (x < left - 1 || x > W - right + 1) continue;
    const line = make('line', { x1: x, x2: x, y1: top, y2: H - bottom, stroke: mark.bad ? 'var(--bad)' : 'var(--soft)',
      'stroke-dasharray': '2 3', 'stroke-opacity': 0.8 }, clip);
    make('title', {}, line).textContent = mark.text;
  }
  const cross = make('line', { y1: top, y2: H - bottom, stroke: 'var(--soft)', visibility: 'hidden' }, svg);
  svg.onpointerleave = () => { cross.setAttribute('visibility', 'hidden'); figure.tip.textContent = ''; };
  svg.onpointermove = event => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * W;
    const want = first + (at - left) / (W - left - right) * (last - first);
    let text = '', step = null, best = Infinity;
    for (const c of curves) {
      let near = 0;
      for (let i = 1; i < c.x.length; ++i) if (Math.abs(c.x[i] - want) < Math.abs(c.x[near] - want)) near = i;
      if (Math.abs(c.x[near] - want) < best) { best = Math.abs(c.x[near] - want); step = { x: c.x[near], step: c.step[near] }; }
      const name = (data.runs.length > 1 ? c.run.name + ' ' : '') + (keys.length > 1 ? c.key : '');
      text += '<span class="swatch" style="background:' + colours[c.r % colours.length] + '"></span>' +
        name.replace(/[&<>]/g, x => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' }[x])) + ' <b>' + short(c.y[near]) + '</b> &nbsp; ';
    }
    if (!step) return;
    cross.setAttribute('visibility', 'visible');
    cross.setAttribute('x1', px(step.x)); cross.setAttribute('x2', px(step.x));
    figure.tip.innerHTML = (figure.positions ? 'context from <b>' : 'step <b>') + step.step + '</b> &nbsp; ' + text;
  };
}
const figures = data.figures.map((figure, id) => {
  const node = document.createElement('figure');
  node.innerHTML = '<figcaption></figcaption>';
  node.firstChild.textContent = figure.title + ' ';
  const note = document.createElement('span');
  note.textContent = figure.note;
  node.firstChild.appendChild(note);
  const svg = make('svg', { viewBox: '0 0 ' + W + ' ' + H, role: 'img', 'aria-label': figure.title }, node);
  const tip = document.createElement('div');
  tip.className = 'tip';
  node.appendChild(tip);
  document.getElementById('charts').appendChild(node);
  return { ...figure, id, node, svg, tip };
});
const all = () => figures.forEach(draw);
document.querySelectorAll('.bar input, .bar select').forEach(input => input.addEventListener('input', all));
document.querySelectorAll('[data-run]').forEach(s => s.style.background = colours[+s.dataset.run % colours.length]);
all();
document.documentElement.dataset.drawn = figures.filter(f => f.had).length;
})();
)js";

}  // namespace longhaul::report
