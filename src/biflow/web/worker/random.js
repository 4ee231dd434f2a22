// Noise as PyTorch draws it on a CPU, so that a seed gives the frames that it gives in Python: MT19937, then Box-Muller on
// blocks of 16. The seed of a frame is that of biflow.rollout.frame_seed, which is NumPy's SeedSequence of two numbers.

const LENGTH = 624, MIDDLE = 397;

export class Generator { // torch.Generator().manual_seed(seed), of which the lowest 32 bits count
  constructor(seed) {
    this.state = new Uint32Array(LENGTH);
    this.state[0] = seed;
    for (let i = 1; i < LENGTH; i++) {
      const last = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
    }
    this.next = LENGTH;
  }

  bits() { // 32 of them
    if (this.next === LENGTH) this.renew();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  renew() {
    const { state } = this;
    for (let i = 0; i < LENGTH; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % LENGTH] & 0x7fffffff);
      state[i] = state[(i + MIDDLE) % LENGTH] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }

  uniform() {
    return (this.bits() & 0xffffff) / 0x1000000;
  }

  normal(length) { // torch.randn of at least 16 numbers
    const values = new Float32Array(length);
    for (let i = 0; i < length; i++) values[i] = this.uniform();
    for (let i = 0; i + 16 <= length; i += 16) boxMuller(values.subarray(i, i + 16));
    if (length % 16) {
      const last = values.subarray(length - 16);
      for (let i = 0; i < 16; i++) last[i] = this.uniform();
      boxMuller(last);
    }
    return values;
  }
}

function boxMuller(block) { // 16 numbers in [0, 1) in place
  for (let i = 0; i < 8; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - block[i])), angle = 2 * Math.PI * block[i + 8];
    block[i] = radius * Math.cos(angle);
    block[i + 8] = radius * Math.sin(angle);
  }
}

function hasher(constant, factor) { // a SeedSequence's hash, whose constant changes with every value
  return (value) => {
    value ^= constant;
    constant = Math.imul(constant, factor);
    value = Math.imul(value, constant);
    return value ^ (value >>> 16);
  };
}

export function frameSeed(seed, index) { // the lowest 32 bits of biflow.rollout.frame_seed
  const hash = hasher(0x43b0d7e5, 0x931e8875), pool = [seed, index, 0, 0].map(hash);
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) {
      if (from === to) continue;
      const mixed = Math.imul(0xca01f9dd, pool[to]) - Math.imul(0x4973f715, hash(pool[from]));
      pool[to] = mixed ^ ((mixed >>> 0) >>> 16);
    }
  }
  const [low, high] = pool.slice(0, 2).map(hasher(0x8b51f9dd, 0x58f38ded));
  return ((low >>> 1) | (high << 31)) >>> 0;
}
