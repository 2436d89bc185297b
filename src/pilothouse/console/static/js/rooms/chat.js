// The chat: one conversation, its answers as they are written, and the message box.

import { get, getPage, send } from "../api.js";
import { Composer } from "../chat/composer.js";
import { Stick } from "../chat/stick.js";
import { TurnView } from "../chat/turn.js";
import { conversationActions } from "../conversations.js";
import { h, icon } from "../dom.js";
import { follow } from "../follow.js";
import { startRun } from "../chat/start.js";
import { lastEventOf, readConversation, readRun, readTurns } from "../shapes.js";
import { notice, problemNotice, skeleton, toast } from "../ui.js";

const TOOLS_OF_LAST = 12;

export class ChatRoom {
  constructor(app, conversationId = null) {
    Object.assign(this, { app, conversationId, conversation: null, active: [], away: new AbortController() });
    this.title = h("h1", { class: "room-title", tabindex: -1 }, "New chat");
    this.agentName = h("span", { class: "room-sub" });
    this.actions = h("div", { class: "room-actions" });
    this.thread = h("div", { class: "thread", role: "log", "aria-live": "off", "aria-label": "Conversation" });
    this.scroller = h("div", { class: "scroller", tabindex: -1 }, this.thread);
    this.picker = agentPicker(app.agents);
    this.composer = new Composer({ onSend: (message) => this.#send(message), onStop: () => this.#stop(), extra: conversationId ? null : this.picker?.element });
    this.stick = new Stick(this.scroller, this.thread);
    const head = h("header", { class: "room-head" }, app.menuButton(), h("div", { class: "room-name" }, this.title, this.agentName), this.actions);
    this.element = h("div", { class: "room chat" }, head, this.scroller, h("div", { class: "dock" }, this.stick.pill, this.composer.element));
    if (conversationId) this.#load();
    else this.#welcome();
  }

  entered() {
    this.composer.focus();
  }

  /** Leaving the room stops listening, not the run. */
  leave() {
    this.away.abort();
    this.stick.stop();
  }

  escape() {
    if (this.active.length) this.#stop();
  }

  conversationsChanged(list) {
    const found = list.find((item) => item.id === this.conversationId);
    if (found) this.#name(found);
  }

  #welcome() {
    const agent = this.app.agents.length === 1 ? this.app.agents[0] : null;
    const text = agent?.description || "Ask a question, or hand over a task. You can stop an answer at any time.";
    this.thread.replaceChildren(h("div", { class: "welcome" }, icon("wheel"), h("h2", null, agent ? `Talk to ${agent.name}` : "What can I do for you?"), h("p", null, text)));
  }

  async #load() {
    this.thread.replaceChildren(skeleton(4, "bubble"));
    this.title.textContent = "";
    try {
      const path = `conversations/${encodeURIComponent(this.conversationId)}`;
      const signal = this.away.signal;
      const [conversation, messages, runs] = await Promise.all([
        get(path, { signal }),
        allMessages(`${path}/messages`, signal),
        getPage("runs", { conversation_id: this.conversationId, limit: 100 }, { signal }),
      ]);
      this.#name(readConversation(conversation));
      this.#draw(readTurns(messages), new Map(runs.items.map(readRun).map((run) => [run.id, run])));
    } catch (problem) {
      if (this.away.signal.aborted) return;
      if (problem.status === 404) this.app.notFound("This conversation does not exist, or it is not yours.");
      else this.thread.replaceChildren(problemNotice(problem, () => this.#load()));
    }
  }

  #draw(turns, runs) {
    this.thread.replaceChildren();
    const known = new Set(turns.map((turn) => turn.runId));
    // A run whose message is not in the transcript yet still has an answer to show.
    const extra = [...runs.values()].filter((run) => run.active && !known.has(run.id)).reverse();
    const all = [...turns, ...extra.map((run) => ({ runId: run.id, user: null, events: [] }))];
    const drawn = all.map((turn) => this.#drawTurn(turn, runs.get(turn.runId)));
    if (!turns.length && !extra.length) this.#welcome();
    this.stick.toEnd();
    this.#readTools(drawn.filter((turn) => turn.answer.cards.length > 0 && !turn.answer.live).reverse().slice(0, TOOLS_OF_LAST));
  }

  /** A transcript holds results but not how calls ended; the runs do. The newest first, one at a time. */
  async #readTools(turns) {
    for (const turn of turns) {
      try {
        const run = await get(`runs/${encodeURIComponent(turn.answer.runId)}`, { signal: this.away.signal });
        turn.answer.recorded(run.steps.filter((step) => step.kind === "tool"));
      } catch {
        return; // Only an addition: without it the cards show what the transcript has.
      }
    }
  }

  #drawTurn({ runId, user, events }, run) {
    const live = Boolean(run?.active);
    const turn = this.#addTurn(user, live);
    turn.answer.runId = runId;
    if (live) {
      this.#follow(turn, { runId });
      return turn;
    }
    for (const [type, data] of events) turn.answer.apply(type, data);
    turn.answer.apply(...(run ? lastEventOf(run) : ["run.completed", {}]));
    turn.answer.footer({ ms: run?.ms ?? null });
    return turn;
  }

