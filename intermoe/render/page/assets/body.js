// The points of a body: its joints, then what the shape adds to them. The same as Body.points of render/body.py.

function subtract(a, b) {
  return [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
}

function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

function unit(a) {
  const length = Math.sqrt(dot(a, a)) + 1e-9;
  return [a[0] / length, a[1] / length, a[2] / length];
}

function added(a, factor, b) {
  return [a[0] + factor * b[0], a[1] + factor * b[1], a[2] + factor * b[2]];
}

function bodyPoints(skeleton, joints, person, scale) {
  const points = [];
  for (let joint = 0; joint < skeleton.joints; joint++) {
    const at = (person * skeleton.joints + joint) * 3;
    points.push([joints[at], joints[at + 1], joints[at + 2]]);
  }
  const mean = function (numbers) {
    return numbers.reduce((sum, joint) => added(sum, 1 / numbers.length, points[joint]), [0, 0, 0]);
  };
  const tips = skeleton.tips.map(function (tip) {
    const along = unit(subtract(points[tip[0]], points[tip[1]]));
    return added(points[tip[0]], tip[2] * scale, along);
  });
  const forms = skeleton.forms.map(form => formPoints(form, mean, scale));
  return points.concat(tips, ...forms);
}

// The middle of an ellipsoid and the ends of its three half axes.
function formPoints(form, mean, scale) {
  const up = unit(subtract(mean(form.above), mean(form.below)));
  const front = unit(cross(subtract(mean(form.across.slice(0, 1)), mean(form.across.slice(1))), up));
  const middle = added(added(mean(form.middle), scale * form.up, up), scale * form.forward, front);
  const axes = [cross(up, front), up, front];
  return [middle].concat(axes.map((axis, number) => added(middle, form.half[number] * scale, axis)));
}
