'use strict';
// Reads what the page stores, then hands it to the views.

(async () => {
  const read = (id) => document.getElementById(id).textContent;
  const data = JSON.parse(read('data'));
  if (typeof DecompressionStream === 'undefined') {
    document.body.textContent = 'This page needs a newer browser: Chrome or Edge 103, Firefox 113, Safari 16.4, or later.';
    return;
  }
  const tensors = await weights.unpack(data.tensors, read('weights').trim());
  app.start(data, Network.of(data, tensors), tensors);
})();
