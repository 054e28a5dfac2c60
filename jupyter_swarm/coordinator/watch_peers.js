"use strict";
/** The peers one by one. Their names and reasons get into the page as text only. */
const peerTable = (() => {
  const CROWD = 24; // from so many peers on the table is a small one

  /** `list` may have the first of them only. */
  function show(list, crowd) {
    const states = Object.entries(crowd.states).sort((one, other) => other[1] - one[1]);
    const said = states.map(([word, number]) => `${count(number)} ${word}`);
    const listed = crowd.peers > list.length ? `; ${count(list.length)} are listed` : "";
    const all = said.length > 1 ? `${count(crowd.peers)}: ${said.join(", ")}` : said.join("") || "nobody yet";
    put(part("crowd"), all + listed);
    part("peers").classList.toggle("crowded", list.length > CROWD);
    const rows = part("peer-rows");
    const shared = list.some((peer) => peer.share); // not before the first round
    while (rows.children.length > list.length) rows.lastChild.remove();
    list.forEach((peer, number) => {
      const [name, share, doing] = (rows.children[number] ?? rows.appendChild(rowOf())).children;
      put(name.firstChild, peer.name || peer.id);
      put(name.lastChild, linkOf(peer));
      const percent = 100 * (peer.share ?? 0);
      share.firstChild.hidden = !shared;
      share.firstChild.firstChild.style.width = `${percent}%`;
      put(share.lastChild, !shared ? "" : `${percent.toFixed(list.length > CROWD ? 1 : 0)} %`);
      put(doing.firstChild, peer.state);
      put(doing.lastChild, whyOf(peer));
    });
  }

  const whyOf = (peer) => {
    const most = peer.state === "waiting" && peer.waited_for ? `, so far mostly because of ${peer.waited_for}` : "";
    return peer.reason ? ` ${reasonOf(peer)}${most}` : "";
  };

  /** What the server has measured of its link; nothing until it has. */
  function linkOf({ up, down }) {
    const rate = (value) => (value ? Number((8e-6 * value).toPrecision(2)).toLocaleString("en") : "–");
    return up || down ? `↑ ${rate(up)} ↓ ${rate(down)} Mbit/s` : "";
  }

  function rowOf() {
    const row = make("tr", "");
    const name = make("th", "");
    name.scope = "row";
    name.append(make("span", ""), make("span", "link"));
    const [share, doing, bar] = [make("td", "share"), make("td", ""), make("span", "bar")];
    bar.append(make("i", ""));
    share.append(bar, make("span", ""));
    doing.append(make("b", ""), make("span", "why"));
    row.append(name, share, doing);
    return row;
  }

  return { show };
})();