  #addTurn(user, live) {
    const turn = new TurnView({ user, live, onRetry: (again) => this.#post(again), onDecide: decide });
    this.thread.querySelector(".welcome")?.remove();
    this.thread.append(turn.element);
    return turn;
  }

  #send(message) {
    if (!this.conversationId && this.active.length) {
      this.composer.restore(message);
      return;
    }
    const turn = this.#addTurn(message, true);
    this.stick.toEnd();
    this.#post(turn, "reject", true);
  }

  async #post(turn, onBusy = "reject", fresh = false) {
    if (!fresh) turn.begin(true);
    const { text, attachments } = turn.user;
    const body = { message: text, conversation_id: this.conversationId, on_busy: onBusy, on_disconnect: "continue" };
    if (!this.conversationId && this.picker) body.agent = this.picker.value();
    if (attachments?.length) body.attachments = attachments.map(({ media_type, data, name }) => ({ media_type, data, name }));
    await this.#follow(turn, { start: startRun(body) });
  }

  async #follow(turn, source) {
    this.active.push(turn);
    this.#state();
    try {
      await follow({ ...source, signal: this.away.signal, onLink: (up) => turn.answer.lost(!up), onEvent: (type, data) => this.#event(turn, type, data) });
      this.app.refreshConversations();
    } catch (problem) {
      if (!this.away.signal.aborted) this.#refused(turn, problem);
    } finally {
      this.active = this.active.filter((other) => other !== turn);
      this.#state();
    }
  }

  #event(turn, type, data) {
    turn.answer.apply(type, data);
    if (!this.conversationId && data.conversation_id) this.#identify(data.conversation_id, data.agent);
    if (turn.stopWanted && data.run_id) this.#cancel(turn);
  }

  #identify(id, agent) {
    this.conversationId = id;
    this.picker?.element.remove();
    this.agentName.textContent = agent ?? "";
    this.app.replace(`#/chat/${id}`);
    this.app.refreshConversations();
  }

  #refused(turn, problem) {
    if (!(problem.name === "Problem")) throw problem;
    if (problem.code === "conversation_busy") {
      const actions = [
        ["Wait for it", () => this.#post(turn, "queue")],
        ["Interrupt it", () => this.#post(turn, "interrupt")],
        ["Take my message back", () => this.#takeBack(turn)],
      ];
      turn.answer.refuse(notice({ kind: "info", title: "Another answer is still being written here", text: "Should your message wait for it, or take its place?", actions }));
      return;
    }
    const actions = [["Edit message", () => this.#takeBack(turn)]];
    if (problem.retryable) actions.unshift(["Try again", () => this.#post(turn)]);
    turn.answer.refuse(notice({ text: problem.detail, code: problem.code, actions: turn.user ? actions : [] }));
  }

  #takeBack(turn) {
    turn.element.remove();
    this.composer.restore(turn.user);
  }

  #stop() {
    const turn = this.active.find((item) => !item.answer.stopping);
    if (!turn) return;
    turn.answer.stopRequested(true);
    this.#state();
    if (turn.answer.runId) this.#cancel(turn);
    else turn.stopWanted = true;
  }

  async #cancel(turn) {
    turn.stopWanted = false;
    try {
      await send("POST", `runs/${encodeURIComponent(turn.answer.runId)}/cancel`, {});
    } catch (problem) {
      turn.answer.stopRequested(false);
      this.#state();
      toast(problem.detail ?? "The answer could not be stopped.");
    }
  }

  #state() {
    const stopping = this.active.length > 0 && this.active.every((turn) => turn.answer.stopping);
    this.composer.setState(stopping ? "stopping" : this.active.length ? "running" : "idle");
  }

  #name(conversation) {
    this.conversation = conversation;
    this.title.textContent = conversation.title;
    this.agentName.textContent = conversation.agent ?? "";
    this.app.setTitle(conversation.title);
    const removed = () => this.app.go("#/chat");
    this.actions.replaceChildren(...conversationActions(conversation, { changed: () => this.app.refreshConversations(), removed }));
  }
}

// `seen` names the call that the person was shown, so that no other one of its id is decided.
function decide(runId, callId, approve, seen) {
  return send("POST", `runs/${encodeURIComponent(runId)}/input`, { call_id: callId, approve, ...seen });
}

async function allMessages(path, signal) {
  const messages = [];
  let cursor = null;
  do {
    const page = await getPage(path, { limit: 100, cursor }, { signal });
    messages.push(...page.items);
    cursor = page.next;
  } while (cursor);
  return messages;
}

function agentPicker(agents) {
  if (agents.length < 2) return null;
  const options = agents.map((agent) => h("option", { value: agent.name }, agent.name));
  const select = h("select", { id: "agent", class: "picker" }, ...options);
  return { element: h("span", { class: "picker-wrap" }, h("label", { class: "visually-hidden", for: "agent" }, "Agent"), select), value: () => select.value };
}
