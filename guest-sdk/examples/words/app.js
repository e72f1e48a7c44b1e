// An example guest in JavaScript: words that are not said here become `***`, wherever the text is cut.
//
// The words are in its configuration, `words`, with blanks between them. What could still become one of them is held back.

import { config } from "inference:guest/host@0.1.0";

const words = () => (config("words") ?? "").toLowerCase().split(/\s+/).filter((word) => word !== "");
// The engine in a component knows no classes of characters.
const isLetter = (character) => /[0-9]/.test(character) || character.toLowerCase() !== character.toUpperCase();
const bytes = (text) => new TextEncoder().encode(text).length;

/** Runs of letters, and what is between them. */
function runs(text) {
  const found = [];
  for (const character of text) {
    const last = found.at(-1);
    const letters = isLetter(character);
    if (last !== undefined && last.letters === letters) last.text += character;
    else found.push({ letters, text: character });
  }
  return found;
}

/** Whether the last that was settled were letters, of a run that is longer than any of ours. There is one of us for each answer. */
let goesOn = false;

export const onText = {
  handle(window, end) {
    const forbidden = words();
    const longest = Math.max(0, ...forbidden.map((word) => word.length));
    const found = runs(window);
    // The rest of a long run is no word of its own.
    const rest = goesOn && found[0]?.letters ? found[0] : undefined;
    const last = found.at(-1);
    // A word at the end may go on; one that is longer than any of ours already is none.
    const holds = !end && last !== undefined && last.letters && last !== rest && last.text.length <= longest;
    const settled = holds ? found.slice(0, -1) : found;
    const said = settled.map((run) => (run !== rest && forbidden.includes(run.text.toLowerCase()) ? "***" : run.text)).join("");
    const before = settled.map((run) => run.text).join("");
    if (settled.length > 0) goesOn = settled.at(-1).letters;
    return { consumed: bytes(before), emit: said === before ? undefined : said, stop: false };
  },
};
