// Charts are as wide as the screen's columns; on paper they shrink with the paper's. Paper says of when it is.
addEventListener("beforeprint", () => {
  document.querySelector(".printed").textContent = `Printed ${new Date().toUTCString()}`;
  for (const svg of document.querySelectorAll(".chart svg")) {
    svg.setAttribute("viewBox", `0 0 ${svg.width.baseVal.value} ${svg.height.baseVal.value}`);
  }
});
addEventListener("afterprint", () => {
  for (const svg of document.querySelectorAll(".chart svg")) svg.removeAttribute("viewBox");
});
