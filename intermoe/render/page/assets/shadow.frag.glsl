#version 300 es
// Into the map of the ground: red where light is kept away, green the more the nearer to the ground.
precision highp float;
in float height;
out vec4 pixel;

void main() {
  pixel = vec4(1, sqrt(clamp(1.0 - height / 0.28, 0.0, 1.0)), 0, 1);
}
