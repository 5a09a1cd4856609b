// The page: a scene is chosen, its clock runs, and what changes is drawn.

const byId = id => document.getElementById(id);
const page = parsed("motions");
const night = window.matchMedia("(prefers-color-scheme: dark)");
const still = window.matchMedia("(prefers-reduced-motion: reduce)");
const view = byId("view");

// What is shown now; "stage" is that of the denoising, -1 for all.
const shown = { number: -1, panels: [], camera: null, player: null, strips: [], stage: -1, speed: 1, framed: null, follow: false };
let renderer = null;
let asked = false;
let before = 0;
// Seconds between frames, a running mean; above this they are drawn coarser, by this part of the pixels across.
const SLOW = 0.06;
let pace = 0;
let sharpness = 1;

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function replaceChildren(parent, children) {
  parent.textContent = "";
  children.forEach(child => parent.appendChild(child));
}

// Draw at the next chance, once however often it is asked for.
function ask() {
  if (asked) return;
  asked = true;
  window.requestAnimationFrame(tick);
}

function tick(now) {
  asked = false;
  const player = shown.player;
  if (player.playing) {
    if (before) {
      advanced(player, (now - before) / 1000);
      spare((now - before) / 1000);
    }
    before = now;
    ask();
  } else {
    before = 0;
  }
  showTime();
  if (renderer) renderer.draw(viewsOf(), night.matches);
}

// Where frames take long, as without a graphics card, those of a playing motion are drawn coarser.
function spare(elapsed) {
  pace = 0.85 * pace + 0.15 * Math.min(elapsed, 0.5);
  if (pace < SLOW || sharpness <= 0.6) return;
  sharpness *= 0.8;
  pace = 0;
}

// Parts of the stage: beside each other where it is wide enough, else one below the other; pixels of the page.
function partsOf(width, height, count) {
  const options = [];
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const wide = width / columns, high = height / rows;
    // Two people beside each other fill a frame of about 4 to 3.
    options.push({ columns: columns, wide: wide, high: high, size: Math.min(wide / 1.33, high) });
  }
  const best = options.reduce((one, other) => other.size > one.size ? other : one);
  return shown.panels.map((_, number) => ({
    x: number % best.columns * best.wide, y: Math.floor(number / best.columns) * best.high, width: best.wide, height: best.high
  }));
}

function viewsOf() {
  const ratio = Math.min(window.devicePixelRatio || 1, 2) * (shown.player.playing ? sharpness : 1);
  const width = view.clientWidth, height = view.clientHeight;
  const pixels = [Math.max(Math.round(width * ratio), 1), Math.max(Math.round(height * ratio), 1)];
  if (view.width !== pixels[0] || view.height !== pixels[1]) {
    view.width = pixels[0];
    view.height = pixels[1];
  }
  const scene = page.scenes[shown.number];
  const parts = partsOf(width, height, shown.panels.length);
  const aspect = parts[0].width / Math.max(parts[0].height, 1);
  if (!shown.framed || shown.framed.aspect !== aspect) {
    shown.framed = framed(aspect, 44 / Math.max(parts[0].height, 200));
  }
  const way = shown.framed[shown.follow ? "following" : "standing"];
  return shown.panels.map(function (panel, number) {
    const part = parts[number];
    const middle = shown.follow ? trackAt(panel, momentOf(panel)) : [0, 0];
    const seen = viewOf(shown.camera, way.frames[number], way.distance, aspect, middle);
    const ground = shown.follow ? { middle: middle, spread: way.distance } : panel.ground;
    return {
      panel: panel, matrix: seen.matrix, axes: seen.axes, azimuth: scene.azimuth, ground: ground,
      pose: panel.pose, frame: pose(panel, momentOf(panel), panel.pose),
      part: pixelsOf(part, width, height)
    };
  });
}

// A part of the stage in pixels of the canvas, from below; neighbours share their edge.
function pixelsOf(part, width, height) {
  const across = x => Math.round(x / Math.max(width, 1) * view.width);
  const up = y => Math.round((height - y) / Math.max(height, 1) * view.height);
  const left = across(part.x), bottom = up(part.y + part.height);
  return { x: left, y: bottom, width: across(part.x + part.width) - left, height: up(part.y) - bottom };
}

// The first views of all motions: of a camera that stands still, and of one that follows the two.
function framed(aspect, free) {
  const way = function (tracked) {
    const azimuth = page.scenes[shown.number].azimuth;
    const frames = shown.panels.map(panel => framing(panel, azimuth, aspect, free, tracked ? panel.track : null));
    return { frames: frames, distance: Math.max(...frames.map(frame => frame.distance)) };
  };
  return { aspect: aspect, standing: way(false), following: way(true) };
}

// Who goes far is followed from the beginning: standing still, the camera would have to be far away.
function chooseWay() {
  const both = framed(1.5, 0.1);
  setFollow(both.standing.distance > 1.8 * both.following.distance);
}

function setFollow(follow) {
  shown.follow = follow;
  byId("follow").setAttribute("aria-pressed", String(follow));
  ask();
}

