'use strict';
// Charts come when they are looked at; running curves grow; a row and its curve point at each other.
const said = document.getElementById('status');

function say(text, bad) {
  said.textContent = text;
  said.className = bad ? 'bad' : 'quiet';
}

async function ask(url, how) {
  const answer = await fetch(url, how);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

async function load(place) {
  try {
    await draw(place, await ask(place.dataset.figure));
    place.classList.add('done');
    if (place.dataset.figure.startsWith('/figure/curves')) grow(place);
  } catch (error) {
    const wrong = document.createElement('p');
    wrong.className = 'wrong';
    wrong.textContent = error.message;
    place.replaceChildren(wrong);
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    load(entry.target);
  }
}, { rootMargin: '300px' });
for (const place of document.querySelectorAll('[data-figure]')) seen.observe(place);

function every(seconds, act) {
  setTimeout(async () => {
    if (!document.hidden) {
      try {
        await act();
        if (said.className === 'bad') say('', false);
      } catch (error) {
        say(error.message, true);
      }
    }
    every(seconds, act);
  }, 1000 * seconds);
}

function grow(place) {
  const query = place.dataset.figure.split('?')[1];
  let cursor = (place.layout.meta || {}).cursor || '';
  every(2, async () => {
    const news = await ask(`/increments?${query}&cursor=${encodeURIComponent(cursor)}`);
    cursor = news.cursor;
    for (const [trial, key, x, y] of news.points) add(place, trial, key, x, y);
    if (news.points.length) say(`${news.points.length} new points at ${new Date().toLocaleTimeString()}`, false);
  });
}

function add(place, trial, key, x, y) {
  const at = place.data.findIndex((trace) => trace.meta && trace.meta.trial === trial && trace.meta.key === key);
  if (at >= 0) {
    if (place.data[at].x.includes(x)) return;
    Plotly.extendTraces(place, { x: [[x]], y: [[y]], customdata: [[trial]] }, [at]);
    return;
  }
  Plotly.addTraces(place, { x: [x], y: [y], customdata: [trial], mode: 'lines+markers', marker: { size: 3 },
    name: `${key}, new ${trial}`, meta: { trial, key }, hovertemplate: '%{customdata}<br>%{x:,}<br>%{y:.5g}<extra></extra>' });
}

// A row lights its trial's curves up, by mouse or keyboard; a click on a curve finds the row.
function light(trial) {
  for (const place of document.querySelectorAll('.chart.done')) {
    if (!place.dataset.figure.startsWith('/figure/curves')) continue;
    const old = place.data.findIndex((trace) => trace.name === 'chosen');
    if (old >= 0) Plotly.deleteTraces(place, old);
    // What was sent packed stands unpacked only here.
    for (const trace of place._fullData) {
      const x = [], y = [];
      (trace.customdata || []).forEach((who, i) => { if (who === trial) { x.push(trace.x[i]); y.push(trace.y[i]); } });
      if (!x.length) continue;
      Plotly.addTraces(place, { x, y, mode: 'lines', name: 'chosen', hoverinfo: 'skip', yaxis: trace.yaxis,
        line: { color: '#D55E00', width: 4 } });
      break;
    }
  }
}
for (const row of document.querySelectorAll('[data-trial]')) {
  for (const event of ['mouseenter', 'focusin']) row.addEventListener(event, () => light(row.dataset.trial));
}
document.addEventListener('click', (event) => {
  const place = event.target.closest('.chart.done');
  if (!place || !place._hoverdata || !place._hoverdata[0]) return;
  const who = place._hoverdata[0].customdata;
  const row = typeof who === 'string' && document.querySelector(`[data-trial="${CSS.escape(who)}"]`);
  if (!row) return;
  document.querySelectorAll('tr.lit').forEach((other) => other.classList.remove('lit'));
  row.classList.add('lit');
  row.scrollIntoView({ block: 'nearest' });
});

// What a page marks as live is fetched again as the server renders it; what was chosen or opened stays so.
async function refresh() {
  const answer = await fetch(location.href);
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  for (const part of document.querySelectorAll('[data-live]')) {
    const fresh = page.getElementById(part.id);
    if (!fresh) throw new Error(page.querySelector('main p')?.textContent || 'The dashboard does not answer.');
    if (part.innerHTML === fresh.innerHTML) continue;
    const chosen = part.value;
    const opened = [...part.querySelectorAll('details[open]')].map((one) => one.id);
    part.replaceChildren(...fresh.childNodes);
    if ([...(part.options || [])].some((option) => option.value === chosen)) part.value = chosen;
    for (const one of part.querySelectorAll('details')) one.open = opened.includes(one.id);
  }
}
if (document.querySelector('[data-live]')) every(5, refresh);

// Commands are sent as JSON with the page's token: neither can come from another site.
for (const form of document.querySelectorAll('form[data-token]')) {
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    try {
      const { said: news } = await ask(form.getAttribute('action'), { method: 'POST',
        headers: { 'Content-Type': 'application/json', 'X-Jigsaw-Token': form.dataset.token },
        body: JSON.stringify(Object.fromEntries(new FormData(form))) });
      say(news, false);
      await refresh();
    } catch (error) {
      say(error.message, true);
    }
  });
}
