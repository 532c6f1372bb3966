"use strict";
// The page is whole without this: it only lets tables sort, marks be pointed at, and series and themes be chosen.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- Theme: as the system, light, dark ---
const themes = [["", "as the system"], ["light", "light"], ["dark", "dark"]];
const themeButton = document.getElementById("theme");
function setTheme(name) {
  const at = Math.max(0, themes.findIndex(([key]) => key === name));
  document.documentElement.dataset.theme = themes[at][0];
  themeButton.textContent = `Theme: ${themes[at][1]}`;
  themeButton.dataset.next = themes[(at + 1) % themes.length][0];
}
function stored(value) { // a page opened from a folder may have no storage
  try {
    if (value === undefined) return localStorage.getItem("edgekit-theme") || "";
    localStorage.setItem("edgekit-theme", value);
  } catch { /* the choice then lasts as long as the page */ }
  return "";
}
setTheme(stored());
themeButton.hidden = false;
themeButton.addEventListener("click", () => { const name = themeButton.dataset.next; setTheme(name); stored(name); });

// --- Tables sort by their headings ---
const words = new Intl.Collator("en", { numeric: true });
function key(row, column) {
  const cell = row.cells[column];
  return cell.dataset.sort === undefined ? cell.textContent.trim() : Number(cell.dataset.sort);
}
function compare(one, other) { // figures before words, so that what is missing stands last either way
  const figures = [typeof one, typeof other].map((kind) => kind === "number");
  if (figures[0] && figures[1]) return one - other;
  return figures[0] || figures[1] ? null : words.compare(one, other);
}
function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head, n) => (n === column ? head.setAttribute("aria-sort", up ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
  const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
  rows.sort(([one], [other]) => {
    const order = compare(one, other);
    if (order === null) return typeof one === "number" ? -1 : 1;
    return up ? order : -order;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}
for (const table of all("table.sortable")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => sortBy(table, column));
  });
}

// --- Marks tell what they are ---
const tip = document.getElementById("tip");
function show(mark) {
  const box = mark.getBoundingClientRect();
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = false;
  const left = Math.min(box.left + box.width / 2 + 10, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${Math.max(8, left) + scrollX}px`;
  tip.style.top = `${(above > 0 ? above : box.bottom + 8) + scrollY}px`;
}
const hide = () => { tip.hidden = true; };
function go(mark) { if (mark.dataset.target) location.hash = mark.dataset.target; }
function step(marks, from, by) {
  const seen = marks.filter((mark) => !mark.hasAttribute("hidden"));
  const next = seen[(seen.indexOf(from) + by + seen.length) % seen.length];
  if (!next) return;
  marks.forEach((mark) => mark.setAttribute("tabindex", mark === next ? "0" : "-1"));
  next.focus();
}
const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
for (const chart of all("svg[data-chart]")) {
  const marks = all(".mark", chart).sort((one, other) => one.dataset.x - other.dataset.x);
  marks.forEach((mark, n) => {
    const title = mark.querySelector("title");
    mark.setAttribute("aria-label", title.textContent);
    title.remove(); // the browser's own tooltip would cover this one
    mark.setAttribute("tabindex", n === 0 ? "0" : "-1");
    mark.addEventListener("pointerenter", () => show(mark));
    mark.addEventListener("pointerleave", hide);
    mark.addEventListener("focus", () => show(mark));
    mark.addEventListener("blur", hide);
    mark.addEventListener("click", () => go(mark));
    mark.addEventListener("keydown", (event) => {
      if (event.key === "Enter") go(mark);
      if (event.key === "Escape") hide();
      if (!(event.key in moves)) return;
      event.preventDefault();
      step(marks, mark, moves[event.key]);
    });
  });
}

// --- Series are shown or not; the fronts follow ---
function front(marks) { // as charts.py draws it
  const seen = marks.filter((mark) => !mark.hasAttribute("hidden") && !mark.classList.contains("invalid"));
  const places = seen.map((mark) => [Number(mark.dataset.x), Number(mark.dataset.y)]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const points = [];
  let best = Infinity;
  for (const [x, y] of places) {
    if (y >= best) continue;
    if (points.length) points.push(`${x},${best}`);
    points.push(`${x},${y}`);
    best = y;
  }
  return points.join(" ");
}
function toggle(box) {
  for (const it of all(`[data-series="${box.dataset.toggle}"]`)) it.toggleAttribute("hidden", !box.checked);
  for (const line of all("[data-front]")) {
    line.setAttribute("points", front(all(`.mark[data-group="${line.dataset.front}"]`, line.ownerSVGElement)));
  }
  for (const chart of all("svg[data-chart]")) {
    const seen = all(".mark:not([hidden])", chart);
    if (seen.length && !seen.some((mark) => mark.getAttribute("tabindex") === "0")) seen[0].setAttribute("tabindex", "0");
  }
}
for (const box of all("[data-toggle]")) {
  box.addEventListener("change", () => toggle(box));
  if (!box.checked) toggle(box); // browsers keep ticks over a reload
}

// --- Details open for links, for print and all at once ---
function openTarget() {
  const found = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!(found instanceof HTMLDetailsElement)) return;
  found.open = true;
  found.scrollIntoView();
  found.querySelector("summary").focus({ preventScroll: true });
}
addEventListener("hashchange", openTarget);
openTarget();
let closed = [];
addEventListener("beforeprint", () => { closed = all("details:not([open])"); closed.forEach((it) => { it.open = true; }); });
addEventListener("afterprint", () => closed.forEach((it) => { it.open = false; }));
const openAll = document.getElementById("open-all");
if (openAll) {
  openAll.hidden = false;
  openAll.addEventListener("click", () => {
    const open = openAll.textContent === "Open all";
    all("details").forEach((it) => { it.open = open; });
    openAll.textContent = open ? "Close all" : "Open all";
  });
}
