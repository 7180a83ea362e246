// The conversation as text, and as the file that `blip2_chat` opens again (`model.load_chat`).

import { dataUrl } from "./api.js";

export function asText(picture) {
  const lines = [`About ${picture.name}`];
  for (const turn of picture.turns) {
    if (turn.state === "failed") continue;
    lines.push("", ...(turn.question === null ? ["Caption:"] : [`Question: ${turn.question}`]), turn.text);
  }
  return `${lines.join("\n")}\n`;
}

export async function asFile(picture, model) {
  const turns = picture.turns.filter((turn) => turn.state !== "failed");
  const saved = {
    format: "blip2-chat conversation 1",
    model: model.id,
    picture: { name: picture.name, source: await dataUrl(picture.blob), digest: picture.about.picture },
    turns: turns.map((turn) => ({
      question: turn.question,
      answer: { text: turn.text, finish_reason: turn.state === "stopped" ? "interrupted" : turn.reason, others: [] },
      start: "",
      dropped_turns: turn.dropped || 0,
    })),
  };
  const blob = new Blob([`${JSON.stringify(saved, null, 2)}\n`], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${picture.name.replace(/\.[^.]*$/, "") || "picture"}-conversation.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
