// What the page does without asking the server: opacity of the heat map, sorting of tables, speaking to screen readers.
(() => {
  document.documentElement.lang = 'en';

  document.addEventListener('input', (event) => {
    const slider = event.target;
    if (!slider.matches || !slider.matches('input[data-opacity]')) return;
    const figure = slider.closest('figure');
    figure.querySelector('.layer').style.opacity = slider.value / 100;
    figure.querySelector('output').textContent = `${slider.value} %`;
  });

  // A file that was refused has no picture to show: no torn one either.
  const seen = (shown) => (event) => {
    if (event.target.matches && event.target.matches('.image-frame img')) event.target.style.visibility = shown;
  };
  document.addEventListener('error', seen('hidden'), true);
  document.addEventListener('load', seen('visible'), true);

  const keyOf = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim();
  const compare = (a, b) => {
    if (a === '' || b === '') return (a === '') - (b === ''); // what is not known goes last, whichever way
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  document.addEventListener('click', (event) => {
    const button = event.target.closest && event.target.closest('th button[data-sort]');
    if (!button) return;
    const head = button.closest('th');
    const table = head.closest('table');
    const down = head.getAttribute('aria-sort') === 'ascending';
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [x, y] = [keyOf(a, head.cellIndex), keyOf(b, head.cellIndex)];
      return x === '' || y === '' || !down ? compare(x, y) : compare(y, x);
    });
    table.tBodies[0].append(...rows);
    table.querySelectorAll('th[aria-sort]').forEach((other) => other.setAttribute('aria-sort', 'none'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  });

  // On a phone the answer stands below the examples: bring it into view once it is there.
  const show = () => {
    const panel = document.querySelector('#answer .panel.answer, #answer .panel.message');
    if (!panel || !panel.offsetParent) return;
    const top = panel.getBoundingClientRect().top;
    const calm = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    if (top > window.innerHeight * 0.4) panel.scrollIntoView({ behavior: calm ? 'auto' : 'smooth', block: 'start' });
  };

  // A live region has to be there before its text changes, so the answers' own elements cannot be one.
  const speak = () => {
    const live = document.createElement('div');
    live.id = 'live';
    live.className = 'spoken';
    live.setAttribute('role', 'status');
    live.setAttribute('aria-live', 'polite');
    document.body.append(live);
    let last = '';
    new MutationObserver(() => {
      const said = [...document.querySelectorAll('[data-spoken]')].map((one) => one.textContent).join(' ');
      if (said !== last) {
        last = said;
        live.textContent = said;
        show();
      }
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
  };
  if (document.body) speak();
  else document.addEventListener('DOMContentLoaded', speak);
})();
