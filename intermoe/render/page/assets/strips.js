// The strips on the page: made for a scene, and listened to.

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
