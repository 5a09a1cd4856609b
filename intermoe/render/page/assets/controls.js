// What pointers, wheels and keys do to the camera. ``act`` is called after each change.

function listenToPointers(canvas, camera, home, act) {
  const pointers = new Map();
  canvas.addEventListener("pointerdown", function (event) {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  ["pointerup", "pointercancel"].forEach(name => {
    canvas.addEventListener(name, event => pointers.delete(event.pointerId));
  });
  canvas.addEventListener("pointermove", function (event) {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    const other = Array.from(pointers).filter(entry => entry[0] !== event.pointerId).map(entry => entry[1])[0];
    if (other) pinched(camera(), before, now, other, canvas.clientHeight);
    else dragged(camera(), now[0] - before[0], now[1] - before[1], event.shiftKey, canvas.clientHeight);
    pointers.set(event.pointerId, now);
    act();
  });
  canvas.addEventListener("wheel", function (event) {
    event.preventDefault();
    // Lines or pixels, as the device counts.
    const amount = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
    zoomed(camera(), Math.exp(Math.min(Math.max(amount, -120), 120) * 0.0015));
    act();
  }, { passive: false });
  canvas.addEventListener("dblclick", home);
  canvas.addEventListener("contextmenu", event => event.preventDefault());
}

function dragged(camera, right, down, shifted, height) {
  if (shifted) moved(camera, right / height, -down / height);
  else turned(camera, -right * 0.008, down * 0.006);
}

function pinched(camera, before, now, other, height) {
  const apart = point => Math.max(Math.hypot(point[0] - other[0], point[1] - other[1]), 1);
  zoomed(camera, apart(before) / apart(now));
  // Two fingers move what lies between them: half of what one of them moves.
  moved(camera, (now[0] - before[0]) / 2 / height, -(now[1] - before[1]) / 2 / height);
}

// Keys of the view itself, where it has the focus.
const VIEW_KEYS = {
  ArrowLeft: camera => turned(camera, -0.12, 0), ArrowRight: camera => turned(camera, 0.12, 0),
  ArrowUp: camera => turned(camera, 0, 0.08), ArrowDown: camera => turned(camera, 0, -0.08)
};

function listenToKeys(canvas, camera, commands, act) {
  canvas.addEventListener("keydown", function (event) {
    if (!VIEW_KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    VIEW_KEYS[event.key](camera());
    act();
  });
  document.addEventListener("keydown", function (event) {
    const command = commands[event.key.toLowerCase()];
    if (!command || event.ctrlKey || event.metaKey || event.altKey) return;
    // A list takes letters to choose by, and a button takes the space bar.
    const tag = event.target.tagName;
    if (tag === "SELECT" || event.key === " " && (tag === "BUTTON" || tag === "SUMMARY")) return;
    event.preventDefault();
    command();
  });
}
