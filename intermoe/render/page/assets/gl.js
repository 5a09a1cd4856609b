// The few pieces of WebGL 2 that the renderer is made of: programs, meshes, instances, a texture to draw into.

function compiled(gl, kind, source) {
  const shader = gl.createShader(kind);
  gl.shaderSource(shader, source);
  gl.compileShader(shader);
  if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
    throw new Error("shader: " + gl.getShaderInfoLog(shader));
  }
  return shader;
}

// A program with the places of its attributes and uniforms by name.
function programOf(gl, vertex, fragment) {
  const program = gl.createProgram();
  gl.attachShader(program, compiled(gl, gl.VERTEX_SHADER, vertex));
  gl.attachShader(program, compiled(gl, gl.FRAGMENT_SHADER, fragment));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error("program: " + gl.getProgramInfoLog(program));
  }
  const places = {};
  for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
    const name = gl.getActiveUniform(program, i).name;
    places[name.replace("[0]", "")] = gl.getUniformLocation(program, name);
  }
  return { program: program, at: places, attribute: name => gl.getAttribLocation(program, name) };
}

// What is drawn many times: a mesh, and a buffer with the numbers of each copy (layout: [name, numbers]).
function instanced(gl, program, mesh, layout) {
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(mesh.vertices), gl.STATIC_DRAW);
  const grid = program.attribute("grid");
  gl.enableVertexAttribArray(grid);
  gl.vertexAttribPointer(grid, 3, gl.FLOAT, false, 0, 0);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint16Array(mesh.indices), gl.STATIC_DRAW);
  const copies = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, copies);
  const stride = layout.reduce((sum, part) => sum + part[1], 0);
  let offset = 0;
  layout.forEach(function (part) {
    const place = program.attribute(part[0]);
    // A program may do without one.
    if (place >= 0) {
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, part[1], gl.FLOAT, false, stride * 4, offset * 4);
      gl.vertexAttribDivisor(place, 1);
    }
    offset += part[1];
  });
  gl.bindVertexArray(null);
  return { array: array, copies: copies, stride: stride, count: mesh.indices.length };
}

function uploaded(gl, shape, numbers) {
  gl.bindBuffer(gl.ARRAY_BUFFER, shape.copies);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(numbers), gl.DYNAMIC_DRAW);
  shape.instances = numbers.length / shape.stride;
}

function drawn(gl, shape) {
  gl.bindVertexArray(shape.array);
  gl.drawElementsInstanced(gl.TRIANGLES, shape.count, gl.UNSIGNED_SHORT, 0, shape.instances);
  gl.bindVertexArray(null);
}

// A square as two triangles, for the sky and the ground.
function square(gl, program) {
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
  const place = program.attribute("corner");
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, 2, gl.FLOAT, false, 0, 0);
  gl.bindVertexArray(null);
  return array;
}

// Triangles of a grid of points, rows one above the other, columns closed to a ring.
function ringIndices(rows, columns) {
  const indices = [];
  for (let row = 0; row + 1 < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const a = row * columns + column, b = row * columns + (column + 1) % columns;
      indices.push(a, b, a + columns, b, b + columns, a + columns);
    }
  }
  return indices;
}

// For limb.vert: angle, end, and the place on that end's part of the sphere.
function limbMesh(columns, rows) {
  const vertices = [];
  for (let end = 0; end < 2; end++) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        vertices.push(column / columns * 2 * Math.PI, end, row / (rows - 1));
      }
    }
  }
  return { vertices: vertices, indices: ringIndices(2 * rows, columns) };
}

function sphereMesh(columns, rows) {
  const vertices = [];
  for (let row = 0; row < rows; row++) {
    const latitude = (row / (rows - 1) - 0.5) * Math.PI;
    for (let column = 0; column < columns; column++) {
      const angle = column / columns * 2 * Math.PI;
      vertices.push(Math.cos(latitude) * Math.cos(angle), Math.sin(latitude), Math.cos(latitude) * Math.sin(angle));
    }
  }
  return { vertices: vertices, indices: ringIndices(rows, columns) };
}

function textureTarget(gl, size) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, size, size, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  const frame = gl.createFramebuffer();
  gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  return { texture: texture, frame: frame, size: size };
}
