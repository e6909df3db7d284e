"use strict";
// Everything works without this file but single keys, the heatmap's controls and the nearest patch.

const byId = (id) => document.getElementById(id);
const setting = (name, otherwise) => localStorage.getItem("meds-review-" + name) ?? otherwise;
const keep = (name, value) => localStorage.setItem("meds-review-" + name, value);
let leaving = false;

// A second key while the first decision is on its way would judge an image that nobody has seen.
addEventListener("submit", (event) => {
  if (event.target.method === "dialog") return;
  if (leaving) event.preventDefault();
  leaving = true;
});
addEventListener("pageshow", (event) => {
  leaving = false;
  if (event.persisted) location.reload();
});

function isTyping(element) {
  return element.matches("select, textarea, input:not([type=checkbox]):not([type=range])");
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.defaultPrevented) return;
  if (!byId("keys-on").checked || byId("help").open || isTyping(event.target)) return;
  if (event.key.startsWith("Arrow") && (event.target.type === "range" || moveInGrid(event))) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const target = document.querySelector(`[data-key~="${CSS.escape(key)}"]`);
  if (!target || leaving) return;
  event.preventDefault();
  target.click();
});

function moveInGrid(event) {
  const grid = byId("grid");
  if (!grid) return false;
  const tiles = [...grid.querySelectorAll("a")];
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const now = tiles.indexOf(document.activeElement);
  const next = tiles[now < 0 ? 0 : now + step];
  if (next) {
    event.preventDefault();
    next.focus();
  }
  return true;
}

async function load(element) {
  try {
    const answer = await fetch(element.dataset.address);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (answer.ok) element.replaceChildren(...page.body.childNodes);
    return answer.ok;
  } catch {
    return false;
  }
}

function heatmap() {
  const [picture, box, opacity] = ["heatmap", "heatmap-on", "heatmap-opacity"].map(byId);
  if (!picture) return;
  const missing = () => {
    picture.replaceWith();
    byId("heatmap-trouble").hidden = false;
  };
  if (picture.complete && !picture.naturalWidth) missing();
  picture.addEventListener("error", missing);
  box.checked = setting("heatmap", "on") === "on";
  opacity.value = setting("opacity", opacity.value);
  const show = () => {
    picture.hidden = !box.checked;
    picture.style.display = box.checked ? "" : "none";
    picture.style.opacity = opacity.value / 100;
  };
  box.addEventListener("change", () => { keep("heatmap", box.checked ? "on" : "off"); show(); });
  opacity.addEventListener("input", () => { keep("opacity", opacity.value); show(); });
  show();
}

function help() {
  const [dialog, box] = ["help", "keys-on"].map(byId);
  byId("open-help").addEventListener("click", () => dialog.showModal());
  box.checked = setting("keys", "on") === "on";
  box.addEventListener("change", () => keep("keys", box.checked ? "on" : "off"));
}

function copy() {
  const button = byId("copy");
  if (!button || !navigator.clipboard) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId("command").textContent);
    byId("copied").textContent = "Copied.";
  });
}

heatmap();
help();
copy();
const nearest = byId("nearest");
if (nearest) {
  // Not for images that are only passed by.
  setTimeout(async () => {
    if (!await load(nearest)) nearest.textContent = "The nearest normal patch could not be loaded.";
  }, 250);
}
const coming = document.querySelector("[data-coming]");
if (coming) addEventListener("load", () => { new Image().src = coming.dataset.coming; });
setInterval(() => { if (!document.hidden) load(byId("progress")); }, 5000);
