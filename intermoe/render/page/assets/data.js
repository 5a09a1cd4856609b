// Reading the page's data: numbers in base64, as encode.py writes them.

function parsed(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function numbersOf(base64, size, read) {
  const bytes = bytesOf(base64);
  const view = new DataView(bytes.buffer);
  const numbers = new Float32Array(bytes.length / size);
  for (let i = 0; i < numbers.length; i++) numbers[i] = view[read](i * size, true);
  return numbers;
}

// Positions in metres, [frames, persons, joints, 3] in a row.
function jointsOf(panel, numJoints) {
  const root = numbersOf(panel.root, 4, "getFloat32");
  const offsets = numbersOf(panel.offsets, 2, "getInt16");
  const others = numJoints - 1;
  const bodies = panel.frames * panel.scale.length;
  const joints = new Float32Array(bodies * numJoints * 3);
  for (let body = 0; body < bodies; body++) {
    for (let axis = 0; axis < 3; axis++) {
      const origin = root[body * 3 + axis];
      joints[body * numJoints * 3 + axis] = origin;
      for (let joint = 0; joint < others; joint++) {
        const offset = offsets[(body * others + joint) * 3 + axis] * panel.step;
        joints[(body * numJoints + joint + 1) * 3 + axis] = origin + offset;
      }
    }
  }
  return joints;
}

// What is shown of a panel; reading takes a moment, so it happens when a scene is chosen.
function readPanel(panel, skeletons) {
  const skeleton = skeletons[panel.skeleton];
  return {
    label: panel.label,
    skeleton: skeleton,
    fps: panel.fps,
    frames: panel.frames,
    seconds: panel.frames / panel.fps,
    persons: panel.scale.length,
    scale: panel.scale,
    joints: jointsOf(panel, skeleton.joints),
    contacts: bytesOf(panel.contacts),
    routing: panel.routing && Object.assign({}, panel.routing, { gates: bytesOf(panel.routing.gates) })
  };
}

// The joints of all persons at a moment, between two frames where it lies between them.
function pose(panel, moment, out) {
  const size = panel.persons * panel.skeleton.joints * 3;
  const place = Math.min(Math.max(moment * panel.fps, 0), panel.frames - 1);
  const before = Math.floor(place + 1e-6);
  const after = Math.min(before + 1, panel.frames - 1);
  const part = Math.max(place - before, 0);
  for (let i = 0; i < size; i++) {
    const from = panel.joints[before * size + i];
    out[i] = from + part * (panel.joints[after * size + i] - from);
  }
  return before;
}
