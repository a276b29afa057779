// Crystals as 3Dmol.js draws them. The page that includes this defines `elements`: radius (Å) and colour of each symbol.
"use strict";

const EDGES = [[0, 1], [0, 2], [0, 4], [1, 3], [1, 5], [2, 3], [2, 6], [3, 7], [4, 5], [4, 6], [5, 7], [6, 7]];

const toCartesian = (frac, lattice) =>
  [0, 1, 2].map((axis) => frac[0] * lattice[0][axis] + frac[1] * lattice[1][axis] + frac[2] * lattice[2][axis]);

// The atoms of `repeat`³ cells as chemists draw them: one within 0.15 Å of a face stands on the opposite face as well.
function drawnAtoms({ lattice, species, frac }, repeat) {
  const atoms = [];
  const margin = lattice.map((vector) => 0.15 / Math.hypot(...vector));
  frac.forEach((coords, site) => {
    const choices = coords.map((value, axis) => {
      const inside = value - Math.floor(value);
      const first = inside > 1 - margin[axis] ? inside - 1 : inside;
      const copies = Array.from({ length: repeat }, (_, cell) => first + cell);
      return first < margin[axis] ? [...copies, first + repeat] : copies;
    });
    for (const a of choices[0]) for (const b of choices[1]) for (const c of choices[2]) {
      const [x, y, z] = toCartesian([a, b, c], lattice);
      atoms.push({ elem: species[site], x, y, z, bonds: [], bondOrder: [] });
    }
  });
  addBonds(atoms);
  return atoms;
}

// Two atoms are joined where they are closer than 1.08 times the sum of their covalent radii.
function addBonds(atoms) {
  for (let i = 0; i < atoms.length; i++) for (let j = 0; j < i; j++) {
    const reach = 1.08 * (elements[atoms[i].elem].radius + elements[atoms[j].elem].radius);
    if (Math.hypot(atoms[i].x - atoms[j].x, atoms[i].y - atoms[j].y, atoms[i].z - atoms[j].z) < reach) {
      atoms[i].bonds.push(j); atoms[i].bondOrder.push(1);
      atoms[j].bonds.push(i); atoms[j].bondOrder.push(1);
    }
  }
}

function draw(viewer, structure, repeat = 1) {
  viewer.removeAllShapes();
  viewer.removeAllModels();
  viewer.addModel().addAtoms(drawnAtoms(structure, repeat));
  for (const elem of new Set(structure.species)) {
    const { radius, color } = elements[elem];
    viewer.setStyle({ elem }, { sphere: { radius: 0.42 * radius, color }, stick: { radius: 0.08, color } });
  }
  const corners = Array.from({ length: 8 }, (_, n) =>
    toCartesian([n & 1, (n >> 1) & 1, (n >> 2) & 1].map((bit) => bit * repeat), structure.lattice));
  const point = ([x, y, z]) => ({ x, y, z });
  for (const [a, b] of EDGES) {
    viewer.addCylinder({ start: point(corners[a]), end: point(corners[b]), radius: 0.035, color: "#8892a4" });
  }
  viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
  viewer.rotate(-78, "vx"); // Cartesian z, mostly the c axis, points up
  viewer.rotate(25, "z");
  viewer.zoomTo();
  viewer.zoom(0.92);
  viewer.render();
}
