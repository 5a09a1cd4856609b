// Drawing the motions of a scene into one canvas, each in its own part of it.

const SHADOW_CELLS = 512;
const MARK_RADIUS = 0.075;
const MOST_MARKS = 16;
// Metres a second along the ground from which a joint that touches it is said to slide.
const SLIDING = 0.25;
const SLIDING_TONE = [0.85, 0.15, 0.22];
const NIGHT = {
  skyTop: [20, 23, 28], sky: [31, 35, 42], ground: [41, 46, 54], line: [78, 86, 98], shadow: [9, 11, 14]
};

function share(colour) {
  return colour.map(value => value / 255);
}

// The renderer, or null where the browser has no WebGL 2.
function newRenderer(canvas, look, shaders) {
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: false, powerPreference: "low-power" });
  if (!gl) return null;
  const program = (vertex, fragment) => programOf(gl, shaders[vertex], shaders[fragment]);
  const programs = {
    limb: program("limb.vert", "body.frag"), limbShadow: program("limb.vert", "shadow.frag"),
    form: program("ellipsoid.vert", "body.frag"), formShadow: program("ellipsoid.vert", "shadow.frag"),
    sky: program("screen.vert", "sky.frag"), ground: program("ground.vert", "ground.frag")
  };
  const limbLayout = [["start", 4], ["end", 4], ["tone", 3]];
  const formLayout = [["middle", 3], ["right", 3], ["up", 3], ["front", 3], ["tone", 3]];
  // Shadows are blurred: few triangles do.
  const limbs = limbMesh(18, 5), sphere = sphereMesh(24, 14), roughLimbs = limbMesh(8, 3), roughSphere = sphereMesh(12, 7);
  const shapes = {
    limb: instanced(gl, programs.limb, limbs, limbLayout),
    limbShadow: instanced(gl, programs.limbShadow, roughLimbs, limbLayout),
    form: instanced(gl, programs.form, sphere, formLayout),
    formShadow: instanced(gl, programs.formShadow, roughSphere, formLayout)
  };
  const tools = {
    gl: gl, look: look, programs: programs, shapes: shapes,
    skySquare: square(gl, programs.sky), groundSquare: square(gl, programs.ground),
    shadows: textureTarget(gl, SHADOW_CELLS)
  };
  return { draw: (views, dark) => drawViews(tools, canvas, views, dark) };
}

