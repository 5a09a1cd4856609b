// The stage: its parts, one for each motion, what each camera sees there, and the labels over them.

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

// The first views of all motions: of a camera that stands still, and of one that follows who is seen.
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
