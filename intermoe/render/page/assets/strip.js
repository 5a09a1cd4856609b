// The strip below a motion: time across; feet on the ground, and the experts at work on each latent frame.

const FOOT_ROW = 7;
const GAP = 3;
// Of the rows of one person's experts, where they are at least 2 high; tokens that are more share what two have.
const MOST_HIGH = 72;
const PERSONS = ["first person", "second person"];

// Groups of rows: of each person, or of each token of a moment where those are more.
function groupsOf(panel) {
  return Math.max(panel.persons, panel.routing ? panel.routing.tokens.length : 0);
}

// Rows from the top: [kind, person or token, which], each with its height.
function stripRows(panel) {
  const rows = [];
  for (let person = 0; person < groupsOf(panel); person++) {
    const feet = person < panel.persons ? panel.skeleton.feet : [];
    feet.forEach((foot, number) => rows.push({ kind: "foot", person: person, foot: number, high: FOOT_ROW }));
    if (!panel.routing || person >= panel.routing.tokens.length) continue;
    const experts = panel.routing.experts, layers = panel.routing.layers;
    const high = Math.max(2, Math.min(6, Math.floor(2 * MOST_HIGH / (Math.max(2, panel.routing.tokens.length) * experts * layers))));
    for (let layer = 0; layer < layers; layer++) {
      for (let expert = 0; expert < experts; expert++) {
        rows.push({ kind: "expert", person: person, layer: layer, expert: expert, high: high });
      }
    }
  }
  let top = 0;
  rows.forEach(function (row, number) {
    const before = rows[number - 1];
    if (before) top += before.high + gapAfter(before, row);
    row.top = top;
  });
  return rows;
}

function gapAfter(before, row) {
  if (before.person !== row.person) return 3 * GAP;
  if (before.kind === row.kind) return before.layer === row.layer && row.kind === "expert" ? 0 : 1;
  return GAP;
}

function stripHeight(rows) {
  const last = rows[rows.length - 1];
  return last ? last.top + last.high : 0;
}

// Mean gate over the chosen stages of denoising, 0 to 1, of an expert on a latent frame.
function gateOf(routing, row, latent, stage) {
  const stages = stage < 0 ? routing.stages.map((_, number) => number) : [stage];
  const sum = stages.reduce(function (total, q) {
    const place = ((q * routing.layers + row.layer) * routing.tokens.length + row.person) * routing.latents + latent;
    return total + routing.gates[place * routing.experts + row.expert];
  }, 0);
  return sum / 255 / stages.length;
}

function touches(panel, row, frame) {
  const count = panel.skeleton.contacts.length;
  return panel.skeleton.feet[row.foot][1].some(number => panel.contacts[(frame * panel.persons + row.person) * count + number]);
}

// How strong a row is in a frame, 0 to 1: as in the routing maps, where the weakest gate is seen.
function strengthOf(panel, row, frame, stage) {
  if (row.kind === "foot") return touches(panel, row, frame) ? 0.85 : 0;
  const latent = Math.min(Math.floor(frame / panel.routing.stride), panel.routing.latents - 1);
  const gate = gateOf(panel.routing, row, latent, stage);
  return gate > 0 ? 0.2 + 0.8 * gate : 0;
}

// The colour of a row's person; all tokens of one person have that person's.
function toneOf(panel, row, look) {
  return look.tones.middle[panel.persons > 1 ? row.person : 0];
}

// A canvas pixel per frame and unit of height; the browser stretches it.
function drawStrip(canvas, panel, rows, stage, look, paper) {
  canvas.width = panel.frames;
  canvas.height = Math.max(stripHeight(rows), 1);
  canvas.style.height = canvas.height + "px";
  canvas.style.imageRendering = "pixelated";
  const pen = canvas.getContext("2d");
  rows.forEach(function (row) {
    const tone = toneOf(panel, row, look);
    for (let frame = 0; frame < panel.frames; frame++) {
      const strength = strengthOf(panel, row, frame, stage);
      const colour = strength ? paper.page.map((value, i) => Math.round(value + strength * (tone[i] - value))) : paper.idle;
      pen.fillStyle = "rgb(" + colour.join(",") + ")";
      pen.fillRect(frame, row.top, 1, row.high);
    }
  });
}

// What lies under the pointer, in words.
function describeCell(panel, row, frame, stage) {
  const time = (frame / panel.fps).toFixed(2) + " s";
  if (row.kind === "foot") {
    const state = touches(panel, row, frame) ? "on the ground" : "in the air";
    const person = panel.persons > 1 ? PERSONS[row.person] + ", " : "";
    return time + ": " + person + panel.skeleton.feet[row.foot][0] + " foot " + state;
  }
  const latent = Math.min(Math.floor(frame / panel.routing.stride), panel.routing.latents - 1);
  const gate = gateOf(panel.routing, row, latent, stage);
  const work = gate > 0 ? "gate " + gate.toFixed(2) : "not at work";
  return time + ": " + panel.routing.tokens[row.person] + ", layer " + row.layer + ", expert " + row.expert + ": " + work;
}

// Names beside groups of rows: [text, middle].
function rowNames(panel, rows) {
  const names = [];
  for (let person = 0; person < groupsOf(panel); person++) {
    const feet = rows.filter(row => row.person === person && row.kind === "foot");
    if (feet.length) names.push(["feet", middleOf(feet)]);
    if (!panel.routing || person >= panel.routing.tokens.length) continue;
    if (panel.routing.tokens.length > panel.persons) {
      // No colour tells which is meant: its name takes the place of the layers'.
      names.push([panel.routing.tokens[person], middleOf(rows.filter(row => row.person === person && row.kind === "expert"))]);
      continue;
    }
    const of = layer => rows.filter(row => row.person === person && row.layer === layer);
    const high = of(0).reduce((sum, row) => sum + row.high, 0);
    // Each layer has its name where there is room for it.
    const step = Math.max(1, Math.ceil(12 / high));
    for (let layer = 0; layer < panel.routing.layers; layer += step) {
      names.push(["layer " + layer, middleOf(of(layer))]);
    }
  }
  return names;
}

function middleOf(rows) {
  const last = rows[rows.length - 1];
  return (rows[0].top + last.top + last.high) / 2;
}