// views: of each motion its part of the canvas (pixels, from below), its camera's view, its ground and its pose.
function drawViews(tools, canvas, views, dark) {
  const gl = tools.gl;
  views.forEach(function (view) {
    const bodies = bodiesOf(view, tools.look);
    uploaded(gl, tools.shapes.limb, bodies.limbs);
    uploaded(gl, tools.shapes.limbShadow, bodies.limbs);
    uploaded(gl, tools.shapes.form, bodies.forms);
    uploaded(gl, tools.shapes.formShadow, bodies.forms);
    const region = castShadows(tools, view, bodies.points);
    const part = view.part;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(part.x, part.y, part.width, part.height);
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(part.x, part.y, part.width, part.height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const colours = dark ? NIGHT : tools.look.stage;
    drawSky(tools, colours);
    drawGround(tools, view, colours, region, dark);
    drawBodies(tools, view, dark);
    gl.disable(gl.SCISSOR_TEST);
  });
}

// The numbers of all persons' limbs and ellipsoids, and all their points.
function bodiesOf(view, look) {
  const limbs = [], forms = [];
  let all = [];
  view.panel.scale.forEach(function (scale, person) {
    const skeleton = view.panel.skeleton;
    const points = bodyPoints(skeleton, view.pose, person, scale);
    const tone = side => share(look.tones[side][person]);
    skeleton.limbs.forEach(function (limb) {
      limbs.push(...points[limb[0]], limb[2] * scale, ...points[limb[1]], limb[3] * scale, ...tone(limb[4]));
    });
    skeleton.ellipsoids.forEach(function (form) {
      const middle = points[form[0]];
      const axes = [1, 2, 3].map(axis => subtract(points[form[0] + axis], middle));
      forms.push(...middle, ...axes[0], ...axes[1], ...axes[2], ...tone(form[1]));
    });
    all = all.concat(points);
  });
  return { limbs: limbs, forms: forms, points: all };
}

// Metres of shadow along x and z for a metre of height: the light stays where it was for the first view.
function leanOf(view, look) {
  const right = look.shadowLean[0], away = look.shadowLean[1];
  const sin = Math.sin(view.azimuth), cos = Math.cos(view.azimuth);
  return [right * cos - away * sin, -right * sin - away * cos];
}

// Toward the light, in the world: above, left of the first view and behind it.
function lightOf(view) {
  const axes = axesOf(newCamera(view.azimuth));
  return unit(added(added(added([0, 0, 0], -0.50, axes[0]), 0.72, axes[1]), 0.62, axes[2]));
}

// Draw the map of shadows; the part of the ground that it covers: x, z, width, depth.
function castShadows(tools, view, points) {
  const gl = tools.gl, look = tools.look, lean = leanOf(view, look), rim = 0.35;
  const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
  points.forEach(function (point) {
    const height = Math.max(point[1] + look.sole, 0);
    [point[0] + height * lean[0], point[2] + height * lean[1]].forEach(function (value, axis) {
      low[axis] = Math.min(low[axis], value - rim);
      high[axis] = Math.max(high[axis], value + rim);
    });
  });
  const region = [low[0], low[1], high[0] - low[0], high[1] - low[1]];
  gl.bindFramebuffer(gl.FRAMEBUFFER, tools.shadows.frame);
  gl.viewport(0, 0, tools.shadows.size, tools.shadows.size);
  gl.clearColor(0, 0, 0, 1);
  gl.clear(gl.COLOR_BUFFER_BIT);
  gl.disable(gl.DEPTH_TEST);
  gl.enable(gl.BLEND);
  gl.blendEquation(gl.MAX);
  ["limbShadow", "formShadow"].forEach(function (name) {
    useBody(tools, name, view, 1, region);
    drawn(gl, tools.shapes[name]);
  });
  gl.blendEquation(gl.FUNC_ADD);
  gl.disable(gl.BLEND);
  // Coarser copies, of which the ground's program takes those that are as coarse as its blur is wide.
  gl.bindTexture(gl.TEXTURE_2D, tools.shadows.texture);
  gl.generateMipmap(gl.TEXTURE_2D);
  return region;
}

function useBody(tools, name, view, shadow, region) {
  const gl = tools.gl, program = tools.programs[name], at = program.at;
  gl.useProgram(program.program);
  gl.uniformMatrix4fv(at.matrix, false, view.matrix);
  gl.uniform1f(at.shadow, shadow);
  gl.uniform2fv(at.lean, leanOf(view, tools.look));
  gl.uniform4fv(at.region, region);
  gl.uniform1f(at.sole, tools.look.sole);
  return at;
}

function drawSky(tools, colours) {
  const gl = tools.gl, program = tools.programs.sky;
  gl.useProgram(program.program);
  gl.uniform3fv(program.at.top, share(colours.skyTop));
  gl.uniform3fv(program.at.bottom, share(colours.sky));
  gl.bindVertexArray(tools.skySquare);
  gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
}

function drawGround(tools, view, colours, region, dark) {
  const gl = tools.gl, at = tools.programs.ground.at, look = tools.look;
  gl.useProgram(tools.programs.ground.program);
  gl.uniformMatrix4fv(at.matrix, false, view.matrix);
  gl.uniform2fv(at.middle, view.ground.middle);
  gl.uniform1f(at.spread, view.ground.spread);
  gl.uniform1f(at.reach, view.ground.spread + 4);
  gl.uniform1f(at.sole, look.sole);
  gl.uniform3fv(at.earth, share(colours.ground));
  gl.uniform3fv(at.line, share(colours.line));
  gl.uniform3fv(at.shade, share(colours.shadow));
  gl.uniform1f(at.strength, dark ? 1.3 : 1.0);
  gl.uniform4fv(at.region, region);
  gl.activeTexture(gl.TEXTURE0);
  gl.bindTexture(gl.TEXTURE_2D, tools.shadows.texture);
  gl.uniform1i(at.shadows, 0);
  const marks = marksOf(view, look);
  gl.uniform1i(at.count, marks.length);
  if (marks.length) {
    gl.uniform4fv(at.marks, [].concat(...marks.map(mark => mark.circle)));
    gl.uniform3fv(at.tones, [].concat(...marks.map(mark => mark.tone)));
  }
  gl.enable(gl.DEPTH_TEST);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  gl.bindVertexArray(tools.groundSquare);
  gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  gl.bindVertexArray(null);
  gl.disable(gl.BLEND);
}

// A ring under each joint that touches the ground, red where it slides.
function marksOf(view, look) {
  const panel = view.panel, contacts = panel.skeleton.contacts, marks = [];
  for (let person = 0; person < panel.persons; person++) {
    contacts.forEach(function (joint, number) {
      if (!panel.contacts[(view.frame * panel.persons + person) * contacts.length + number]) return;
      const at = (person * panel.skeleton.joints + joint) * 3;
      const tone = slideOf(panel, view.frame, person, joint) > SLIDING ? SLIDING_TONE : share(look.tones.middle[person]);
      marks.push({ circle: [view.pose[at], view.pose[at + 2], MARK_RADIUS * panel.scale[person], 1], tone: tone });
    });
  }
  return marks.slice(0, MOST_MARKS);
}

// Speed along the ground to the next frame, metres a second.
function slideOf(panel, frame, person, joint) {
  const start = Math.max(Math.min(frame, panel.frames - 2), 0), end = Math.min(start + 1, panel.frames - 1);
  const at = number => ((number * panel.persons + person) * panel.skeleton.joints + joint) * 3;
  const x = panel.joints[at(end)] - panel.joints[at(start)];
  const z = panel.joints[at(end) + 2] - panel.joints[at(start) + 2];
  return Math.hypot(x, z) * panel.fps;
}

function drawBodies(tools, view, dark) {
  const gl = tools.gl, axes = view.axes;
  // By columns: of each direction of the world, its part to the right, up and toward us.
  const rows = [0, 1, 2].reduce((all, column) => all.concat(axes.map(axis => axis[column])), []);
  ["limb", "form"].forEach(function (name) {
    const at = useBody(tools, name, view, 0, [0, 0, 1, 1]);
    gl.uniformMatrix3fv(at.view, false, rows);
    gl.uniform3fv(at.light, lightOf(view));
    gl.uniform1f(at.night, dark ? 1 : 0);
    drawn(gl, tools.shapes[name]);
  });
  gl.disable(gl.DEPTH_TEST);
}
