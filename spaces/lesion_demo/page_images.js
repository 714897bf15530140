// How an image comes in: pasted, dropped or chosen, whatever it calls itself; what it is, the server says.
(() => {
  const BLOCKS = '#photo, #compare-photo, #similar-photo';
  const inView = () => [...document.querySelectorAll(BLOCKS)].find((block) => block.offsetParent);
  const isImage = (file) => file.type.startsWith('image/');
  // Gradio turns away what has no name of an image, with a note that passes; our server looks inside, and says why.
  const asImage = (file) => (isImage(file) ? file : new File([file], 'image.jpg', { type: 'image/jpeg' }));

  const say = (block, text) => {
    let place = block.parentElement.querySelector('.image-note');
    if (!place) {
      place = document.createElement('div');
      place.className = 'image-note';
      block.after(place);
    }
    place.replaceChildren();
    if (!text) return;
    const line = document.createElement('p');
    line.dataset.spoken = '';
    line.textContent = text;
    place.append(line);
  };

  const give = async (block, file) => {
    say(block, '');
    block.querySelector("button[aria-label='Remove Image']")?.click();
    for (let tries = 0; tries < 60; tries += 1) {
      const input = block.querySelector('input[type=file]');
      if (input && !block.querySelector("button[aria-label='Remove Image']")) {
        const data = new DataTransfer();
        data.items.add(asImage(file));
        input.files = data.files;
        input.dispatchEvent(new Event('change', { bubbles: true }));
        return;
      }
      await new Promise((done) => setTimeout(done, 50));
    }
    say(block, 'The image could not be taken from there. Choose it as a file.');
  };

  document.addEventListener('paste', (event) => {
    const block = inView();
    const file = [...(event.clipboardData?.files ?? [])][0];
    if (!block || !file || event.target.closest?.('input:not([type=file]), textarea')) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    give(block, file);
  }, true);

  const NOT_ALLOWED = 'The browser does not let this page read the clipboard. Press Ctrl+V (on a Mac ⌘V) instead, or choose a file.';
  document.addEventListener('click', async (event) => {
    const button = event.target.closest?.("button[aria-label='Paste from clipboard']");
    const block = button?.closest(BLOCKS);
    if (!block) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    try {
      for (const item of await navigator.clipboard.read()) {
        const kind = item.types.find((type) => type.startsWith('image/'));
        if (!kind) continue;
        give(block, new File([await item.getType(kind)], 'pasted', { type: kind }));
        return;
      }
      say(block, 'There is no image in the clipboard. Copy one first, then paste it.');
    } catch {
      say(block, NOT_ALLOWED);
    }
  }, true);

  document.addEventListener('drop', (event) => {
    const block = event.target.closest?.(BLOCKS);
    const file = event.dataTransfer?.files[0];
    if (!block || !file || isImage(file)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    give(block, file);
  }, true);

  document.addEventListener('change', (event) => {
    const input = event.target;
    const block = input.matches?.('input[type=file]') && input.closest(BLOCKS);
    if (!block) return;
    say(block, '');
    if ([...input.files].every(isImage)) return;
    const data = new DataTransfer();
    data.items.add(asImage(input.files[0]));
    input.files = data.files;
  }, true);

  // A refused file has no image to show, and no torn one either. One that only the browser cannot read (TIFF) is
  // shown as soon as the server has made plain pixels of it, which it has done once the answer is whole.
  const DONE = '.panel.views:not(.waiting), .cards, [data-state=cases]';
  const again = (image, tries = 0) => {
    const tab = image.closest('[role=tabpanel]');
    const url = image.dataset.own;
    if (!image.isConnected || tries > 60 || !url) return;
    setTimeout(() => {
      if (image.dataset.own !== url || image.style.visibility !== 'hidden') return;
      if (tab?.querySelector(DONE) && tries % 3 === 2) image.src = `${url}?again=${tries}`;
      again(image, tries + 1);
    }, 250);
  };
  document.addEventListener('error', (event) => {
    const image = event.target;
    if (!image.matches?.('.image-frame img')) return;
    image.style.visibility = 'hidden';
    if (image.src.includes('?again=')) return;
    image.dataset.own = image.src;
    again(image);
  }, true);
  document.addEventListener('load', (event) => {
    if (event.target.matches?.('.image-frame img')) event.target.style.visibility = 'visible';
  }, true);
})();
