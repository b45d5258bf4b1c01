"use strict";
// Times in the reader's zone, charts, and forms of times. Everything else works without it.

const UTC = /^\d{4}-\d\d-\d\dT[\d:.]+Z$/;
const style = () => getComputedStyle(document.documentElement);

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
    const moment = new Date(time.dateTime);
    if (isNaN(moment)) continue;
    time.title = moment.toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
    if (time.dataset.as === "ago") continue;
    const seconds = moment.getSeconds() ? { second: "2-digit" } : {};
    time.textContent = moment.toLocaleString(undefined, {
      year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", ...seconds });
  }
  for (const input of root.querySelectorAll("input[type=datetime-local][data-utc]")) {
    if (!input.dataset.utc) continue;
    const moment = new Date(input.dataset.utc);
    input.value = new Date(moment - moment.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
    delete input.dataset.utc;
  }
}

// A form says a time in the reader's zone; an address says it in UTC.
document.addEventListener("submit", (event) => {
  if (!event.target.matches("form.range")) return;
  event.preventDefault();
  const asked = new URLSearchParams();
  for (const [name, value] of new FormData(event.target)) {
    if (value === "") continue;
    const time = event.target.elements[name].type === "datetime-local";
    asked.append(name, time ? new Date(value).toISOString().replace(/\.\d+Z$/, "Z") : value);
  }
  location.search = asked.toString();
});

// Figures name colours as the style sheet does: "--now" is what var(--now) is, light or dark.
function coloured(value, styles) {
  if (typeof value === "string") return value.startsWith("--") ? styles.getPropertyValue(value).trim() : value;
  if (Array.isArray(value)) return value.map((one) => coloured(one, styles));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, coloured(one, styles)]));
  }
  return value;
}

// Times that stand at the ticks of an axis, with seconds where they would be the same without.
function ticks(texts) {
  const short = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };
  const written = (format) => texts.map((text) =>
    UTC.test(text) ? new Date(text).toLocaleString(undefined, format) : text);
  const found = written(short);
  return new Set(found).size === found.length ? found : written({ ...short, second: "2-digit" });
}

// Plotly draws times as they are written: so they are written as the reader's clock has them.
function localised(value, key) {
  if (typeof value === "string" && UTC.test(value)) {
    const moment = new Date(value);
    return new Date(moment - moment.getTimezoneOffset() * 60000).toISOString().slice(0, -1);
  }
  if (Array.isArray(value)) return key === "ticktext" ? ticks(value) : value.map((one) => localised(one));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, localised(one, name)]));
  }
  return value;
}

// A heat map has too many cells for an address each: it gives one with {x} and {y}, and what stands for them.
function addressOf(to, first, point) {
  const part = (names, places, at) => encodeURIComponent(names[places.indexOf(at)]);
  return to.address.replace("{x}", () => part(to.x, first.x, point.x)).replace("{y}", () => part(to.y, first.y, point.y));
}

function address(changes) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) url.searchParams.delete(name); else url.searchParams.set(name, value);
  }
  return url.pathname + url.search + url.hash;
}

// Of ticks that are texts only as many as stand beside each other.
function thinned(axis, width) {
  if (!axis.ticktext) return axis;
  const step = Math.ceil(axis.ticktext.length * 150 / Math.max(width, 150));
  const some = (all) => all.filter((_, at) => at % step === 0);
  return { ...axis, tickvals: some(axis.tickvals), ticktext: some(axis.ticktext) };
}

function draw(root) {
  for (const figure of root.querySelectorAll("figure.chart")) {
    const plot = figure.querySelector(".plot");
    const told = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    const styles = style();
    const { data, layout } = coloured(localised(told), styles);
    const axis = { gridcolor: styles.getPropertyValue("--rule").trim(), zerolinecolor: styles.getPropertyValue("--rule").trim(),
      linecolor: styles.getPropertyValue("--soft").trim(), automargin: true };
    const axes = Object.fromEntries(Object.entries(layout).filter(([name]) => /^[xy]axis/.test(name))
      .map(([name, one]) => [name, { ...axis, ...(name.startsWith("x") ? thinned(one, plot.clientWidth) : one) }]));
    Plotly.newPlot(plot, data, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 8, t: 8, b: 8 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: styles.getPropertyValue("--ink").trim() },
      hoverlabel: { bgcolor: styles.getPropertyValue("--wash").trim(), font: { color: styles.getPropertyValue("--ink").trim() } },
      xaxis: axis, yaxis: axis, showlegend: false, ...layout, ...axes,
    }, { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" });
    // What is clicked leads to its own address, where the figure gives one: in customdata.
    plot.on("plotly_click", (event) => {
      if (!event.points[0]) return;
      const own = [event.points[0].customdata].flat()[0];
      const to = own || !told.to ? own : addressOf(told.to, data[0], event.points[0]);
      if (typeof to === "string" && to.startsWith("/")) go(to);
    });
    // What is chosen of a time axis becomes the range of the page, so that it can be shared.
    if (figure.dataset.zoom) {
      plot.on("plotly_relayout", (event) => {
        const [from, to] = [event["xaxis.range[0]"], event["xaxis.range[1]"]];
        if (from === undefined || to === undefined) return;
        const utc = (text) => new Date(String(text).replace(" ", "T")).toISOString().replace(/\.\d+Z$/, "Z");
        location.href = address({ start: utc(from), end: utc(to) });
      });
    }
  }
}

function go(to) {
  const detail = document.getElementById("detail");
  if (!detail || new URL(to, location.href).pathname !== location.pathname) { location.href = to; return; }
  htmx.ajax("GET", to, { target: "#detail", select: "#detail", swap: "outerHTML" }).then(() => {
    history.pushState({}, "", to);
    document.getElementById("detail").focus({ preventScroll: false });
  });
}

function ready(root) {
  localTimes(root);
  if (window.Plotly) draw(root);
}

document.addEventListener("DOMContentLoaded", () => ready(document));
// Only what has just come is made ready: charts beside it keep what was zoomed or pointed at.
document.addEventListener("htmx:load", (event) => { if (event.detail.elt !== document.body) ready(event.detail.elt); });
window.addEventListener("popstate", () => location.reload());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (window.Plotly) draw(document); });
