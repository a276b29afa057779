// The gallery: cards that sort, a map, and a few WebGL viewers that move to the cards in sight.
"use strict";

const { structures, elements, compared } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// A browser keeps about sixteen WebGL contexts: eight viewers wander, the other cards in sight get a still picture.
const MAX_VIEWERS = 8;
const DEGREES_PER_SECOND = 24;

// ---- viewers --------------------------------------------------------------------------------------------------------

let noWebGL = false;

function newViewer(parent) {
  if (noWebGL) return null;
  const stage = document.createElement("div");
  stage.className = "stage";
  parent.append(stage);
  try {
    const viewer = $3Dmol.createViewer(stage, { backgroundAlpha: 0, antialias: true, disableFog: true });
    if (!viewer || !stage.querySelector("canvas")) throw new Error("no viewer");
    return { viewer, stage, card: null, lastDrawn: 0 };
  } catch (error) {
    noWebGL = true;
    stage.remove();
    byId("count").append(" · this browser has no WebGL, so the cells are not drawn");
    return null;
  }
}

const pool = [];
const inSight = new Set();
const stills = new Map(); // structure → PNG
let painter = null;

function settle() {
  const wanted = cards.filter((card) => inSight.has(card) && !card.hidden);
  const live = new Set(wanted.slice(0, MAX_VIEWERS));
  for (const actor of pool) if (actor.card && !live.has(actor.card)) actor.card = null;
  for (const card of live) {
    if (pool.some((actor) => actor.card === card)) continue;
    let actor = pool.find((one) => !one.card);
    if (!actor) {
      actor = newViewer(card.querySelector(".view"));
      if (!actor) return;
      pool.push(actor);
    }
    actor.card = card;
    card.querySelector(".view").replaceChildren(actor.stage);
    actor.viewer.resize();
    draw(actor.viewer, card.structure);
    actor.lastDrawn = performance.now();
  }
  for (const actor of pool) if (!actor.card) actor.stage.remove();
  wanted.slice(MAX_VIEWERS).forEach(showStill);
}

function showStill(card) {
  if (!stills.has(card.structure)) {
    if (!painter) {
      const backstage = document.createElement("div");
      backstage.className = "view";
      backstage.style.cssText = "position:fixed;left:-400px;top:0;width:320px;height:240px";
      document.body.append(backstage);
      painter = newViewer(backstage);
    }
    if (!painter) return;
    draw(painter.viewer, card.structure);
    stills.set(card.structure, painter.viewer.pngURI());
  }
  const picture = new Image();
  picture.src = stills.get(card.structure);
  picture.alt = "";
  card.querySelector(".view").replaceChildren(picture);
}

// Turns as many viewers as fit into a few milliseconds, the longest waiting first: slow machines turn slowly, and scroll.
function turn(now) {
  requestAnimationFrame(turn);
  if (!byId("rotate").checked || document.hidden || byId("detail").open) return;
  const deadline = performance.now() + 8;
  for (const actor of pool.filter((one) => one.card).sort((a, b) => a.lastDrawn - b.lastDrawn)) {
    const elapsed = Math.min(now - actor.lastDrawn, 200);
    actor.lastDrawn = now;
    actor.viewer.rotate(elapsed / 1000 * DEGREES_PER_SECOND, "z");
    if (performance.now() > deadline) break;
  }
}

// ---- words ----------------------------------------------------------------------------------------------------------

