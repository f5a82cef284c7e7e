(() => {
  'use strict';
  const root = document.documentElement;
  document.getElementById('theme').addEventListener('click', () => {
    const system = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
    root.dataset.theme = (root.dataset.theme || system) === 'dark' ? 'light' : 'dark';
  });

  const digits = (v) => {
    if (v === 0) return '0';
    if (Math.abs(v) >= 999.5) return Math.round(v).toLocaleString('en-US');
    return v.toFixed(Math.min(12, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(v))))));
  };
  const text = {
    latency: (s) => s < 9.995e-4 ? digits(s * 1e6) + ' µs' : s < 0.9995 ? digits(s * 1e3) + ' ms' : digits(s) + ' s',
    elapsed: (s) => (Math.round(s * 10) / 10) + ' s',
    quantile: (q) => 'p' + +(q * 100).toFixed(Math.max(1, Math.ceil(-Math.log10(1 - q)))),
    share: (v) => (v * 100).toFixed(2) + ' %',
    count: digits,
    power: (v) => digits(v) + ' W',
    within: (v) => (v * 100).toFixed(2) + ' %',
    usd: (v) => '$' + digits(v),
  };
  const scales = {
    linear: [(a, v) => (v - a.min) / (a.max - a.min), (a, f) => a.min + f * (a.max - a.min)],
    log: [(a, v) => Math.log(v / a.min) / Math.log(a.max / a.min), (a, f) => a.min * (a.max / a.min) ** f],
    tail: [(a, v) => Math.log(1 - v) / Math.log(1 - a.max), (a, f) => 1 - (1 - a.max) ** f],
  };

  const plot = (box) => {
    const data = JSON.parse(box.querySelector('script').textContent);
    const svg = box.querySelector('svg');
    const out = box.querySelector('output');
    const reset = box.querySelector('.reset');
    const [left, top, right, bottom, width] = data.frame;
    const [forward, inverse] = scales[data.x.scale];
    const wide = right - left;
    const make = (name, attributes, parent) => {
      const node = document.createElementNS(svg.namespaceURI, name);
      for (const key in attributes) node.setAttribute(key, attributes[key]);
      return parent.appendChild(node);
    };
    const clip = box.dataset.plot + '-clip';
    make('rect', { x: left, y: top - 8, width: wide, height: bottom - top + 8 }, make('clipPath', { id: clip }, svg));
    const outer = make('g', { 'clip-path': `url(#${clip})` }, svg);
    const inner = make('g', {}, outer);
    for (const node of svg.querySelectorAll('[data-z],[data-s],[data-m]')) inner.append(node);
    const brush = make('rect', { class: 'brush', y: top, height: bottom - top, width: 0 }, svg);
    const cursor = make('line', { class: 'cursor', y1: top, y2: bottom, visibility: 'hidden' }, svg);
    const template = svg.querySelector('text[data-x]');
    const extra = make('g', {}, svg);
    let from = 0, to = 1, start = null, at = null;
    const hidden = new Set();

    const places = data.series.map(([slot, name, points]) => ({
      slot, name, points: points.map(([x, y]) => [forward(data.x, x), x, y]),
    }));
    const bars = data.y.kind === 'share';

    const show = (f) => {
      at = Math.min(to, Math.max(from, f));
      const shown = places.filter((s) => !hidden.has(s.slot));
      const words = [];
      let snapped = null;
      for (const s of shown) {
        let best = null;
        const usable = bars ? s.points.filter((p) => p[0] <= at).slice(-1) : s.points;
        for (const p of usable) {
          if (p[2] !== null && (!best || Math.abs(p[0] - at) < Math.abs(best[0] - at))) best = p;
        }
        if (!best) continue;
        if (snapped === null) snapped = best;
        words.push(`${s.name} ${text[data.y.kind](best[2])}`);
      }
      if (snapped === null) { out.textContent = ''; return; }
      const x = left + (at - from) / (to - from) * wide;
      cursor.setAttribute('x1', x); cursor.setAttribute('x2', x);
      cursor.setAttribute('visibility', 'visible');
      out.textContent = `${text[data.x.kind](inverse(data.x, at))}: ${words.join(' · ')}`;
    };

    const zoom = (a, b) => {
      [from, to] = [a, b];
      const k = 1 / (to - from);
      const whole = from === 0 && to === 1;
      inner.setAttribute('transform', `translate(${left - (left + from * wide) * k} 0) scale(${k} 1)`);
      for (const node of svg.querySelectorAll('[data-x]')) node.style.display = whole ? '' : 'none';
      extra.replaceChildren();
      reset.hidden = whole;
      cursor.setAttribute('visibility', 'hidden');
      if (whole || !template) return;
      for (let i = 0; i < 4; i++) {
        const f = (i + 0.5) / 4;
        const label = template.cloneNode();
        label.removeAttribute('data-x');
        label.style.display = '';
        label.setAttribute('x', left + f * wide);
        label.textContent = text[data.x.kind](inverse(data.x, from + f * (to - from)));
        extra.append(label);
        make('line', { x1: left + f * wide, x2: left + f * wide, y1: bottom, y2: bottom + 16, stroke: 'var(--axis)' }, extra);
      }
    };

    const fraction = (event) => {
      const area = svg.getBoundingClientRect();
      const x = (event.clientX - area.left) / area.width * width;
      return from + Math.min(1, Math.max(0, (x - left) / wide)) * (to - from);
    };
    svg.addEventListener('pointerdown', (event) => {
      show(fraction(event));
      if (event.pointerType === 'mouse' && event.button === 0) { start = fraction(event); svg.setPointerCapture(event.pointerId); }
    });
    svg.addEventListener('pointermove', (event) => {
      const f = fraction(event);
      show(f);
      if (start === null) return;
      const [a, b] = [Math.min(start, f), Math.max(start, f)].map((v) => left + (v - from) / (to - from) * wide);
      brush.setAttribute('x', a); brush.setAttribute('width', b - a);
    });
    svg.addEventListener('pointerup', (event) => {
      if (start === null) return;
      const [a, b] = [Math.min(start, fraction(event)), Math.max(start, fraction(event))];
      start = null; brush.setAttribute('width', 0);
      if (b - a > 0.02 * (to - from)) zoom(a, b);
    });
    svg.addEventListener('pointerleave', () => { if (start === null) { cursor.setAttribute('visibility', 'hidden'); out.textContent = ''; } });
    svg.addEventListener('dblclick', () => zoom(0, 1));
    svg.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === 'Escape') zoom(0, 1);
      if (!step) return;
      event.preventDefault();
      show((at === null ? (from + to) / 2 : at) + step * (to - from) / 60);
    });
    reset.addEventListener('click', () => zoom(0, 1));
    for (const button of box.querySelectorAll('[data-toggle]')) {
      button.addEventListener('click', () => {
        const slot = +button.dataset.toggle;
        const on = hidden.delete(slot);
        if (!on) hidden.add(slot);
        button.setAttribute('aria-pressed', String(on));
        for (const node of svg.querySelectorAll(`[data-s="${slot}"]`)) node.style.display = on ? '' : 'none';
      });
    }
  };
  for (const box of document.querySelectorAll('figure[data-plot]')) plot(box);

  // A definition where it is asked for; without popovers the link leads to the list.
  const card = document.getElementById('definition');
  if (card.showPopover) {
    document.addEventListener('click', (event) => {
      const link = event.target.closest('a.term');
      const entry = link && document.getElementById(link.hash.slice(1));
      if (!entry) return;
      event.preventDefault();
      const name = document.createElement('strong');
      name.textContent = entry.querySelector('dt').textContent;
      card.replaceChildren(name, entry.querySelector('dd').textContent);
      card.showPopover();
      const at = link.getBoundingClientRect();
      const room = root.clientWidth - card.offsetWidth - 14;
      card.style.left = scrollX + Math.max(14, Math.min(at.left, room)) + 'px';
      card.style.top = scrollY + at.bottom + 6 + 'px';
    });
  }
})();
