// The server's documents as the rooms read them: one place that knows the field names.

export const ACTIVE = new Set(["queued", "running", "awaiting_input"]);
export const STATES = ["queued", "running", "awaiting_input", "completed", "failed", "cancelled"];

const STATE_WORDS = {
  queued: "Queued",
  running: "Running",
  awaiting_input: "Waiting",
  completed: "Completed",
  failed: "Failed",
  cancelled: "Stopped",
  started: "Running",
  in_doubt: "In doubt",
  waiting: "Waiting for approval",
  approved: "Approved",
  denied: "Declined",
};

export function stateWord(state) {
  return STATE_WORDS[state] ?? state;
}

export function readRun(json) {
  const usage = json.usage ?? json;
  const prompt = json.prompt ?? { name: json.prompt_name, version: json.prompt_version };
  const run = {
    id: json.run_id ?? json.id,
    conversationId: json.conversation_id,
    agent: json.agent,
    kind: json.kind,
    state: json.state,
    model: json.model,
    attempt: json.attempt,
    promptName: prompt?.name ?? null,
    promptVersion: prompt?.version ?? null,
    inputTokens: usage.input_tokens ?? null,
    outputTokens: usage.output_tokens ?? null,
    cachedTokens: usage.cached_tokens ?? null,
    cost: json.cost_usd ?? null,
    error: json.error ?? null,
    cut: json.cut ?? null,
    createdAt: json.created_at,
    startedAt: json.started_at ?? null,
    finishedAt: json.finished_at ?? null,
    steps: Array.isArray(json.steps) ? json.steps : [],
  };
  run.active = ACTIVE.has(run.state);
  run.ms = run.finishedAt ? Date.parse(run.finishedAt) - Date.parse(run.createdAt) : null;
  return run;
}

export function readConversation(json) {
  return {
    id: json.conversation_id ?? json.id,
    title: json.title || "New conversation",
    agent: json.agent,
    turns: json.turns ?? null,
    updatedAt: json.updated_at ?? json.created_at,
  };
}

/** A transcript as turns: `[{runId, user, events: [[type, data]]}]`, the events as the run's log would tell them. */
export function readTurns(messages) {
  const turns = new Map();
  for (const message of [...messages].sort(byKey)) {
    if (!turns.has(message.run_id)) turns.set(message.run_id, { runId: message.run_id, user: null, events: [] });
    const turn = turns.get(message.run_id);
    if (message.role === "user" && turn.user === null) turn.user = { text: message.text ?? "", attachments: message.attachments ?? [] };
    else if (message.role === "assistant") turn.events.push(["message", message]);
    else if (message.role === "tool") turn.events.push(["tool.finished", { status: "ok", ...message }]);
  }
  return [...turns.values()];
}

function byKey(a, b) {
  const [turnA, seqA] = String(a.key ?? "").split(".").map(Number);
  const [turnB, seqB] = String(b.key ?? "").split(".").map(Number);
  return turnA - turnB || seqA - seqB || 0;
}

/** How a run that is over ended, as its last event. */
export function lastEventOf(run) {
  if (run.state === "failed") return ["run.failed", { error: run.error ?? { message: "The run failed." } }];
  if (run.state === "cancelled") return ["run.cancelled", { took_effect: [] }];
  return ["run.completed", { usage: { input_tokens: run.inputTokens, output_tokens: run.outputTokens }, cost_usd: run.cost }];
}