const escaped = (value) => String(value).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const minus = (number) => number.replace("-", "\u2212");
const formulaMarkup = (formula) => escaped(formula).replace(/(?<!&#)(\d+)/g, "<sub>$1</sub>");
const spaceGroupMarkup = (symbol) => escaped(symbol).replace(/_(\d)/g, "<sub>$1</sub>").replace(/-(\d)/g, "$1\u0305");
// Energies per atom compare only within one composition: each has its own lowest.
const composition = (structure) => {
  const counts = {};
  for (const elem of structure.species) counts[elem] = (counts[elem] ?? 0) + 1;
  const divisor = Object.values(counts).reduce(function gcd(a, b) { return b ? gcd(b, a % b) : a; });
  return Object.keys(counts).sort().map((elem) => elem + counts[elem] / divisor).join("");
};
const lowest = {};
for (const structure of structures) {
  if (structure.energy === null) continue;
  const key = composition(structure);
  lowest[key] = Math.min(lowest[key] ?? Infinity, structure.energy);
}
const legend = (structure) => [...new Set(structure.species)]
  .map((elem) => `<i style="background:${elements[elem].color}"></i>${elem}`).join("");

function energyText(structure) {
  if (structure.energy === null) return "<span>no energy</span>";
  const above = Math.round(1000 * (structure.energy - lowest[composition(structure)]));
  return `<b>${minus(structure.energy.toFixed(3))}</b> eV/atom <span>${above === 0 ? "lowest" : `+${above} meV`}</span>`;
}

const hullText = (structure) => structure.aboveHull === null ? ""
  : `${minus(Math.round(1000 * structure.aboveHull).toString())} meV/atom above the hull`;

const matchText = (structure) => structure.isReference ? "reference"
  : structure.rmse === null ? "" : `match, RMSE ${structure.rmse.toFixed(4)}`;

function setDownload(link, structure) {
  link.download = structure.file;
  link.href = "#";
  link.onclick = () => {
    link.href = URL.createObjectURL(new Blob([structure.cif], { type: "chemical/x-cif" }));
  };
}

function newCard(structure) {
  const card = byId("card").content.firstElementChild.cloneNode(true);
  card.structure = structure;
  card.classList.toggle("reference", structure.isReference);
  card.setAttribute("aria-label", [structure.formula, structure.spaceGroup, matchText(structure)].filter(Boolean).join(", "));
  card.querySelector("h2").innerHTML =
    `<span class="rank">${structure.isReference ? "" : structure.rank + " · "}</span>${formulaMarkup(structure.formula)}`;
  const badge = card.querySelector(".badge");
  badge.textContent = matchText(structure).replace(", RMSE", "");
  badge.title = matchText(structure);
  badge.hidden = !badge.textContent;
  card.querySelector(".energy").innerHTML = energyText(structure);
  card.querySelector(".facts").innerHTML =
    `${spaceGroupMarkup(structure.spaceGroup)} · ${structure.species.length} atoms · `
    + (hullText(structure) || `${structure.volume.toFixed(1)} Å³/atom`);
  card.querySelector(".legend").innerHTML = legend(structure);
  setDownload(card.querySelector(".download"), structure);
  return card;
}

// ---- order ----------------------------------------------------------------------------------------------------------

const ORDERS = {
  rank: ["rank", (s) => s.rank],
  energy: ["energy per atom", (s) => s.energy],
  hull: ["energy above the hull", (s) => s.aboveHull],
  rmse: ["match to the reference", (s) => s.rmse],
  volume: ["volume per atom", (s) => s.volume],
  symmetry: ["symmetry", (s) => -s.spaceGroupNumber],
  atoms: ["number of atoms", (s) => s.species.length],
  formula: ["formula", (s) => s.formula],
};
let cards = structures.map(newCard);
let reversed = false;

function arrange() {
  const value = ORDERS[byId("sort").value][1];
  const sign = reversed ? -1 : 1;
  cards.sort((a, b) => {
    if (a.structure.isReference !== b.structure.isReference) return a.structure.isReference ? -1 : 1;
    const [x, y] = [value(a.structure), value(b.structure)];
    if (x === null || y === null) return (x === null) - (y === null); // what is not known comes last
    return (x < y ? -sign : x > y ? sign : 0) || a.structure.rank - b.structure.rank;
  });
  const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const card of cards) {
    const { formula, spaceGroup, isReference, rmse } = card.structure;
    const text = `${formula} ${spaceGroup}`.toLowerCase();
    card.hidden = !isReference && !(words.every((word) => text.includes(word)) && (!byId("matches").checked || rmse !== null));
  }
  byId("cards").append(...cards);
  const shown = cards.filter((card) => !card.hidden && !card.structure.isReference).length;
  const all = structures.filter((s) => !s.isReference).length;
  const matched = structures.filter((s) => !s.isReference && s.rmse !== null).length;
  byId("count").textContent = (shown === all ? `${all} structures` : `${shown} of ${all} structures`)
    + (compared ? `, ${matched} match the reference` : "");
  settle();
}

// ---- one structure, large -------------------------------------------------------------------------------------------

let stageOfDetail = null;

function openDetail(structure) {
  const dialog = byId("detail");
  byId("detail-title").innerHTML = formulaMarkup(structure.formula);
  dialog.querySelector(".legend").innerHTML = legend(structure);
  setDownload(dialog.querySelector(".download"), structure);
  const rows = [["Energy", energyText(structure)], ["Hull", hullText(structure)],
    ["Space group", `${spaceGroupMarkup(structure.spaceGroup)} (${structure.spaceGroupNumber})`],
    ["Reference", matchText(structure)], ["Cell", structure.cell],
    ["Volume", `${structure.volume.toFixed(2)} Å³/atom`],
    ["Density", `${structure.density.toFixed(2)} g/cm³`], ["Formula units", escaped(structure.formulaUnits ?? "")],
    ["Structure type", structure.prototype ? `as ${escaped(structure.prototype)}` : ""],
    ["Found", structure.copies ? `${Number(structure.copies)} times` : ""],
    ["Seed", escaped(structure.seed ?? "")], ["Model", escaped(structure.model ?? "")], ["File", escaped(structure.file)]];
  dialog.querySelector("table").innerHTML = rows.filter(([, value]) => value !== "")
    .map(([name, value]) => `<tr><th scope="row">${name}</th><td>${value}</td></tr>`).join("");
  byId("supercell").setAttribute("aria-pressed", "false");
  dialog.structure = structure;
  dialog.showModal();
  if (!stageOfDetail) stageOfDetail = newViewer(dialog.querySelector(".view"));
  if (stageOfDetail) { stageOfDetail.viewer.resize(); draw(stageOfDetail.viewer, structure); }
}

byId("supercell").onclick = ({ target }) => {
  const pressed = target.getAttribute("aria-pressed") !== "true";
  target.setAttribute("aria-pressed", String(pressed));
  if (stageOfDetail) draw(stageOfDetail.viewer, byId("detail").structure, pressed ? 2 : 1);
};

// ---- energy and volume ----------------------------------------------------------------------------------------------

function drawMap() {
  const points = cards.filter((card) => card.structure.energy !== null);
  byId("map").hidden = points.length < 3;
  if (points.length < 3) return;
  const range = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = 0.06 * (high - low) || 0.05;
    return [low - margin, high + margin];
  };
  const [v0, v1] = range(points.map((card) => card.structure.volume));
  const [e0, e1] = range(points.map((card) => card.structure.energy));
  const x = (volume) => 62 + 560 * (volume - v0) / (v1 - v0);
  const y = (energy) => 146 - 134 * (energy - e0) / (e1 - e0);
  const label = (at, where, anchor, text) => `<text x="${at}" y="${where}" text-anchor="${anchor}">${text}</text>`;
  const ticks = [0.1, 0.5, 0.9].map((part) => {
    const [volume, energy] = [v0 + part * (v1 - v0), e0 + part * (e1 - e0)];
    return label(x(volume), 164, "middle", volume.toFixed(1)) + label(56, y(energy) + 4, "end", minus(energy.toFixed(2)));
  }).join("");
  const svg = byId("map").querySelector("svg");
  svg.innerHTML = `<path class="axis" d="M62 12V146H622" fill="none"/>${ticks}`
    + label(342, 182, "middle", "volume (Å³/atom)") + label(66, 14, "start", "energy (eV/atom)");
  for (const card of points) {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    dot.setAttribute("cx", x(card.structure.volume));
    dot.setAttribute("cy", y(card.structure.energy));
    dot.setAttribute("r", 5);
    if (card.structure.rmse !== null) dot.classList.add("matched");
    dot.innerHTML = `<title>${card.getAttribute("aria-label")}, ${card.structure.energy.toFixed(3)} eV/atom</title>`;
    dot.onclick = () => card.focus();
    card.addEventListener("focus", () => {
      svg.querySelector(".current")?.classList.remove("current");
      dot.classList.add("current");
    });
    svg.append(dot);
  }
}

