"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const state = { axis: data.axis, log: false, smoothing: 0, range: null, hiddenRuns: new Set(), hiddenGroups: new Set() };
  const panels = [];
  const settings = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };

  // The mean of each value and its neighbours, as many on each side as there are.
  function smooth(values) {
    const reach = Math.round((values.length * state.smoothing) / 200);
    if (!reach) return values;
    const sums = [0];
    for (const value of values) sums.push(sums[sums.length - 1] + value);
    return values.map((_, i) => {
      const side = Math.min(reach, i, values.length - 1 - i);
      return (sums[i + side + 1] - sums[i - side]) / (2 * side + 1);
    });
  }

  function bandTraces(band, isLog) {
    const points = band[state.axis];
    if (!points) return [];
    const group = data.groups[band.group];
    const mean = smooth(points.mean);
    const std = smooth(points.std);
    const floor = Math.min(...mean.filter((y) => y > 0)) / 10;
    const low = mean.map((y, i) => (isLog ? Math.max(y - std[i], floor) : y - std[i]));
    const shared = { x: points.x, type: "scatter", visible: !state.hiddenGroups.has(band.group), name: group.name, meta: `group ${band.group}` };
    const edge = { ...shared, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
    return [
      { ...edge, y: low },
      { ...edge, y: mean.map((y, i) => y + std[i]), fill: "tonexty", fillcolor: group.colour + "26" },
      { ...shared, y: mean, mode: "lines", line: { width: 2.5, color: group.colour }, hovertemplate: "%{y:.5g} at %{x:.6g}<extra>%{fullData.name}</extra>" },
    ];
  }

  function runTrace(run, x, y, more) {
    const { name, colour } = data.runs[run];
    return {
      x, y, name, type: "scatter", mode: x.length > 30 ? "lines" : "lines+markers", meta: `run ${run}`,
      line: { width: 1.2, color: colour, ...more }, marker: { size: 4 }, visible: !state.hiddenRuns.has(run),
      hovertemplate: "%{y:.5g} at %{x:.6g}<extra>%{fullData.name}</extra>",
    };
  }

  function layout(xaxis, yaxis) {
    const axis = { automargin: true, gridcolor: "#e6e6e6", zerolinecolor: "#bbb", linecolor: "#999", exponentformat: "power" };
    return {
      height: 270, margin: { l: 55, r: 15, t: 8, b: 40 }, showlegend: false, hovermode: "closest",
      hoverlabel: { namelength: -1 }, font: { color: "#1b1b1b", size: 11 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff",
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis },
    };
  }

  function drawCurves(place, panel) {
    const isLog = state.log && panel.positive;
    const lines = panel.curves.map((curve) => runTrace(curve.run, curve[state.axis], smooth(curve.y)));
    const bands = panel.bands.flatMap((band) => bandTraces(band, isLog));
    const range = state.range ? { range: [...state.range] } : { autorange: true };
    return Plotly.react(place, [...bands, ...lines], layout({ title: { text: state.axis, standoff: 4 }, ...range }, { type: isLog ? "log" : "linear" }), settings);
  }

  function drawHistogram(place) {
    const edges = data.histogram.edges;
    const x = [edges[0] * (edges[0] / edges[1]), ...edges];
    const lines = data.histogram.curves.map((curve) => runTrace(curve.run, x, curve.share, { shape: "hv" }));
    lines.forEach((line) => (line.mode = "lines"));
    const ticks = [0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16];
    return Plotly.react(place, lines, layout({ type: "log", title: { text: "norm", standoff: 4 }, tickvals: ticks, ticktext: ticks.map(String) }, { rangemode: "tozero" }), settings);
  }

  // A panel is drawn when it comes near the window, and again when something has changed since.
  function redraw(panel) {
    if (!panel.isNear || !panel.isStale) return;
    panel.isStale = false;
    delete panel.place.dataset.drawn;
    panel.draw(panel.place).then(() => {
      if (!panel.isLinked && panel.sharesAxis) panel.place.on("plotly_relayout", (change) => zoomAll(panel, change));
      panel.isLinked = true;
      panel.place.dataset.drawn = "yes";
    });
  }

  function changed() {
    panels.forEach((panel) => { panel.isStale = true; redraw(panel); });
  }

  function zoomAll(from, change) {
    const zoomed = "xaxis.range[0]" in change;
    if (!zoomed && !change["xaxis.autorange"]) return;
    state.range = zoomed ? [change["xaxis.range[0]"], change["xaxis.range[1]"]] : null;
    panels.forEach((panel) => { if (panel !== from) { panel.isStale = true; redraw(panel); } });
  }

  function addPanel(title, meaning, draw, sharesAxis) {
    const box = document.createElement("div");
    const heading = document.createElement("h3");
    const place = document.createElement("div");
    box.className = "panel";
    place.className = "chart";
    heading.textContent = title;
    heading.title = meaning;
    box.append(heading, place);
    document.getElementById("panels").append(box);
    panels.push({ box, place, draw, sharesAxis, isStale: true, isNear: false, isLinked: false });
  }

  function showVisibility() {
    for (const chip of document.querySelectorAll(".chip")) {
      const isHidden = "run" in chip.dataset ? state.hiddenRuns.has(+chip.dataset.run) : state.hiddenGroups.has(+chip.dataset.group);
      chip.setAttribute("aria-pressed", String(!isHidden));
    }
    for (const figure of document.querySelectorAll("figure[data-run]")) figure.hidden = state.hiddenRuns.has(+figure.dataset.run);
    changed();
  }

  function setUpLegend() {
    const everyRun = data.runs.map((_, i) => i);
    const everyGroup = data.groups.map((_, i) => i);
    for (const chip of document.querySelectorAll(".chip")) {
      const isRun = "run" in chip.dataset;
      const number = +(isRun ? chip.dataset.run : chip.dataset.group);
      const hidden = isRun ? state.hiddenRuns : state.hiddenGroups;
      chip.addEventListener("click", () => {
        hidden.has(number) ? hidden.delete(number) : hidden.add(number);
        showVisibility();
      });
      chip.addEventListener("dblclick", () => {
        state.hiddenRuns = new Set(everyRun.filter((i) => !isRun || i !== number));
        state.hiddenGroups = new Set(everyGroup.filter((i) => isRun || i !== number));
        showVisibility();
      });
    }
    document.getElementById("all").addEventListener("click", () => {
      state.hiddenRuns.clear();
      state.hiddenGroups.clear();
      showVisibility();
    });
  }

  function setUpControls() {
    const buttons = [...document.querySelectorAll("#axes button")];
    const showAxis = () => buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.axis === state.axis)));
    for (const button of buttons) {
      button.addEventListener("click", () => { state.axis = button.dataset.axis; state.range = null; showAxis(); changed(); });
    }
    if (buttons.length && !buttons.some((button) => button.dataset.axis === state.axis)) state.axis = buttons[0].dataset.axis;
    showAxis();
    document.getElementById("log").addEventListener("change", (event) => { state.log = event.target.checked; changed(); });
    document.getElementById("smoothing").addEventListener("input", (event) => {
      state.smoothing = +event.target.value;
      document.getElementById("smoothed").textContent = state.smoothing ? `over ${state.smoothing} % of the points` : "none";
      changed();
    });
  }

  function setUpPictures() {
    const slider = document.getElementById("moment");
    if (!slider) return;
    const { moments, shown, reals, sources } = data.pictures;
    const format = (kimg) => String(+kimg.toPrecision(4));
    const show = () => {
      const moment = +slider.value;
      document.getElementById("moment-kimg").textContent = format(moments[moment]);
      for (const figure of document.querySelectorAll("figure[data-run]")) {
        const [kimg, picture] = shown[+figure.dataset.run][moment];
        figure.querySelector(".at").textContent = picture === null ? `at kimg ${format(kimg)}: cannot be read` : `at kimg ${format(kimg)}`;
        const image = figure.querySelector("img");
        image.hidden = picture === null;
        if (picture !== null) image.src = sources[picture];
      }
    };
    for (const [shards, picture] of reals) {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      const image = document.createElement("img");
      caption.textContent = `real pictures of ${shards}`;
      image.alt = caption.textContent;
      image.src = sources[picture];
      figure.append(caption, image);
      document.getElementById("pictures").append(figure);
    }
    slider.max = String(moments.length - 1);
    slider.value = slider.max;
    slider.addEventListener("input", show);
    show();
  }

  setUpControls();
  setUpLegend();
  setUpPictures();
  for (const panel of data.panels) addPanel(panel.metric, panel.meaning, (place) => drawCurves(place, panel), true);
  if (data.histogram.curves.length) addPanel("gradient norms of the critic in the last line, share in each cell", data.histogram.meaning, drawHistogram, false);
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const panel = panels.find(({ box }) => box === entry.target);
      panel.isNear = entry.isIntersecting;
      redraw(panel);
    }
  }, { rootMargin: "600px" });
  panels.forEach(({ box }) => watch.observe(box));
  window.addEventListener("beforeprint", () => panels.forEach((panel) => { panel.isNear = true; redraw(panel); }));
})();
