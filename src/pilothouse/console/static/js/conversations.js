// What can be done with a conversation, wherever it is shown.

import { ask, send } from "./api.js";
import { iconButton } from "./dom.js";
import { confirmDialog, download, promptDialog, toast } from "./ui.js";

/** Rename, export and delete as buttons. `changed(conversation)` and `removed()` are told when the server has done it. */
export function conversationActions(conversation, { changed, removed }) {
  const path = `conversations/${encodeURIComponent(conversation.id)}`;
  const attempt = (work) => async () => {
    try {
      await work();
    } catch (problem) {
      toast(problem.detail ?? "That did not work.");
    }
  };
  const rename = attempt(async () => {
    const title = await promptDialog({ title: "Rename conversation", label: "Title", value: conversation.title, action: "Rename" });
    if (title === null || title === conversation.title) return;
    await send("PATCH", path, { title });
    changed({ ...conversation, title });
  });
  const save = attempt(async () => {
    const text = await (await ask("GET", `${path}/export`)).text();
    download(`${conversation.id}.json`, text);
  });
  const remove = attempt(async () => {
    const text = `“${conversation.title}” and everything in it will be gone for good.`;
    if (!(await confirmDialog({ title: "Delete conversation?", text, action: "Delete", danger: true }))) return;
    await send("DELETE", path);
    removed();
    toast("Conversation deleted.");
    changed(null);
  });
  return [iconButton("pencil", "Rename", rename), iconButton("download", "Export as JSON", save), iconButton("trash", "Delete", remove)];
}