// ---- hands ----------------------------------------------------------------------------------------------------------

byId("cards").addEventListener("click", ({ target }) => {
  if (target.closest(".view, .open")) openDetail(target.closest(".card").structure);
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || byId("detail").open) return;
  if (event.key === "/" && event.target.tagName !== "INPUT") {
    byId("find").focus();
    event.preventDefault();
    return;
  }
  const card = event.target.closest?.(".card");
  if (!card) return;
  const shown = cards.filter((one) => !one.hidden);
  const columns = getComputedStyle(byId("cards")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (step) {
    shown[shown.indexOf(card) + step]?.focus();
  } else if (event.key === "Enter" && event.target === card) {
    openDetail(card.structure);
  } else if (event.key.toLowerCase() === "d") {
    card.querySelector(".download").click();
  } else {
    return;
  }
  event.preventDefault();
});

for (const [key, [words]] of Object.entries(ORDERS)) {
  const useless = (key === "rmse" && !compared) || (key === "hull" && structures.every((s) => s.aboveHull === null));
  if (!useless) byId("sort").add(new Option(words, key));
}
byId("only-matches").hidden = !compared;
byId("sort").onchange = byId("find").oninput = byId("matches").onchange = arrange;
byId("controls").onsubmit = (event) => event.preventDefault();
byId("direction").onclick = ({ target }) => {
  reversed = !reversed;
  target.textContent = reversed ? "↓" : "↑";
  arrange();
};
if (matchMedia("(prefers-reduced-motion: reduce)").matches) byId("rotate").checked = false;

let waiting = false;
const eye = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) inSight[isIntersecting ? "add" : "delete"](target);
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; settle(); });
});
arrange();
drawMap();
cards.forEach((card) => eye.observe(card));
requestAnimationFrame(turn);
