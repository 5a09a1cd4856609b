// The page: a scene is chosen, its clock runs, and what changes is drawn.

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
    panel.pose = new Float32Array(panel.persons * panel.skeleton.joints * 3);
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
  const most = Math.max(...page.scenes.flatMap(scene => scene.panels.map(panel => panel.scale.length)));
  const entries = (most > 1 ? PERSONS : []).map(function (name, person) {
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
  byId("notice").textContent = reason + ", so motion cannot be shown in 3D. Another browser may help, or "
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
