#version 300 es
// The ground: a grid that fades out, the shadows on it, and marks under joints that touch it.
precision highp float;
in vec2 place;
uniform vec2 middle;
uniform float spread; // metres from the middle that the motion reaches
uniform vec3 earth;
uniform vec3 line;
uniform vec3 shade;
uniform float strength; // of shadows
uniform sampler2D shadows;
uniform vec4 region;
uniform vec4 marks[16]; // x, z, radius, weight
uniform vec3 tones[16];
uniform int count;
out vec4 pixel;

float grid(float spacing, float width, vec2 footprint) {
  vec2 off = abs(mod(place + spacing / 2.0, spacing) - spacing / 2.0);
  // Lines keep their weight in the distance and do not shimmer.
  vec2 cover = clamp((width / 2.0 + footprint / 2.0 - off) / footprint, 0.0, 1.0) * min(width / footprint, 1.0);
  return max(cover.x, cover.y);
}

float blurred(vec2 at, float radius, bool tight) {
  float sum = 0.0, weights = 0.0;
  float coarse = log2(radius / region.z * float(textureSize(shadows, 0).x));
  for (int i = -2; i <= 2; i++) {
    for (int j = -2; j <= 2; j++) {
      vec2 step = vec2(i, j);
      float weight = exp(-dot(step, step) * 0.4);
      vec4 texel = textureLod(shadows, at + step * radius / region.zw, max(coarse, 0.0));
      sum += weight * (tight ? texel.g : texel.r);
      weights += weight;
    }
  }
  return sum / weights;
}

void main() {
  vec2 footprint = max(fwidth(place), vec2(1e-5));
  float lines = max(0.55 * grid(0.5, 0.010, footprint), 0.8 * grid(1.0, 0.016, footprint));
  vec3 colour = mix(earth, line, lines);
  vec2 at = (place - region.xy) / region.zw;
  if (all(greaterThan(at, vec2(0))) && all(lessThan(at, vec2(1)))) {
    float dark = max(0.41 * blurred(at, 0.045, false), 0.74 * blurred(at, 0.016, true));
    colour = mix(colour, shade, dark * strength);
  }
  for (int i = 0; i < 16; i++) {
    if (i >= count) break;
    float away = distance(place, marks[i].xy) / marks[i].z;
    float edge = fwidth(away) + 0.02;
    float disc = 1.0 - smoothstep(1.0 - edge, 1.0 + edge, away);
    float ring = disc * smoothstep(0.72 - edge, 0.72 + edge, away);
    colour = mix(colour, tones[i], marks[i].w * max(0.28 * disc, 0.95 * ring));
  }
  float beyond = distance(place, middle) - spread - 1.0;
  pixel = vec4(colour, pow(clamp(1.0 - beyond / 3.0, 0.0, 1.0), 1.5));
}
