#version 300 es
precision highp float;
in vec2 corner;
out float high;

void main() {
  high = corner.y * 0.5 + 0.5;
  gl_Position = vec4(corner, 0.9999, 1);
}
