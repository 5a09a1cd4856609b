#version 300 es
// An ellipsoid by its middle and the vectors of its half axes, which are at right angles to each other.
precision highp float;
in vec3 grid; // a point of the unit sphere
in vec3 middle;
in vec3 right;
in vec3 up;
in vec3 front;
in vec3 tone;
uniform mat4 matrix;
uniform float shadow;
uniform vec2 lean;
uniform vec4 region;
uniform float sole;
out vec3 normal;
out vec3 colour;
out float height;

void main() {
  vec3 place = middle + grid.x * right + grid.y * up + grid.z * front;
  normal = normalize(grid.x * right / dot(right, right) + grid.y * up / dot(up, up) + grid.z * front / dot(front, front));
  colour = tone;
  height = place.y + sole;
  vec2 spot = (place.xz + max(height, 0.0) * lean - region.xy) / region.zw * 2.0 - 1.0;
  gl_Position = shadow > 0.5 ? vec4(spot, 0, 1) : matrix * vec4(place, 1);
}
