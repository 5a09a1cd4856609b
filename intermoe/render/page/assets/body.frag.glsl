#version 300 es
// The light of the videos (painter.py): it reaches around the form, and a darker rim parts body from body.
precision highp float;
in vec3 normal;
in vec3 colour;
in float height;
uniform mat3 view; // rows: right, up and toward us, in the world
uniform vec3 light; // in the world, toward it
uniform float night; // 1 on a dark page
out vec4 pixel;

void main() {
  vec3 n = normalize(normal);
  vec3 seen = view * n;
  vec3 toward = view * light;
  vec3 between = normalize(toward + vec3(0, 0, 1));
  float shade = 0.50 + 0.62 * pow(0.5 + 0.5 * dot(seen, toward), 1.5) + 0.08 * seen.y;
  shade *= 1.0 - 0.30 * pow(clamp(1.0 - seen.z, 0.0, 1.0), 3.0);
  shade *= mix(1.0, 0.92, night);
  float gloss = 0.13 * pow(max(dot(seen, between), 0.0), 22.0);
  pixel = vec4(pow(clamp(pow(colour * shade, vec3(2.2)) + gloss, 0.0, 1.0), vec3(1.0 / 2.2)), 1);
}
