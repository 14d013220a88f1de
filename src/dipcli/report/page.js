"use strict";
// Two images on top of each other with a divider between them. Without this script the page shows them side by side.
(() => {
  const MAX_SCALE = 32;
  const section = document.getElementById("images");
  const images = section ? [...section.querySelectorAll("img[data-name]")] : [];
  if (images.length) view();
  enableCopying();

  function view() {
    section.prepend(document.getElementById("viewer").content.cloneNode(true));
    section.classList.add("ready");
    const [viewer, stage, canvas, divider, output, legend] =
      [".viewer", ".stage", ".canvas", ".divider", ".zoom output", ".legend"].map((name) => section.querySelector(name));
    const width = Number(section.dataset.width), height = Number(section.dataset.height);
    const buttons = [...section.querySelectorAll(".strip button")];
    const sides = ["left", "right"].map((name) => ({
      half: canvas.querySelector(`.${name}`),
      image: canvas.querySelector(`.${name} img`),
      tag: viewer.querySelector(`.tag.${name}`),
      select: section.querySelector(`select.${name}`),
    }));
    let split = 50, scale = 0, fit = 1; // split in percent of the visible part; scale in CSS pixels per image pixel

    // Which images are shown.
    for (const side of sides) {
      images.forEach((image, number) => side.select.add(new Option(image.dataset.name, number)));
      side.select.addEventListener("change", () => show(side, side.select.value));
    }
    function show(side, number) {
      const source = images[number];
      side.select.value = number;
      side.image.src = source.src;
      side.image.alt = source.alt;
      side.tag.textContent = source.dataset.name;
      side.half.classList.toggle("transparent", Boolean(source.closest(".transparent")));
      const place = (source.dataset.place || "0 0 100 100").split(" ");
      ["left", "top", "width", "height"].forEach((name, k) => { side.image.style[name] = `${place[k]}%`; });
      const shown = new Set(sides.map((other) => images[other.select.value]).filter((image) => image?.dataset.legend));
      legend.textContent = [...shown].map((image) => `${image.dataset.name}: ${image.dataset.legend}`).join(" · ");
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.contains(images[sides[1].select.value]))));
      viewer.classList.toggle("single", sides[0].select.value === sides[1].select.value);
      draw();
    }
    buttons.forEach((button) => {
      button.addEventListener("click", () => show(sides[1], images.indexOf(button.querySelector("img"))));
    });

    // The divider, in the visible part of the canvas.
    function draw() {
      const left = canvas.offsetLeft - stage.scrollLeft, from = Math.max(0, left);
      const to = Math.min(stage.clientWidth, left + canvas.clientWidth);
      const at = viewer.classList.contains("single") ? from : from + (to - from) * split / 100;
      divider.style.left = `${at}px`;
      canvas.style.setProperty("--split", `${at - left}px`);
      viewer.style.setProperty("--from", `${from}px`);
      viewer.style.setProperty("--to", `${viewer.clientWidth - to}px`);
      divider.setAttribute("aria-valuenow", String(Math.round(split)));
      divider.setAttribute("aria-valuetext", `${Math.round(split)} % ${sides[0].tag.textContent}`);
      return [from, to];
    }
    function divide(percent) {
      split = Math.min(100, Math.max(0, percent));
      draw();
    }
    divider.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -2, ArrowRight: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
      if (!(event.key in steps)) return;
      divide(split + steps[event.key]);
      event.preventDefault();
    });
    // Dragging moves the divider; a mouse drags an enlarged image. Fingers scroll it, which the browser does itself.
    let drag = null;
    viewer.addEventListener("pointerdown", (event) => {
      const image = canvas.contains(event.target), zoomed = viewer.classList.contains("zoomed");
      if (event.button || !(image || divider.contains(event.target))) return;
      drag = image && zoomed ? (event.pointerType === "mouse" ? "image" : null) : "divider";
      if (!drag) return;
      viewer.setPointerCapture(event.pointerId);
      if (drag === "divider") { divider.focus({ preventScroll: true }); follow(event); }
      event.preventDefault();
    });
    viewer.addEventListener("pointermove", (event) => {
      if (drag === "divider") follow(event);
      if (drag === "image") stage.scrollBy(-event.movementX, -event.movementY);
    });
    for (const end of ["pointerup", "pointercancel"]) viewer.addEventListener(end, () => { drag = null; });
    stage.addEventListener("scroll", draw);
    function follow(event) {
      const [from, to] = draw();
      divide(100 * (event.clientX - stage.getBoundingClientRect().left - from) / (to - from));
    }

    // Zoom: the canvas grows and the stage scrolls; its centre stays.
    function zoom(to) {
      const dots = window.devicePixelRatio || 1;
      const x = (stage.scrollLeft + stage.clientWidth / 2 - canvas.offsetLeft) / canvas.clientWidth;
      const y = (stage.scrollTop + stage.clientHeight / 2 - canvas.offsetTop) / canvas.clientHeight;
      scale = Math.min(Math.max(MAX_SCALE, 4 * fit), Math.max(fit, to));
      canvas.style.width = `${width * scale}px`;
      canvas.style.height = `${height * scale}px`;
      viewer.classList.toggle("zoomed", scale > fit);
      stage.scrollTo(x * canvas.clientWidth - stage.clientWidth / 2, y * canvas.clientHeight - stage.clientHeight / 2);
      canvas.classList.toggle("pixels", scale * dots >= 1.5);
      output.textContent = `${Math.round(100 * scale * dots)} %`;
      draw();
    }
    function fitToWindow() {
      const dots = window.devicePixelRatio || 1, room = Math.max(240, Math.min(0.78 * window.innerHeight, 900));
      const fitted = scale <= fit;
      fit = Math.min(section.clientWidth / width, room / height);
      if (fit * dots > (dots < 1.5 ? 1 : 3)) fit = Math.floor(fit * dots) / dots; // all pixels get the same width
      stage.style.height = `${Math.max(240, Math.ceil(height * fit))}px`;
      zoom(fitted ? fit : scale);
    }
    const zooms = { "+": () => 1.5 * scale, "-": () => scale / 1.5, 1: () => 1 / (window.devicePixelRatio || 1), 0: () => fit };
    section.querySelectorAll("[data-zoom]").forEach((button) => {
      button.addEventListener("click", () => zoom(zooms[button.dataset.zoom]()));
    });
    stage.addEventListener("keydown", (event) => {
      if (!event.ctrlKey && !event.metaKey && event.key in zooms) zoom(zooms[event.key]());
    });

    show(sides[0], 0);
    show(sides[1], section.querySelectorAll(".plain img").length > 1 ? 1 : images.length - 1);
    fitToWindow();
    new ResizeObserver(fitToWindow).observe(section);
    window.addEventListener("resize", fitToWindow);
  }

  function enableCopying() {
    const button = document.getElementById("copy");
    if (!button || !navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById("command").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
})();
