#version 300 es
precision highp float;
in float high;
uniform vec3 top;
uniform vec3 bottom;
out vec4 pixel;

void main() {
  pixel = vec4(mix(top, bottom, min((1.0 - high) * 2.0, 1.0)), 1);
}
