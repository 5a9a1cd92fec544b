// Charts are as wide as the screen's columns; in print they scale to the paper's. Prints state when they were made.
addEventListener("beforeprint", () => {
  document.querySelector(".printed").textContent = `Printed ${new Date().toUTCString()}`;
  for (const svg of document.querySelectorAll(".chart svg")) {
    svg.setAttribute("viewBox", `0 0 ${svg.width.baseVal.value} ${svg.height.baseVal.value}`);
  }
});
addEventListener("afterprint", () => {
  for (const svg of document.querySelectorAll(".chart svg")) svg.removeAttribute("viewBox");
});
