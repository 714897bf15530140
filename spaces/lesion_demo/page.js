// What the page does without asking the server: heat map's opacity, sorting, large figures, scrolling, speaking.
(() => {
  document.documentElement.lang = 'en';

  document.addEventListener('input', (event) => {
    const slider = event.target;
    if (!slider.matches || !slider.matches('input[data-opacity]')) return;
    const figure = slider.closest('figure');
    figure.querySelector('.layer').style.opacity = slider.value / 100;
    figure.querySelector('output').textContent = `${slider.value} %`;
  });

  // A number that is still being typed, or out of bounds, is none yet; Gradio would answer it with an "Error" over all.
  document.addEventListener('input', (event) => {
    const number = event.target;
    if (!number.matches?.('#share input[type=number]')) return;
    const [least, most] = [number.min, number.max].map(Number);
    if (number.value === '' || number.value < least || number.value > most) event.stopImmediatePropagation();
  }, true);

  // A cell that a row does not have counts as empty, and what is empty goes last, whichever way.
  const keyOf = (row, column) => {
    let at = 0;
    for (const cell of row.cells) {
      if (column < at + cell.colSpan) return cell.dataset.key ?? cell.textContent.trim();
      at += cell.colSpan;
    }
    return '';
  };
  const compare = (a, b, kind) =>
    kind === 'number' ? Number(a) - Number(b) : a.localeCompare(b, 'en', { numeric: true, sensitivity: 'base' });
  document.addEventListener('click', (event) => {
    const button = event.target.closest && event.target.closest('th button[data-sort]');
    if (!button) return;
    const head = button.closest('th');
    const table = head.closest('table');
    const way = head.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [x, y] = [keyOf(a, head.cellIndex), keyOf(b, head.cellIndex)];
      return x === '' || y === '' ? (x === '') - (y === '') : way * compare(x, y, button.dataset.sort);
    });
    table.tBodies[0].append(...rows);
    table.querySelectorAll('th[aria-sort]').forEach((other) => other.setAttribute('aria-sort', 'none'));
    head.setAttribute('aria-sort', way < 0 ? 'descending' : 'ascending');
  });

  // A figure, as large as the window.
  document.addEventListener('click', (event) => {
    const button = event.target.closest && event.target.closest('button[data-enlarge]');
    if (!button) return;
    const large = document.createElement('dialog');
    large.className = 'large-figure';
    const image = button.querySelector('img').cloneNode();
    const close = document.createElement('button');
    close.type = 'button';
    close.textContent = 'Close';
    large.append(close, image);
    document.querySelector('.gradio-container').append(large);
    large.addEventListener('click', () => large.close());
    large.addEventListener('close', () => large.remove());
    large.showModal();
  });

  // On a phone the answer stands below the examples: bring it into view, once for each new image.
  let seen = null;
  const show = () => {
    const panel = document.querySelector('#answer .panel.answer, #answer .panel.message');
    const image = document.querySelector('#photo img')?.src ?? null;
    if (!panel) seen = null;
    if (!panel || !panel.offsetParent || image === seen) return;
    seen = image;
    const top = panel.getBoundingClientRect().top;
    const calm = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    if (top > window.innerHeight * 0.4) panel.scrollIntoView({ behavior: calm ? 'auto' : 'smooth', block: 'start' });
  };

  // An answer is shown only beside the image and the model that it is about. On a busy server one of an earlier image
  // can come late; this runs before the browser paints, so it is never seen, and it is not spoken either.
  const PAIRS = [
    ['#photo', '#answer'], ['#photo', '#behind'], ['#compare-photo', '#comparison'], ['#similar-photo', '#cases'],
    ['#files', '#many'],
  ];
  const markOf = (url) => {
    const path = url.split('?')[0];
    let parts = path.split('/');
    try {
      parts = decodeURIComponent(path).split('/');
    } catch { /* a percent sign of a file's name */ }
    return `${parts.at(-2)?.slice(0, 12)}/${parts.at(-1)}`;
  };
  const guard = () => {
    const chosen = document.querySelector('#facts [data-model]')?.dataset.model;
    for (const [from, to] of PAIRS) {
      const [block, place] = [document.querySelector(from), document.querySelector(to)];
      if (!place) continue;
      const urls = [...(block?.querySelectorAll('.image-frame img, a[href]') ?? [])].map((one) => one.src ?? one.href);
      const marks = urls.map(markOf).sort().join(' ');
      const shown = place.querySelector('[data-of]');
      const other = chosen && shown?.dataset.model && shown.dataset.model !== chosen;
      const right = shown ? shown.dataset.of === marks && !other : !marks;
      const state = right ? null : marks ? 'working' : 'none';
      if (state === (place.dataset.hold ?? null)) continue;
      if (state) place.dataset.hold = state;
      else delete place.dataset.hold;
    }
  };

  // A live region has to be there before its text changes, so the answers' own elements cannot be one. It announces what
  // has just changed in the tab in view; what changes elsewhere is not announced, neither then nor later.
  const places = ['#answer', '#facts', '#any-note', '#many', '#comparison', '#cases', '#about', '.image-note'];
  const speak = () => {
    const live = document.createElement('div');
    live.id = 'live';
    live.className = 'spoken';
    live.setAttribute('role', 'status');
    live.setAttribute('aria-live', 'polite');
    document.body.append(live);
    const last = {};
    new MutationObserver((changes) => {
      if (changes.every((change) => live.contains(change.target))) return;
      guard();
      for (const name of places) {
        const place = [...document.querySelectorAll(name)].find((one) => one.offsetParent) ?? document.querySelector(name);
        const text = [...(place?.querySelectorAll(':scope:not([data-hold]) [data-spoken]') ?? [])].map((one) => one.textContent).join(' ');
        if (text === (last[name] ?? '')) continue;
        if (live.textContent === last[name]) live.textContent = '';
        last[name] = text;
        if (text && place.offsetParent) live.textContent = text;
      }
      show();
    }).observe(document.body, {
      childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ['src', 'href', 'data-of'],
    });
  };
  if (document.body) speak();
  else document.addEventListener('DOMContentLoaded', speak);
})();
