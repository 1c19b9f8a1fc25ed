// Shows the values of a chart's lines at the pointer, and enlarges pictures. Without scripts the page lacks nothing else.
for (const pair of document.querySelectorAll(".pair")) {
  pair.querySelector("button").addEventListener("click", () => pair.classList.toggle("wide"));
}
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg");
  const { x: label, lines } = JSON.parse(chart.querySelector("script").textContent);
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  chart.append(tip);
  const cursor = document.createElementNS(svg.namespaceURI, "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", 12);
  cursor.setAttribute("y2", height - 50);

  const nearest = (points, x) => points.reduce((a, b) => (Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a));

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const pointer = ((event.clientX - box.left) / box.width) * width;
    const at = nearest(lines.flatMap((line) => line.points), pointer);
    cursor.setAttribute("x1", at[2]);
    cursor.setAttribute("x2", at[2]);
    svg.append(cursor);
    const rows = lines.map((line) => {
      const row = document.createElement("div");
      const dot = document.createElement("i");
      dot.style.background = line.color;
      const value = nearest(line.points, at[2])[1];
      row.append(dot, `${line.name}: ${value}`);
      return row;
    });
    tip.replaceChildren(`${label} ${at[0]}`, ...rows);
    tip.hidden = false;
    const place = (at[2] / width) * box.width;
    const left = place > box.width / 2 ? place - tip.offsetWidth - 12 : place + 12;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${svg.offsetTop + 8}px`;
  });
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cursor.remove();
  });
}
