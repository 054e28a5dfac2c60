"use strict";
/** What is shown. Whatever comes from others (names, reasons) gets into the page as text only. */
const view = (() => {
  const SPEED_ROUNDS = 10;
  const DRAWING_MS = 500;
  const TABLE_ROWS = 40;
  const LONG_TEXT = 240;

  const training = new Map(); // round -> loss
  const heldOut = new Map();
  const others = new Map(); // name of a held-out metric -> latest value
  const moved = { before: 0, now: 0 }; // bytes: before the server's last start, as far as seen, and since
  let version = null;
  let latest = -1; // the last version whose loss is known
  let commits = []; // the last ones: {time, samples, bytes}
  const shown = { word: "", name: "", took: "" };
  let drawing = 0;

  // --- the state

  /** `kind` chooses the colour; only a change of the word is read out. */
  function state(word, reason, kind = word) {
    put(part("word"), word);
    put(part("reason"), reason);
    part("state").dataset.is = kind;
    if (word !== shown.word) {
      shown.word = word;
      part("news").textContent = `${word}: ${reason}`;
      document.title = `${word} · ${shown.name || "a swarm"}`;
    }
  }

  function note(text) {
    part("note").hidden = !text;
    put(part("note"), text);
  }

  /** Whether what is known of the session stays on the screen: it does when only the connection is gone. */
  function bare(yes) {
    document.querySelector("main").classList.toggle("bare", yes);
    for (const id of ["numbers", "curve", "peers"]) part(id).hidden = yes;
    if (yes) for (const id of ["way", "sample"]) part(id).hidden = true;
  }

  function described(session) {
    shown.name = session.name;
    shown.took = session.ended ? duration(session.ended - session.created) : "";
    put(part("name"), session.name);
    put(part("about"), session.session);
  }

  function status(now) {
    bare(false);
    state(now.state, reasonOf(now));
    put(part("about"), [now.session, now.strategy].filter(Boolean).join(" · "));
    part("way").hidden = !now.rounds;
    part("rounds").max = now.rounds || 1;
    part("rounds").value = now.version;
    for (const [name, value] of Object.entries(now.metrics)) if (value !== null) others.set(name, value);
    // Of a session that has ended the record tells what was moved.
    if (now.crowd && (now.peers.length || now.state !== "finished")) countBytes(now.crowd.bytes);
    seen(now);
    tiles(now);
    sample(now.sample);
    if (now.peers.length || now.state !== "finished") peerTable.show(now.peers, now.crowd);
    draw();
  }

  // --- the numbers

  function countBytes(now) {
    if (now < moved.now) moved.before += moved.now;
    moved.now = now;
  }

  const movedInAll = () => moved.before + moved.now;

  function seen(now) {
    const came = version !== null && now.version !== version;
    version = now.version;
    if (!came) return;
    commits.push({ samples: now.samples_done, bytes: movedInAll(), time: performance.now() / 1000 });
    commits = commits.slice(-SPEED_ROUNDS);
  }

  /** What was recorded of the last rounds, for as long as none has been seen; their bytes are not known. */
  function before(records) {
    if (commits.length || !records.length) return;
    const since = performance.now() / 1000 - records.at(-1).unix_time;
    commits = records.map(({ book, unix_time }) => ({ samples: book.consumed + book.own, time: unix_time + since }));
    commits.at(-1).bytes = movedInAll();
  }

  /** By the clock on the wall over the last rounds; falls when the next one is long in coming. */
  function speed() {
    if (commits.length < 2) return null;
    const [first, last] = [commits[0], commits.at(-1)];
    const between = (last.time - first.time) / (commits.length - 1);
    const late = Math.max(0, performance.now() / 1000 - last.time - 2 * between);
    const counted = commits.find((commit) => commit.bytes !== undefined);
    const since = (commit) => last.time - commit.time + late || 1;
    return {
      samples: (last.samples - first.samples) / since(first),
      bytes: (last.bytes - counted.bytes) / since(counted),
    };
  }

  function tiles(now) {
    const fast = speed();
    const over = now.state === "finished";
    const total = movedInAll();
    const list = [
      ["round", count(now.version), now.rounds ? `of ${count(now.rounds)}` : "no end set"],
      ["training loss", digits(others.get("loss")), "", "training"],
    ];
    if (others.has("held_out_loss")) list.push(["held-out loss", digits(others.get("held_out_loss")), "", "held-out"]);
    for (const [name, value] of others)
      if (name.startsWith("held_out_") && name !== "held_out_loss")
        list.push([`held-out ${name.slice(9).replaceAll("_", " ")}`, digits(value), ""]);
    if (over) list.push(["samples", short(now.samples_done), shown.took && `in ${shown.took}`]);
    else list.push(["samples a second", fast ? short(fast.samples) : "…", `${short(now.samples_done)} in all`]);
    if (total) list.push(["data moved", bytes(total), !over && fast?.bytes > 0 ? `${bytes(fast.bytes)} a second` : ""]);
    const place = part("tiles");
    while (place.children.length > list.length) place.lastChild.remove();
    list.forEach(([label, value, aside, key], number) => {
      const tile = place.children[number] ?? place.appendChild(tileOf());
      const [term, ...said] = tile.children;
      if (tile.dataset.key !== (key ?? "")) {
        tile.dataset.key = key ?? "";
        term.firstChild.className = key ? `key ${key}` : "";
      }
      put(term.lastChild, label);
      put(said[0], value);
      put(said[1], aside || "");
      said[1].hidden = !aside;
    });
  }

  function tileOf() {
    const tile = make("div", "tile");
    const term = make("dt", "");
    term.append(make("span", ""), make("span", ""));
    tile.append(term, make("dd", "value"), make("dd", "aside"));
    return tile;
  }

  /** Of a session that is over: who took part. */
  function tookPart({ members, count: everybody, done }) {
    const those = members.filter((one) => one.role === "peer");
    const { samples, bytes_up, bytes_down } = done;
    const inAll = everybody - members.length + those.length; // holders are few, and were there first
    [moved.before, moved.now] = [0, bytes_up + bytes_down];
    peerTable.show(
      those.map((one) => ({
        name: one.name, id: one.member, state: "took part", share: samples && one.samples / samples,
      })),
      { peers: inAll, states: { "took part": inAll } },
    );
  }

  // --- what the model writes

  function sample(one) {
    part("sample").hidden = !one;
    if (!one) return;
    const { prompt, text, round } = one;
    const goesOn = text.startsWith(prompt);
    put(part("prompt"), prompt && (goesOn ? prompt : `${prompt}\n`));
    put(part("text"), goesOn && prompt ? text.slice(prompt.length) : text.replace(/^\n+/, ""));
    put(part("sample-round"), round ? `after round ${count(round)}` : "before the first round");
    part("sample").classList.toggle("long", prompt.length + text.length > LONG_TEXT);
  }

  // --- the curve

  /** A mean of the session at a version; null is no number. */
  function metric({ version, name, mean }) {
    if (mean === null) return;
    if (name === "loss") {
      training.set(version, mean);
      latest = Math.max(latest, version);
    } else if (name === "held_out_loss") heldOut.set(version, mean);
    others.set(name, mean);
  }

  function draw() {
    drawing ||= setTimeout(() => {
      drawing = 0;
      const sorted = (map) => [...map].sort((one, other) => one[0] - other[0]);
      const [losses, evaluations] = [sorted(training), sorted(heldOut)];
      part("held-out-key").hidden = !evaluations.length;
      chart.draw(part("chart"), losses, evaluations);
      part("chart").setAttribute("aria-label", inWords(losses, evaluations));
      if (part("as-table").open) table(losses, evaluations);
    }, DRAWING_MS);
  }

  function inWords(losses, evaluations) {
    if (!losses.length) return "No round is done yet.";
    const [first, last] = [losses[0], losses.at(-1)];
    const said = [`Training loss ${digits(first[1])} in round ${first[0]}, ${digits(last[1])} in round ${last[0]}.`];
    for (const [round, loss] of evaluations.slice(-1)) said.push(`Held-out loss ${digits(loss)} after round ${round}.`);
    return said.join(" ");
  }

  /** The newest first: every round, or so many that it can still be read. */
  function table(losses, evaluations) {
    const held = new Map(evaluations);
    const every = Math.max(1, Math.ceil(losses.length / TABLE_ROWS));
    const rows = losses.filter(([round], number) => (losses.length - 1 - number) % every === 0 || held.has(round));
    const step = Math.ceil(rows.length / (2 * TABLE_ROWS));
    const kept = rows.reverse().filter((_, number) => number % step === 0);
    part("rows").replaceChildren(
      ...kept.map(([round, loss]) => {
        const row = make("tr", "");
        row.append(...[count(round), digits(loss), digits(held.get(round))].map((text) => make("td", "", text)));
        return row;
      }),
    );
  }

  part("as-table").addEventListener("toggle", draw);
  new ResizeObserver(draw).observe(part("chart"));

  /** Whoever has pressed the button with the keyboard goes on where it was. */
  function retry(yes) {
    if (!yes && part("again").contains(document.activeElement)) part("state").focus();
    part("again").hidden = !yes;
  }

  return {
    state, note, bare, described, status, before, metric, draw, tookPart, retry,
    latest: () => latest,
    hasPeers: () => part("peer-rows").children.length > 0,
  };
})();
