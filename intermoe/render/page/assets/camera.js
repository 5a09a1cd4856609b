// One camera for all motions of a scene: each is seen from the same side, distance and shift, around its own middle.

const FIELD_OF_VIEW = 28 * Math.PI / 180;
const FIRST_ELEVATION = 16 * Math.PI / 180;
// How far a body reaches beyond its joints, metres: to the sides, and above.
const FLESH = 0.2;
const SKULL = 0.3;

function newCamera(azimuth) {
  return { azimuth: azimuth, elevation: FIRST_ELEVATION, zoom: 1, shift: [0, 0, 0] };
}

// The directions right, up and toward us of a camera.
function axesOf(camera) {
  const sinA = Math.sin(camera.azimuth), cosA = Math.cos(camera.azimuth);
  const sinE = Math.sin(camera.elevation), cosE = Math.cos(camera.elevation);
  return [[cosA, 0, -sinA], [-sinA * sinE, cosE, -cosA * sinE], [sinA * cosE, sinE, cosA * cosE]];
}

// Where the first camera of a motion looks and from how far: the nearest place that sees all joints in all frames.
// The lowest ``free`` of the picture's height is left to what lies over it. With a track, all is relative to it: the camera
// follows who is seen.
function framing(panel, azimuth, aspect, free, track) {
  const axes = axesOf(newCamera(azimuth));
  const slopeY = Math.tan(FIELD_OF_VIEW / 2), slopeX = slopeY * aspect, slopeDown = slopeY * (1 - 2 * free);
  const joints = panel.joints;
  // What bounds the eye from below and the left, and from above and the right.
  const low = [-Infinity, -Infinity], high = [-Infinity, -Infinity];
  let nearest = -Infinity, farthest = Infinity;
  const perFrame = joints.length / panel.frames;
  for (let at = 0; at < joints.length; at += 3) {
    const frame = Math.floor(at / perFrame);
    const away = track ? [track[2 * frame], track[2 * frame + 1]] : [0, 0];
    const point = [joints[at] - away[0], joints[at + 1], joints[at + 2] - away[1]];
    const x = dot(point, axes[0]), y = dot(point, axes[1]), z = dot(point, axes[2]);
    high[0] = Math.max(high[0], x + FLESH + slopeX * z);
    low[0] = Math.max(low[0], FLESH - x + slopeX * z);
    high[1] = Math.max(high[1], y + SKULL + slopeY * z);
    low[1] = Math.max(low[1], FLESH - y + slopeDown * z);
    nearest = Math.max(nearest, z);
    farthest = Math.min(farthest, z);
  }
  const eyeZ = Math.max((high[0] + low[0]) / (2 * slopeX), (high[1] + low[1]) / (slopeY + slopeDown));
  // Half-way between the lowest and the highest place that will do.
  const eyeY = (high[1] - low[1] + (slopeDown - slopeY) * eyeZ) / 2;
  const eye = [(high[0] - low[0]) / 2, eyeY, eyeZ];
  const middleZ = (nearest + farthest) / 2;
  const target = added(added(added([0, 0, 0], eye[0], axes[0]), eye[1], axes[1]), middleZ, axes[2]);
  return { target: target, distance: Math.max(eyeZ - middleZ, 0.5) };
}

// The middle of all persons on the ground in each frame, x and z, steadied: the mean over half a second.
function trackOf(panel) {
  const size = panel.persons * panel.skeleton.joints * 3, reach = Math.round(panel.fps / 4);
  const sums = new Float64Array(2 * panel.frames + 2);
  for (let frame = 0; frame < panel.frames; frame++) {
    for (let axis = 0; axis < 2; axis++) {
      let low = Infinity, high = -Infinity;
      for (let at = frame * size + 2 * axis; at < (frame + 1) * size; at += 3) {
        low = Math.min(low, panel.joints[at]);
        high = Math.max(high, panel.joints[at]);
      }
      sums[2 * frame + 2 + axis] = sums[2 * frame + axis] + (low + high) / 2;
    }
  }
  const track = new Float32Array(2 * panel.frames);
  for (let frame = 0; frame < panel.frames; frame++) {
    const near = Math.min(reach, frame, panel.frames - 1 - frame);
    for (let axis = 0; axis < 2; axis++) {
      track[2 * frame + axis] = (sums[2 * (frame + near + 1) + axis] - sums[2 * (frame - near) + axis]) / (2 * near + 1);
    }
  }
  return track;
}

// Where the track is at a moment, between its frames.
function trackAt(panel, moment) {
  const place = Math.min(Math.max(moment * panel.fps, 0), panel.frames - 1);
  const frame = Math.floor(place + 1e-6), after = Math.min(frame + 1, panel.frames - 1), part = Math.max(place - frame, 0);
  return [0, 1].map(axis => panel.track[2 * frame + axis] * (1 - part) + panel.track[2 * after + axis] * part);
}

// The middle of a motion on the ground and how far it reaches from there.
function groundOf(panel) {
  const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
  for (let at = 0; at < panel.joints.length; at += 3) {
    [0, 1].forEach(function (axis) {
      const value = panel.joints[at + 2 * axis];
      low[axis] = Math.min(low[axis], value);
      high[axis] = Math.max(high[axis], value);
    });
  }
  const middle = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
  return { middle: middle, spread: Math.hypot(high[0] - low[0], high[1] - low[1]) / 2 };
}

// The matrix of a camera [16, by columns], and its axes; ``distance`` is that of all motions of the scene, ``middle`` the
// place on the ground that it follows.
function viewOf(camera, frame, distance, aspect, middle) {
  const axes = axesOf(camera);
  const away = distance * camera.zoom;
  let target = added(frame.target, 1, [middle[0], 0, middle[1]]);
  camera.shift.forEach((by, axis) => { target = added(target, by * distance, axes[axis]); });
  const eye = added(target, away, axes[2]);
  // Never below the ground, whose other side shows nothing.
  eye[1] = Math.max(eye[1], 0.05);
  const near = away * 0.02, far = away + 60 + distance * 4;
  const focal = 1 / Math.tan(FIELD_OF_VIEW / 2);
  const depth = (far + near) / (near - far), shift = 2 * far * near / (near - far);
  const matrix = new Float32Array(16);
  for (let column = 0; column < 4; column++) {
    const part = column < 3 ? axes.map(axis => axis[column]) : axes.map(axis => -dot(axis, eye));
    matrix[4 * column] = part[0] * focal / aspect;
    matrix[4 * column + 1] = part[1] * focal;
    matrix[4 * column + 2] = part[2] * depth + (column === 3 ? shift : 0);
    matrix[4 * column + 3] = -part[2];
  }
  return { matrix: matrix, axes: axes };
}

function turned(camera, azimuth, elevation) {
  camera.azimuth += azimuth;
  camera.elevation = Math.min(Math.max(camera.elevation + elevation, 0.02), 1.55);
}

function zoomed(camera, factor) {
  camera.zoom = Math.min(Math.max(camera.zoom * factor, 0.12), 6);
}

// By parts of the picture's height.
function moved(camera, right, up) {
  const size = 2 * Math.tan(FIELD_OF_VIEW / 2) * camera.zoom;
  camera.shift[0] -= right * size;
  camera.shift[1] -= up * size;
}
