// What scrolls sideways can be reached by Tab and scrolled by the arrow keys.
(() => {
  const reach = () => document.querySelectorAll(".table-wrapper, div.math, .highlight pre, .lr-out, .cell-figure, p:has(> img[src$='.svg'])").forEach(e => {
    e.scrollWidth > e.clientWidth ? e.setAttribute("tabindex", 0) : e.removeAttribute("tabindex");
  });
  addEventListener("load", reach);
  addEventListener("resize", reach);
})();
