"use strict";
/** The connection: one look at the session by REST, which says in words what is wrong, then what it pushes. */
{
  const FIRST_WAIT = 1_000;
  const LONGEST_WAIT = 30_000;
  const POLL = 5_000; // where WebSockets do not get through
  const ANSWER_MS = 20_000;
  const SILENCE_MS = 50_000; // the server says something every second, and every 20 s if it has nothing to say
  const LATE_VERSIONS = 10; // an evaluation may be told of while later rounds are on
  const SPEED_ROUNDS = 3;
  const PAGE = "/swarm/watch/";

  const at = location.pathname.lastIndexOf(PAGE);
  const session = location.pathname.slice(at + PAGE.length).replace(/\/+$/, "");
  const api = `${location.pathname.slice(0, at)}/swarm/api/sessions/${session}`;
  const secret = location.hash.slice(1);

  let turn = 0; // what an older turn still hears is void
  let socket = null;
  let timer = 0;
  let wait = FIRST_WAIT;
  let known = false; // whether the session has been seen
  let fresh = new Date(); // when it was last

  class Problem extends Error {
    constructor(word, reason, { final = false, seconds = 0 } = {}) {
      super(reason);
      Object.assign(this, { word, reason, final, seconds });
    }
  }

  async function ask(path) {
    let response, answer;
    try {
      const signal = AbortSignal.timeout?.(ANSWER_MS);
      response = await fetch(api + path, { headers: { "X-Swarm-Invite": secret }, cache: "no-store", signal });
    } catch {
      throw new Problem("no connection", "The server does not answer. This page tries again by itself.");
    }
    try {
      answer = await response.json();
    } catch {
      answer = {};
    }
    if (response.ok && answer.what === undefined) return answer;
    if (!answer.what) {
      const why = `The session's server is gone: something else answers in its place (${response.status}).`;
      throw new Problem("no connection", `${why} This page tries again by itself.`);
    }
    const said = [answer.what, answer.why, answer.todo];
    if (response.status === 401) said.push("If the session was deleted, its links ended with it.");
    const final = [401, 403, 404, 410].includes(response.status);
    const seconds = Number(response.headers.get("Retry-After"));
    throw new Problem(final ? "not open" : "not yet", said.filter(Boolean).join("\n"), { final, seconds });
  }

  /** What was recorded since the last version that is known here. */
  async function catchUp(mine) {
    let after = Math.max(-1, view.latest() - LATE_VERSIONS);
    while (after !== null && mine === turn) {
      const page = await ask(`/metrics?together=1&after=${after}`);
      for (const row of page.metrics) view.metric(row);
      after = page.next;
    }
    view.draw();
  }

  async function connect() {
    const mine = stop();
    try {
      const described = await ask("");
      if (mine !== turn) return;
      const first = !known;
      [known, fresh] = [true, new Date()];
      view.described(described);
      if (!described.status && described.state === "finished") return await asItEnded(described, mine);
      if (!described.status)
        throw new Problem("not yet", described.problem || "The server is reading the session from its disk.");
      view.retry(false);
      view.status(described.status);
      listen(mine);
      await catchUp(mine);
      if (first && described.status.state === "training")
        view.before((await ask(`/records?after=${Math.max(0, described.status.version - SPEED_ROUNDS)}`)).records);
    } catch (problem) {
      if (mine === turn) fail(problem);
    }
  }

  async function asItEnded(described, mine) {
    await catchUp(mine);
    const version = Math.max(0, view.latest());
    const { records } = await ask(`/records?after=${Math.max(0, version - 1)}&limit=1`);
    const everybody = await ask("/peers?done=1");
    if (mine !== turn) return;
    const book = records.length ? records[0].book : { consumed: 0, own: 0 };
    const why = described.ending ? `: ${described.ending}` : "";
    view.retry(false);
    view.tookPart(everybody);
    view.status({
      session, version, state: "finished", reason: `finished after ${version} rounds${why}`, metrics: {}, peers: [],
      rounds: described.spec.settings.rounds, samples_done: book.consumed + book.own,
      strategy: records[0]?.strategy ?? "", sample: described.sample,
    });
    view.note("");
  }

  function listen(mine) {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    socket = new WebSocket(`${scheme}//${location.host}${api}/watch`, ["swarm.v1", secret]);
    let heard = false;
    socket.onmessage = ({ data }) => {
      if (mine !== turn) return;
      [heard, wait, fresh] = [true, FIRST_WAIT, new Date()];
      view.note("");
      later(connect, SILENCE_MS);
      take(JSON.parse(data), mine);
    };
    socket.onclose = ({ code, reason }) => {
      if (mine !== turn) return;
      if (code === 1008) fail(new Problem("not open", reason || "The invite is no longer good.", { final: true }));
      else if (heard) later(connect, FIRST_WAIT * (0.5 + Math.random()));
      else {
        view.note("Live news do not get through; this page looks every few seconds.");
        later(connect, POLL);
      }
    };
  }

  function take(message, mine) {
    if (message.type === "status") {
      view.status(message);
      if (message.state === "finished" && !message.peers.length && !view.hasPeers())
        ask("/peers?done=1").then((everybody) => mine === turn && view.tookPart(everybody), () => {});
    } else if (message.type === "commit") {
      view.metric({ version: message.round, name: "loss", mean: message.mean_loss });
      view.draw();
    } else if (message.type === "evaluated") {
      for (const [name, mean] of Object.entries(message.metrics))
        view.metric({ version: message.version, name: `held_out_${name}`, mean });
      view.draw();
    }
  }

  /** Say what is wrong, and try again unless nothing would change; a class does not come back all at once. */
  function fail(problem) {
    stop();
    const { word, reason, final, seconds } =
      problem instanceof Problem ? problem : new Problem("no connection", `This page failed: ${problem}.`);
    if (!known || final) view.bare(true);
    view.state(word, reason, "trouble");
    const when = fresh.toLocaleTimeString([], { timeStyle: "short" });
    view.note(known && !final ? `What is shown below is of ${when}.` : "");
    view.retry(true);
    if (final) return;
    later(connect, Math.max(seconds * 1000, wait * (0.5 + Math.random())));
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }

  function later(what, milliseconds) {
    clearTimeout(timer);
    timer = setTimeout(what, milliseconds);
  }

  function stop() {
    turn += 1;
    clearTimeout(timer);
    socket?.close();
    socket = null;
    return turn;
  }

  const full = document.getElementById("full");
  full.hidden = !document.fullscreenEnabled;
  full.addEventListener("click", () =>
    document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen(),
  );
  document.getElementById("retry").addEventListener("click", () => {
    view.note("Trying …");
    connect();
  });
  addEventListener("online", connect);
  addEventListener("hashchange", () => location.reload());
  if (!/^[\w-]{36}$/.test(secret)) {
    view.bare(true);
    const why = "This link is not complete: the part after the # is missing or damaged.";
    view.state("not open", `${why}\nCopy the whole link from the invite and open it again.`, "trouble");
  } else {
    document.addEventListener("visibilitychange", () => (document.hidden ? stop() : connect()));
    if (!document.hidden) connect();
  }
}
