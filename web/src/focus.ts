// Where the focus goes when what has it goes away: a live page takes away what somebody has just pressed, and who
// goes by the keyboard would be back at the top.

const STOPS = "a[href], button:not(:disabled), input:not(:disabled), select:not(:disabled), textarea:not(:disabled), summary, [tabindex='0']";

/** What had the focus last, and what that was in, from the inside out. */
let last: Element | null = null;
let around: Element[] = [];

// Who puts the focus nowhere by a click wants it nowhere.
addEventListener("pointerdown", () => (last = null));
addEventListener("focusin", (event) => {
  last = event.target as Element;
  around = [];
  for (let at = last.parentElement; at && at.tagName !== "MAIN"; at = at.parentElement) around.push(at);
});

new MutationObserver(() => {
  if (last === null || last.isConnected || document.activeElement !== document.body) return;
  last = null;
  const beside = around.find((one) => one.isConnected && one.querySelector(STOPS));
  const next = beside?.querySelector<HTMLElement>(STOPS) ?? document.querySelector<HTMLElement>("h1");
  next?.focus({ preventScroll: true });
}).observe(document.body, { childList: true, subtree: true });