// A motion that stands still shows a frame as it is; one that plays, what lies between frames, too.
function momentOf(panel) {
  return shown.player.playing ? shown.player.seconds : frameOf(shown.player, panel) / panel.fps;
}

function showTime() {
  const player = shown.player, frame = frameOf(player, player.master);
  byId("scrub").value = frame;
  const seconds = (frame / player.master.fps).toFixed(2) + " s";
  const count = "frame " + (frame + 1) + " / " + player.master.frames;
  byId("scrub").setAttribute("aria-valuetext", count + ", " + seconds);
  replaceChildren(byId("time"), [element("b", seconds), document.createTextNode(" · " + count)]);
  byId("play").classList.toggle("playing", player.playing);
  byId("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  shown.strips.forEach(function (strip) {
    const place = Math.min((player.playing ? player.seconds : frame / player.master.fps) / strip.panel.seconds, 1);
    strip.head.style.left = 100 * place + "%";
  });
}

function showScene(number) {
  const scene = page.scenes[number];
  const playing = shown.player ? shown.player.playing : !still.matches;
  shown.number = number;
  shown.panels = scene.panels.map(panel => readPanel(panel, page.skeletons));
  shown.panels.forEach(function (panel) {
    panel.ground = groundOf(panel);
    panel.track = trackOf(panel);
    panel.pose = new Float32Array(2 * panel.skeleton.joints * 3);
  });
  shown.camera = newCamera(scene.azimuth);
  shown.framed = null;
  shown.player = newPlayer(shown.panels);
  shown.player.playing = playing;
  shown.player.speed = shown.speed;
  byId("scenes").value = String(number);
  byId("caption").textContent = scene.caption;
  byId("scrub").max = shown.player.master.frames - 1;
  chooseWay();
  showStages();
  showStrips();
  showLabels();
  ask();
}

// The labels in the parts of the stage; the strips below stand in as many columns.
function showLabels() {
  const parts = partsOf(view.clientWidth, view.clientHeight, shown.panels.length);
  byId("strips").style.setProperty("--columns", parts.filter(part => part.y === 0).length);
  replaceChildren(byId("labels"), shown.panels.map(function (panel, number) {
    const label = element("span", panel.label);
    label.hidden = !panel.label;
    label.style.left = parts[number].x + 10 + "px";
    label.style.top = parts[number].y + 10 + "px";
    label.style.maxWidth = parts[number].width - 20 + "px";
    return label;
  }).concat(parts.slice(1).map(divider)));
}

// A line between a part of the stage and that before it.
function divider(part) {
  const line = element("i");
  Object.assign(line.style, part.x > 0
    ? { left: part.x - 1 + "px", top: part.y + "px", width: "2px", height: part.height + "px" }
    : { left: 0, top: part.y - 1 + "px", width: "100%", height: "2px" });
  return line;
}

// The stages of the denoising, where experts were recorded.
function showStages() {
  const routed = shown.panels.filter(panel => panel.routing)[0];
  const stages = routed ? routed.routing.stages : [];
  byId("stages").hidden = stages.length < 2;
  byId("worktitle").textContent = routed
    ? "Experts at work (stronger: larger gate)" : "Feet on the ground";
  const options = stages.map((span, number) => new Option("denoising steps t = " + span[0] + " to " + span[1], number));
  replaceChildren(byId("stages"), [new Option("all denoising steps", -1)].concat(options));
  if (shown.stage >= stages.length) shown.stage = -1;
  byId("stages").value = String(shown.stage);
}

function showStrips() {
  const paper = { page: night.matches ? [22, 25, 30] : [255, 255, 255], idle: night.matches ? [38, 43, 51] : [228, 232, 238] };
  shown.strips = shown.panels.map(panel => newStrip(panel, paper));
  replaceChildren(byId("strips"), shown.strips.map(strip => strip.box));
  byId("readout").textContent = "";
}

function newStrip(panel, paper) {
  const rows = stripRows(panel), canvas = element("canvas"), head = element("div", "", "head");
  const box = element("div", undefined, "strip"), names = element("div", undefined, "rows");
  const track = element("div", undefined, "track");
  const stage = panel.routing && shown.stage < panel.routing.stages.length ? shown.stage : -1;
  drawStrip(canvas, panel, rows, stage, page.look, paper);
  rowNames(panel, rows).forEach(function (entry) {
    const name = element("span", entry[0]);
    name.style.top = entry[1] + "px";
    names.appendChild(name);
  });
  if (panel.label) box.appendChild(element("div", panel.label, "name"));
  [canvas, head].forEach(child => track.appendChild(child));
  [names, track].forEach(child => box.appendChild(child));
  const strip = { panel: panel, box: box, head: head };
  listenToStrip(track, canvas, strip, rows, stage);
  return strip;
}

