'use strict';
// Draws figures; used by the dashboard's pages and, inside it, by the report.
const dark = window.matchMedia('(prefers-color-scheme: dark)');

function dressed(figure) {
  if (!dark.matches) return figure;
  // Black stands for what matters most: on a dark page that is white.
  const copy = JSON.parse(JSON.stringify(figure).replaceAll('"#000000"', '"#ffffff"'));
  const axis = { gridcolor: '#2a303a', linecolor: '#6b7482', tickcolor: '#6b7482' };
  const layout = copy.layout.template.layout;
  Object.assign(layout, { paper_bgcolor: '#14171d', plot_bgcolor: '#14171d' });
  Object.assign(layout.font, { color: '#e6e9ef' });
  Object.assign(layout.xaxis, axis);
  Object.assign(layout.yaxis, axis);
  return copy;
}

function draw(place, figure) {
  const shown = dressed(figure);
  const name = (place.getAttribute('aria-label') || 'chart').replace(/[^\w.-]+/g, '-').slice(0, 80);
  const svg = { name: 'svg', title: 'Download as SVG', icon: Plotly.Icons.disk,
    click: (plot) => Plotly.downloadImage(plot, { format: 'svg', filename: name, width: plot.offsetWidth,
      height: plot.offsetHeight }) };
  return Plotly.react(place, shown.data, shown.layout, { responsive: true, displaylogo: false,
    toImageButtonOptions: { filename: name, scale: 2 }, modeBarButtons: [['toImage', svg, 'resetScale2d']] });
}

for (const data of document.querySelectorAll('script[type="application/json"]')) {
  const figure = JSON.parse(data.textContent);
  draw(data.previousElementSibling, figure);
}
