// What is done when nobody steers: biflow.moments.

const SIDE = 8; // of the pictures of moments
const RECENT = 4; // moments that a stream does not follow again

export const NO_PLAN = { rows: [], followed: [] };

export class Moments {
  constructor({ pictures, rows, actions }) { // base64 of bytes and of float32; the number of actions of a moment
    const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    this.pictures = bytes(pictures);
    this.rows = new Float32Array(bytes(rows).buffer);
    this.actions = actions;
  }

  after(picture, size, { rows, followed }) { // what to do after a picture, and the new plan
    if (!rows.length) {
      const moment = this.nearest(picture, size, followed);
      [rows, followed] = [this.rowsOf(moment), [...followed, moment].slice(-RECENT)];
    }
    return [rows[0], { rows: rows.slice(1), followed }];
  }

  nearest(picture, size, recent) { // the moment that looks most like this picture, but for the recent ones
    const seen = look(picture, size), area = seen.length, count = this.pictures.length / area;
    const followed = new Set(recent), left = followed.size < count ? followed : new Set();
    let nearest = 0, least = Infinity;
    for (let moment = 0; moment < count; moment++) {
      if (left.has(moment)) continue;
      let sum = 0;
      for (let i = 0; i < area; i++) sum += (seen[i] - this.pictures[moment * area + i]) ** 2;
      if (sum < least) [nearest, least] = [moment, sum];
    }
    return nearest;
  }

  rowsOf(moment) {
    const count = this.pictures.length / (3 * SIDE * SIDE), columns = this.rows.length / count / this.actions;
    const row = (i) => [...this.rows.subarray((moment * this.actions + i) * columns).subarray(0, columns)];
    return Array.from({ length: this.actions }, (_, i) => row(i));
  }
}

export function look(picture, [height, width]) { // the means of 8x8 parts, as adaptive_avg_pool2d takes them
  const seen = [], edge = (i, side) => [Math.floor(i * side / SIDE), Math.ceil((i + 1) * side / SIDE)];
  for (let colour = 0; colour < 3; colour++)
    for (let i = 0; i < SIDE; i++)
      for (let j = 0; j < SIDE; j++) {
        const [top, bottom] = edge(i, height), [left, right] = edge(j, width);
        let sum = 0;
        for (let y = top; y < bottom; y++)
          for (let x = left; x < right; x++) sum += picture[(colour * height + y) * width + x];
        seen.push(sum / ((bottom - top) * (right - left)));
      }
  return seen;
}
