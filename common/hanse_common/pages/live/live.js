"use strict";
// Replaces the parts of the page that change, as the server sends them, and keeps what a reader
// is doing in them: focus, opened details and the place to which a table was scrolled.

const SILENCE = 12000; // ms without an event after which the page no longer counts as live
const shown = new Map(); // the server's HTML of each part; the page's own may differ
let heard = 0; // when the last event came, by performance.now()
let clock = 0; // the server's clock less this one's, in ms
let lastSeen = "";

document.documentElement.classList.add("scripted");

function find(part, element) {
  // The way to an element from its part: its place among its siblings, at every level.
  const way = [];
  for (let at = element; at !== part; at = at.parentElement) {
    way.unshift([at.tagName, [...at.parentElement.children].indexOf(at)]);
  }
  return way;
}

function follow(part, way) {
  let at = part;
  for (const [tag, index] of way) {
    at = at.children[index];
    if (!at || at.tagName !== tag) return null;
  }
  return at;
}

function replace(name, html) {
  const part = document.querySelector(`[data-part="${CSS.escape(name)}"]`);
  if (!part || shown.get(name) === html) return;
  shown.set(name, html);
  const active = document.activeElement;
  const focused = part.contains(active) && part !== active ? find(part, active) : null;
  const open = [...part.querySelectorAll("details[open]")].map((e) => e.id);
  const places = [...part.querySelectorAll(".sheet")].map((e) => [e.scrollLeft, e.scrollTop]);
  // Everything in it is escaped by the server, and the page's policy runs no inline script.
  part.innerHTML = html;
  for (const id of open) {
    const details = document.getElementById(id);
    if (details) details.open = true;
  }
  [...part.querySelectorAll(".sheet")].forEach((e, i) => {
    if (places[i]) [e.scrollLeft, e.scrollTop] = places[i];
  });
  if (focused) {
    const target = follow(part, focused);
    if (target) target.focus({ preventScroll: true });
  }
  times();
  announce();
}

function announce() {
  const said = document.querySelector("[data-announce]");
  const place = document.getElementById("announce");
  // The first state is the page itself, which screen readers read anyway.
  if (said && place.dataset.before !== undefined && place.dataset.before !== said.textContent) {
    place.textContent = said.textContent;
  }
  if (said) place.dataset.before = said.textContent;
}

function ago(seconds) {
  if (seconds < 1.5) return "now";
  if (seconds < 100) return `${Math.round(seconds)} s ago`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

function times() {
  const now = Date.now() + clock;
  for (const time of document.querySelectorAll("time[data-ago]")) {
    if (!time.title) time.title = `${time.textContent} UTC`;
    const text = ago((now - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

function link(now) {
  heard = performance.now();
  clock = Date.parse(now) - Date.now();
  lastSeen = now.slice(11, 19);
  state();
}

function state() {
  const place = document.getElementById("link");
  const text = document.getElementById("link-text");
  const live = heard > 0 && performance.now() - heard < SILENCE;
  place.className = live ? "link good" : heard > 0 ? "link bad" : "link";
  if (live) text.textContent = `live, ${lastSeen} UTC`;
  else if (heard > 0) {
    const lost = `not live: no answer since ${lastSeen} UTC`;
    if (text.textContent !== lost) {
      text.textContent = lost;
      document.getElementById("announce").textContent = `The page is ${lost}.`;
    }
  }
}

function copy(button) {
  const text = button.dataset.copy;
  const done = () => {
    const label = button.firstChild;
    label.textContent = "Copied";
    document.getElementById("announce").textContent = "Copied.";
    setTimeout(() => { label.textContent = "Copy"; }, 1500);
  };
  const select = () => {
    // Without https the browser gives no clipboard: select the text, so that one key copies it.
    getSelection().selectAllChildren(button.parentElement.querySelector("code"));
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, select);
  else select();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
});

const source = new EventSource("events");
source.addEventListener("part", (event) => {
  const { name, html, now } = JSON.parse(event.data);
  link(now);
  replace(name, html);
});
source.addEventListener("beat", (event) => link(JSON.parse(event.data)));
setInterval(() => { times(); state(); }, 1000);
times();
announce();
