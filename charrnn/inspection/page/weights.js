'use strict';
// The numbers that a page stores: fp16, all low bytes and then all high bytes, deflated, in base64.

const weights = (() => {
  /** Return the value of every fp16 number (65536), by its bits: sign, 5 bits of exponent, 10 of fraction. */
  function halfValues() {
    return Float32Array.from({ length: 65536 }, (_, bits) => {
      const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
      return sign * (exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15));
    });
  }

  /** Return the bytes of a base64 text, a piece at a time, so that the page goes on reacting. */
  async function decode(text) {
    const piece = 1 << 18, bytes = new Uint8Array((text.length / 4) * 3);
    let count = 0;
    for (let first = 0; first < text.length; first += piece) {
      const characters = atob(text.slice(first, first + piece));
      for (let index = 0; index < characters.length; index++) bytes[count++] = characters.charCodeAt(index);
      await new Promise((resolve) => { setTimeout(resolve); });
    }
    return bytes.subarray(0, count);
  }

  /** Unpack the tensors [{name, shape}] of a page; return a Map from name to {shape, data: Float32Array}. */
  async function unpack(list, text) {
    const packed = new Blob([await decode(text)]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
    const bytes = new Uint8Array(await new Response(packed).arrayBuffer());
    const count = bytes.length / 2, values = halfValues(), found = new Map();
    let first = 0;
    for (const { name, shape } of list) {
      const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
      for (let index = 0; index < data.length; index++) {
        data[index] = values[bytes[first + index] | (bytes[count + first + index] << 8)];
      }
      first += data.length;
      found.set(name, { shape, data });
    }
    return found;
  }

  return { unpack };
})();
