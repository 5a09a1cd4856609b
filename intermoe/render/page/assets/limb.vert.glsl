#version 300 es
// A limb: a sphere swept from one point to another while its radius changes. Each vertex lies on one of the two end
// spheres; the cone between them touches both at the same latitude, so the normal is exact everywhere.
precision highp float;
in vec3 grid;  // angle around the limb, which end (0 or 1), how far along that end's part of the sphere
in vec4 start; // point and radius
in vec4 end;
in vec3 tone;
uniform mat4 matrix;
uniform float shadow; // 1: laid on the ground along the light, into the map of it
uniform vec2 lean;
uniform vec4 region; // of the ground: corner x, z, then size
uniform float sole;
out vec3 normal;
out vec3 colour;
out float height;

void main() {
  vec3 axis = end.xyz - start.xyz;
  float apart = max(length(axis), 1e-6);
  axis = axis / apart;
  vec3 side = normalize(cross(axis, abs(axis.y) < 0.9 ? vec3(0, 1, 0) : vec3(1, 0, 0)));
  float tilt = asin(clamp((start.w - end.w) / apart, -1.0, 1.0));
  float latitude = grid.y < 0.5 ? mix(-1.5707963, tilt, grid.z) : mix(tilt, 1.5707963, grid.z);
  normal = cos(latitude) * (cos(grid.x) * side + sin(grid.x) * cross(axis, side)) + sin(latitude) * axis;
  vec4 sphere = grid.y < 0.5 ? start : end;
  vec3 place = sphere.xyz + sphere.w * normal;
  colour = tone;
  height = place.y + sole;
  vec2 spot = (place.xz + max(height, 0.0) * lean - region.xy) / region.zw * 2.0 - 1.0;
  gl_Position = shadow > 0.5 ? vec4(spot, 0, 1) : matrix * vec4(place, 1);
}
