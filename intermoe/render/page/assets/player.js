// The clock of a scene: all its motions share it.

const SPEEDS = [0.25, 0.5, 1, 1.5, 2];

function newPlayer(panels) {
  const master = panels.reduce((longest, panel) => panel.seconds > longest.seconds ? panel : longest);
  return { master: master, seconds: 0, length: master.seconds, playing: false, speed: 1 };
}

function advanced(player, elapsed) {
  // A page that was out of sight does not jump.
  player.seconds += Math.min(elapsed, 0.5) * player.speed;
  if (player.seconds >= player.length) player.seconds %= player.length;
}

function frameOf(player, panel) {
  return Math.min(Math.floor(player.seconds * panel.fps + 1e-6), panel.frames - 1);
}

function goTo(player, frame) {
  const last = player.master.frames - 1;
  player.seconds = Math.min(Math.max(frame, 0), last) / player.master.fps;
}

function stepped(player, frames) {
  player.playing = false;
  goTo(player, frameOf(player, player.master) + frames);
}
