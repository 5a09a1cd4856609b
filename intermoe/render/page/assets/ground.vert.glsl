#version 300 es
precision highp float;
in vec2 corner;
uniform mat4 matrix;
uniform vec2 middle;
uniform float reach;
uniform float sole;
out vec2 place;

void main() {
  place = middle + corner * reach;
  gl_Position = matrix * vec4(place.x, -sole, place.y, 1);
}
