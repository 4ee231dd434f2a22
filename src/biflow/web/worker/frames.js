// Frames: pixels are Uint8Arrays (3, h, w); the network's are Float32Arrays in [-1, 1].

export const toFloat = (pixels) => Float32Array.from(pixels, (value) => value / 127.5 - 1);

export const toPixels = (x) => Uint8Array.from(x, (value) => Math.min(255, Math.max(0, even((value + 1) * 127.5))));

function even(value) { // the nearest whole number, and of two the even one, as PyTorch rounds
  const low = Math.floor(value), rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low;
}

const HEAD = 54;

export function bmp(pixels, [height, width]) { // a file that browsers read, and that costs nothing to write
  const line = Math.ceil((3 * width) / 4) * 4, area = height * width;
  const bytes = new Uint8Array(HEAD + line * height), view = new DataView(bytes.buffer);
  view.setUint16(0, 0x424d); // BM
  view.setUint32(2, bytes.length, true);
  view.setUint32(10, HEAD, true);
  view.setUint32(14, 40, true);
  view.setInt32(18, width, true);
  view.setInt32(22, -height, true); // from the top
  view.setUint16(26, 1, true);
  view.setUint16(28, 24, true);
  for (let y = 0; y < height; y++) {
    for (let x = 0, at = HEAD + y * line; x < width; x++, at += 3) {
      for (let colour = 0; colour < 3; colour++) bytes[at + 2 - colour] = pixels[colour * area + y * width + x];
    }
  }
  return bytes;
}

export function pack(header, pictures) { // one binary message, as biflow.serve.wire has it
  const text = new TextEncoder().encode(JSON.stringify({ ...header, sizes: pictures.map((one) => one.length) }));
  const message = new Uint8Array(4 + text.length + pictures.reduce((sum, one) => sum + one.length, 0));
  new DataView(message.buffer).setUint32(0, text.length, true);
  let offset = 4;
  for (const part of [text, ...pictures]) {
    message.set(part, offset);
    offset += part.length;
  }
  return message.buffer;
}
