"use strict";
// The page tells everything without this. It adds the reader's own time, what lies under the pointer in the heat
// map, and, per feature, figures to look into.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dialog = document.getElementById("explorer");
  const severities = data.severities;
  let open = 0;

  for (const time of document.querySelectorAll("time")) {
    time.title = new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
  }
  addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("details")) one.open = true;
  });

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const utc = (time) => time.slice(0, time.endsWith(":00Z") ? 16 : 19).replace("T", " ") + " UTC";
  const percent = (share) => (100 * share).toLocaleString("en", { maximumFractionDigits: 2 }) + " %";
  const round = (value) => Number(value.toPrecision(4)).toString();

  function cell(feature, window) {
    const [ratio, code] = feature.history.slice(2 * window, 2 * window + 2);
    return ratio === null ? null : { ratio: ratio / 100, measure: data.measures[Math.floor(code / 3)], severity: code % 3 };
  }

  function told(feature, window) {
    const [start, , rows] = data.windows[window];
    const one = cell(feature, window);
    const said = one ? `${one.measure} ${one.ratio} × its threshold, ${severities[one.severity].word}` : "not judged";
    return `${feature.name}, ${utc(start)}, ${rows.toLocaleString("en")} rows: ${said}`;
  }

  function layout(more) {
    const axis = { gridcolor: colour("rule"), zerolinecolor: colour("rule"), linecolor: colour("soft"), automargin: true };
    const { xaxis, yaxis, ...rest } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 50, r: 10, t: 10, b: 30 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("ink") },
      legend: { orientation: "h", x: 0, y: 1.15 }, hovermode: "x unified", barmode: "overlay", bargap: 0,
      hoverlabel: { bgcolor: colour("paper"), bordercolor: colour("soft"), font: { color: colour("ink") } },
      xaxis: { ...axis, showgrid: false, ...xaxis }, yaxis: { ...axis, rangemode: "tozero", ...yaxis }, ...rest,
    };
  }
  const config = { responsive: true, displaylogo: false, displayModeBar: false };

  function shape(shown, span) {
    const now = span > 1 ? `last ${span} windows` : "window";
    const filled = { type: "bar", name: "baseline", marker: { color: colour("train") } };
    if (shown.kind === "hours") {
      const x = shown.names;
      const hovertemplate = "%{y:.2%}";
      return [[
        { ...filled, x, y: shown.reference, hovertemplate },
        { type: "bar", name: now, x, y: shown.current, width: 0.4, marker: { color: colour("now") }, hovertemplate },
      ], { xaxis: { type: "category" }, yaxis: { tickformat: ".0%" }, bargap: 0.2 }];
    }
    if (shown.kind === "bars") {
      const y = shown.names.map((_, i) => i);
      const across = { y, orientation: "h", hovertemplate: "%{x:.2%}" };
      const yaxis = { tickvals: y, ticktext: shown.names.map(escaped), autorange: "reversed", showgrid: false };
      return [[
        { ...filled, ...across, x: shown.reference },
        { ...across, type: "bar", name: now, x: shown.current, width: 0.4, marker: { color: colour("now") } },
      ], { hovermode: "y unified", xaxis: { tickformat: ".0%", nticks: 5, tickangle: 0 }, yaxis, bargap: 0.2 }];
    }
    const { start, width, below, above, ticks } = shown;
    const last = start + width * shown.reference.length;
    const cells = shown.reference.map((_, i) => [start + i * width, start + (i + 1) * width]);
    const label = cells.map(([a, b]) => `${round(a)} to ${round(b)}`);
    const x = cells.map(([a, b]) => (a + b) / 2);
    let [reference, current] = [shown.reference, shown.current];
    // What lies outside stands apart, and is no number: its place on the axis says so.
    const tails = [];
    if (Math.max(...below) > 0.0005) {
      x.unshift(start - 1.5 * width); tails.push([x[0], `< ${round(start)}`]); label.unshift(`below ${round(start)}`);
      reference = [below[0], ...reference]; current = [below[1], ...current];
    }
    if (Math.max(...above) > 0.0005) {
      x.push(last + 1.5 * width); tails.push([x.at(-1), `> ${round(last)}`]); label.push(`above ${round(last)}`);
      reference = [...reference, above[0]]; current = [...current, above[1]];
    }
    const clear = ticks.filter((tick) => tails.every(([at]) => Math.abs(tick - at) > 3.5 * width));
    const marks = [...clear.map((tick) => [tick, round(tick)]), ...tails].sort(([a], [b]) => a - b);
    const text = (shares) => shares.map((share, i) => `${percent(share)} ${label[i]}`);
    const hovertemplate = "%{text}";
    // The outline is a line of its own: the window's bars, which tell of themselves, can't be seen.
    const outline = { x: [], y: [] };
    x.forEach((middle, i) => {
      if (i && middle - x[i - 1] > 1.2 * width) { outline.x.push(middle - width); outline.y.push(null); }
      outline.x.push(middle - width / 2, middle + width / 2); outline.y.push(current[i], current[i]);
    });
    const bars = { x, width, textposition: "none", hovertemplate };
    return [[
      { ...filled, ...bars, y: reference, text: text(reference) },
      { ...bars, type: "bar", name: now, y: current, text: text(current), marker: { color: "rgba(0,0,0,0)" }, showlegend: false },
      { ...outline, type: "scatter", mode: "lines", name: now, hoverinfo: "skip", line: { color: colour("now"), width: 2.5 } },
    ], { xaxis: { tickvals: marks.map(([at]) => at), ticktext: marks.map(([, said]) => said), tickangle: 0 },
      yaxis: { tickformat: ".1~%", title: { text: `share per ${round(width)}` } } }];
  }

  function draw() {
    const feature = data.features[open];
    document.getElementById("explored").textContent = feature.name;
    document.getElementById("says").textContent = feature.says;
    const where = document.getElementById("shape");
    where.hidden = !feature.shown;
    if (feature.shown) {
      const [traces, more] = shape(feature.shown, feature.span);
      Plotly.react(where, traces, layout(more), config);
    }
    const cells = data.windows.map((_, i) => cell(feature, i));
    const fills = [colour("now"), colour("alarm"), colour("large")];
    Plotly.react("history", [{
      type: "scatter", mode: "lines+markers", connectgaps: false, showlegend: false,
      x: data.windows.map((window) => window[0]), y: cells.map((one) => one && one.ratio),
      line: { color: colour("now"), width: 1.5 },
      marker: { opacity: 1, line: { width: 0 }, size: cells.map((one) => (one && one.severity ? 10 : 5)),
        symbol: cells.map((one) => severities[one ? one.severity : 0].symbol), color: cells.map((one) => fills[one ? one.severity : 0]) },
      text: cells.map((one, i) => one && `${escaped(one.measure)}<br>${severities[one.severity].word}<br>version ${escaped(data.windows[i][4])}`),
      hovertemplate: "%{y:.2f} × its threshold<br>%{text}<extra></extra>",
    }], layout({
      hovermode: "closest", yaxis: { title: { text: "× threshold" } },
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { color: colour("soft"), dash: "dash", width: 1 } }],
    }), config);
  }

  function explore(place) {
    open = (place + data.features.length) % data.features.length;
    if (!dialog.open) dialog.showModal();
    draw();
  }

  for (const figure of document.querySelectorAll("figure[data-feature]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Explore";
    button.setAttribute("aria-label", "Explore " + data.features[figure.dataset.feature].name);
    button.addEventListener("click", () => explore(Number(figure.dataset.feature)));
    figure.querySelector("h3").after(button);
  }
  document.getElementById("previous").addEventListener("click", () => explore(open - 1));
  document.getElementById("next").addEventListener("click", () => explore(open + 1));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") explore(open - 1);
    if (event.key === "ArrowRight") explore(open + 1);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (dialog.open) draw(); });

  const heat = document.querySelector(".heat tbody");
  if (heat) {
    const readout = document.getElementById("readout");
    heat.addEventListener("pointermove", (event) => {
      const strip = event.target.closest(".strip");
      if (!strip) return;
      const box = strip.getBoundingClientRect();
      const at = Math.floor(((event.clientX - box.left) / box.width) * data.windows.length);
      const window = Math.min(Math.max(at, 0), data.windows.length - 1);
      readout.textContent = told(data.features[strip.closest("tr").dataset.feature], window);
    });
    heat.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) explore(Number(row.dataset.feature));
    });
  }
})();
