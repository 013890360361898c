'use strict';
// The numbers that a page stores: fp16, all low bytes and then all high bytes, deflated, in ASCII.

const weights = (() => {
  /** Return the value of every fp16 number (65536), by its bits: sign, 5 bits of exponent, 10 of fraction. */
  function halfValues() {
    return Float32Array.from({ length: 65536 }, (_, bits) => {
      const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
      return sign * (exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15));
    });
  }

  /** Return the bytes of a text to the base of 85, as in_ascii of inspection/page.py writes it; a piece at a time, so
   *  that the page goes on reacting. */
  async function decode(text) {
    const words = (text.length - 1) / 5, piece = 1 << 16, bytes = new Uint8Array(4 * words), view = new DataView(bytes.buffer);
    for (let first = 0; first < words; first += piece) {
      for (let word = first; word < Math.min(first + piece, words); word++) {
        let value = 0;
        for (let at = 5 * word + 1; at < 5 * word + 6; at++) {
          const code = text.charCodeAt(at);
          value = 85 * value + (code === 33 ? 60 : code) - 35; // "!" stands for "<", and "#" for 0
        }
        view.setUint32(4 * word, value);
      }
      await new Promise((resolve) => { setTimeout(resolve); });
    }
    return bytes.subarray(0, bytes.length - Number(text[0]));
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
