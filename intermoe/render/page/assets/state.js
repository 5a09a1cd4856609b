// What the page shows now, and how it is asked to draw it.

const byId = id => document.getElementById(id);
const page = parsed("motions");
const night = window.matchMedia("(prefers-color-scheme: dark)");
const still = window.matchMedia("(prefers-reduced-motion: reduce)");
const view = byId("view");

// What is shown now; "stage" is that of the denoising, -1 for all.
const shown = { number: -1, panels: [], camera: null, player: null, strips: [], stage: -1, speed: 1, framed: null, follow: false };
let renderer = null;
let asked = false;
let before = 0;
// Seconds between frames, a running mean; above this they are drawn coarser, by this part of the pixels across.
const SLOW = 0.06;
let pace = 0;
let sharpness = 1;

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function replaceChildren(parent, children) {
  parent.textContent = "";
  children.forEach(child => parent.appendChild(child));
}

// Draw at the next chance, once however often it is asked for.
function ask() {
  if (asked) return;
  asked = true;
  window.requestAnimationFrame(tick);
}

function tick(now) {
  asked = false;
  const player = shown.player;
  if (player.playing) {
    if (before) {
      advanced(player, (now - before) / 1000);
      spare((now - before) / 1000);
    }
    before = now;
    ask();
  } else {
    before = 0;
  }
  showTime();
  if (renderer) renderer.draw(viewsOf(), night.matches);
}

// Where frames take long, as without a graphics card, those of a playing motion are drawn coarser.
function spare(elapsed) {
  pace = 0.85 * pace + 0.15 * Math.min(elapsed, 0.5);
  if (pace < SLOW || sharpness <= 0.6) return;
  sharpness *= 0.8;
  pace = 0;
}