function listenToStrip(track, canvas, strip, rows, stage) {
  const panel = strip.panel;
  const at = function (event) {
    const box = canvas.getBoundingClientRect();
    const frame = Math.floor((event.clientX - box.left) / box.width * panel.frames);
    return { frame: Math.min(Math.max(frame, 0), panel.frames - 1), y: event.clientY - box.top };
  };
  const scrub = function (event) {
    shown.player.playing = false;
    goTo(shown.player, Math.floor(at(event).frame / panel.fps * shown.player.master.fps + 1e-6));
    ask();
  };
  track.addEventListener("pointerdown", function (event) {
    track.setPointerCapture(event.pointerId);
    scrub(event);
  });
  track.addEventListener("pointermove", function (event) {
    if (event.buttons) scrub(event);
    const place = at(event);
    const row = rows.filter(one => place.y >= one.top && place.y < one.top + one.high)[0];
    byId("readout").textContent = row ? describeCell(panel, row, place.frame, stage) : "";
  });
  track.addEventListener("pointerleave", () => { byId("readout").textContent = ""; });
}

function toggle() {
  shown.player.playing = !shown.player.playing;
  ask();
}

function step(frames) {
  stepped(shown.player, frames);
  ask();
}

function go(by) {
  showScene((shown.number + by + page.scenes.length) % page.scenes.length);
}

function zoom(factor) {
  zoomed(shown.camera, factor);
  ask();
}

function home() {
  shown.camera = newCamera(page.scenes[shown.number].azimuth);
  ask();
}

function listen() {
  byId("play").addEventListener("click", toggle);
  byId("scrub").addEventListener("input", function (event) {
    shown.player.playing = false;
    goTo(shown.player, Number(event.target.value));
    ask();
  });
  byId("speed").addEventListener("change", function (event) {
    shown.speed = shown.player.speed = Number(event.target.value);
  });
  byId("scenes").addEventListener("change", event => showScene(Number(event.target.value)));
  byId("stages").addEventListener("change", function (event) {
    shown.stage = Number(event.target.value);
    showStrips();
    ask();
  });
  byId("previous").addEventListener("click", () => go(-1));
  byId("next").addEventListener("click", () => go(1));
  byId("nearer").addEventListener("click", () => zoom(0.85));
  byId("farther").addEventListener("click", () => zoom(1 / 0.85));
  byId("home").addEventListener("click", home);
  byId("follow").addEventListener("click", () => setFollow(!shown.follow));
  listenToPointers(view, () => shown.camera, home, ask);
  const commands = {
    " ": toggle, ",": () => step(-1), ".": () => step(1), "+": () => zoom(0.85), "=": () => zoom(0.85),
    "-": () => zoom(1 / 0.85), "0": home, "n": () => go(1), "p": () => go(-1),
    "f": () => setFollow(!shown.follow)
  };
  listenToKeys(view, () => shown.camera, commands, ask);
  window.addEventListener("resize", function () {
    showLabels();
    ask();
  });
  // Older Safari knows addListener alone.
  const changed = function () {
    showStrips();
    ask();
  };
  if (night.addEventListener) night.addEventListener("change", changed);
  else night.addListener(changed);
}

// The context of WebGL may be taken away, for instance from a phone's page in the background.
function listenToContext() {
  view.addEventListener("webglcontextlost", function (event) {
    event.preventDefault();
    renderer = null;
  });
  view.addEventListener("webglcontextrestored", function () {
    startRenderer();
    ask();
  });
}

function showLegend() {
  const entries = PERSONS.map(function (name, person) {
    const entry = element("span"), dot = element("i");
    dot.style.background = "rgb(" + page.look.tones.middle[person].join(",") + ")";
    [dot, document.createTextNode(name)].forEach(child => entry.appendChild(child));
    return entry;
  });
  entries.push(element("span", "left limbs lighter"));
  [["ring", "foot on the ground"], ["ring slide", "sliding, over " + SLIDING * 100 + " cm/s"]].forEach(function (mark) {
    const entry = element("span");
    [element("i", "", mark[0]), document.createTextNode(mark[1])].forEach(child => entry.appendChild(child));
    entries.push(entry);
  });
  replaceChildren(byId("legend"), entries);
}

// Without WebGL the page says so, and shows the rest.
function startRenderer() {
  let reason = "This browser has no WebGL 2";
  try {
    renderer = newRenderer(view, page.look, parsed("shaders"));
  } catch (error) {
    reason = "WebGL does not work here (" + error.message.slice(0, 200) + ")";
  }
  byId("notice").hidden = Boolean(renderer);
  byId("scene").hidden = !renderer;
  byId("notice").textContent = reason + ", so the two people cannot be shown in 3D. Another browser may help, or "
    + "hardware acceleration in the settings of this one. What is known over time stands below.";
}

function start() {
  byId("main").hidden = false;
  byId("notice").hidden = true;
  startRenderer();
  page.scenes.forEach((scene, number) => {
    byId("scenes").appendChild(new Option(number + 1 + ". " + scene.caption.slice(0, 120), number));
  });
  byId("chooser").hidden = page.scenes.length < 2;
  // A page of one motion is named like it: once is enough.
  byId("name").hidden = page.scenes.length < 2 && byId("name").textContent === page.scenes[0].caption;
  SPEEDS.forEach(speed => byId("speed").appendChild(new Option(speed + "×", speed)));
  byId("speed").value = "1";
  showLegend();
  listen();
  listenToContext();
  showScene(0);
}

start();
