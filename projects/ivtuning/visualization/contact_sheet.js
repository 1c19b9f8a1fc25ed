"use strict";
// The page's pictures are in its HTML. This adds the sliders' effect, and a bar that filters and sorts. The bar's
// choices are in the page's address, so that a view can be shared.
{
  const main = document.querySelector("main");
  const pictures = JSON.parse(document.getElementById("pictures").textContent);
  [...main.children].forEach((card, i) => { pictures[i].card = card; });

  main.addEventListener("input", event => {
    event.target.closest(".compare").style.setProperty("--cut", `${event.target.value}%`);
  });

  const outcomes = {  // what to find in the [missed, alarms] of a class
    missed: ([missed]) => missed > 0,
    alarm: ([, alarms]) => alarms > 0,
    right: null,  // holds where the two above do not
  };
  const known = ({ classes }, name) =>
    !name ? Object.values(classes) : Object.hasOwn(classes, name) ? [classes[name]] : [];
  const filters = {
    class: (picture, name) => known(picture, name).length > 0,
    outcome: (picture, kind, choice) => {
      const found = known(picture, choice.class);
      if (kind === "right") return !found.some(o => outcomes.missed(o) || outcomes.alarm(o));
      return found.some(outcomes[kind]);
    },
    time: (picture, time) => picture.time === time,
  };
  const shows = (picture, choice) =>
    Object.keys(filters).every(key => !choice[key] || filters[key](picture, choice[key], choice));

  // Which choices there are: [value, text] of each, the first one for all pictures.
  const scored = pictures.some(picture => typeof picture.score === "number");
  const names = [...new Set(pictures.flatMap(picture => Object.keys(picture.classes)))].sort();
  const times = [...new Set(pictures.map(picture => picture.time).filter(Boolean))].sort();
  const choices = {
    class: names.length > 1 ? [["", "all classes"], ...names.map(name => [name, name])] : [],
    outcome: scored ? [["", "any result"], ["missed", "missed"], ["alarm", "false alarm"], ["right", "all right"]] : [],
    time: times.length > 1 ? [["", "any time"], ...times.map(time => [time, time])] : [],
    sort: scored ? [["", "in order"], ["worst", "worst first"], ["best", "best first"]] : [],
  };

  const bar = document.createElement("form");
  const count = document.createElement("output");
  const selects = {};
  for (const [key, options] of Object.entries(choices)) {
    if (!options.length) continue;
    selects[key] = document.createElement("select");
    selects[key].name = key;
    selects[key].setAttribute("aria-label", key);
    selects[key].append(...options.map(([value, text]) => new Option(text, value)));
    bar.append(selects[key]);
  }
  bar.append(count);
  if (Object.keys(selects).length) main.before(bar);

  const read = () => Object.fromEntries(Object.entries(selects).map(([key, select]) => [key, select.value]));
  const order = sort => {
    const sign = { worst: 1, best: -1 }[sort];
    const value = ({ score }) => typeof score === "number" ? sign * score : Infinity;  // without a score: last
    return sign ? [...pictures].sort((a, b) => value(a) - value(b) || 0) : pictures;
  };
  let sorted = "";

  function update() {
    const choice = read();
    let shown = 0;
    for (const picture of pictures) {
      picture.card.hidden = !shows(picture, choice);
      shown += !picture.card.hidden;
    }
    if ((choice.sort ?? "") !== sorted) {
      sorted = choice.sort;
      main.append(...order(sorted).map(picture => picture.card));
    }
    // How many pictures each choice would leave, the others being as they are.
    for (const key of Object.keys(filters)) {
      choices[key].forEach(([value, text], i) => {
        const left = pictures.filter(picture => shows(picture, { ...choice, [key]: value })).length;
        selects[key].options[i].text = `${text} (${left})`;
      });
    }
    count.value = `${shown} of ${pictures.length} pictures`;
  }

  function restore() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const [key, select] of Object.entries(selects)) {
      const wanted = given.get(key) ?? "";
      select.value = choices[key].some(([value]) => value === wanted) ? wanted : "";
    }
    update();
  }

  bar.addEventListener("submit", event => event.preventDefault());
  const address = () => `#${new URLSearchParams(Object.entries(read()).filter(([, value]) => value))}`;
  bar.addEventListener("input", () => {
    location.replace(address());
    update();
  });
  addEventListener("hashchange", () => { if (location.hash !== address()) restore(); });
  restore();
}
